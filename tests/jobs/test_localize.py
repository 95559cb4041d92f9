"""Localising as people call it: train on drawn shapes, localise in bulk, evaluate, look at it."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from jobs import evaluate, localize, train_localizer
from jobs.localize import Config, drawn
from jobs.pictures.localization import overlay
from jobs.pictures.located import LocalizationEvaluation
from jobs.pictures.samples.shapes import SCHEMA, draw
from jobs.runtime.command import exit_code
from jobs.runtime.learner import TrainingConfig
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage, StorageConfig
from jobs.runtime.training import TrainingResources
from tests.jobs.runtime.test_objects import size_of, voc
from tests.untrained import save_untrained
from vision_ops.decode import DecodeConfig
from vision_ops.learners.localize import LocalizerModelConfig
from vision_ops.operators.localize import LocalizerConfig
from vision_ops.preprocess import Preprocess

KINDS = ("circle", "square", "triangle")
SMALL = Preprocess(height_px=32, width_px=32, resize_px=0)
INLINE = Resources(engine="inline", actors=1, max_failed_fraction=1.0)


def jpeg(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=90)
    return target.getvalue()


def shapes(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows as make_samples writes them."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = KINDS[number % 3]
        image, box = draw(label, random)
        objects = [{"label": label, "box": box}]
        rows.append({"id": str(number), "image": jpeg(image), "objects": objects})
    return rows


def write_shard(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=16)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few shapes: learn.parquet, test.parquet, and files/ with XML beside them."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shard(folder / "learn" / "learn.parquet", shapes(96, seed=1))
    write_shard(folder / "test" / "test.parquet", shapes(24, seed=2))
    for number, row in enumerate(shapes(6, seed=3)):
        path = folder / "files" / f"deep {number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row["image"])
        with Image.open(path) as image:
            size = size_of(image.height, image.width)
        (found,) = row["objects"]
        x0, y0, x1, y1 = found["box"]
        xml = voc((found["label"], (x0 + 1, y0 + 1, x1, y1)), size=size)
        path.with_suffix(".xml").write_bytes(xml)
    return folder


def training(folder: Path, out: Path) -> train_localizer.Config:
    preset = train_localizer.PRESETS["shapes"]()
    return replace(
        preset,
        data=Source(uri=str(folder / "learn"), label="boxes"),
        model=LocalizerModelConfig(preprocess=SMALL, licence="CC0-1.0"),
        training=TrainingConfig(epochs=6, batch_size=8),
        resources=TrainingResources(engine="inline"),
        out=str(out),
    )


@pytest.fixture(scope="module")
def weights(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a short training learnt."""
    out = tmp_path_factory.mktemp("trained")
    train_localizer.main(training(folder, out))
    return str(out / "checkpoints" / "last.safetensors")


def asked(source: Path | str, weights: str, out: Path | str, **changes: Any) -> Config:
    op = LocalizerConfig(weights=weights)
    data = Source(uri=str(source), label="boxes", slice_rows=8)
    return replace(Config(data=data, op=op, resources=INLINE, out=str(out)), **changes)


def rows_of(run: Run) -> list[dict[str, Any]]:
    rows = [row for batch in run.results() for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: row["id"])


