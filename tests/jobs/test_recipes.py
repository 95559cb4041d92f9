"""Recipes of trainings, and what a person does to one: starts from weights, presses Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from jobs.pictures.learning import plan_data
from jobs.pictures.recipes import PRESETS, Config
from jobs.pictures.supervised import identity, make_training
from jobs.runtime.checkpoints import BEST, LAST, STATE
from jobs.runtime.learner import TrainingConfig
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage
from jobs.runtime.training import fit
from jobs.train_classifier import TASK, main, parse
from tests.jobs.broken_off import metrics_of, train_in_two
from tests.jobs.coloured import COLOURS, INLINE, small, write_photos
from tests.untrained import save_random
from vision_ops.augment import AugmentConfig
from vision_ops.card import read_card, sha256_file
from vision_ops.learners.classify import ModelConfig
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.models import build, embedding_size
from vision_ops.preprocess import Preprocess
from vision_ops.weights import resolve

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on three colours."""
    folder = tmp_path_factory.mktemp("base")
    write_photos(folder / "photos")
    main(small(folder / "photos", folder / "run"))
    return folder / "run"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of two other classes."""
    colours = {"orange": (230, 140, 20), "violet": (140, 20, 230)}
    return write_photos(tmp_path_factory.mktemp("others") / "photos", colours=colours)


def finetuned(others: Path, weights: Path | str, out: Path, **model: Any) -> Config:
    preset = PRESETS["finetune"]()
    return replace(
        preset,
        data=replace(preset.data, uri=str(others)),
        model=replace(preset.model, weights=str(weights), **model),
        training=TrainingConfig(epochs=15, batch_size=8, validation_fraction=0.25),
        resources=INLINE,
        out=str(out),
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_recipe_names_a_network_that_is_built_or_weights_that_bring_one(name: str):
    model = PRESETS[name]().model
    assert bool(model.network) != bool(model.weights)
    if model.network:
        network = build(model.network, 10, channels=model.preprocess.num_channels).eval()
        shape = model.preprocess.network_shape
        assert embedding_size(network, shape) > 0


def test_finetuning_takes_network_and_pictures_of_its_weights_and_says_where_they_came_from(
    base: Path, others: Path, tmp_path: Path
):
    run = main(finetuned(others, base / BEST, tmp_path))
    card = read_card(tmp_path / BEST)
    start = read_card(base / BEST)
    assert (card.network, card.preprocess) == (start.network, start.preprocess)
    assert card.classes == ("orange", "violet")
    assert card.parent == sha256_file(base / BEST)
    assert run.manifest["metrics"]["accuracy"] >= 0.9
    assert metrics_of(tmp_path)[-1]["epoch"] == 15
    kept, made = load_file(base / BEST), load_file(tmp_path / LAST)
    assert not torch.equal(kept["stem.0.weight"], made["stem.0.weight"])


@pytest.mark.parametrize("network", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_a_published_network_gets_a_new_head_first_and_then_all_of_it_learns(
    others: Path, tmp_path: Path, network: str
):
    weights = save_random(tmp_path / "w.safetensors", network, height_px=64, width_px=64)
    changed: dict[str, set[str]] = {}
    for name, frozen in (("frozen", 1.0), ("whole", 0.3)):
        config = finetuned(others, weights, tmp_path / name, frozen=frozen)
        main(replace(config, training=replace(config.training, epochs=3)))
        card = read_card(tmp_path / name / LAST)
        assert (card.network, card.classes) == (network, ("orange", "violet"))
        kept, made = load_file(weights), load_file(tmp_path / name / LAST)
        assert kept.keys() == made.keys()
        changed[name] = {key for key in kept if not torch.equal(kept[key], made[key])}
    assert 0 < len(changed["frozen"]) <= 2  # weights and biases of the last layer
    assert any(key.endswith("weight") for key in changed["whole"] - changed["frozen"])


def test_a_run_belongs_to_the_bytes_of_its_weights_not_to_their_name(
    base: Path, others: Path, tmp_path: Path
):
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes((base / BEST).read_bytes())
    first = main(finetuned(others, base / BEST, tmp_path / "run"))
    again = main(finetuned(others, moved, tmp_path / "run"))
    assert again.fingerprint == first.fingerprint
    with pytest.raises(ValueError, match="model"):
        main(finetuned(others, tmp_path / "run" / BEST, tmp_path / "run"))


def test_weights_of_another_network_than_was_said_are_refused(
    base: Path, others: Path, tmp_path: Path
):
    with pytest.raises(ValueError, match="model.network resnet20: model.weights are of residual"):
        main(finetuned(others, base / BEST, tmp_path, network="resnet20"))
    with pytest.raises(ValueError, match=r"nowhere\.safetensors: no such file"):
        main(finetuned(others, "nowhere.safetensors", tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_finetuning_writes_nothing_and_two_runs_end_alike(
    base: Path, others: Path, tmp_path: Path
):
    whole = finetuned(others, base / BEST, tmp_path / "whole")
    main(whole)
    weights = tmp_path / "start.safetensors"
    weights.write_bytes((base / BEST).read_bytes())
    config = finetuned(others, weights, tmp_path / "run")
    main(replace(config, dry_run=True))
    assert not (tmp_path / "run" / STATE).exists()
    main(config)
    assert (tmp_path / "run" / LAST).read_bytes() == (tmp_path / "whole" / LAST).read_bytes()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("engine", "sign"),
    [
        ("inline", signal.SIGTERM),
        pytest.param("inline", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_and_sigterm_leave_a_run_that_the_same_command_finishes(
    tmp_path: Path, engine: str, sign: signal.Signals, request: pytest.FixtureRequest
):
    """The weights are then those of a training that nobody interrupted."""
    photos = write_photos(tmp_path / "photos", colours=dict(list(COLOURS.items())[:2]))
    words = ["photos", "--data.uri", str(photos), "--training.epochs", "12"]
    words += ["--training.batch-size", "8", "--resources.checkpoint-every-s", "0"]
    words += ["--model.preprocess.height-px", "8", "--model.preprocess.width-px", "8"]
    words += ["--model.preprocess.resize-px", "0", "--resources.num-cpus", "2"]
    words += ["--resources.engine", engine, "--resources.cpus-per-worker", "1"]
    words += ["--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.train_classifier", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # bits depend on the number of threads
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(tmp_path / "run" / "metrics.jsonl", process)
        process.send_signal(sign)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1, said.decode()
    assert "the same command continues" in said.decode().splitlines()[-1]
    assert not [word for word in ("***", "Traceback", "logging.cc") if word in said.decode()]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    assert 1 <= len(metrics_of(tmp_path / "run")) < 12
    config = parse(words)
    if engine == "ray":
        request.getfixturevalue("local_ray")
    main(config)
    resources = replace(config.resources, engine="inline")
    main(replace(config, resources=resources, out=str(tmp_path / "whole")))
    runs = (tmp_path / name / LAST for name in ("run", "whole"))
    assert len({path.read_bytes() for path in runs}) == 1
    assert identity(config)["training"] == config.training


def test_a_batch_in_pieces_with_auto_precision_learns_and_says_what_was_chosen(tmp_path: Path):
    config = Config(
        data=Source(uri=str(write_photos(tmp_path / "photos")), label="folder"),
        model=ModelConfig(
            network="resnet20", preprocess=Preprocess(height_px=8, width_px=8, resize_px=0)
        ),
        training=TrainingConfig(epochs=3, batch_size=12, num_passes=3, precision="auto"),
        resources=INLINE,
        out=str(tmp_path / "run"),
    )
    run = main(config)
    assert run.manifest["metrics"]["accuracy"] >= 0.8
    assert run.manifest["precision"]["precision"] in ("fp32", "bf16")


def write_shards(folder: Path, photos: Path, labels: tuple[str, ...]) -> Path:
    """Two shards of pictures whose classes lie in columns of these names."""
    files = sorted(photos.rglob("*.png"))
    for number, label in enumerate(labels):
        mine = files[number :: len(labels)]
        columns = {"image": [f.read_bytes() for f in mine], label: [f.parent.name for f in mine]}
        pq.write_table(pa.table(columns), folder / f"shard-{number}.parquet")
    return folder


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("label", r"shard-1\.parquet: data\.label: no column 'label'; there are .*'colour'"),
        ("auto", r"data\.label: 20 of 40 rows have no class, the first is shard-1\.parquet#0"),
    ],
)
def test_a_shard_without_the_label_column_is_named(
    others: Path, tmp_path: Path, label: str, said: str
):
    write_shards(tmp_path, others, ("label", "colour"))
    config = small(tmp_path, tmp_path.with_name("out"))
    config = replace(config, data=Source(uri=f"{tmp_path}/*.parquet", label=label))
    config = replace(config, training=replace(config.training, validation_fraction=1e-6))
    with pytest.raises(ValueError, match=said):
        main(config)


def test_two_workers_finetune_as_one_frozen_first_and_in_pieces(others: Path, tmp_path: Path):
    square = Preprocess(height_px=32, width_px=32, resize_px=0)
    model = ModelConfig(network="cnn_cifar10", preprocess=square)
    start = replace(small(others, tmp_path / "start"), model=model)
    main(start)
    weights = str(tmp_path / "start" / BEST)
    trained = []
    for name in ("one", "two"):
        config = replace(
            start,
            model=replace(model, weights=weights, frozen=0.4),
            optim=OptimConfig(optimizer="sgd", learning_rate=0.02),
            augment=AugmentConfig(flip=True),
            training=TrainingConfig(epochs=5, batch_size=8, num_passes=2, validation_fraction=0.25),
            out=str(tmp_path / name),
        )
        storage = Storage(config.storage)
        with Run.open(
            config.out, job="train", config=config, identity=identity(config), storage=storage
        ) as run:
            training = make_training(
                run, config, TASK, plan_data(run, config), resolve(weights, storage.fetch)
            )
        if name == "one":
            fit(training, INLINE)
        else:
            train_in_two(training, tmp_path / "meeting")
        trained.append(load_file(tmp_path / name / LAST))
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-4, atol=1e-6)
