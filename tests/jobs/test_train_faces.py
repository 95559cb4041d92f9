"""Training an embedder: people kept apart, step-exact, alike on two workers, alarmed in time."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn

from jobs.pictures.faces.people import PeopleOrder
from jobs.pictures.faces.recipes import PRESETS, Config
from jobs.pictures.samples.faces import Pose, draw_person, photograph
from jobs.runtime.checkpoints import BEST, LAST, METRICS
from jobs.runtime.epochs import run_worker
from jobs.runtime.learner import Place, Training, TrainingConfig
from jobs.runtime.sources.origin import Source
from jobs.runtime.training import TrainingResources, fit
from jobs.train_faces import TASK, main, parse
from tests.jobs.broken_off import (
    Killed,
    assert_same_training,
    die_here,
    fit_with,
    metrics_of,
    prepared,
)
from vision_ops.augment import AugmentConfig
from vision_ops.card import Card, read_card, sha256_file
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.faces import FacePreprocess
from vision_ops.faces.heads import load_head
from vision_ops.learners.faces import FaceModelConfig
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.losses.metric import ArcFaceConfig, BinaryConfig, TripletConfig
from vision_ops.models import build

SMALL = FacePreprocess(height_px=12, width_px=12)
INLINE = TrainingResources(engine="inline", checkpoint_every_s=0)
HEAD = "checkpoints/best.head.safetensors"


def write_people(folder: Path, count: int, pictures: int = 4, seed: int = 0) -> Path:
    """A folder for each of some synthetic people."""
    random = np.random.default_rng(seed)
    for person in range(count):
        place = folder / f"person-{seed}-{person:02}"
        place.mkdir(parents=True)
        skin = draw_person(random)
        for number in range(pictures):
            photograph(skin, Pose(), random).resize((16, 16)).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 people with four pictures each."""
    return write_people(tmp_path_factory.mktemp("people"), 18)


def small(people: Path | str, out: Path | str, loss: Any = None) -> Config:
    return Config(
        data=Source(uri=str(people), label="folder", slice_rows=24),
        model=FaceModelConfig(embedding_size=8, preprocess=SMALL),
        augment=AugmentConfig(shift=0.1, flip=True),
        loss=loss or TripletConfig(pictures_per_person=2),
        training=TrainingConfig(epochs=3, batch_size=8, validation_fraction=0.3),
        resources=INLINE,
        out=str(out),
    )


@pytest.fixture(scope="module")
def undisturbed(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    main(small(people, out))
    return out


def test_training_leaves_an_embedder_with_its_card_metrics_and_a_report(undisturbed: Path):
    network, card = load_checkpoint(undisturbed / BEST, "cpu")
    assert (card.network, card.classes, card.preprocess) == ("residual", (), SMALL)
    assert card.embedding_size == card.num_outputs == 8
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 12, 12)).shape == (2, 8)
    for metrics in metrics_of(undisturbed):
        for name in ("accuracy", "eer", "tar"):
            assert 0 <= metrics[name] <= 1
            assert 0 <= metrics[f"train_{name}"] <= 1
        assert 0 < metrics["distance"] < 2
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert sum(manifest["counts"].values()) == 72
    assert manifest["metrics"]["accuracy"] in [m["accuracy"] for m in metrics_of(undisturbed)]
    assert not (undisturbed / HEAD).exists()
    page = (undisturbed / "report" / "index.html").read_text()
    assert "TAR at FAR 1 %" in page
    assert "Equal error rate" in page


@pytest.mark.parametrize("loss", [TripletConfig(pictures_per_person=2), ArcFaceConfig()], ids=repr)
def test_people_are_learnt_from_or_validated_on_and_never_both(
    people: Path, tmp_path: Path, loss: Any
):
    training = prepared(small(people, tmp_path, loss), TASK)
    learnt, kept = set(training.learn.truths.tolist()), set(training.validate.truths.tolist())
    assert not learnt & kept
    assert len(learnt) + len(kept) == 18
    assert len(training.learn) == 4 * len(learnt)  # all pictures of each
    compared = training.order.compared(len(training.learn), 0, 0)
    assert len(set(training.learn.truths[compared].tolist())) == len(kept)
    assert len(compared) == 4 * len(kept)