@pytest.fixture(scope="module")
def localised(folder: Path, weights: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over the test shapes, with overlays."""
    out = tmp_path_factory.mktemp("localised")
    return localize.main(asked(folder / "test", weights, out, overlays=True))


def judged(run: Run | str, out: Path) -> LocalizationEvaluation:
    uri = run if isinstance(run, str) else run.uri
    found = evaluate.main(evaluate.Config(run=uri, out=str(out)))
    assert isinstance(found, LocalizationEvaluation)
    return found


def truths_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    return json.loads(row["truth"])


def test_every_shape_is_a_row_with_one_box_within_its_picture(localised: Run, folder: Path):
    rows = rows_of(localised)
    assert {row["id"] for row in rows} == {f"test.parquet#{i}" for i in range(24)}
    assert localised.manifest["weights"]["method"] == "regression"
    images = pq.read_table(folder / "test")["image"].to_pylist()
    for row in rows:
        (found,) = row["boxes"]
        assert (found["label"], found["confidence"]) == (row["label"], row["confidence"])
        assert row["label"] in KINDS
        x0, y0, x1, y1 = found["box"]
        assert 0 <= x0 < x1 <= row["width_px"]
        assert 0 <= y0 < y1 <= row["height_px"]
        with Image.open(io.BytesIO(images[int(row["id"].partition("#")[2])])) as image:
            assert image.size == (row["width_px"], row["height_px"])


def test_numbers_of_the_evaluation_are_those_of_a_loop_over_rows(localised: Run, tmp_path: Path):
    found = judged(localised, tmp_path)
    rows = rows_of(localised)
    overlaps, right = [], []
    for row in rows:
        pair = [torch.tensor([each["box"]]) for each in (row["boxes"][0], truths_of(row)[0])]
        overlaps.append(box_iou(pair[0].double(), pair[1].double()).item())
        right.append(row["label"] == truths_of(row)[0]["label"])
    above = np.array(overlaps) > 0.5
    assert found.boxes.mean_iou == pytest.approx(np.mean(overlaps), abs=1e-6)
    assert found.boxes.above_half == above.mean()
    assert found.boxes.localisation_accuracy == (above & right).mean()
    assert found.boxes.accuracy == np.mean(right)
    assert found.boxes.histogram.tolist() == np.histogram(overlaps, 20, (0, 1))[0].tolist()
    assert "Overlap" in (tmp_path / "report" / "index.html").read_text()
    assert np.mean(overlaps) > 0.3  # the boxes of an untrained network have 0.2 of such shapes
    assert found.precision is None  # one box, one thing: nothing is to be ranked
    assert found.missing == ""
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["mean_iou"] == found.boxes.mean_iou
    by_class = {each["class"]: each for each in numbers["classes"]}
    for kind in KINDS:
        mine = [
            o for o, row in zip(overlaps, rows, strict=True) if truths_of(row)[0]["label"] == kind
        ]
        assert by_class[kind]["pictures"] == len(mine) == 8
        assert by_class[kind]["mean_iou"] == pytest.approx(np.mean(mine), abs=1e-6)
    worst = [each["id"] for each in numbers["worst"]]
    assert worst == [rows[i]["id"] for i in np.argsort(overlaps, kind="stable")]
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") == len(rows)


def test_a_second_run_changes_nothing(localised: Run, folder: Path, weights: str):
    root = Path(localised.uri)
    written = [p for name in ("results", "images") for p in (root / name).rglob("*") if p.is_file()]
    before = {path: path.stat().st_mtime_ns for path in written}
    again = localize.main(asked(folder / "test", weights, root, overlays=True))
    assert again.manifest["attempts"] == localised.manifest["attempts"] + 1
    assert {path: path.stat().st_mtime_ns for path in written} == before
    assert len(before) == 2 + 24  # a slice per row group


def red(image: Image.Image) -> int:
    """Pixels of the colour that what was found is drawn in."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - [215, 25, 28]).sum(axis=2) < 60).sum())


def test_overlays_of_rows_in_parquet_and_of_files_lie_by_their_ids(
    localised: Run, folder: Path, weights: str, tmp_path: Path
):
    files = localize.main(asked(folder / "files", weights, tmp_path, overlays=True))
    for run in (localised, files):
        for row in rows_of(run):
            name = row["id"] if run is files else row["id"].replace("#", "/") + ".jpg"
            path = Path(run.uri) / "images" / name
            assert row["image_uri"] == str(path)
            with Image.open(path) as image:
                assert red(image) > 50
                assert max(image.size) == 640  # smaller ones are enlarged
    assert (tmp_path / "images" / "deep 1" / "1.jpg").exists()
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 6


def test_files_with_xml_are_judged_as_rows_with_objects_are(
    folder: Path, weights: str, tmp_path: Path
):
    run = localize.main(asked(folder / "files", weights, tmp_path / "run"))
    wanted = judged(run, tmp_path / "evaluated")
    shard = write_shard(tmp_path / "shard" / "x.parquet", shapes(6, seed=3))
    run = localize.main(asked(shard, weights, tmp_path / "other"))
    found = judged(run, tmp_path / "again")
    assert found.boxes.mean_iou == pytest.approx(wanted.boxes.mean_iou, abs=1e-6)
    assert found.counts == wanted.counts


def test_a_picture_that_cannot_be_drawn_is_told_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
):
    row = {"boxes": [{"label": "cat", "confidence": 0.9, "box": [0, 0, 5, 5]}]}
    assert overlay(b"no picture", row, 100) == b""
    large = jpeg(Image.new("RGB", (1100, 1000)))
    assert overlay(large, row, 1) == b""
    assert overlay(large, row, 2)
    assert "1.1 megapixels" in caplog.text


