"""Several pictures of each image, films, tars, large pictures: what stylize makes beyond one."""

import base64
import io
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jobs import stylize
from jobs.runtime.drawn import read_pictures
from jobs.runtime.sources.origin import Source
from jobs.stylize import Config
from tests.jobs.test_stylize import (
    INLINE,
    QUICK,
    asked,
    images_of,
    painter,
    photos,
    picture,
    rows_of,
    save_painter,
    style,
    weights,
)
from tests.untrained import save_random
from vision_ops.operators.stylize import StylizeConfig

__all__ = ["painter", "photos", "style", "weights"]  # fixtures


@pytest.fixture(scope="module")
def other_style(style: str) -> str:
    path = Path(style).with_name("other.v2.jpg")
    picture(1, 64, 48).save(path)
    return str(path)


def several(photos: Path, weights: str, styles: tuple[str, ...], out: Path, **more: Any) -> Config:
    config = asked(photos, weights, styles[0], out, format="png", **more)
    return replace(config, op=replace(config.op, styles=styles, each=True))


def test_each_picture_in_each_style_is_what_it_is_alone(
    photos: Path, weights: str, style: str, other_style: str, tmp_path: Path
):
    run = stylize.main(several(photos, weights, (style, other_style), tmp_path / "both"))
    alone = asked(photos, weights, other_style, tmp_path / "alone", format="png")
    lone_rows = rows_of(stylize.main(alone))
    both, lone = images_of(tmp_path / "both"), images_of(tmp_path / "alone")
    assert {name.partition("/")[2] for name in both if name.startswith("style/")} == lone.keys()
    assert {
        name.partition("/")[2]: data for name, data in both.items() if name.startswith("other.v2/")
    } == lone
    rows = rows_of(run)
    assert rows.keys() == lone_rows.keys()
    for id, row in rows.items():
        assert row["status"] == lone_rows[id]["status"]
        if row["status"] == "failed":
            assert row["image_uris"] is row["styles"] is row["total_loss"] is None
            continue
        assert row["styles"] == ["style", "other.v2"]
        assert all(Path(uri).is_file() for uri in row["image_uris"])
        for loss in ("content_loss", "style_loss", "total_loss", "total_at_start_loss"):
            assert row[loss][1] == lone_rows[id][loss]
    page = (tmp_path / "both" / "report" / "index.html").read_text()
    assert "other.v2: " in page


def test_two_styles_of_one_file_are_pictures_of_their_own_and_of_a_run_of_their_own(
    photos: Path, weights: str, style: str, tmp_path: Path
):
    """Their names say where pictures lie, whatever the files hold."""
    copies = [str(tmp_path / f"{name}.png") for name in ("one", "two")]
    for copy in copies:
        Path(copy).write_bytes(Path(style).read_bytes())
    config = several(photos, weights, (copies[0], copies[1]), tmp_path / "out")
    rows = rows_of(stylize.main(config))
    assert {tuple(row["styles"]) for row in rows.values() if row["styles"]} == {("one", "two")}
    found = images_of(tmp_path / "out")
    ones = {name.removeprefix("one/"): found[name] for name in found if name.startswith("one/")}
    assert ones
    assert found.keys() == {f"{style}/{name}" for style in ("one", "two") for name in ones}
    assert all(found[f"two/{name}"] == data for name, data in ones.items())
    stylize.main(config)
    with pytest.raises(ValueError, match=r"holds another run: op\.styles was .*one\.png"):
        stylize.main(several(photos, weights, (style, copies[1]), tmp_path / "out"))


def test_the_page_shows_both_of_two_styles_that_are_mixed_and_have_one_name(
    photos: Path, weights: str, style: str, other_style: str, tmp_path: Path
):
    mixed = tuple(str(tmp_path / name) for name in ("a/x.png", "b/x.jpg"))
    for copy, of in zip(mixed, (style, other_style), strict=True):
        Path(copy).parent.mkdir()
        Path(copy).write_bytes(Path(of).read_bytes())
    (tmp_path / "in").mkdir()
    picture(0, 64, 64).save(tmp_path / "in" / "one.png")
    config = asked(tmp_path / "in", weights, style, tmp_path / "out", triptych=True)
    stylize.main(replace(config, op=replace(config.op, styles=mixed)))
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    (strip,) = re.findall(r"data:image/jpeg;base64,([^\"']+)", page)
    widths = (192, 256, 256, 192)  # of image, both styles, picture; 3 px between them
    assert Image.open(io.BytesIO(base64.b64decode(strip))).size == (sum(widths) + 9, 192)


def test_a_network_of_several_styles_paints_in_each_where_none_is_named(
    photos: Path, painter: str, tmp_path: Path
):
    def ask(out: Path, **more: Any) -> Config:
        op = StylizeConfig(weights=painter, longest_px=64, **more)
        data = Source(uri=str(photos))
        return Config(data=data, op=op, resources=INLINE, format="png", out=str(out))

    rows = rows_of(stylize.main(ask(tmp_path / "all")))
    assert {tuple(row["styles"]) for row in rows.values() if row["styles"]} == {("waves", "dots")}
    stylize.main(ask(tmp_path / "dots", styles=("dots",)))
    every, dots = images_of(tmp_path / "all"), images_of(tmp_path / "dots")
    assert {f"dots/{name}": data for name, data in dots.items()}.items() <= every.items()
    assert len(every) == 2 * len(dots)