def test_batches_of_an_epoch_hold_people_with_pictures_and_change_with_the_epoch():
    targets = np.repeat(np.arange(10), 5)
    order, config = PeopleOrder(targets, 4, 3), TrainingConfig(epochs=1, batch_size=12)
    first, again, later = (order.batches(50, config, epoch) for epoch in (0, 0, 1))
    assert first.shape == (4, 12)
    assert all(len(set(each.tolist())) == 3 for each in targets[first])
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)
    shuffled = PeopleOrder(targets, 0, 3).batches(50, config, 0)
    assert len(set(shuffled.ravel().tolist())) == 48


def test_second_run_of_a_finished_training_changes_nothing(undisturbed: Path, people: Path):
    before = {name: (undisturbed / name).stat().st_mtime_ns for name in (BEST, LAST, METRICS)}
    main(small(people, undisturbed))
    assert {name: (undisturbed / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize("steps", [0, 4, 11])  # an epoch is 6 or 7 steps
def test_killed_and_repeated_training_ends_with_the_bits_of_an_undisturbed_one(
    undisturbed: Path, people: Path, tmp_path: Path, steps: int
):
    config = small(people, tmp_path)
    with pytest.raises(Killed):
        fit_with(config, TASK, steps, die_here)
    main(config)
    assert_same_training(tmp_path, undisturbed)


@pytest.mark.slow
def test_killed_training_of_a_head_and_of_arcface_weights_ends_alike(people: Path, tmp_path: Path):
    for name, loss in {
        "binary": BinaryConfig(pictures_per_person=2),
        "arc": ArcFaceConfig(),
    }.items():
        whole, broken = (small(people, tmp_path / f"{name}{n}", loss) for n in (1, 2))
        main(whole)
        with pytest.raises(Killed):
            fit_with(broken, TASK, 9, die_here)
        main(broken)
        assert_same_training(tmp_path / f"{name}2", tmp_path / f"{name}1")
    heads = [(tmp_path / f"binary{n}" / HEAD).read_bytes() for n in (1, 2)]
    assert heads[0] == heads[1]
    head = load_head(tmp_path / "binary1" / HEAD)
    assert head.embedder == sha256_file(tmp_path / "binary1" / BEST)


def take_part(rank: int, training: Training, address: str) -> None:
    """One of two workers, in a process of its own."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    run_worker(training, Place(device=torch.device("cpu"), rank=rank, num_workers=2))
    torch.distributed.destroy_process_group()


def without_norm(num_outputs: int) -> torch.nn.Module:
    """Batch norm would see its worker's part of a batch."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(200, num_outputs),
    )


@pytest.mark.slow
@pytest.mark.parametrize("loss", [TripletConfig(pictures_per_person=2), BinaryConfig()], ids=repr)
def test_two_workers_learn_faces_as_one(people: Path, tmp_path: Path, loss: Any):
    model = FaceModelConfig(network=f"{__name__}:without_norm", embedding_size=8, preprocess=SMALL)
    sgd = OptimConfig(optimizer="sgd", learning_rate=0.05, schedule="constant")
    one, two = (
        prepared(replace(small(people, tmp_path / n, loss), model=model, optim=sgd), TASK)
        for n in ("1", "2")
    )
    fit(one, INLINE)
    spawn(take_part, (two, f"file://{tmp_path}/meeting"), nprocs=2)
    wanted, found = load_file(tmp_path / "1" / LAST), load_file(tmp_path / "2" / LAST)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(metrics_of(tmp_path / "2"), metrics_of(tmp_path / "1"), strict=True):
        for name in ("loss", "train_loss", "objective", "distance", "accuracy", "eer"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-3)


@pytest.mark.slow
def test_two_workers_of_ray_train_share_the_people_of_a_batch(
    local_ray: None, undisturbed: Path, people: Path, tmp_path: Path
):
    main(replace(small(people, tmp_path), resources=TrainingResources(num_workers=2)))
    one, two = metrics_of(undisturbed), metrics_of(tmp_path)
    # batch norm sees half a batch, so the numbers differ somewhat
    assert [each["step"] for each in two] == [each["step"] for each in one]
    assert two[0]["objective"] == pytest.approx(one[0]["objective"], rel=0.3)
    assert read_card(tmp_path / BEST) == read_card(undisturbed / BEST)


def test_people_with_one_picture_are_left_out_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = write_people(tmp_path / "in", 16)
    write_people(folder, 2, pictures=1, seed=9)
    config = small(folder, tmp_path / "out")
    run = main(replace(config, training=replace(config.training, epochs=1)))
    assert sum(run.manifest["counts"].values()) == 64
    assert "people have one picture and are left out" in caplog.text
    assert "person-9-0" in caplog.text


def shared(config: Config) -> Config:
    return replace(config, validation=config.data)


def batches_of(size: int, pictures: int) -> Callable[[Config], Config]:
    return lambda config: replace(
        config,
        training=replace(config.training, batch_size=size),
        loss=TripletConfig(pictures_per_person=pictures),
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (batches_of(80, 4), r"people to learn from; --training.batch-size 80 of 4 pictures each"),
        (batches_of(10, 4), "training.batch_size 10: must be a multiple of loss.pictures_per_pers"),
        (batches_of(4, 4), "of two people or more"),
        (shared, r"18 groups are learnt from too: .*; take them from one side$"),
        (lambda c: replace(c, data=replace(c.data, label="none")), "have no class"),
        (lambda c: replace(c, augment=AugmentConfig(cutmix=0.2)), "blend of two people"),
        (
            lambda c: replace(c, training=replace(c.training, num_passes=2)),
            "cannot be gone through in pieces",
        ),
        (
            lambda c: replace(c, training=replace(c.training, validation_fraction=0.1)),
            "4 are needed: raise --training.validation-fraction",
        ),
        (lambda c: replace(c, data=Source(uri=c.data.uri + "/x", label="folder")), "nothing at"),
    ],
)
def test_data_that_tell_nobody_apart_are_refused(
    people: Path, tmp_path: Path, change: Callable[[Config], Config], said: str
):
    with pytest.raises(ValueError, match=said):
        main(change(small(people, tmp_path)))