def test_pictures_that_are_gone_are_left_out_of_the_report(
    folder: Path, weights: str, tmp_path: Path
):
    write_shard(tmp_path / "in" / "x.parquet", shapes(3, seed=4))
    run = localize.main(asked(tmp_path / "in", weights, tmp_path / "out"))
    assert drawn(run, 100, ["x.parquet#1", "x.parquet#7"]).keys() == {"x.parquet#1"}
    (tmp_path / "in" / "x.parquet").unlink()
    assert drawn(run, 100, ["x.parquet#1"]) == {}


def test_rows_that_cannot_be_judged_are_counted_by_why(folder: Path, weights: str, tmp_path: Path):
    """In = out: none is dropped on the way from the bucket to the numbers."""
    source = tmp_path / "in"
    source.mkdir()
    image = jpeg(draw("circle", np.random.default_rng(0))[0].resize((60, 40)))
    files = {
        "good": voc(("circle", (5, 5, 30, 30))),
        "of another class": voc(("hexagon", (5, 5, 30, 30))),
        "outside": voc(("circle", (5, 5, 90, 30))),
        "turned": voc(("circle", (5, 5, 30, 30)), size=size_of(60, 40)),
        "nothing marked": voc(),
        "broken": b"<annotation>",
    }
    for name, xml in files.items():
        (source / f"{name}.jpg").write_bytes(image)
        (source / f"{name}.xml").write_bytes(xml)
    (source / "without.jpg").write_bytes(image)
    (source / "damaged.jpg").write_bytes(image[:300])
    (source / "notes.txt").write_bytes(b"")
    run = localize.main(asked(source, weights, tmp_path / "run"))
    stages = {row["id"]: row["stage"] for row in rows_of(run) if row["status"] == "failed"}
    assert stages == {"broken.jpg": "read", "damaged.jpg": "decode", "notes.txt": "read"}
    found = judged(run, tmp_path / "evaluated")
    assert found.counts == {
        "read": 9, "evaluated": 2, "failed": 3, "without_truth": 2, "unusable_truth": 2,
        "of_another_class": 1, "nothing_found": 0,
    }  # fmt: skip
    page = (tmp_path / "evaluated" / "report" / "index.html").read_text()
    for said in ("lies outside", "boxes were drawn on", "of no class of the weights", "not XML"):
        assert said in page


def test_class_maps_of_a_plain_classifier_give_boxes_too(tmp_path: Path):
    classifier = save_untrained(tmp_path / "w.safetensors", size_px=32)
    rows = shapes(24, seed=2)
    rows[0]["objects"] += [{"label": "square", "box": [1, 2, 30, 40]}]  # so precision is ranked
    source = write_shard(tmp_path / "in" / "x.parquet", rows)
    run = localize.main(asked(source, classifier, tmp_path / "run"))
    assert run.manifest["weights"]["method"] == "cam"
    for row in rows_of(run):
        x0, y0, x1, y1 = row["boxes"][0]["box"]
        assert 0 <= x0 < x1 <= row["width_px"]
        assert 0 <= y0 < y1 <= row["height_px"]
    found = judged(run, tmp_path / "evaluated")
    assert found.counts["of_another_class"] == 24  # it knows digits
    assert np.isnan(found.boxes.localisation_accuracy)
    assert 0 < found.boxes.mean_iou < 1
    assert found.precision is None
    assert "no true class is one of the weights'" in found.missing
    assert json.loads((tmp_path / "evaluated/metrics.json").read_text())["classes"] == []


