"""Learning to embed faces: two workers as one, the order of rows, starts, heads, collapse."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from vision_ops.augment import AugmentConfig, Draws
from vision_ops.card import Card, read_card, sha256_file
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.faces import FacePreprocess
from vision_ops.faces.heads import load_head
from vision_ops.learners.faces import (
    FaceLearner,
    FaceLearnerConfig,
    FaceModelConfig,
    begin_as,
    load_start,
)
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.learners.people import whole_batch
from vision_ops.losses.metric import (
    ArcFaceConfig,
    BinaryConfig,
    ContrastiveConfig,
    TripletConfig,
    collapse,
)
from vision_ops.models import build
from vision_ops.preprocess import Preprocess

SMALL = FacePreprocess(height_px=12, width_px=12)
LOSSES: dict[str, Any] = {
    "batch_hard": TripletConfig(margin=0.5, pictures_per_person=3),
    "all": TripletConfig(mining="all", margin=0.5, pictures_per_person=3),
    "contrastive": ContrastiveConfig(pictures_per_person=3),
    "binary": BinaryConfig(pictures_per_person=3),
    "arcface": ArcFaceConfig(scale=8.0),
}
PLAIN = f"{__name__}:plain"


def plain(num_outputs: int) -> nn.Module:
    """Without batch norm, which sees its worker's part of a batch."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(200, num_outputs)
    )


def config(loss: Any, network: str = PLAIN, **model: Any) -> FaceLearnerConfig:
    return FaceLearnerConfig(
        model=FaceModelConfig(network=network, embedding_size=6, preprocess=SMALL, **model),
        optim=OptimConfig(optimizer="sgd", learning_rate=0.1, warmup=0.0, clip_norm=0.0),
        loss=loss,
        augment=AugmentConfig(shift=0.1, flip=True),
        people=4,
        batch_people=4,
        num_steps=20,
    )


def make_batch() -> dict[str, Tensor]:
    """Four people with three pictures each, person by person."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, 12, 12, 3), generator=random, dtype=torch.uint8)
    target = torch.arange(4).repeat_interleave(3)
    return {"pixels": pixels, "target": target, "row": torch.arange(12)}


def stepped(learner: FaceLearner, batch: dict[str, Tensor], rank: int, num_workers: int) -> Any:
    """Scalars and the gradients of one step."""
    learner.reseed(5, rank, num_workers)
    scalars = learner.step({name: value[rank::num_workers] for name, value in batch.items()})
    gradients = [p.grad for p in learner.network.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return scalars, gradients


def take_part(rank: int, folder: str) -> None:
    """One of two workers: a step of each loss, its gradients put into a file."""
    torch.set_num_threads(1)
    address = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    for name, loss in LOSSES.items():
        learner = FaceLearner(config(loss))
        learner.distribute(DistributedDataParallel)
        found = stepped(learner, make_batch(), rank, 2)
        torch.save(found, f"{folder}/{name}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_with_half_of_a_batch_have_the_gradients_of_one_with_all(tmp_path: Path):
    """Pairs and triplets are mined over both: P/2 people here and P/2 there are P."""
    spawn(take_part, (str(tmp_path),), nprocs=2)
    for name, loss in LOSSES.items():
        scalars, wanted = stepped(FaceLearner(config(loss)), make_batch(), 0, 1)
        for rank in (0, 1):
            told, gradients = torch.load(tmp_path / f"{name}-{rank}.pt")
            assert told == pytest.approx(scalars, rel=1e-5)
            largest = max(gradient.abs().max().item() for gradient in wanted)
            assert largest > 1e-3  # there is something to be equal
            for ours, theirs in zip(gradients, wanted, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * largest)


def test_half_a_batch_alone_has_other_gradients():
    """What the gathering is for: triplets of one worker's rows only are not those of the batch."""
    loss = LOSSES["batch_hard"]
    _, whole = stepped(FaceLearner(config(loss)), make_batch(), 0, 1)
    half = {name: value[::2] for name, value in make_batch().items()}
    _, alone = stepped(FaceLearner(config(loss)), half, 0, 1)
    assert not torch.allclose(alone[0], whole[0], rtol=1e-2)