def test_pictures_in_tars_are_those_of_files_and_the_report_shows_them(
    photos: Path, weights: str, style: str, other_style: str, tmp_path: Path
):
    styles = (style, other_style)
    stylize.main(several(photos, weights, styles, tmp_path / "files"))
    config = several(photos, weights, styles, tmp_path / "tars", archives=True, triptych=True)
    run = stylize.main(config)
    rows = [row for row in rows_of(run).values() if row["status"] == "ok"]
    found = read_pictures(run.storage, [uri for row in rows for uri in row["image_uris"]])
    assert sorted(found.values()) == sorted(images_of(tmp_path / "files").values())
    names: list[str] = []
    for tar in (tmp_path / "tars" / "images").iterdir():  # one for each slice
        with tarfile.open(tar) as archive:
            names += archive.getnames()
    assert all(name.rpartition("/")[2].count(".") == 1 for name in names)
    assert len(set(names)) == len(names) == len(found)
    page = (tmp_path / "tars" / "report" / "index.html").read_text()
    assert page.count("data:image/jpeg") == len(found)
    assert "From left to right" in page
    assert '<ul class="thumbnails beside strips">' in page


def test_frames_of_a_film_begin_with_the_one_before_and_flicker_less(
    weights: str, style: str, tmp_path: Path
):
    """One view, of which each frame has noise of its own."""
    for film in ("a", "b"):
        (tmp_path / "in" / film).mkdir(parents=True)
        still = np.asarray(picture(0, 64, 48)).astype(float)
        for number in range(3):
            noise = np.random.default_rng(number).normal(0, 6, still.shape)
            frame = Image.fromarray((still + noise).clip(0, 255).astype(np.uint8))
            frame.save(tmp_path / "in" / film / f"{number}.png")
    (tmp_path / "in" / "a" / "1.png").write_bytes(b"no picture")

    def frames(name: str, **more: Any) -> dict[str, np.ndarray]:
        config = asked(tmp_path / "in", weights, style, tmp_path / name, format="png", **more)
        gatys = replace(QUICK, steps=10)
        stylize.main(replace(config, op=replace(config.op, gatys=gatys)))
        found = images_of(tmp_path / name)
        return {id: np.asarray(Image.open(io.BytesIO(data)), int) for id, data in found.items()}

    free, smooth = frames("free"), frames("smooth", smooth=True)
    assert len(smooth) == 5
    for first in ("a/0.png", "b/0.png"):  # a film begins anew with its folder
        assert np.array_equal(free[first], smooth[first])
    assert not np.array_equal(free["a/2.png"], smooth["a/2.png"])

    def flicker(found: dict[str, np.ndarray]) -> float:
        film = np.stack([found[f"b/{k}.png"] for k in range(3)])
        return float(np.abs(np.diff(film, axis=0)).mean())

    assert flicker(smooth) < flicker(free) / 2
    one = replace(INLINE, batch_size=1)
    again = frames("again", smooth=True, resources=one)
    assert all(np.array_equal(again[id], smooth[id]) for id in smooth)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"each": True, "style_weights": (1.0,)}, "nothing is mixed where op.each"),
        ({"styles": ("a/x.jpg", "b/x.png"), "each": True}, "two are called the same: x, x"),
        ({"tile_px": 16}, "op.tile_px 16: must be at least 64"),
    ],
)
def test_what_contradicts_itself_is_refused(style: str, change: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        StylizeConfig(**{"styles": (style,), **change})


def test_a_trained_network_makes_no_films(photos: Path, painter: str, tmp_path: Path):
    op = StylizeConfig(weights=painter, styles=("dots",), smooth=True)
    with pytest.raises(ValueError, match=r"op.smooth: .* paints each picture in one pass"):
        stylize.main(Config(data=Source(uri=str(photos)), op=op, out=str(tmp_path / "out")))


LARGE_NETWORKS: dict[str, tuple[str, tuple[str, ...], list[str]]] = {
    "painted": ("style_transform:32", ("waves", "dots"), ["--op.styles", "dots"]),
    "translated": ("unet:64x8", (), []),
    "any style": ("adain:torchvision:vgg19/relu4_1", (), ["--op.styles", "STYLE"]),
}


def peak_kb(command: list[str]) -> int:
    """The most memory that a command and its processes had at a time, what they share once."""
    process, most = subprocess.Popen(command, start_new_session=True), 0
    while process.poll() is None:
        most = max(most, sum(map(resident_kb, pids_of_session(process.pid))))
        time.sleep(0.1)
    assert process.returncode == 0
    return most


def pids_of_session(leader: int) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getsid(int(folder.name)) == leader:
                yield int(folder.name)


def resident_kb(pid: int) -> int:
    """Pages that n processes have count an n-th in each (PSS); 0 of one that is gone."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^Pss: +(\d+) kB", told, re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["optimised", *LARGE_NETWORKS])
def test_a_picture_of_3840_x_2160_stays_within_4_gb(tmp_path: Path, style: str, method: str):
    (tmp_path / "in").mkdir()
    whole = Image.fromarray(load_sample_images().images[0])
    whole.resize((3840, 2160), Image.Resampling.BICUBIC).save(tmp_path / "in" / "large.jpg")
    path = tmp_path / "net.safetensors"
    if method == "optimised":
        save_random(path, "torchvision:squeezenet1_1")
        more = ["--op.styles", style, "--op.gatys.steps", "2", "--op.gatys.levels", "1"]
    else:
        network, classes, more = LARGE_NETWORKS[method]
        save_painter(path, network, classes)
        more = [style if each == "STYLE" else each for each in more]
    options = ["--data.uri", tmp_path / "in", "--op.weights", path, "--op.longest-px", "3840"]
    options += ["--resources.engine", "inline", "--out", tmp_path / "out", *more]
    assert peak_kb([sys.executable, "-m", "jobs.stylize", *map(str, options)]) < 4_000_000
    with Image.open(tmp_path / "out" / "images" / "large.jpg") as made:
        assert made.size == (3840, 2160)
