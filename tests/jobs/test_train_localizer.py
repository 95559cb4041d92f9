"""Training a localizer: step-exact, alike on two workers, and honest about what it cannot learn."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs.pictures.localizer_recipes import PRESETS, Config
from jobs.runtime.checkpoints import BEST, LAST, METRICS
from jobs.runtime.learner import TrainingConfig
from jobs.runtime.run import TooManyFailedError
from jobs.runtime.sources.origin import Source
from jobs.runtime.training import TrainingResources, fit
from jobs.train_localizer import TASK, main, parse
from tests.jobs.broken_off import (
    Killed,
    assert_same_training,
    die_here,
    fit_with,
    metrics_of,
    prepared,
    train_in_two,
)
from tests.jobs.test_localize import KINDS, SMALL, shapes, write_shard
from vision_ops.augment import AugmentConfig
from vision_ops.card import Card, read_card, sha256_file
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.learners.localize import LocalizerModelConfig
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.models import build, embedding_size

ROOT = Path(__file__).resolve().parents[2]
INLINE = TrainingResources(engine="inline", checkpoint_every_s=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 drawn shapes."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shard(folder / "x.parquet", shapes(48, seed=1))
    return folder


def small(source: Path | str, out: Path) -> Config:
    return Config(
        data=Source(uri=str(source), label="boxes", slice_rows=16),
        model=LocalizerModelConfig(preprocess=SMALL),
        augment=AugmentConfig(shift=0.1, scale=0.2, flip=True, rotation_deg=5, colour=0.2),
        training=TrainingConfig(epochs=3, batch_size=4, validation_fraction=0.25),
        resources=INLINE,
        out=str(out),
    )


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    main(small(source, out))
    return out


def test_training_lowers_its_objective_and_leaves_checkpoints_metrics_and_a_report(
    undisturbed: Path,
):
    first, *_, last = metrics_of(undisturbed)
    assert last["objective"] < first["objective"]
    for name in ("iou", "above_half", "accuracy", "localisation_accuracy"):
        assert 0 <= last[name] <= 1
    assert last["localisation_accuracy"] <= min(last["accuracy"], last["above_half"])
    network, card = load_checkpoint(undisturbed / BEST, "cpu")
    assert (card.network, card.classes, card.preprocess) == ("localizer:residual", KINDS, SMALL)
    assert card.parent == ""
    assert not network.training
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert sum(manifest["counts"].values()) == 48
    assert manifest["metrics"]["iou"] in [each["iou"] for each in metrics_of(undisturbed)]
    assert "Mean IoU" in (undisturbed / "report" / "index.html").read_text()


def test_second_run_of_a_finished_training_changes_nothing(undisturbed: Path, source: Path):
    before = {name: (undisturbed / name).stat().st_mtime_ns for name in (BEST, LAST, METRICS)}
    main(small(source, undisturbed))
    assert {name: (undisturbed / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize("steps", [0, 5, 12])  # an epoch is 8 or 9 steps
def test_killed_and_repeated_training_ends_with_the_bits_of_an_undisturbed_one(
    undisturbed: Path, source: Path, tmp_path: Path, steps: int
):
    config = small(source, tmp_path)
    with pytest.raises(Killed):
        fit_with(config, TASK, steps, die_here)
    main(config)
    assert_same_training(tmp_path, undisturbed)


def save_features(path: Path, network: str = "torchvision:squeezenet1_1") -> str:
    """A classifier of random weights; this one has no batch norm, which sees half a batch."""
    torch.manual_seed(0)
    model = build(network, 7)
    card = Card(
        network=network,
        classes=tuple("abcdefg"),
        preprocess=replace(SMALL, height_px=48, width_px=48),
        licence="Apache-2.0",
        source="random",
        embedding_size=embedding_size(model, (3, 48, 48)),
    )
    save_checkpoint(path, model, card)
    return str(path)


def finetuned(source: Path, weights: str, out: Path) -> Config:
    model = LocalizerModelConfig(
        encoder="torchvision:squeezenet1_1",
        weights=weights,
        encoder_rate=0.1,
        preprocess=replace(SMALL, height_px=48, width_px=48),
    )
    return replace(
        small(source, out),
        model=model,
        optim=OptimConfig(optimizer="sgd", learning_rate=0.02),
        augment=AugmentConfig(shift=0.1, flip=True),
        training=TrainingConfig(epochs=2, batch_size=8, num_passes=2, validation_fraction=0.25),
    )


@pytest.mark.slow
def test_two_workers_learn_boxes_as_one(source: Path, tmp_path: Path):
    """From published features on, each batch in two pieces; the dropout of the head is gone."""
    weights = save_features(tmp_path / "features.safetensors")
    one, two = (
        prepared(finetuned(source, weights, tmp_path / n), TASK, weights) for n in ("1", "2")
    )
    fit(one, INLINE)
    train_in_two(two, tmp_path / "meeting")
    wanted, found = load_file(tmp_path / "1" / LAST), load_file(tmp_path / "2" / LAST)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(metrics_of(tmp_path / "2"), metrics_of(tmp_path / "1"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["iou"] == pytest.approx(theirs["iou"], abs=1e-4)


def test_checkpoint_names_the_weights_that_its_features_came_from(source: Path, tmp_path: Path):
    weights = save_features(tmp_path / "features.safetensors")
    config = finetuned(source, weights, tmp_path / "run")
    main(replace(config, training=replace(config.training, epochs=1)))
    card = read_card(tmp_path / "run" / BEST)
    assert card.parent == sha256_file(Path(weights))
    assert card.network == "localizer:torchvision:squeezenet1_1"
    assert card.classes == KINDS
    other = save_features(tmp_path / "other.safetensors", "residual")
    with pytest.raises(ValueError, match="of residual, --model.encoder is torchvision:squeezenet"):
        main(finetuned(source, other, tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()


def marked_badly(count: int) -> list[dict[str, Any]]:
    """Shapes of which the first three have no box that can be learnt."""
    rows = shapes(count, seed=2)
    rows[0]["objects"] = []
    rows[1]["objects"] = None
    rows[2]["objects"][0]["box"][2] = 999.0
    rows[3]["objects"] += [{"label": "square", "box": [1.0, 1.0, 4.0, 4.0]}]  # smaller: not learnt
    return rows


def test_pictures_without_a_box_are_left_out_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_shard(tmp_path / "in" / "x.parquet", marked_badly(27))
    validation = write_shard(tmp_path / "held" / "held.parquet", shapes(6, seed=3))
    config = small(tmp_path / "in", tmp_path / "out")
    config = replace(
        config,
        validation=Source(uri=str(validation), label="boxes"),
        training=replace(config.training, epochs=1),
    )
    assert main(config).manifest["counts"] == {"learn": 24, "validate": 6}
    assert "data: 3 of 27 pictures have no box that can be learnt" in caplog.text
    assert "nothing is marked in it (x.parquet#0)" in caplog.text
    assert "it has no boxes; they are read with --data.label boxes (x.parquet#1)" in caplog.text
    assert "lies outside" in caplog.text
    assert "(x.parquet#2)" in caplog.text
    assert "data: 1 pictures hold several objects" in caplog.text


def test_too_many_pictures_without_a_box_end_the_run_with_their_causes(tmp_path: Path):
    write_shard(tmp_path / "in" / "x.parquet", marked_badly(150))
    with pytest.raises(TooManyFailedError, match=r"3 of 1\d\d pictures .*\n.*\(x.parquet#"):
        main(small(tmp_path / "in", tmp_path / "out"))


def with_model(**model: Any) -> Callable[[Config], Config]:
    return lambda config: replace(config, model=replace(config.model, **model))


def cropped(config: Config) -> Config:
    """Only the middle of wide pictures is seen: what lies elsewhere cannot be learnt."""
    return with_model(preprocess=replace(SMALL, resize_px=400))(config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_model(classes=(*KINDS, "hexagon")), r"no picture to learn from of \['hexagon'\]"),
        (with_model(classes=("circle", "square")), r"rows are of \['triangle'\]"),
        (lambda c: replace(c, data=replace(c.data, label="none")), "it has no boxes"),
        (lambda c: replace(c, data=replace(c.data, label="id")), "no list of objects"),
        (cropped, "the centre crop cuts off most of its box"),
        (lambda c: replace(c, data=Source(uri=c.data.uri + "/x", label="boxes")), "nothing at"),
        (lambda c: replace(c, augment=AugmentConfig(mixup=0.2)), "augment.mixup: not with boxes"),
        (
            lambda c: replace(c, training=replace(c.training, validation_fraction=1e-6)),
            "0 to validate on",
        ),
    ],
)
def test_data_that_teach_no_boxes_are_refused(
    source: Path, tmp_path: Path, change: Callable[[Config], Config], said: str
):
    with pytest.raises(ValueError, match=said):
        main(change(small(source, tmp_path)))


def test_one_class_suffices(tmp_path: Path):
    rows = [row for row in shapes(48, seed=4) if row["objects"][0]["label"] == "circle"]
    write_shard(tmp_path / "in" / "x.parquet", rows)
    config = small(tmp_path / "in", tmp_path / "out")
    run = main(replace(config, training=replace(config.training, epochs=1)))
    assert run.manifest["metrics"]["accuracy"] == 1
    assert read_card(tmp_path / "out" / BEST).classes == ("circle",)


def test_dry_run_tells_and_writes_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main(replace(small(source, tmp_path / "out"), dry_run=True))
    told = capsys.readouterr().out
    for text in ("36 to learn from", "27 in 3 epochs", "of network", "estimate", "not begun"):
        assert text in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_reached_from_the_command_line(name: str):
    assert parse([name]) == PRESETS[name]()
    changed = parse([name, "--training.epochs", "2", "--model.preprocess.height-px", "96"])
    assert changed.training.epochs == 2
    assert changed.model.preprocess.shape[0] == 96


@pytest.mark.slow
def test_killed_process_leaves_a_run_that_the_same_command_finishes(
    source: Path, undisturbed: Path, tmp_path: Path
):
    """SIGKILL once two epochs are there; the command line is that of `small`."""
    words = ["--data.uri", str(source), "--data.slice-rows", "16", "--training.epochs", "3"]
    words += ["--training.batch-size", "4", "--training.validation-fraction", "0.25"]
    words += ["--augment.shift", "0.1", "--augment.rotation-deg", "5", "--augment.colour", "0.2"]
    for name in ("height-px", "width-px"):
        words += [f"--model.preprocess.{name}", "32"]
    for name in ("mean", "std"):
        words += [f"--model.preprocess.{name}", *map(str, getattr(SMALL, name))]
    words += ["--model.licence", "unknown", "--resources.engine", "inline"]
    words += ["--resources.checkpoint-every-s", "0", "--out", str(tmp_path)]
    assert replace(parse(words), out="") == replace(small(source, tmp_path), out="")
    code = (
        "import os, signal, sys\n"
        "from jobs import train_localizer\n"
        "from vision_ops.learners.localize import LocalizerLearner\n"
        "step, left = LocalizerLearner.step, [13]\n"
        "def die(learner, batch):\n"
        "    left[0] -= 1\n"
        "    left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(learner, batch)\n"
        "LocalizerLearner.step = die\n"
        "train_localizer.main(train_localizer.parse(sys.argv[1:]))\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = partial(subprocess.run, cwd=ROOT, env=environment, timeout=240, capture_output=True)
    assert run([sys.executable, "-c", code, *words]).returncode == -signal.SIGKILL
    finished = run([sys.executable, "-m", "jobs.train_localizer", *words])
    assert finished.returncode == 0, finished.stderr.decode()
    assert_same_training(tmp_path, undisturbed)
