"""A run's network is chosen on its own images, kept with it, the same for every attempt."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.classify import FEW_ROWS, Config, main
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage
from tests.untrained import save_untrained
from vision_ops.operators.classify import ClassifierConfig
from vision_ops.precision.openvino_network import native

INLINE = Resources(engine="inline")
RAY = Resources(engine="ray", num_cpus=2, actors=2)
SIZE_PX = 16


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, str]:
    """More small pictures than are too few to choose by, in Parquet, and a network for them."""
    root = tmp_path_factory.mktemp("tiny")
    generator = np.random.default_rng(0)
    images = []
    for _ in range(FEW_ROWS):
        buffer = io.BytesIO()
        pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(buffer, "PNG")
        images.append(buffer.getvalue())
    pq.write_table(pa.table({"image": images}), root / "tiny.parquet", row_group_size=250)
    weights = save_untrained(root / "w.safetensors", SIZE_PX)
    return Source(uri=str(root / "tiny.parquet")), weights


def classify(tiny: tuple[Source, str], out: Path, resources: Resources, precision: str) -> Run:
    data, weights = tiny
    op = ClassifierConfig(weights=weights, precision=precision)  # pyright: ignore[reportArgumentType]
    return main(Config(data=data, op=op, resources=resources, out=str(out)))


def parts_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "results").iterdir()}


def test_auto_chooses_once_by_the_images_of_the_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("ARGUS_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    verdict = classify(tiny, out, INLINE, "auto").manifest["network"]["verdict"]
    assert verdict["judged"] == 200
    assert {"fp32 openvino", "int8 openvino"} <= verdict["rates"].keys()
    agreed = {name for name in verdict["rates"] if name not in verdict["refused"]}
    assert f"{verdict['precision']} {verdict['back_end']}" in agreed
    before = parts_of(out)

    shutil.rmtree(tmp_path / "cache")  # another machine, where nothing is remembered
    lost = sorted((out / "results").iterdir())[0]
    lost.unlink()
    again = classify(tiny, out, INLINE, "auto")

    assert again.manifest["network"]["verdict"] == verdict
    assert parts_of(out) == before
    assert not (tmp_path / "cache" / "verdicts").exists()


@pytest.mark.slow
def test_int8_is_the_same_on_ray_and_inline(tiny, tmp_path, local_ray):
    run = classify(tiny, tmp_path / "ray", RAY, "int8")
    classify(tiny, tmp_path / "inline", INLINE, "int8")
    assert parts_of(tmp_path / "ray") == parts_of(tmp_path / "inline")
    verdict = run.manifest["network"]["verdict"]
    assert (verdict["precision"], verdict["back_end"]) == ("int8", "openvino")
    assert 0 <= verdict["agreement"] <= 1
    file = tmp_path / "ray" / run.manifest["network"]["file"]
    assert file.suffix == ".openvino"
    name = next(iter(parts_of(tmp_path / "ray")))
    told = pq.read_schema(tmp_path / "ray" / "results" / name).metadata[b"argus.network"].decode()
    assert told == f"int8 on openvino sha256:{verdict['sha256']}"


def test_few_images_are_not_worth_a_trial(tiny, tmp_path):
    table = pq.read_table(tiny[0].uri).slice(0, 40)
    pq.write_table(table, tmp_path / "few.parquet")
    few = Source(uri=str(tmp_path / "few.parquet")), tiny[1]
    verdict = classify(few, tmp_path / "out", INLINE, "auto").manifest["network"]["verdict"]
    assert (verdict["precision"], verdict["judged"]) == ("fp32", 0)


@pytest.mark.parametrize("resources", [INLINE, RAY], ids=["inline", "ray"])
def test_a_precision_that_is_not_to_be_had_leaves_nothing(tiny, tmp_path, resources, local_ray):
    absent = next(each for each in ("bf16", "fp16") if each not in native())
    with pytest.raises(ValueError, match=f"op.precision {absent}: not to be had here"):
        classify(tiny, tmp_path / "out", resources, absent)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_another_precision_is_another_request(tiny, tmp_path):
    classify(tiny, tmp_path / "out", INLINE, "fp32")
    with pytest.raises(ValueError, match="op.precision was 'fp32', now 'int8'"):
        classify(tiny, tmp_path / "out", INLINE, "int8")
    assert Run.load(str(tmp_path / "out"), Storage()).manifest["status"] == "done"