def test_one_worker_is_the_whole_batch():
    draws = Draws(generator=torch.Generator())
    rows = torch.rand(3, 2)
    assert whole_batch(rows, draws) is rows


def test_summary_does_not_depend_on_the_order_in_which_rows_came():
    learner, batch = FaceLearner(config(LOSSES["batch_hard"])), make_batch()
    sums = learner.evaluate(batch)
    order = np.random.default_rng(0).permutation(12)
    mixed = {name: np.asarray(value)[order] for name, value in sums.items()}
    assert learner.summarize(mixed) == learner.summarize(sums)


def test_embedding_of_evaluation_is_that_of_use_with_its_mirror_image():
    flipping = replace(SMALL, flip_sum=True)
    asked = replace(config(LOSSES["all"]), model=FaceModelConfig(
        network=PLAIN, embedding_size=6, preprocess=flipping,
    ))  # fmt: skip
    learner, batch = FaceLearner(asked), make_batch()
    network = learner.network.embedder.eval()
    images = (batch["pixels"].float() / 255 - 0.5).permute(0, 3, 1, 2) / 0.5
    wanted = F.normalize(network(images) + network(images.flip(3)), dim=1)
    found = torch.from_numpy(learner.evaluate(batch)["embeddings"])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_checkpoint_is_the_embedder_alone_and_its_head_lies_beside_it(tmp_path: Path):
    learner = FaceLearner(config(LOSSES["binary"]))
    learner.step(make_batch())
    learner.save(tmp_path / "last.safetensors")
    network, card = load_checkpoint(tmp_path / "last.safetensors", "cpu")
    assert (card.classes, card.embedding_size, card.preprocess) == ((), 6, SMALL)
    ours = learner.network.embedder.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in network.state_dict().items())
    head = load_head(tmp_path / "last.head.safetensors")
    assert (head.kind, head.embedder) == ("weighted_l1", sha256_file(tmp_path / "last.safetensors"))
    trained = learner.network.loss.head.state_dict()  # pyright: ignore
    assert all(torch.equal(trained[name], value) for name, value in head.state_dict().items())
    FaceLearner(config(LOSSES["arcface"])).save(tmp_path / "arc.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {
        "last.safetensors", "last.head.safetensors", "arc.safetensors",
    }  # fmt: skip


def save_embedder(path: Path, size: int, classes: tuple[str, ...] = ()) -> str:
    torch.manual_seed(1)
    preprocess: Any = SMALL
    if classes:
        preprocess = Preprocess(
            height_px=12, width_px=12, resize_px=0, mean=SMALL.mean, std=SMALL.std
        )
    card = Card(
        network="residual", classes=classes, preprocess=preprocess, licence="MIT", source="x",
        embedding_size=size if not classes else 160,
    )  # fmt: skip
    save_checkpoint(path, build("residual", size), card)
    return str(path)


@pytest.mark.parametrize(
    ("size", "classes", "kept"), [(6, (), True), (9, (), False), (6, tuple("abcdef"), False)]
)
def test_start_keeps_the_last_layer_only_where_it_gives_such_an_embedding(
    tmp_path: Path, size: int, classes: tuple[str, ...], kept: bool
):
    weights = save_embedder(tmp_path / "start.safetensors", size, classes)
    model = FaceModelConfig(network="residual", embedding_size=6, preprocess=SMALL, weights=weights)
    fresh, source = build("residual", 6), load_checkpoint(weights, "cpu")[0].state_dict()
    load_start(fresh, model)
    same = {name for name, value in fresh.state_dict().items() if torch.equal(value, source[name])}
    assert {name for name in source if not name.startswith("head.")} <= same
    assert ("head.weight" in same) == kept


