"""Training: on small pictures that a network tells apart in seconds, inline and on real Ray."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboardX.proto import event_pb2

from jobs.pictures.learning import plan_data
from jobs.pictures.supervised import make_training
from jobs.runtime.learner import TrainingConfig
from jobs.runtime.run import Run, TooManyFailedError
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage, StorageConfig
from jobs.runtime.training import TrainingResources, fit
from jobs.train_classifier import (
    PRESETS,
    TASK,
    Config,
    main,
    parse,
)
from tests.jobs.broken_off import (
    Killed,
    assert_same_training,
    die_here,
    die_once,
    fit_with,
    metrics_of,
)
from vision_ops.augment import AugmentConfig
from vision_ops.card import read_card
from vision_ops.checkpoint import load_checkpoint
from vision_ops.learners.classify import ClassifierLearner, LossConfig, ModelConfig
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.preprocess import Preprocess

COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}
INLINE = TrainingResources(engine="inline")
FILES = ("checkpoints/best.safetensors", "checkpoints/last.safetensors", "metrics.jsonl")


def write_photos(folder: Path, per_class: int = 20, colours: Any = COLOURS) -> Path:
    """Noisy squares of one colour, a folder per class."""
    random = np.random.default_rng(0)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(random.normal(colour, 40, (10, 10, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


def small(photos: Path | str, out: Path | str) -> Config:
    return Config(
        data=Source(uri=str(photos), label="folder", slice_rows=16),
        model=ModelConfig(preprocess=Preprocess(height_px=8, width_px=8, resize_px=0)),
        optim=OptimConfig(learning_rate=5e-3),
        augment=AugmentConfig(flip=True),
        training=TrainingConfig(epochs=3, batch_size=8, validation_fraction=0.25),
        resources=INLINE,
        out=str(out),
    )


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    main(small(photos, out))
    return out


def test_training_learns_and_leaves_a_checkpoint_with_its_card(undisturbed: Path):
    metrics = metrics_of(undisturbed)
    assert [each["epoch"] for each in metrics] == [1, 2, 3]
    assert metrics[-1]["accuracy"] >= 0.9
    network, card = load_checkpoint(undisturbed / "checkpoints" / "best.safetensors", "cpu")
    assert card.classes == ("blue", "green", "red")
    assert card.preprocess == Preprocess(height_px=8, width_px=8, resize_px=0)
    assert not network.training
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["counts"]["learn"] + manifest["counts"]["validate"] == 60


def test_second_run_of_a_finished_training_changes_nothing(undisturbed: Path, photos: Path):
    before = {name: (undisturbed / name).stat().st_mtime_ns for name in FILES}
    main(small(photos, undisturbed))
    assert {name: (undisturbed / name).stat().st_mtime_ns for name in FILES} == before


@pytest.mark.parametrize("steps", [0, 4, 6, 14])  # an epoch is 5 or 6
def test_interrupted_training_ends_with_the_bytes_of_an_undisturbed_one(
    undisturbed: Path, photos: Path, tmp_path: Path, steps: int
):
    with pytest.raises(Killed):
        fit_with(small(photos, tmp_path), TASK, steps, die_here)
    main(small(photos, tmp_path))
    assert_same_training(tmp_path, undisturbed)


def long_epochs(photos: Path, out: Path) -> Config:
    """Epochs of over twenty steps, with dropout and all kinds of drawing."""
    config = small(photos, out)
    return replace(
        config,
        model=replace(config.model, dropout=0.2),
        augment=AugmentConfig(flip=True, rotation_deg=10, mixup=0.2, randaugment=1),
        training=replace(config.training, epochs=2, batch_size=2),
        resources=replace(config.resources, checkpoint_every_s=0),
    )


@pytest.mark.parametrize(("steps", "lost"), [(9, 9), (13, 3), (19, 9), (20, 0)])
def test_training_killed_within_an_epoch_goes_on_within_it_bit_for_bit(
    photos: Path, tmp_path: Path, steps: int, lost: int, monkeypatch: pytest.MonkeyPatch
):
    main(long_epochs(photos, tmp_path / "undisturbed"))
    total = int(metrics_of(tmp_path / "undisturbed")[-1]["step"])
    with pytest.raises(Killed):
        fit_with(long_epochs(photos, tmp_path / "killed"), TASK, steps, die_here)
    taken = list[int]()
    step = ClassifierLearner.step

    def count(learner: ClassifierLearner, batch: Any) -> dict[str, float]:
        taken.append(1)
        return step(learner, batch)

    monkeypatch.setattr(ClassifierLearner, "step", count)
    main(long_epochs(photos, tmp_path / "killed"))
    assert len(taken) == total - steps + lost
    assert_same_training(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.slow
def test_killed_worker_of_ray_train_is_started_anew_and_loses_no_bit(
    local_ray: None, photos: Path, tmp_path: Path
):
    main(long_epochs(photos, tmp_path / "undisturbed"))
    resources = TrainingResources(engine="ray", cpus_per_worker=1, checkpoint_every_s=0)
    config = replace(long_epochs(photos, tmp_path / "killed"), resources=resources)
    fit_with(config, TASK, 13, partial(die_once, tmp_path / "died"))
    assert (tmp_path / "died").exists()
    assert_same_training(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.slow
def test_lost_node_costs_no_bit(photos: Path, tmp_path: Path):
    main(long_epochs(photos, tmp_path / "undisturbed"))
    command = [sys.executable, "-m", "tests.jobs.lose_a_node", str(photos), str(tmp_path / "out")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run(command, check=True, timeout=300, env=environment)
    assert (tmp_path / "out.node").read_text()
    assert_same_training(tmp_path / "out", tmp_path / "undisturbed")


@pytest.mark.slow
def test_two_workers_reproduce_one(local_ray: None, photos: Path, tmp_path: Path):
    """A step an epoch: twenty losses. The network has no batch norm, which sees half a batch."""
    square = Preprocess(height_px=32, width_px=32, resize_px=0)
    config = replace(
        small(photos, tmp_path / "one"),
        model=ModelConfig(network="cnn_cifar10", preprocess=square),
        optim=OptimConfig(optimizer="sgd", learning_rate=0.02),
        loss=LossConfig(kind="balanced_cross_entropy"),
        augment=AugmentConfig(flip=True, rotation_deg=10, crop_pad_px=2, colour=0.2),
        training=TrainingConfig(epochs=20, batch_size=40, validation_fraction=0.25),
    )
    main(config)
    main(replace(config, out=str(tmp_path / "two"), resources=TrainingResources(num_workers=2)))
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert one[-1]["objective"] < one[0]["objective"]
    for name in ("objective", "train_loss", "loss"):
        values = [each[name] for each in one]
        assert [each[name] for each in two] == pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_loss_that_is_no_number_stops_and_names_batch_and_checkpoint(
    local_ray: None, photos: Path, tmp_path: Path, num_workers: int
):
    resources = TrainingResources(num_workers=num_workers) if num_workers else INLINE
    config = replace(
        small(photos, tmp_path),
        optim=OptimConfig(optimizer="sgd", learning_rate=1e30, clip_norm=0, warmup=0),
        resources=resources,
    )
    with pytest.raises(
        FloatingPointError,
        match=r"epoch 1, step [23]: .*pictures: \w+/\d{3}.png.*none was completed; a lower",
    ):
        main(config)
    assert not (tmp_path / "checkpoints").exists()


def test_training_ends_when_patience_does_and_keeps_the_best(photos: Path, tmp_path: Path):
    config = small(photos, tmp_path)
    config = replace(
        config,
        optim=OptimConfig(learning_rate=1e-12, schedule="constant", weight_decay=0),
        training=replace(config.training, epochs=50, patience=2),
    )
    main(config)
    losses = [each["loss"] for each in metrics_of(tmp_path)]
    assert len(losses) < 50
    assert min(losses) == losses[-3]


def test_fewer_examples_are_learnt_from_and_validation_stays(photos: Path, tmp_path: Path):
    config = small(photos, tmp_path)
    config = replace(config, training=replace(config.training, max_examples=20))
    counts = main(config).manifest["counts"]
    assert counts["learn"] == 20
    assert counts["validate"] > 10


def test_report_shows_both_curves_and_says_whether_it_fits(undisturbed: Path):
    page = (undisturbed / "report" / "index.html").read_text()
    assert "images kept back" in page
    assert "The network " in page
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["report"].endswith("report/index.html")


def test_tensorboard_events_hold_the_metrics(photos: Path, tmp_path: Path):
    config = small(photos, tmp_path)
    main(replace(config, resources=replace(config.resources, tensorboard=True)))
    found: dict[str, list[float]] = {}
    for file in sorted((tmp_path / "tensorboard").iterdir()):
        for record in records(file.read_bytes()):
            event = event_pb2.Event.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(value.simple_value)
    metrics = metrics_of(tmp_path)
    assert found.keys() == metrics[0].keys()
    for name in ("loss", "accuracy", "epoch"):
        assert found[name] == pytest.approx([each[name] for each in metrics])


def records(data: bytes) -> Iterator[bytes]:
    """Of a TFRecord file: length, its checksum, record, its checksum."""
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_dry_run_tells_and_writes_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main(replace(small(photos, tmp_path / "out"), dry_run=True))
    told = capsys.readouterr().out
    assert "15 in 3 epochs" in told  # 45 of 60 learnt from, by 8
    assert "of network" in told
    assert "estimate" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_workers_of_ray_train_evaluate_each_image_once(
    local_ray: None, undisturbed: Path, photos: Path, tmp_path: Path
):
    main(replace(small(photos, tmp_path), resources=TrainingResources(num_workers=2)))
    one, two = metrics_of(undisturbed), metrics_of(tmp_path)
    # batch norm sees half a batch, so the numbers differ; what is evaluated does not
    assert two[-1]["accuracy"] >= 0.9
    assert [each["step"] for each in two] == [each["step"] for each in one]
    correct = (
        two[-1]["accuracy"]
        * json.loads((tmp_path / "manifest.json").read_text())["counts"]["validate"]
    )
    assert correct == pytest.approx(round(correct))


@pytest.mark.slow
def test_one_worker_of_ray_train_gives_the_weights_of_the_inline_engine(
    local_ray: None, undisturbed: Path, photos: Path, tmp_path: Path
):
    main(
        replace(
            small(photos, tmp_path), resources=TrainingResources(engine="ray", cpus_per_worker=1)
        )
    )
    on_ray, inline = (load_file(out / FILES[1]) for out in (tmp_path, undisturbed))
    assert all(torch.equal(on_ray[key], inline[key]) for key in inline)


def test_training_lives_on_s3(photos: Path, bucket: str, s3: StorageConfig, tmp_path: Path):
    config = replace(small(photos, f"{bucket}/net"), storage=s3)
    run = main(config)
    target = tmp_path / "best.safetensors"
    target.write_bytes(run.storage.read(run.path("checkpoints", "best.safetensors")))
    assert read_card(target).classes == ("blue", "green", "red")
    assert main(config).manifest["status"] == "done"


def test_validation_source_is_used_whole(photos: Path, tmp_path: Path):
    held = write_photos(tmp_path / "held", per_class=4)
    config = replace(
        small(photos, tmp_path / "out"), validation=Source(uri=str(held), label="folder")
    )
    assert main(config).manifest["counts"] == {"learn": 60, "validate": 12}


def test_failed_rows_are_left_out_and_too_many_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    photos = write_photos(tmp_path / "photos", per_class=40)
    (photos / "red" / "cut.png").write_bytes((photos / "red" / "001.png").read_bytes()[:60])
    main(small(photos, tmp_path / "one"))
    assert "1 of 121 rows failed" in caplog.text
    for number in range(5):
        (photos / "red" / f"empty{number}.png").write_bytes(b"")
    with pytest.raises(TooManyFailedError, match="6 of 126"):
        main(small(photos, tmp_path / "six"))


def unlabelled(config: Config) -> Config:
    return replace(config, data=replace(config.data, label="none"))


def declared(*classes: str) -> Callable[[Config], Config]:
    return lambda config: replace(config, model=replace(config.model, classes=classes))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (unlabelled, "44 of 44 rows have no class, the first is blue/000.png"),
        (declared("blue", "green"), "rows are of .'red'."),
        (declared("blue", "green", "red", "violet"), "no picture to learn from of .'violet'."),
        (lambda c: replace(c, data=replace(c.data, uri=c.data.uri + "/re*/*")), r"1 class \(red\)"),
        (lambda c: replace(c, data=Source(uri=c.data.uri + "/x", label="folder")), "nothing at"),
        (
            lambda c: replace(c, training=replace(c.training, validation_fraction=1e-6)),
            "0 to validate on",
        ),
    ],
)
def test_data_that_teach_nothing_are_refused(
    photos: Path, tmp_path: Path, change: Callable[[Config], Config], said: str
):
    with pytest.raises(ValueError, match=said):
        main(change(small(photos, tmp_path)))


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_a_refused_request_leaves_nothing_that_refuses_the_right_one(photos: Path, tmp_path: Path):
    config = small(photos, tmp_path)
    held = Source(uri=str(photos), label="folder")
    wrong = replace(config, validation=held, training=replace(config.training, batch_size=3))
    cut = tmp_path.with_name("cut")
    for name in ("a/1.png", "b/2.png"):
        (cut / name).parent.mkdir(parents=True)
        (cut / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"must be a multiple of resources\.num_workers 2"):
        main(replace(wrong, resources=TrainingResources(engine="ray", num_workers=2)))
    assert not names_in(tmp_path)
    with pytest.raises(TooManyFailedError, match="2 of 2 rows failed"):
        main(replace(config, data=Source(uri=str(cut), label="folder")))
    assert not names_in(tmp_path)
    assert main(config).manifest["status"] == "done"
    changed = replace(config, data=held, optim=OptimConfig(learning_rate=1e-2))
    with pytest.raises(ValueError, match=r"slice_rows was 16, now 0; optim\.learning_rate was"):
        main(changed)
    assert "metrics.jsonl" in names_in(tmp_path)


def test_a_plan_of_a_request_that_was_killed_before_it_began_is_none_of_another(
    photos: Path, tmp_path: Path
):
    other = write_photos(tmp_path / "others", per_class=3)
    killed = small(other, tmp_path / "run")
    with Run.open(
        killed.out, job="x", config=killed, identity={"a": 1}, storage=Storage(killed.storage)
    ) as run:
        plan_data(run, killed)
    assert names_in(tmp_path / "run") == ["plan.parquet"]
    assert main(small(photos, tmp_path / "run")).manifest["counts"]["learn"] > 40


def test_few_rows_are_learnt_from_in_this_process_and_the_dry_run_says_so(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = replace(small(photos, tmp_path), resources=TrainingResources())
    main(replace(config, dry_run=True))
    told = capsys.readouterr().out
    assert "inline: this process" in told
    assert "45 to learn from, about 15 kept back" in told
    held = Source(uri=str(photos / "red"), label="folder")
    main(replace(config, dry_run=True, validation=held, resources=TrainingResources(num_workers=2)))
    told = capsys.readouterr().out
    assert "ray: 2 workers on a local Ray" in told
    assert "60 to learn from, 20 kept back" in told


def test_signals_are_refused_for_a_network_of_pictures_before_they_are_read(
    photos: Path, tmp_path: Path
):
    (tmp_path / "a.ts").write_text("@classLabel true 1 2\n@data\n1,2,3:1\n")
    config = small(tmp_path, tmp_path.with_name("out"))
    with pytest.raises(ValueError, match=r"holds signals \(series\); the network takes pictures"):
        main(config)
    signals = PRESETS["signals"]()
    signals = replace(signals, data=Source(uri=str(photos), label="folder"), out=config.out)
    with pytest.raises(ValueError, match=r"there are 60 \.png; accepted: signals \(\.csv, \.npy\)"):
        main(signals)


def test_data_that_grew_during_a_training_are_refused(tmp_path: Path):
    photos = write_photos(tmp_path / "photos")
    config = small(photos, tmp_path / "out")
    main(config)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    for number in range(20):
        (photos / "red" / f"new{number}.png").write_bytes((photos / "red/001.png").read_bytes())
    with pytest.raises(ValueError, match="grew by"):
        main(config)


def test_batch_that_workers_cannot_share_is_refused(photos: Path, tmp_path: Path):
    config = small(photos, tmp_path)
    with Run.open(
        config.out, job="x", config=config, identity={}, storage=Storage(config.storage)
    ) as run:
        training = make_training(run, config, TASK, plan_data(run, config))
    with pytest.raises(
        ValueError, match="batch_size 8: must be a multiple of resources.num_workers 3"
    ):
        fit(training, TrainingResources(num_workers=3))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_reached_from_the_command_line(name: str):
    assert parse([name]) == PRESETS[name]()
    changed = parse([name, "--training.epochs", "2", "--out", "elsewhere"])
    assert (changed.training.epochs, changed.out) == (2, "elsewhere")
    assert changed.optim == PRESETS[name]().optim


def test_command_line_without_a_preset_is_the_digits():
    assert parse([]) == Config()
    with pytest.raises(ValueError, match="preset 'digit': not one of digits, photos, clips"):
        parse(["digit"])