def with_op(**op: Any) -> Callable[[Config], Config]:
    return lambda config: replace(config, op=replace(config.op, **op))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_op(method="detector"), r"op.method detector: .* is of localizer:residual"),
        (with_op(threshold=0.5), "op.threshold: not for method regression"),
        (with_op(weights="no/such.safetensors"), r"no/such\.safetensors: no such file"),
        (lambda c: replace(c, data=Source(uri=c.data.uri + "/x", label="boxes")), "nothing at"),
        (lambda c: replace(c, data=replace(c.data, label="kind")), "no column 'kind'"),
    ],
)
def test_requests_that_cannot_be_are_refused_by_name_and_leave_nothing(
    folder: Path, weights: str, tmp_path: Path, change: Callable[[Config], Config], said: str
):
    config = change(asked(folder / "test", weights, tmp_path / "out"))
    with pytest.raises(ValueError, match=said):
        localize.main(config)
    assert exit_code(localize.main, config) == 2
    assert not (tmp_path / "out").exists()


def test_evaluation_says_what_a_run_without_boxes_lacks(folder: Path, weights: str, tmp_path: Path):
    config = asked(folder / "test", weights, tmp_path / "run")
    localize.main(replace(config, data=replace(config.data, label="none")))
    with pytest.raises(ValueError, match=r"24 without_truth\); localize with --data.label boxes"):
        judged(str(tmp_path / "run"), tmp_path / "evaluated")
    with pytest.raises(ValueError, match="labels: a run of localize has its truth"):
        evaluate.main(evaluate.Config(run=str(tmp_path / "run"), labels="x.csv"))
    with pytest.raises(ValueError, match="op.method was 'auto', now 'cam'"):
        localize.main(
            asked(folder / "test", weights, tmp_path / "run", op=with_op(method="cam")(config).op)
        )


def test_a_dry_run_with_overlays_tells_and_writes_nothing(
    folder: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    localize.main(asked(folder / "test", weights, tmp_path / "out", overlays=True, dry_run=True))
    told = capsys.readouterr().out
    for text in ("24", "regression, fp32 on torch", "CC0-1.0", "not begun"):
        assert text in told
    assert not (tmp_path / "out").exists()


def test_from_s3_to_s3_with_overlays_and_an_evaluation_there(
    folder: Path, weights: str, s3: StorageConfig, bucket: str
):
    storage = Storage(s3)
    for path in (folder / "files").rglob("*.*"):
        storage.put(f"{bucket}/in/{path.relative_to(folder / 'files')}", path.read_bytes())
    storage.put(f"{bucket}/w.safetensors", Path(weights).read_bytes())
    config = asked(f"{bucket}/in", f"{bucket}/w.safetensors", f"{bucket}/run", overlays=True)
    run = localize.main(replace(config, storage=s3))
    found = evaluate.main(
        evaluate.Config(run=f"{bucket}/run", out=f"{bucket}/evaluated", storage=s3)
    )
    assert isinstance(found, LocalizationEvaluation)
    assert found.counts["evaluated"] == 6
    for row in rows_of(run):
        assert row["image_uri"] == f"{bucket}/run/images/{row['id']}"
        assert storage.read(row["image_uri"])[:3] == b"\xff\xd8\xff"
    assert b"data:image/jpeg" in storage.read(f"{bucket}/evaluated/report/index.html")


def test_exact_decoding_is_another_run(folder: Path, weights: str, tmp_path: Path):
    config = asked(folder / "files", weights, tmp_path)
    localize.main(config)
    with pytest.raises(ValueError, match="decode.mode was 'fast', now 'exact'"):
        localize.main(replace(config, decode=DecodeConfig(mode="exact")))
