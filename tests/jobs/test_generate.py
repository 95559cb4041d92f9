"""Pictures of noise by number: the same whatever is asked beside them; repeated runs finish."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs.generate import Config, main, parse
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from tests.untrained import save_untrained
from vision_ops.card import Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.models import build
from vision_ops.noise import Noise
from vision_ops.operators.generate import Dreamer, GeneratorConfig

LENGTH = 5


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARGUS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained generator whose pictures differ."""
    path = tmp_path_factory.mktemp("weights") / "dcgan.safetensors"
    torch.manual_seed(0)
    network = build("dcgan:4x16", LENGTH)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(0.2 * torch.randn_like(tensor))
    card = Card(
        network="dcgan:4x16",
        classes=(),
        preprocess=Noise(length=LENGTH),
        licence="CC0",
        source="random",
        embedding_size=LENGTH,
    )
    save_checkpoint(path, network, card)
    return str(path)


def asked(weights: str, out: Path, **more: Any) -> Config:
    config = Config(
        weights=weights,
        count=7,
        seed=3,
        resources=Resources(engine="inline", actors=1),
        out=str(out),
    )
    return replace(config, **more)


def rows_of(run: Run) -> list[dict[str, Any]]:
    rows = [row for batch in run.results() for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: row["id"])


def images_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "images").iterdir()}


def test_each_number_becomes_a_picture_and_a_row(weights: str, tmp_path: Path):
    rows = rows_of(main(asked(weights, tmp_path)))
    assert [row["id"] for row in rows] == [f"{number:08}" for number in range(7)]
    for row in rows:
        assert (row["status"], row["seed"], row["uri"]) == ("ok", 3, weights)
        with Image.open(row["image_uri"]) as made:
            assert (made.format, made.size, made.mode) == ("PNG", (16, 16), "RGB")
            assert made.size == (row["width_px"], row["height_px"])
    assert len(set(images_of(tmp_path).values())) == 7
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64") == 7


def test_a_picture_is_the_same_whatever_the_count_the_batch_and_the_threads(
    weights: str, tmp_path: Path
):
    main(asked(weights, tmp_path / "few"))
    resources = Resources(engine="inline", actors=2, batch_size=5)
    main(asked(weights, tmp_path / "many", count=90, resources=resources))
    few, many = images_of(tmp_path / "few"), images_of(tmp_path / "many")
    assert len(many) == 90
    assert few == {name: many[name] for name in few}
    other = main(asked(weights, tmp_path / "other", seed=4))
    assert not set(images_of(tmp_path / "other").values()) & set(few.values())
    assert {row["seed"] for row in rows_of(other)} == {4}


def test_pictures_are_those_of_the_network_on_noise_of_the_number(weights: str, tmp_path: Path):
    batch = {"pixels": np.array([[5], [1]]), "extent": np.ones((2, 1), np.int32)}
    made = Dreamer(GeneratorConfig(weights=weights, seed=3))(batch)["picture"]
    main(asked(weights, tmp_path))
    for number, pixels in zip((5, 1), made, strict=True):
        with Image.open(tmp_path / "images" / f"{number:08}.png") as file:
            assert np.array_equal(np.asarray(file), pixels)


def test_a_repetition_makes_what_is_missing_and_a_larger_count_what_is_new(
    weights: str, tmp_path: Path
):
    main(asked(weights, tmp_path, count=70))
    images = images_of(tmp_path)
    parts = sorted((tmp_path / "results").iterdir())
    assert len(parts) == 2
    written = {part: part.stat().st_mtime_ns for part in parts}
    main(asked(weights, tmp_path, count=70))
    assert {part: part.stat().st_mtime_ns for part in parts} == written
    ids = {part: pq.read_table(part)["id"].to_pylist() for part in parts}
    lost, kept = sorted(parts, key=lambda part: ids[part])  # names follow from where the run lies
    lost.unlink()
    (tmp_path / "images" / "00000003.png").unlink()
    main(asked(weights, tmp_path, count=70))
    assert images_of(tmp_path) == images
    assert kept.stat().st_mtime_ns == written[kept]
    run = main(asked(weights, tmp_path, count=80))
    assert [row["id"] for row in rows_of(run)] == [f"{number:08}" for number in range(80)]
    assert {name: images_of(tmp_path)[name] for name in images} == images
    fewer = main(asked(weights, tmp_path, count=2))
    assert fewer.manifest["counts"]["ok"] == 80  # what was made stays


def test_what_makes_no_pictures_of_noise_is_refused(tmp_path: Path):
    classifier = save_untrained(tmp_path / "w.safetensors", size_px=32)
    with pytest.raises(ValueError, match="makes no pictures of noise; .*train_gan"):
        main(asked(classifier, tmp_path / "out"))
    with pytest.raises(ValueError, match="no such file"):
        main(asked(str(tmp_path / "absent.safetensors"), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_other_weights_or_another_seed_are_another_run(weights: str, tmp_path: Path):
    main(asked(weights, tmp_path))
    with pytest.raises(ValueError, match="seed was 3, now 4"):
        main(asked(weights, tmp_path, seed=4))


def test_a_dry_run_tells_and_writes_nothing(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main(asked(weights, tmp_path / "out", dry_run=True))
    told = capsys.readouterr().out
    for text in ("as numbers", "7", "CC0", "rows/s"):
        assert text in told
    assert not (tmp_path / "out").exists()


def test_options_reach_their_fields():
    assert parse(["--count", "9", "--seed", "2"]).count == 9
    with pytest.raises(ValueError, match="count 0"):
        Config(count=0)
    with pytest.raises(ValueError, match="seed -1"):
        Config(seed=-1)
