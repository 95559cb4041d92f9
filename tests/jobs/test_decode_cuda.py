"""JPEGs decoded on the GPU of an actor: what a machine without one is told, and the road there."""

import logging
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jobs import classify, train_classifier
from jobs.pictures import bulk_config, classification
from jobs.pictures.bulk_config import PipelineConfig, decide_resources
from jobs.runtime.command import exit_code
from jobs.runtime.resources import Resources
from jobs.runtime.sources.origin import Source
from tests.untrained import save_untrained
from vision_ops.decode import Decode, DecodeConfig
from vision_ops.decode.gpu import DecodeOnGpu
from vision_ops.inputs import Inputs
from vision_ops.operators.classify import ClassifierConfig
from vision_ops.preprocess import Preprocess

CUDA = DecodeConfig(mode="cuda")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """JPEGs of several kinds, a PNG, and a JPEG that ends early."""
    folder = tmp_path / "photos"
    folder.mkdir()
    wholes = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    wholes[0].save(folder / "last.png")
    for number in range(70):
        image = wholes[number % 2].resize((200 + number, 160))
        image = image.convert(("RGB", "L", "CMYK")[number % 3])
        target = BytesIO()
        image.save(target, "JPEG")
        data = target.getvalue()
        (folder / f"{number:02}.jpg").write_bytes(data if number % 10 else data[: len(data) // 2])
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained network over pictures of 64 pixels."""
    return save_untrained(tmp_path_factory.mktemp("weights") / "w.safetensors", size_px=64)


def config_of(photos: Path, weights: str, out: Path, **fields: Any) -> classify.Config:
    return classify.Config(
        data=Source(uri=str(photos)),
        op=ClassifierConfig(weights=weights, precision="fp32"),
        out=str(out),
        **fields,
    )


def test_a_machine_without_gpus_says_so_and_leaves_nothing(
    photos: Path, weights: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = config_of(photos, weights, tmp_path / "out", decode=CUDA)
    with caplog.at_level(logging.ERROR):
        assert exit_code(classify.main, config) == 2
    assert "decode.mode cuda: there is no GPU here; fast and exact need none" in caplog.text
    assert exit_code(classify.main, replace(config, dry_run=True)) == 2
    assert list((tmp_path / "out").rglob("*")) == []


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        (
            {"placement": "apart"},
            "resources.placement apart: .* the actor that has the GPU decodes",
        ),
        ({"gpus_per_actor": 0}, "resources.gpus_per_actor 0: decode.mode cuda decodes on GPUs"),
        ({"engine": "inline"}, "there is no GPU here"),
    ],
)
def test_resources_that_cannot_decode_on_gpus_are_refused(
    resources: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match=said):
        decide_resources(PipelineConfig(decode=CUDA, resources=Resources(**resources)), 5)


def test_on_a_cluster_the_actors_decode(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere:10001")
    found = decide_resources(PipelineConfig(decode=CUDA), 5)
    assert (found.engine, found.placement) == ("ray", "together")


def test_in_one_process_one_slice_is_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bulk_config, "has_gpu", lambda: True)
    found = decide_resources(PipelineConfig(decode=CUDA), 5)
    assert (found.engine, found.placement, found.actors) == ("inline", "together", 1)
    several = PipelineConfig(decode=CUDA, resources=Resources(actors=3))
    assert decide_resources(several, 5).actors == 3


def test_a_training_refuses_it(photos: Path, tmp_path: Path):
    config = train_classifier.PRESETS["digits"]()
    out = str(tmp_path / "out")
    config = replace(config, data=Source(uri=str(photos)), decode=CUDA, out=out)
    with pytest.raises(ValueError, match="a training decodes once, on CPUs; fast or exact"):
        train_classifier.main(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_run_by_the_gpus_road_has_the_rows_of_any_other(
    engine: Any, photos: Path, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    resources = Resources(engine=engine, max_failed_fraction=1.0)
    exact = DecodeConfig(mode="exact")
    usual = config_of(photos, weights, tmp_path / "usual", decode=exact, resources=resources)
    expected = rows_of(usual)

    def on_gpu(config: DecodeConfig, preprocess: Inputs) -> DecodeOnGpu:
        assert isinstance(preprocess, Preprocess)
        return DecodeOnGpu(Decode(config, preprocess), "cpu")

    monkeypatch.setattr(classification, "make_decoder", on_gpu)
    found = rows_of(replace(usual, out=str(tmp_path / "out")))

    assert [row["id"] for row in found] == [row["id"] for row in expected]
    assert [row["error"] for row in found] == [row["error"] for row in expected]
    assert sum(row["status"] == "failed" for row in found) == 7
    good = [(f, e) for f, e in zip(found, expected, strict=True) if f["status"] == "ok"]
    assert all(f["label"] == e["label"] for f, e in good)
    assert np.allclose(
        *([row["confidence"] for row in each] for each in zip(*good, strict=True)), atol=1e-3
    )


def rows_of(config: classify.Config) -> list[dict[str, Any]]:
    run = classify.main(config)
    rows = [row for batch in run.results() for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: row["id"])
