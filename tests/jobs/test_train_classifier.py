"""Training: on small pictures that a network tells apart in seconds, inline and on real Ray."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from jobs.runtime.epochs import Training, TrainingConfig
from jobs.runtime.run import Run, TooManyFailedError
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage, StorageConfig
from jobs.runtime.training import TrainingResources, fit
from jobs.train_classifier import (
    PRESETS,
    Config,
    main,
    make_training,
    parse,
)
from vision_ops.augment import AugmentConfig
from vision_ops.card import read_card
from vision_ops.checkpoint import load_checkpoint
from vision_ops.learners.classify import ClassifierLearner, ModelConfig, OptimConfig
from vision_ops.preprocess import Preprocess

COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}
INLINE = TrainingResources(engine="inline")
FILES = ("checkpoints/best.safetensors", "checkpoints/last.safetensors", "metrics.jsonl")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_training_learns_and_leaves_a_checkpoint_with_its_card(undisturbed: Path):
    metrics = metrics_of(undisturbed)
    assert [each["epoch"] for each in metrics] == [1, 2, 3]
    assert metrics[-1]["accuracy"] >= 0.9
    network, card = load_checkpoint(undisturbed / "checkpoints" / "best.safetensors", "cpu")
    assert card.classes == ("blue", "green", "red")
    assert card.preprocess.height_px == 8
    assert not network.training
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["counts"]["learn"] + manifest["counts"]["validate"] == 60


def test_second_run_of_a_finished_training_changes_nothing(undisturbed: Path, photos: Path):
    before = {name: (undisturbed / name).stat().st_mtime_ns for name in FILES}
    main(small(photos, undisturbed))
    assert {name: (undisturbed / name).stat().st_mtime_ns for name in FILES} == before


class Killed(BaseException):
    """Stands for the signal that ends a process."""


def make_mortal(training: Training, steps: int, device: torch.device) -> ClassifierLearner:
    """The training's learner, which dies instead of the step after `steps`."""
    learner = training.make_learner(device)
    assert isinstance(learner, ClassifierLearner)
    step, left = learner.step, [steps]

    def die_in_time(batch: Any) -> dict[str, float]:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return step(batch)

    learner.step = die_in_time
    return learner


@pytest.mark.parametrize("steps", [0, 4, 6, 14])  # an epoch is 5 or 6
def test_interrupted_training_ends_with_the_bytes_of_an_undisturbed_one(
    undisturbed: Path, photos: Path, tmp_path: Path, steps: int
):
    config = small(photos, tmp_path)
    with Run.open(  # the same request, whose attempt dies
        config.out,
        job="train_classifier",
        config=config,
        identity=json.loads((undisturbed / "manifest.json").read_text())["identity"]
        | {"job": "train_classifier"},
        storage=Storage(config.storage),
    ) as run:
        training = make_training(run, config)
        run.note(status="running")
        with pytest.raises(Killed):
            fit(replace(training, make_learner=partial(make_mortal, training, steps)), INLINE)
    main(config)
    for name in FILES[:2]:
        finished, wanted = load_file(tmp_path / name), load_file(undisturbed / name)
        assert all(torch.equal(finished[key], wanted[key]) for key in wanted)
    kept = ("epoch", "train_loss", "loss", "accuracy")
    for once, again in zip(metrics_of(tmp_path), metrics_of(undisturbed), strict=True):
        assert [once[key] for key in kept] == [again[key] for key in kept]


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


def test_one_worker_of_ray_train_gives_the_weights_of_the_inline_engine(
    local_ray: None, undisturbed: Path, photos: Path, tmp_path: Path
):
    main(replace(small(photos, tmp_path), resources=TrainingResources(cpus_per_worker=1)))
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
        (unlabelled, "60 of 60 rows have no class"),
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
        training = make_training(run, config)
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
    with pytest.raises(
        ValueError, match="preset 'digit': not one of digits, photos, tutorial_cifar10"
    ):
        parse(["digit"])
