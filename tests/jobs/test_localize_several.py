"""Several objects in a picture: a detector in bulk, and its mean average precision."""

from pathlib import Path

import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from jobs import localize
from tests.jobs.test_localize import (
    KINDS,
    asked,
    judged,
    rows_of,
    shapes,
    truths_of,
    write_shard,
)
from vision_ops.card import Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.models import build, embedding_size
from vision_ops.operators.localize import LocalizerConfig
from vision_ops.preprocess import Preprocess


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> str:
    """torchvision's smallest, of random weights: it finds a lot, none of it true."""
    network = "torchvision_detection:ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    model = build(network, len(KINDS))
    plain = Preprocess(
        height_px=320, width_px=320, resize_px=0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    card = Card(
        network=network,
        classes=KINDS,
        preprocess=plain,
        licence="BSD-3-Clause",
        source="random",
        embedding_size=embedding_size(model, plain.network_shape),
    )
    path = tmp_path_factory.mktemp("detector") / "w.safetensors"
    save_checkpoint(path, model, card)
    return str(path)


def test_a_detector_finds_several_and_its_precision_is_torchmetrics(detector: str, tmp_path: Path):
    rows = shapes(4, seed=5)
    source = write_shard(tmp_path / "before" / "x.parquet", rows)
    op = LocalizerConfig(weights=detector, max_objects=20)
    before = rows_of(localize.main(asked(source, detector, tmp_path / "first", op=op)))
    for row, seen in zip(rows, before, strict=True):  # of what it finds some is said to be true
        found = [seen["boxes"][k] for k in (0, 2, 5)]
        row["objects"] += [{"label": each["label"], "box": each["box"]} for each in found]
    rows[0]["objects"] += [{"label": "square", "box": [1, 2, 30, 40]}]
    rows[1]["objects"] = []
    source = write_shard(tmp_path / "in" / "x.parquet", rows)
    run = localize.main(asked(source, detector, tmp_path / "run", op=op, overlays=True))
    assert run.manifest["weights"]["method"] == "detector"
    metric = MeanAveragePrecision(box_format="xyxy", class_metrics=True)
    for row in rows_of(run):
        assert 1 < len(row["boxes"]) <= 20
        scores = [each["confidence"] for each in row["boxes"]]
        assert scores == sorted(scores, reverse=True)
        assert (row["label"], row["confidence"]) == (row["boxes"][0]["label"], scores[0])
        sides = [("boxes", row["boxes"]), ("truth", truths_of(row))]
        tensors = [
            {
                "boxes": torch.tensor([o["box"] for o in objects]).reshape(-1, 4),
                "labels": torch.tensor([KINDS.index(o["label"]) for o in objects]).long(),
            }
            for _, objects in sides
        ]
        metric.update([tensors[0] | {"scores": torch.tensor(scores)}], [tensors[1]])
    wanted = metric.compute()
    assert 0.05 < wanted["map"] < 0.9
    found = judged(run, tmp_path / "evaluated")
    assert found.precision is not None
    assert found.precision.average == pytest.approx(wanted["map"].item(), abs=1e-6)
    assert found.precision.at_50 == pytest.approx(wanted["map_50"].item(), abs=1e-6)
    assert found.counts["evaluated"] == 3
    assert found.counts["without_truth"] == 1
    assert all(row["image_uri"] for row in rows_of(run))


def test_a_picture_in_which_nothing_is_found_has_no_label_and_is_judged_so(
    detector: str, tmp_path: Path
):
    source = write_shard(tmp_path / "in" / "x.parquet", shapes(3, seed=6))
    op = LocalizerConfig(weights=detector, min_confidence=0.999)
    run = localize.main(asked(source, detector, tmp_path / "run", op=op, overlays=True))
    for row in rows_of(run):
        assert (row["status"], row["label"], row["confidence"]) == ("ok", None, 0)
        assert row["boxes"] == []
        assert Path(row["image_uri"]).exists()
    found = judged(run, tmp_path / "evaluated")
    assert found.counts["nothing_found"] == 3
    assert found.boxes.mean_iou == 0
