"""Pictures in the manner of others, as people ask for them: trees, names, colours, bad input."""

import io
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from jobs import stylize
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.stylize import Config
from tests.untrained import save_random, save_untrained
from tests.vision_ops.test_decode import swapped_profile
from vision_ops.canvas import Canvas
from vision_ops.card import Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.models import build
from vision_ops.noise import Noise
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style.gatys_config import STYLE_WEIGHTS, CostsConfig, GatysConfig

INLINE = Resources(engine="inline", actors=1, max_failed_fraction=1.0)
QUICK = GatysConfig(steps=4, levels=1)
ODD = ("a b/ü #1.jpg", "a b/deep/er/100%.png", "x.y.webp", "plain", "x.jpeg")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_untrained(tmp_path_factory.mktemp("weights") / "w.safetensors", size_px=64)


def picture(number: int, width: int, height: int) -> Image.Image:
    photograph = Image.fromarray(load_sample_images().images[number % 2])
    return photograph.crop((10 * number, 5 * number, 10 * number + width, 5 * number + height))


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("styles") / "style.png"
    rows, columns = np.mgrid[0:48, 0:64]
    waves = np.stack([np.sin(columns / k) * np.cos(rows / 5) for k in (2, 3, 4)], axis=2)
    Image.fromarray((127.5 + 127.5 * waves).astype(np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in nested folders with odd names; one broken, one too small."""
    root = tmp_path_factory.mktemp("photos")
    formats = {".png": "PNG", ".webp": "WEBP"}
    for number, name in enumerate(ODD):
        if name == "plain":
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        part = picture(number, 60 + 8 * number, 80 - 8 * number)
        part.save(root / name, formats.get(Path(name).suffix, "JPEG"), quality=95)
    (root / "broken.jpg").write_bytes(b"no picture")
    picture(0, 90, 9).save(root / "thin.png")
    return root


def asked(photos: Path, weights: str, style: str, out: Path, **more: Any) -> Config:
    op = StylizeConfig(weights=weights, styles=(style,), longest_px=64, gatys=QUICK)
    op = replace(op, **{k: v for k, v in more.items() if hasattr(op, k)})
    rest: dict[str, Any] = {"resources": INLINE} | {
        k: v for k, v in more.items() if not hasattr(op, k)
    }
    return Config(data=Source(uri=str(photos)), op=op, out=str(out), **rest)


def rows_of(run: Run) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for batch in run.results() for row in batch.to_pylist()}


def images_of(out: Path) -> dict[str, bytes]:
    below = out / "images"
    return {str(p.relative_to(below)): p.read_bytes() for p in below.rglob("*") if p.is_file()}


def test_a_dry_run_tells_and_writes_nothing(
    photos: Path, weights: str, style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stylize.main(asked(photos, weights, style, tmp_path / "out", dry_run=True))

    told = capsys.readouterr().out
    for text in (
        "1 in 2 slices",
        "rows           6",
        "style.png",
        "rows/s in one process",
        "not begun",
    ):
        assert text in told, text
    assert not (tmp_path / "out").exists()


def test_every_image_becomes_a_picture_of_its_tree_and_name(
    photos: Path, weights: str, style: str, tmp_path: Path
):
    run = stylize.main(asked(photos, weights, style, tmp_path / "out"))
    rows = rows_of(run)
    assert len(rows) == len(ODD) + 1
    assert sorted(images_of(tmp_path / "out")) == sorted(
        ["a b/ü %231.jpg", "a b/deep/er/100%.png.jpg", "x.y.webp.jpg", "x.jpeg"]
    )
    for row in rows.values():
        if row["status"] == "failed":
            assert row["image_uri"] is None
            continue
        with Image.open(row["image_uri"]) as made, Image.open(photos / row["id"]) as given:
            assert made.format == "JPEG"
            assert made.size == (row["width_px"], row["height_px"])
            assert max(made.size) <= 64
            assert made.width / made.height == pytest.approx(given.width / given.height, rel=0.03)
        assert row["total_loss"] < row["total_at_start_loss"]
    failed = {id: row["error"] for id, row in rows.items() if row["status"] == "failed"}
    assert failed["thin.png"] == "64 x 6 px: each side must have 16 at least"
    assert "not an image" in failed["broken.jpg"]
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "Some of the pictures" in page
    assert "% of the loss left" in page


@pytest.mark.parametrize("convention", ["relative", "paper"])
def test_parts_say_by_which_costs_their_pictures_were_made(
    photos: Path, weights: str, style: str, tmp_path: Path, convention: Any
):
    gatys = replace(QUICK, costs=CostsConfig(convention=convention, variation_weight=0.5))
    config = asked(photos, weights, style, tmp_path / "out", gatys=gatys, strength=0.5)
    stylize.main(config)
    part, *_ = (tmp_path / "out" / "results").glob("part-*")
    told = pq.read_schema(part).metadata
    beta = STYLE_WEIGHTS[convention] / 2
    assert told[b"argus.convention"].decode() == convention
    assert told[b"argus.cost_weights"].decode() == f"content 1, style {beta:g}, variation 0.5"


def test_a_second_run_does_nothing_and_a_lost_part_comes_back_with_its_pictures(
    photos: Path, weights: str, style: str, tmp_path: Path
):
    config = asked(photos, weights, style, tmp_path / "out", format="png")
    config = replace(config, data=replace(config.data, slice_rows=2))
    stylize.main(config)
    images = images_of(tmp_path / "out")
    parts = {p: p.read_bytes() for p in (tmp_path / "out" / "results").glob("part-*")}
    assert len(parts) == 3
    written = {part: part.stat().st_mtime_ns for part in parts}
    stylize.main(config)
    assert images_of(tmp_path / "out") == images
    assert {part: part.stat().st_mtime_ns for part in parts} == written
    (tmp_path / "out" / "images" / "x.jpeg.png").unlink()
    for part in parts:
        part.unlink()
    stylize.main(config)
    assert images_of(tmp_path / "out") == images
    assert {p: p.read_bytes() for p in parts} == parts


def test_colours_of_the_content_are_kept_where_that_is_asked(
    photos: Path, weights: str, style: str, tmp_path: Path
):
    named = {"format": "png"}
    free = stylize.main(asked(photos, weights, style, tmp_path / "free", **named))
    kept = stylize.main(
        asked(photos, weights, style, tmp_path / "kept", colours="content", **named)
    )
    for id, row in rows_of(kept).items():
        if row["status"] == "failed":
            continue
        with Image.open(photos / id) as file:
            given = file.convert("RGB").resize((row["width_px"], row["height_px"]))
        made, other = (Image.open(rows_of(run)[id]["image_uri"]) for run in (kept, free))
        chroma = [
            np.asarray(image.convert("YCbCr")).astype(int)[..., 1:] for image in (given, made)
        ]
        assert np.abs(chroma[0] - chroma[1]).mean() < 6
        luma = [np.asarray(image.convert("YCbCr")).astype(int)[..., 0] for image in (made, other)]
        assert np.abs(luma[0] - luma[1]).mean() < 4
        losses = ("content_loss", "style_loss", "total_loss", "total_at_start_loss")
        assert [row[name] for name in losses] == [rows_of(free)[id][name] for name in losses]
    pages = [(tmp_path / name / "report/index.html").read_text() for name in ("free", "kept")]
    said = "Losses are those before the image's colours were given"
    assert [said in unescape(page) for page in pages] == [False, True]


def test_orientation_and_colour_profile_are_baked_in(weights: str, style: str, tmp_path: Path):
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = picture(0, 64, 32)
    exchanged = Image.merge("RGB", whole.split()[::-1])
    whole.save(tmp_path / "in" / "plain.png")
    whole.save(tmp_path / "in" / "turned.png", exif=exif)
    exchanged.save(tmp_path / "in" / "profiled.png", icc_profile=swapped_profile())
    # at strength 0 the picture made is the image itself, as it was decoded
    config = asked(tmp_path / "in", weights, style, tmp_path / "out", strength=0.0, format="png")
    pictures = {id: row["image_uri"] for id, row in rows_of(stylize.main(config)).items()}
    assert len(pictures) == 3
    shown = {id: Image.open(uri) for id, uri in pictures.items()}
    for made in shown.values():
        assert made.getexif().get(0x0112, 1) == 1
        assert "icc_profile" not in made.info
    assert shown["turned.png"].size == (32, 64)
    pixels = {id: np.asarray(made, int) for id, made in shown.items()}
    assert np.array_equal(np.rot90(pixels["turned.png"]), pixels["plain.png"])
    assert np.abs(pixels["profiled.png"] - pixels["plain.png"]).max() <= 6
    assert np.abs(np.asarray(exchanged, int) - pixels["plain.png"]).max() > 40


@pytest.mark.parametrize(("format", "name"), [("jpg", "JPEG"), ("webp", "WEBP")])
def test_quality_says_how_near_a_file_is_to_the_picture_made(
    photos: Path, weights: str, style: str, tmp_path: Path, format: str, name: str
):
    def written(kind: str, **more: Any) -> dict[str, bytes]:
        config = asked(photos, weights, style, tmp_path / kind, strength=0.0, **more)
        stylize.main(config)
        return {row: data for row, data in images_of(tmp_path / kind).items() if "deep" in row}

    (exact,) = written("exact", format="png").values()
    off, sizes = [], []
    for quality in (20, 95):
        ((path, data),) = written(str(quality), format=format, quality=quality).items()
        assert path.endswith(f".{format}")
        made = Image.open(io.BytesIO(data))
        assert made.format == name
        wanted = np.asarray(Image.open(io.BytesIO(exact)), int)
        off.append(np.abs(np.asarray(made.convert("RGB"), int) - wanted).mean())
        sizes.append(len(data))
    assert off[1] < 0.5 * off[0]
    assert sizes[1] > 1.5 * sizes[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"styles": ()}, "op.styles: none is named; a picture"),
        ({"styles": ("absent.jpg",)}, "op.styles absent.jpg: cannot be read"),
        ({"style_weights": (1.0, 2.0)}, "2 for 1 styles"),
        ({"style_weights": (0.0,)}, "all are 0"),
        ({"longest_px": 15}, "op.longest_px 15: must be at least 16"),
        ({"weights": "absent.safetensors"}, "no such file"),
        ({"quality": 0}, "quality 0: must be 1..100"),
        ({"format": "webp", "longest_px": 16_384}, "16384: a webp has 16383 px a side"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    photos: Path, weights: str, style: str, tmp_path: Path, change: dict[str, Any], words: str
):
    def ask() -> None:
        config = asked(photos, change.pop("weights", weights), style, tmp_path / "out", **change)
        stylize.main(config)

    with pytest.raises(ValueError, match=words):
        ask()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("resnet20", "resnet20; name op.gatys.features.content_layers"),
        ("dcgan:4x16", "dcgan:4x16 makes pictures; they are compared by features of a classifier"),
    ],
)
def test_a_network_whose_features_are_of_no_use_is_refused_before_anything_is_written(
    photos: Path, style: str, tmp_path: Path, network: str, words: str
):
    if network == "resnet20":
        weights = save_random(tmp_path / "w.safetensors", network)
    else:
        card = Card(
            network=network,
            classes=(),
            preprocess=Noise(length=3),
            licence="none",
            source="random",
            embedding_size=3,
        )
        weights = str(tmp_path / "w.safetensors")
        save_checkpoint(weights, build(network, 3), card)
    with pytest.raises(ValueError, match=words):
        stylize.main(asked(photos, weights, style, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_style_that_is_no_picture_is_named(photos: Path, weights: str, tmp_path: Path):
    (tmp_path / "style.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"op.styles .*style.jpg: not an image"):
        stylize.main(asked(photos, weights, str(tmp_path / "style.jpg"), tmp_path / "out"))


def test_the_same_request_gives_the_same_bytes_and_another_style_is_another_run(
    photos: Path, weights: str, style: str, tmp_path: Path
):
    for name in ("first", "second"):
        stylize.main(asked(photos, weights, style, tmp_path / name))
    assert images_of(tmp_path / "first") == images_of(tmp_path / "second")
    other = io.BytesIO()
    picture(1, 64, 64).save(other, "PNG")
    (tmp_path / "other.png").write_bytes(other.getvalue())
    with pytest.raises(ValueError, match="holds another run"):
        stylize.main(asked(photos, weights, str(tmp_path / "other.png"), tmp_path / "first"))


def save_painter(path: Path, network: str, classes: tuple[str, ...] = ("waves", "dots")) -> str:
    """An untrained network of these styles."""
    torch.manual_seed(0)
    model = build(network, len(classes))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.2 * torch.randn_like(tensor))
    card = Card(
        network=network,
        classes=classes,
        preprocess=Canvas(longest_px=512),
        licence="none",
        source="random",
        embedding_size=0,
    )
    save_checkpoint(path, model, card)
    return str(path)


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("painter") / "painter.safetensors"
    return save_painter(path, "style_transform:4")


def test_a_trained_network_paints_in_its_styles_by_their_shares(
    photos: Path, painter: str, tmp_path: Path
):
    def painted(name: str, *styles: str, **more: Any) -> dict[str, bytes]:
        op = StylizeConfig(weights=painter, styles=styles, longest_px=64, **more)
        config = Config(
            data=Source(uri=str(photos)),
            op=op,
            resources=INLINE,
            format="png",
            out=str(tmp_path / name),
        )
        rows = rows_of(stylize.main(config))
        assert {row["status"] for row in rows.values()} == {"ok", "failed"}
        assert all(row["total_loss"] is None for row in rows.values())
        return images_of(tmp_path / name)

    waves, dots = painted("waves", "waves"), painted("dots", "dots")
    assert len(waves) == len(ODD) - 1
    assert waves.keys() == dots.keys()
    assert all(waves[name] != dots[name] for name in waves)
    part, *_ = (tmp_path / "waves" / "results").glob("part-*")
    assert b"argus.convention" not in pq.read_schema(part).metadata  # nothing was optimised
    assert painted("all_waves", "dots", "waves", style_weights=(0.0, 2.0)) == waves
    both = painted("both", "dots", "waves")
    assert all(both[name] not in (waves[name], dots[name]) for name in waves)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"styles": ("stars",)}, "did not learn stars, but waves, dots"),
        ({"styles": ("dots",), "gatys": QUICK}, "op.gatys: .* paints in one pass"),
    ],
)
def test_what_a_trained_network_cannot_do_is_refused(
    photos: Path, painter: str, tmp_path: Path, change: dict[str, Any], words: str
):
    op = StylizeConfig(weights=painter, **change)
    with pytest.raises(ValueError, match=words):
        stylize.main(Config(data=Source(uri=str(photos)), op=op, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
