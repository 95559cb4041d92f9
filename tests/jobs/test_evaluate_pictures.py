"""Pictures that were made, measured as people ask for it: figures by picture and over all."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jobs import evaluate, stylize
from jobs.pictures.measured import PictureEvaluation
from jobs.pictures.measuring import PictureProtocol
from jobs.runtime.resources import Resources
from jobs.runtime.sources.origin import Source
from tests.untrained import save_untrained
from vision_ops.canvas import Canvas
from vision_ops.card import Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.metrics.colour import colour_error
from vision_ops.metrics.features import feature_distance
from vision_ops.metrics.pictures import psnr, ssim
from vision_ops.models import build
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style.compare import CompareConfig, Comparer
from vision_ops.style.gatys_config import GatysConfig

INLINE = Resources(engine="inline", actors=1, max_failed_fraction=1.0)
NAMES = ("a.png", "deep/b ü.png", "deep/c.png", "d.png", "e.png")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_untrained(tmp_path_factory.mktemp("weights") / "w.safetensors", size_px=32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures in folders and one that is none."""
    root, whole = tmp_path_factory.mktemp("photos"), Image.fromarray(load_sample_images().images[0])
    for number, name in enumerate(NAMES):
        (root / name).parent.mkdir(exist_ok=True)
        whole.crop((40 * number, 30, 40 * number + 48 + 4 * number, 90)).save(root / name)
    (root / "bad.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("styles") / "rings.png"
    y, x = np.mgrid[0:48, 0:56]
    rings = np.stack([127 + 120 * np.sin(np.hypot(y, x) / k) for k in (2, 3, 5)], axis=2)
    Image.fromarray(rings.astype(np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def made(photos: Path, weights: str, style: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run whose pictures are measured, of several parts."""
    out = tmp_path_factory.mktemp("made")
    op = StylizeConfig(
        weights=weights, styles=(style,), longest_px=64, gatys=GatysConfig(steps=3, levels=1)
    )
    source = Source(uri=str(photos), slice_rows=2)
    stylize.main(stylize.Config(data=source, op=op, format="png", resources=INLINE, out=str(out)))
    return out


def measured(made: Path, out: Path, **asked: Any) -> PictureEvaluation:
    config = evaluate.Config(run=str(made), out=str(out), pictures=PictureProtocol(**asked))
    found = evaluate.main(config)
    assert isinstance(found, PictureEvaluation)
    return found


def rows_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "results").set_index("id")


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_each_picture_has_its_figures_and_all_have_means(
    made: Path, photos: Path, weights: str, tmp_path: Path
):
    found = measured(made, tmp_path)
    rows = rows_of(tmp_path)
    assert sorted(rows.index) == sorted([*NAMES, "bad.png"])
    assert found.counts["read"] == 6
    assert (found.counts["measured"], found.counts["failed"]) == (5, 1)
    assert rows.loc["bad.png", "stage"] == "decode"
    comparer = Comparer(CompareConfig(weights=weights))
    for name in NAMES:
        picture, content = pixels(made / "images" / name), pixels(photos / name)
        row = rows.loc[name]
        assert row["ssim"] == ssim(picture, content)
        assert row["colour_error"] == pytest.approx(colour_error(picture, content))
        one, other = comparer.look(picture), comparer.look(content)
        by_style = [{k: each[k] for k in comparer.layers.style} for each in (one, other)]
        assert row["feature_distance"] == pytest.approx(
            feature_distance(*by_style).item(), rel=1e-5
        )
    good = rows.loc[list(NAMES)]
    for name, summary in found.measures.items():
        assert summary.num_pictures == 5
        assert summary.mean == pytest.approx(good[name].mean())
        assert summary.standard_error == pytest.approx(good[name].std() / np.sqrt(5))
        assert (summary.least, summary.most) == (good[name].min(), good[name].max())
    told = json.loads((tmp_path / "metrics.json").read_text())
    assert told["measures"]["ssim"]["mean"] == found.measures["ssim"].mean
    assert told["features"]["network"] == "residual"
    assert told["features"]["convention"] == "relative"


def test_costs_are_those_that_the_optimisation_ended_with(made: Path, tmp_path: Path):
    """Same network, layers, convention and sizes: what `stylize` wrote of the same pictures."""
    measured(made, tmp_path)
    theirs = pd.read_parquet(made / "results").set_index("id").loc[list(NAMES)]
    ours = rows_of(tmp_path).loc[list(NAMES)]
    np.testing.assert_allclose(ours["content_cost"], theirs["content_loss"], rtol=1e-3)
    np.testing.assert_allclose(ours["style_cost"], theirs["style_loss"], rtol=1e-3)


def test_distance_of_sets_is_that_of_the_embeddings_and_says_that_it_is_of_few(
    made: Path, tmp_path: Path
):
    found = measured(made, tmp_path)
    rows = rows_of(tmp_path).loc[list(NAMES)]
    a, b = (np.stack(rows[n].tolist()) for n in ("embedding", "reference_embedding"))
    assert found.frechet is not None
    assert found.frechet.num_features == a.shape[1] == 160
    assert not found.frechet.trusted
    assert found.frechet.distance > np.square(a.mean(0) - b.mean(0)).sum() > 0
    assert "Not to be trusted" in (tmp_path / "report/index.html").read_text()


def test_pictures_beside_targets_are_matched_by_id_whatever_the_ending(made: Path, tmp_path: Path):
    targets = tmp_path / "targets"
    for name in ("a.png", "deep/b ü.png", "d.png"):
        (targets / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(made / "images" / name)
        if name == "a.png":
            image.save(targets / "a.webp", lossless=True)  # the very picture, by another name
        else:
            image.resize((30, 40)).save(targets / name)  # reduced: measured enlarged
    found = measured(made, tmp_path / "out", targets=str(targets))
    rows = rows_of(tmp_path / "out")
    assert rows.loc["a.png", "target_psnr"] == np.inf
    assert rows.loc["a.png", "target_ssim"] == pytest.approx(1)
    assert rows.loc["a.png", "target_colour_error"] == 0
    assert rows.loc[["deep/c.png", "e.png"], "target_ssim"].isna().all()
    assert found.counts["without_target"] == 2
    assert found.counts["measured"] == 5
    image = Image.open(made / "images" / "d.png").convert("RGB")
    wanted = image.resize((30, 40)).resize(image.size, Image.Resampling.BILINEAR)
    assert rows.loc["d.png", "target_psnr"] == pytest.approx(
        psnr(np.asarray(image), np.asarray(wanted))
    )
    assert found.measures["target_psnr"].num_pictures == 2  # the finite ones
    assert found.measures["target_ssim"].num_pictures == 3
    assert found.frechet is not None
    assert found.frechet.num_reference == 3


def test_contents_and_pictures_that_are_gone_are_rows_that_say_so_and_counted(
    photos: Path, weights: str, style: str, tmp_path: Path
):
    moved = tmp_path / "photos"
    for name in (*NAMES, "bad.png"):
        (moved / name).parent.mkdir(parents=True, exist_ok=True)
        (moved / name).write_bytes((photos / name).read_bytes())
    op = StylizeConfig(
        weights=weights, styles=(style,), longest_px=48, gatys=GatysConfig(steps=1, levels=1)
    )
    source = Source(uri=str(moved), slice_rows=3)
    stylize.main(stylize.Config(data=source, op=op, resources=INLINE, out=str(tmp_path / "run")))
    (moved / "a.png").unlink()
    (moved / "deep/c.png").write_bytes(b"overwritten")
    (tmp_path / "run/images/d.png.jpg").unlink()
    found = measured(tmp_path / "run", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert found.counts["read"] == 6
    assert (found.counts["measured"], found.counts["failed"]) == (2, 1)
    assert (found.counts["without_content"], found.counts["without_picture"]) == (2, 1)
    assert rows.loc["a.png", "stage"] == "content"
    assert "gone" in rows.loc["a.png", "error"]
    assert rows.loc["deep/c.png", "stage"] == "content"
    assert rows.loc["d.png", "stage"] == "picture"
    page = (tmp_path / "out/report/index.html").read_text()
    assert "2 without content" in page
    for each in NAMES:
        (moved / each).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="no picture can be measured .*5 without_content"):
        measured(tmp_path / "run", tmp_path / "none")


def test_a_measurement_that_was_broken_off_measures_only_what_is_missing(
    made: Path, tmp_path: Path
):
    whole = measured(made, tmp_path)
    parts = sorted((tmp_path / "results").iterdir())
    assert len(parts) == 3
    before = {part: part.read_bytes() for part in parts}
    stamps = {part: part.stat().st_mtime_ns for part in parts}
    parts[1].unlink()
    assert measured(made, tmp_path) == whole
    assert {part: part.read_bytes() for part in parts} == before
    assert [part.stat().st_mtime_ns == stamps[part] for part in parts] == [True, False, True]


@pytest.mark.slow
def test_pictures_of_a_trained_network_are_held_against_the_styles_that_are_told(
    photos: Path, style: str, weights: str, tmp_path: Path
):
    card = Card(
        network="style_transform:4",
        classes=("rings", "other"),
        preprocess=Canvas(),
        licence="none",
        source="random",
        embedding_size=0,
    )
    save_checkpoint(tmp_path / "painter.safetensors", build("style_transform:4", 2), card)
    op = StylizeConfig(
        weights=str(tmp_path / "painter.safetensors"), styles=("rings",), longest_px=48
    )
    source = Source(uri=str(photos))
    stylize.main(stylize.Config(data=source, op=op, resources=INLINE, out=str(tmp_path / "run")))
    found = measured(tmp_path / "run", tmp_path / "untold", features=weights)
    assert "style_cost" not in found.measures
    assert "lies in no run of a training; --pictures.styles tells them" in found.missing
    with pytest.raises(ValueError, match="none is called rings"):
        measured(
            tmp_path / "run",
            tmp_path / "out",
            features=weights,
            styles=(str(photos / "a.png"),),
        )
    found = measured(tmp_path / "run", tmp_path / "told", features=weights, styles=(style,))
    comparer = Comparer(CompareConfig(weights=weights))
    picture = pixels(tmp_path / "run/images/a.png.jpg")
    grams = comparer.style_of([pixels(style)], [1.0])
    wanted = comparer.style_cost(comparer.look(picture), grams)
    assert rows_of(tmp_path / "told").loc["a.png", "style_cost"] == pytest.approx(wanted, rel=1e-5)


def test_any_pictures_may_be_the_reference_of_the_set(made: Path, photos: Path, tmp_path: Path):
    found = measured(made, tmp_path / "own", reference=str(made / "images"))
    assert found.frechet is not None
    assert found.frechet.distance == pytest.approx(0, abs=1e-3)  # float32 rows
    found = measured(made, tmp_path / "photos", reference=str(photos))
    assert found.frechet is not None
    assert found.frechet.num_reference == 5
    assert found.counts["reference_unreadable"] == 1
    files = sorted(each for each in photos.rglob("*") if each.is_file())
    table = pa.table({"image": [each.read_bytes() for each in files]})
    pq.write_table(table, tmp_path / "shard.parquet")
    again = measured(made, tmp_path / "shards", reference=str(tmp_path / "shard.parquet"))
    assert again.frechet is not None
    assert again.frechet.distance == pytest.approx(found.frechet.distance, abs=1e-4)
    assert again.counts["reference_unreadable"] == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"targets": "nowhere"}, "pictures.targets: no picture at"),
        ({"reference": "nowhere"}, "pictures.reference: nothing at"),
        ({"styles": ("nowhere",)}, "pictures.styles nowhere: no picture there"),
        ({"features": "nowhere.safetensors"}, "no such file"),
        ({"style_layers": ("blocks.9",)}, "pictures.features: .* has no layer blocks.9"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(
    made: Path, tmp_path: Path, asked: dict[str, Any], said: str
):
    with pytest.raises(ValueError, match=said):
        measured(made, tmp_path, **asked)


def test_options_of_other_jobs_are_refused(made: Path, tmp_path: Path):
    config = evaluate.Config(run=str(made), out=str(tmp_path))
    with pytest.raises(ValueError, match="pictures have none"):
        evaluate.main(replace(config, labels="x.csv"))
    parsed = evaluate.parse(["--run", "r", "--pictures.targets", "t", "--pictures.features", "f"])
    assert parsed.pictures == PictureProtocol(targets="t", features="f")


def test_rows_with_a_picture_in_each_style_are_measured_picture_by_picture(
    made: Path, tmp_path: Path
):
    run = tmp_path / "run"
    shutil.copytree(made, run)
    for part in (run / "results").iterdir():
        table = pq.read_table(part)
        rows = table.to_pylist()
        for row in rows:
            uri = row.pop("image_uri")
            row |= {"image_uris": uri and [uri, uri], "styles": uri and ["rings", "rings"]}
        again = pa.Table.from_pylist(rows).replace_schema_metadata(table.schema.metadata)
        pq.write_table(again, part)
    one, several = measured(made, tmp_path / "one"), measured(run, tmp_path / "several")
    assert several.counts["measured"] == 2 * one.counts["measured"]
    for name, summary in one.measures.items():
        assert several.measures[name].mean == pytest.approx(summary.mean)
        assert several.measures[name].num_pictures == 2 * summary.num_pictures
    assert set(rows_of(tmp_path / "several")["style"]) == {"rings", ""}
