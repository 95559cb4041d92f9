"""The whole road of other kinds of input: train, classify in bulk, evaluate, with their reports."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs import classify, evaluate, train_classifier
from jobs.pictures.samples.signals_and_volumes import nifti, signals, volumes
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage
from jobs.runtime.training import TrainingResources
from vision_ops.augment import AugmentConfig
from vision_ops.card import read_card
from vision_ops.inputs import Inputs
from vision_ops.operators.classify import ClassifierConfig
from vision_ops.signals import SignalPreprocess
from vision_ops.volumes import VolumePreprocess, read_volume


def trained(preset: str, source: Source, preprocess: Inputs, out: Path, epochs: int) -> Path:
    """Weights of a short training, in this process."""
    config = train_classifier.PRESETS[preset]()
    train_classifier.main(
        replace(
            config,
            data=source,
            model=replace(config.model, preprocess=preprocess),
            training=replace(config.training, epochs=epochs),
            resources=TrainingResources(engine="inline"),
            out=str(out),
        )
    )
    return out / "checkpoints" / "last.safetensors"


def classified(source: Source, weights: Path, out: Path, engine: str = "inline") -> Run:
    config = classify.Config(
        data=source,
        op=ClassifierConfig(weights=str(weights)),
        resources=Resources(engine=engine, actors=1, max_failed_fraction=0.2),  # pyright: ignore[reportArgumentType]
        out=str(out),
    )
    return classify.main(config)


def results(run: Run) -> list[dict[str, str]]:
    return [row for batch in run.results() for row in batch.to_pylist()]


def thumbnails(page: Path) -> int:
    return len(re.findall(r'src="data:image/png;base64,', page.read_text()))


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("waves")
    for name, data in signals(seed=0):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return folder / "signals"


@pytest.fixture(scope="module")
def wave_weights(waves: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Source(uri=str(waves / "train.ts"))
    out = tmp_path_factory.mktemp("trained")
    return trained("signals", source, SignalPreprocess(samples=32), out, epochs=8)


def test_signals_are_learnt_classified_and_judged_case_by_case(
    waves: Path, wave_weights: Path, tmp_path: Path
):
    assert read_card(wave_weights).preprocess == SignalPreprocess(samples=32)
    text = (waves / "test.ts").read_text() + "1,2:sine\n"
    (tmp_path / "test.ts").write_text(text)
    source = Source(uri=str(tmp_path / "test.ts"), slice_rows=40)
    run = classified(source, wave_weights, tmp_path / "classified")
    rows = results(run)
    assert sorted(row["id"] for row in rows) == sorted(f"test.ts#{i}" for i in range(97))
    failed = [row for row in rows if row["status"] == "failed"]
    assert [(row["id"], row["stage"]) for row in failed] == [("test.ts#96", "read")]
    assert "2 values, 128 were announced" in failed[0]["error"]
    assert thumbnails(tmp_path / "classified/report/index.html") >= 8
    found = evaluate.main(
        evaluate.Config(run=str(tmp_path / "classified"), out=str(tmp_path / "evaluated"))
    )
    assert isinstance(found, evaluate.Evaluation)
    assert found.metrics.accuracy > 0.6  # 0.25 is chance; few epochs of few samples
    assert found.counts["failed"] == 1
    if found.mistakes:
        assert thumbnails(tmp_path / "evaluated/report/index.html") > 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "classified/results").iterdir()}
    classified(source, wave_weights, tmp_path / "classified")
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_volumes_are_learnt_classified_and_judged_file_by_file(tmp_path: Path):
    data = b""
    for name, data in volumes(seed=0):
        _, split, digit, file = name.split("/")
        folder = tmp_path / split / digit
        if digit in "01" and (not folder.is_dir() or len(list(folder.iterdir())) < 24):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
    weights = trained(
        "volumes",
        Source(uri=str(tmp_path / "train"), label="folder"),
        VolumePreprocess(depth=8, height=8, width=8),
        tmp_path / "trained",
        epochs=6,
    )
    (tmp_path / "test" / "1" / "half.nii.gz").write_bytes(data[:200])
    (tmp_path / "test" / "1" / "notes.txt").write_bytes(b"no volume")
    source = Source(uri=str(tmp_path / "test"), label="folder")
    rows = results(classified(source, weights, tmp_path / "classified"))
    failed = {row["id"]: row["error"] for row in rows if row["status"] == "failed"}
    assert failed == {
        "1/half.nii.gz": "truncated gzip",
        "1/notes.txt": "not a file that this network is for: .txt (.nii, .nii.gz, .npy are)",
    }
    assert thumbnails(tmp_path / "classified/report/index.html") >= 8
    found = evaluate.main(
        evaluate.Config(run=str(tmp_path / "classified"), out=str(tmp_path / "evaluated"))
    )
    assert isinstance(found, evaluate.Evaluation)
    assert found.metrics.num_rows == 30
    assert found.metrics.accuracy > 0.75


@pytest.mark.slow
def test_signals_on_ray_are_named_as_in_this_process(
    waves: Path, wave_weights: Path, tmp_path: Path, local_ray: None
):
    source = Source(uri=str(waves / "test.ts"), slice_rows=32)
    here = results(classified(source, wave_weights, tmp_path / "here"))
    there = results(classified(source, wave_weights, tmp_path / "there", engine="ray"))
    assert sorted(here, key=lambda row: row["id"]) == sorted(there, key=lambda row: row["id"])


def test_presets_take_options_of_their_kind_of_input_on_the_command_line():
    config = train_classifier.parse(["signals", "--model.preprocess.samples", "150"])
    assert config.model.preprocess == SignalPreprocess(samples=150)
    config = train_classifier.parse(["volumes", "--model.preprocess.scaling", "none"])
    assert config.model.preprocess == replace(
        VolumePreprocess(depth=16, height=16, width=16), scaling="none"
    )
    config = train_classifier.parse(["beats", "--model.preprocess.num-channels", "3"])
    assert config.model.preprocess.num_channels == 3


def test_changes_of_pictures_are_refused_for_signals_before_anything_is_read():
    config = train_classifier.PRESETS["signals"]()
    with pytest.raises(ValueError, match=r"augment.flip True: is for pictures; inputs of kind sig"):
        replace(config, augment=AugmentConfig(flip=True))


def test_a_network_of_pictures_is_refused_for_volumes():
    config = train_classifier.PRESETS["volumes"]()
    with pytest.raises(ValueError, match="residual takes inputs of 2 axes, a volume has 3"):
        replace(config.model, network="residual")


def test_a_case_on_both_sides_by_its_group_is_refused(tmp_path: Path):
    for name in ("train/sub-1_a.npy", "train/sub-2_b.npy", "other/sub-2_c.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.arange(20.0))
    config = train_classifier.PRESETS["signals"]()
    config = replace(
        config,
        data=Source(uri=str(tmp_path / "train"), label="folder"),
        validation=Source(uri=str(tmp_path / "other"), label="folder"),
        resources=TrainingResources(engine="inline"),
        out=str(tmp_path / "out"),
    )
    with pytest.raises(ValueError, match="1 groups are learnt from too: sub-2"):
        train_classifier.main(config)


def test_a_volume_of_ours_is_what_nibabel_writes():
    from nibabel.nifti1 import Nifti1Image

    values = np.random.default_rng(0).integers(0, 255, (3, 5, 4)).astype(np.uint8)
    image = Nifti1Image.from_bytes(gzip.decompress(nifti(values)))
    assert np.array_equal(np.asarray(image.dataobj), values)
    assert np.array_equal(np.asarray(image.affine), np.eye(4))
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(read_volume(nifti(values)), values.transpose(2, 1, 0))


def test_samples_of_both_kinds_are_made_and_no_digit_is_on_both_sides(samples: Path):
    assert Run.load(str(samples), Storage()).manifest["counts"]["volumes"]["files"] == 750
    names = {
        split: {p.name for p in (samples / "volumes" / split).rglob("*.nii.gz")}
        for split in ("train", "test")
    }
    assert len(names["train"]) == 600
    assert not names["train"] & names["test"]
    assert len((samples / "signals" / "train.ts").read_text().partition("@data")[2].split()) == 96
    assert json.loads((samples / "manifest.json").read_text())["status"] == "done"
