"""Trainings that several workers share: what they learn, and that each image counts once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from jobs.runtime.epochs import evaluate
from jobs.runtime.examples import Pictures
from jobs.runtime.learner import Place, Training, TrainingConfig
from jobs.runtime.ray_training import run_workers
from jobs.runtime.sources.origin import Source
from jobs.runtime.training import TrainingResources, fit
from jobs.train_classifier import TASK, Config, main
from tests.jobs.broken_off import metrics_of, prepared, train_in_two
from tests.jobs.coloured import INLINE, small, write_photos
from vision_ops.augment import AugmentConfig
from vision_ops.learners.classify import LossConfig, ModelConfig
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.preprocess import Preprocess


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


def untrained(photos: Path, held: Path, out: Path) -> Config:
    """Thirteen images kept back, which the network names about as chance does."""
    config = replace(small(photos, out), validation=Source(uri=str(held), label="folder"))
    square = Preprocess(height_px=32, width_px=32, resize_px=0)
    return replace(
        config,
        model=ModelConfig(network="cnn_cifar10", preprocess=square),
        optim=OptimConfig(learning_rate=1e-12, weight_decay=0),
        training=TrainingConfig(epochs=1, batch_size=10),
    )


@pytest.mark.slow
def test_two_workers_judge_an_odd_number_of_images_as_one_does(photos: Path, tmp_path: Path):
    held = write_photos(tmp_path / "held", per_class=5)
    (held / "red" / "000.png").unlink()
    (held / "blue" / "000.png").unlink()
    fit(prepared(untrained(photos, held, tmp_path / "one"), TASK), INLINE)
    train_in_two(prepared(untrained(photos, held, tmp_path / "two"), TASK), tmp_path / "meeting")
    (one,), (two,) = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert two["accuracy"] == one["accuracy"] < 0.9
    assert 13 * one["accuracy"] == pytest.approx(round(13 * one["accuracy"]))
    for name in ("loss", "loss_error", "train_loss"):
        assert two[name] == pytest.approx(one[name], rel=1e-6)


class Witness:
    """Evaluates nothing, and says what came."""

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        assert len(batch["pixels"]) == len(batch["number"])
        return {"seen": batch["number"].numpy(), "count": float(len(batch["number"]))}


COUNTS = (1, 2, 13, 43)


def witness(rank: int, training: Training, folder: str) -> None:
    """One of two workers that evaluate some images of those there are, in turn."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    place = Place(device=torch.device("cpu"), rank=rank, num_workers=2)
    pictures, truth = Pictures(training.learn), {"number": np.arange(len(training.learn))}
    for count in COUNTS:
        learner: Any = Witness()
        sums = evaluate(learner, pictures, truth, np.arange(count), place, 7)
        np.savez(f"{folder}/{rank}-{count}.npz", **sums)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_see_each_image_once_and_know_the_same_of_all(photos: Path, tmp_path: Path):
    training = prepared(small(photos, tmp_path / "out"), TASK)
    assert len(training.learn) >= max(COUNTS)
    spawn(witness, (training, str(tmp_path)), nprocs=2)
    for count in COUNTS:
        one, two = (np.load(tmp_path / f"{rank}-{count}.npz") for rank in (0, 1))
        assert sorted(one["seen"]) == list(range(count))
        assert np.array_equal(one["seen"], two["seen"])
        assert one["count"] == two["count"] == count


@pytest.mark.slow
def test_result_of_ray_train_has_the_metrics_of_every_epoch(
    local_ray: None, photos: Path, tmp_path: Path
):
    resources = TrainingResources(engine="ray", cpus_per_worker=1)
    training = prepared(replace(small(photos, tmp_path), resources=resources), TASK)
    result = run_workers(training, resources, lambda _: None)
    assert result.error is None
    assert len(metrics_of(tmp_path)) == 3
    assert result.return_value == metrics_of(tmp_path)