def test_fewer_examples_are_fewer_people_with_all_of_their_pictures(people: Path, tmp_path: Path):
    config = small(people, tmp_path)
    config = replace(config, training=replace(config.training, max_examples=18))
    counts = np.unique(prepared(config, TASK).learn.truths, return_counts=True)[1]
    assert counts.tolist() == [4] * 5


def test_collapse_is_warned_of_while_it_happens_and_in_the_report(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """At a rate far too high batch-hard triplets pull everything into one point."""
    config = replace(
        small(people, tmp_path),
        model=FaceModelConfig(
            network=f"{__name__}:without_norm", embedding_size=8, preprocess=SMALL
        ),
        optim=OptimConfig(optimizer="adam", learning_rate=1.0, warmup=0.0, schedule="constant"),
        training=replace(small(people, tmp_path).training, epochs=12),
    )
    main(config)
    assert metrics_of(tmp_path)[-1]["objective"] == pytest.approx(0.2, abs=1e-3)
    assert "the embeddings have collapsed" in caplog.text
    assert "a lower --optim.learning-rate" in caplog.text
    assert "is of no use" in (tmp_path / "report" / "index.html").read_text()


def save_embedder(path: Path) -> str:
    torch.manual_seed(3)
    card = Card(
        network="residual",
        classes=(),
        preprocess=replace(SMALL, flip_sum=True),
        licence="Apache-2.0",
        source="random",
        embedding_size=5,
    )
    save_checkpoint(path, build("residual", 5), card)
    return str(path)


def test_finetuning_keeps_the_network_and_the_input_of_what_it_began_with(
    people: Path, tmp_path: Path
):
    weights = save_embedder(tmp_path / "published.safetensors")
    config = replace(
        PRESETS["finetune"](),
        data=Source(uri=str(people), label="folder"),
        model=FaceModelConfig(network="", weights=weights),
        loss=TripletConfig(pictures_per_person=2),
        training=TrainingConfig(epochs=1, batch_size=8, validation_fraction=0.3),
        resources=INLINE,
        out=str(tmp_path / "out"),
    )
    main(config)
    card = read_card(tmp_path / "out" / BEST)
    assert (card.network, card.embedding_size) == ("residual", 5)
    assert card.preprocess == replace(SMALL, flip_sum=True)
    assert (card.parent, card.licence) == (sha256_file(weights), "Apache-2.0")


def test_dry_run_tells_and_writes_nothing(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main(replace(small(people, tmp_path / "out"), dry_run=True))
    told = capsys.readouterr().out
    for text in ("50 to learn from", "in 3 epochs", "of network", "estimate", "not begun"):
        assert text in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_reached_from_the_command_line(name: str):
    assert parse([name]) == PRESETS[name]()
    changed = parse([name, "--training.epochs", "2", "--out", "elsewhere"])
    assert (changed.training.epochs, changed.out) == (2, "elsewhere")
    option = "--loss.scale" if name == "faces_arcface" else "--loss.pictures-per-person"
    changed = parse([name, option, "3", "--training.batch-size", "48"])
    assert getattr(changed.loss, option[7:].replace("-", "_")) == 3