@pytest.mark.parametrize("network", ["mobilefacenet", "iresnet18"])
def test_a_start_of_another_embedding_size_keeps_what_is_before_the_last_layer(
    tmp_path: Path, network: str
):
    """Both norm the numbers of the embedding behind it."""
    card = Card(
        network=network, classes=(), preprocess=FacePreprocess(), licence="MIT", source="x",
        embedding_size=512,
    )  # fmt: skip
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "w.safetensors", build(network, 512), card)
    weights = str(tmp_path / "w.safetensors")
    model = FaceModelConfig(
        network=network, embedding_size=128, preprocess=FacePreprocess(), weights=weights
    )
    fresh, source = build(network, 128), load_checkpoint(weights, "cpu")[0].state_dict()
    load_start(fresh, model)
    found = fresh.state_dict()
    other = {name for name in source if not torch.equal(found[name], source[name])}
    assert {name.split(".")[0] for name in other} < {"conv3", "bn", "fc", "features"}


def test_model_of_a_start_is_that_of_its_card(tmp_path: Path):
    weights = save_embedder(tmp_path / "start.safetensors", 9)
    asked = FaceModelConfig(network="", weights=weights)
    made = begin_as(read_card(weights), asked)
    assert (made.network, made.embedding_size, made.preprocess) == ("residual", 9, SMALL)
    classifier = save_embedder(tmp_path / "classifier.safetensors", 3, ("a", "b", "c"))
    with pytest.raises(ValueError, match="of no embedder of faces.*--model.network residual"):
        begin_as(read_card(classifier), asked)


def test_first_steps_move_only_the_last_layer_and_what_the_loss_has(tmp_path: Path):
    weights = save_embedder(tmp_path / "start.safetensors", 6)
    asked = config(LOSSES["arcface"], "residual", weights=weights, frozen=0.5)
    learner, batch = FaceLearner(asked), make_batch()
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    learner.step(batch)
    after = learner.network.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"embedder.head.weight", "embedder.head.bias", "loss.loss.W"}
    for _ in range(10):
        learner.step(batch)
    assert not torch.equal(
        learner.network.state_dict()["embedder.stem.0.weight"], before["embedder.stem.0.weight"]
    )


def test_configuration_that_collapses_is_noticed():
    """Batch-hard triplets at a rate far too high pull all embeddings into one point."""
    asked = replace(
        config(TripletConfig(margin=0.5, pictures_per_person=3)),
        optim=OptimConfig(optimizer="adam", learning_rate=1.0, warmup=0.0, schedule="constant"),
        num_steps=60,
    )
    learner, batch = FaceLearner(asked), make_batch()
    first = learner.step(batch)
    assert collapse(first, asked.loss) == ""
    last = [learner.step(batch) for _ in range(59)][-1]
    assert last["distance"] < 1e-3
    assert last["objective"] == pytest.approx(0.5, abs=1e-3)  # at the margin
    assert "have collapsed" in collapse(last, asked.loss)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: replace(config(LOSSES["all"]), num_passes=2), "training.num_passes 2: faces of"),
        (
            lambda: replace(config(LOSSES["all"]), augment=AugmentConfig(mixup=0.2)),
            "augment.mixup: a blend of two people",
        ),
        (lambda: FaceModelConfig(network=""), "model.network: name one"),
        (lambda: FaceModelConfig(embedding_size=0), "model.embedding_size 0"),
        (lambda: FaceModelConfig(frozen=0.5), "model.frozen: random weights would stay random"),
        (lambda: FaceModelConfig(network="", weights="x", preprocess=SMALL), "is that of model.we"),
        (lambda: FaceModelConfig(network="cnn_224"), "takes pictures of 224 x 224"),
    ],
)
def test_impossible_values_are_refused_by_name(make: Any, said: str):
    with pytest.raises(ValueError, match=said):
        make()
