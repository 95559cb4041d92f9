"""Learning to embed faces: pictures of one person near to each other, of others apart."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn

from vision_ops.augment import AugmentConfig, augment
from vision_ops.card import Card, check_activation, check_pixels, check_size, sha256_file
from vision_ops.checkpoint import load_checkpoint, load_state, save_checkpoint
from vision_ops.faces import FacePreprocess
from vision_ops.faces.heads import save_head
from vision_ops.learners.descent import Descent
from vision_ops.learners.optimizer import OptimConfig, make_optimizer
from vision_ops.learners.people import draw_people, whole_batch
from vision_ops.losses.metric import (
    JUDGED_PICTURES,
    ArcFaceConfig,
    BinaryLoss,
    FaceLossConfig,
    TripletConfig,
    make_loss,
    mean_distance,
)
from vision_ops.metrics.pairs import verification
from vision_ops.models import BeginsFromData, build, head_of, in_fast_layout
from vision_ops.normalize import normalize


@dataclass(frozen=True, kw_only=True)
class FaceModelConfig:
    """Which network embeds, and what it starts from."""

    network: str = "residual"
    """mobilefacenet, iresnet18, iresnet50, iresnet100, residual, or any network of pictures
    (torchvision:NAME, timm:NAME, module:function), whose last layer gives the embedding; empty:
    that of `weights`, with its preprocess and the length of its embedding"""
    embedding_size: int = 128
    """numbers of an embedding"""
    preprocess: FacePreprocess = field(default_factory=FacePreprocess)
    """how aligned faces become the network's input; goes into the checkpoint"""
    licence: str = "unknown"
    """of the weights that come out: said in the checkpoint; unknown: that of `weights`"""
    weights: str = ""
    """checkpoint of such a network to start from: a path, s3://, torchvision: or timm: name; empty:
    random weights. Its last layer is kept where it gives such an embedding"""
    frozen: float = 0.0
    """first part of all steps, 0..1, in which only the last layer and what the loss has learn"""

    def __post_init__(self) -> None:
        if not self.network and not self.weights:
            raise ValueError("model.network: name one, or model.weights to start from")
        if not self.network and self.preprocess != FacePreprocess():
            raise ValueError(
                "model.preprocess: is that of model.weights where model.network is empty"
            )
        if self.embedding_size < 1:
            raise ValueError(f"model.embedding_size {self.embedding_size}: must be at least 1")
        if not 0 <= self.frozen <= 1:
            raise ValueError(f"model.frozen {self.frozen}: must be 0..1")
        if self.frozen and not self.weights:
            raise ValueError("model.frozen: random weights would stay random; name model.weights")
        check_size(self.network, self.preprocess)


@dataclass(frozen=True, kw_only=True)
class FaceLearnerConfig:
    """All that a learner is made of: the same config and batches give the same weights."""

    model: FaceModelConfig = field(default_factory=FaceModelConfig)
    """which network"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """how it learns"""
    loss: FaceLossConfig = field(default_factory=TripletConfig)
    """what is minimised"""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """how training pictures are varied"""
    people: int
    """who are learnt from"""
    batch_people: int
    """in a batch that the loss is judged on, where there are as many"""
    num_steps: int
    """steps of the whole training, for the schedule"""
    seed: int = 0
    """of the first weights and of the augmentation"""
    num_passes: int = 1
    """1: pictures of a batch are compared with one another"""
    source: str = "trained from random weights"
    """said in the checkpoint: what it was trained on"""

    def __post_init__(self) -> None:
        refuse_mixing(self.augment)
        if self.num_passes != 1:
            raise ValueError(
                f"training.num_passes {self.num_passes}: faces of a batch are compared with one "
                "another, it cannot be gone through in pieces; share it among more workers"
            )
        if min(self.people, self.num_steps) < 1 or self.batch_people < 2:
            raise ValueError("people and num_steps must be at least 1, batch_people at least 2")


def refuse_mixing(config: AugmentConfig) -> None:
    """Raise ValueError for what blends two people into one picture."""
    for name in ("mixup", "cutmix"):
        if getattr(config, name):
            raise ValueError(f"augment.{name}: a blend of two people is no person")


class Embedding(nn.Module):
    """An embedder, and what its loss has to learn beside it: one network to an optimiser."""

    def __init__(self, embedder: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.embedder = embedder
        self.loss = loss

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Embeddings, of any length."""
        return self.embedder(images)


class FaceLearner:
    """An embedder in training.

    reads   pixels   uint8  (B, S, S, 3)  aligned faces, sRGB, 0..255
            target   int64  (B,)          whose they are; for ArcFace below `people`
            row      int64  (B,)          where they stand among all: `summarize` sorts by it

    With several workers each embeds its part of a batch; pairs and triplets are of the whole batch,
    and the gradients those of one process. Batch norm's statistics are of a worker's part.
    """

    def __init__(self, config: FaceLearnerConfig, device: torch.device | str = "cpu") -> None:
        """Raises ValueError where `model.weights` are of another network."""
        self.config = config
        self.device = torch.device(device)
        model = config.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            embedder = build(model.network, model.embedding_size)
            loss = make_loss(config.loss, config.people, model.embedding_size)
        if model.weights:
            load_start(embedder, model)
        network = Embedding(in_fast_layout(embedder), loss).to(self.device)
        self.descent = Descent(
            network,
            make_optimizer(network, config.optim),
            config.optim,
            config.num_steps,
            seed=config.seed,
            head=nn.ModuleList([head_of(embedder), loss]),
            frozen=model.frozen,
        )

    @property
    def network(self) -> Embedding:
        """What learns."""
        assert isinstance(self.descent.network, Embedding)
        return self.descent.network

    @property
    def evaluated(self) -> Embedding:
        """What is evaluated and saved."""
        assert isinstance(self.descent.evaluated, Embedding)
        return self.descent.evaluated

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network that learns or is evaluated, by name."""
        return self.descent.networks

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Share gradients with other processes: forward passes of training go through `wrap`."""
        self.descent.distribute(wrap)

    def begin(self, sample: Callable[[int], Mapping[str, Tensor]]) -> None:
        """Set what first weights depend on the data, before the first step; loaded ones stay."""
        embedder = self.network.embedder
        if isinstance(embedder, BeginsFromData) and not self.config.model.weights:
            pixels = sample(embedder.num_begin)["pixels"]
            embedder.begin(normalize(pixels, self.config.model.preprocess, self.device))
            if self.descent.average is not None:
                self.descent.average.load_state_dict(self.network.state_dict())

    def reseed(self, seed: int, rank: int = 0, num_workers: int = 1) -> None:
        """Begin anew what the next step draws, and say which part of its batch comes here."""
        self.descent.reseed(seed, rank, num_workers)

    def phases(self) -> Iterator[float]:
        """Parts of all steps, 0..1, in which a step costs alike; see `Descent.phases`."""
        return self.descent.phases()

    def step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """One gradient step; what it lowers (before it), the gradient's norm, the rate used.

        `distance` is the mean one between embeddings of the batch: near 0 they have collapsed.
        """
        descent = self.descent
        pixels = augment(batch["pixels"].to(self.device), self.config.augment, descent.draws)
        images = normalize(pixels, self.config.model.preprocess, self.device)
        target = whole_batch(batch["target"].to(self.device), descent.draws)
        distances: list[float] = []

        def loss(_: slice) -> Tensor:
            own = F.normalize(descent.forward(images), dim=1)
            embeddings = whole_batch(own, descent.draws)
            distances.append(mean_distance(embeddings.detach()).item())
            return self.network.loss(embeddings, target)

        return {**descent.lower(len(images), loss), "distance": distances[0]}

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, float | np.ndarray]:
        """Embeddings float32 (B, E) of length 1, with `target` and `row`, to be put together."""
        found = self.embed(batch["pixels"])
        told = {name: batch[name].numpy() for name in ("target", "row")}
        return {"embeddings": found.float().cpu().numpy(), **told}

    def embed(self, pixels: UInt8[Tensor, "B S S 3"]) -> Float[Tensor, "B E"]:
        """As in use: with the mirror image's embedding added, where the card asks for it."""
        network = self.evaluated.eval()
        images = normalize(pixels, self.config.model.preprocess, self.device)
        found = network.embedder(images)
        if self.config.model.preprocess.flip_sum:
            found = found + network.embedder(images.flip(3))
        return F.normalize(found, dim=1)

    def summarize(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Of everything that `evaluate` gave: the loss, how well pairs are told apart, 0..1.

        `loss` is `judge` of the loss on batches of people drawn always alike, their mean, with its
        standard error; accuracy, eer and tar (at FAR 1 %) are over all pairs, see
        `vision_ops.metrics.pairs`. Neither depends on the order in which workers saw them.
        """
        order = np.argsort(sums["row"], kind="stable")
        embeddings, targets = sums["embeddings"][order], sums["target"][order]
        return {**self._judged(embeddings, targets), **verification(embeddings, targets)}

    @torch.no_grad()
    def _judged(
        self, embeddings: Float32[np.ndarray, "N E"], targets: Int64[np.ndarray, " N"]
    ) -> dict[str, float]:
        people = min(self.config.batch_people, len(np.unique(targets)))
        pictures = pictures_of(self.config.loss)
        count = max(1, len(targets) // (people * pictures))
        random = np.random.default_rng([self.config.seed, len(targets)])
        batches = draw_people(targets, people, pictures, count, random)
        loss = self.evaluated.loss.eval()
        losses = [
            loss.judge(  # pyright: ignore[reportCallIssue]
                torch.from_numpy(embeddings[chosen]).to(self.device),
                torch.from_numpy(targets[chosen]).to(self.device),
            ).item()
            for chosen in batches
        ]
        error = np.std(losses, ddof=1) / math.sqrt(count) if count > 1 else 0.0
        return {"loss": float(np.mean(losses)), "loss_error": float(error)}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; `torch.load(weights_only=True)` reads it."""
        return self.descent.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.descent.load_state_dict(state)

    def save(self, path: Path) -> None:
        """Write the embedder that `evaluate` evaluates with its card, and beside it its head.

        The head of a binary loss is <stem>.head.safetensors and names the checkpoint's sha256.
        """
        model, network = self.config.model, self.evaluated
        card = Card(
            network=model.network,
            classes=(),
            preprocess=model.preprocess,
            licence=model.licence,
            source=self.config.source,
            parent=sha256_file(model.weights) if model.weights else "",
            embedding_size=model.embedding_size,
        )
        save_checkpoint(path, network.embedder, card)
        if isinstance(network.loss, BinaryLoss):
            head = network.loss.head
            head.embedder = sha256_file(path)
            save_head(path.with_suffix(f".head{path.suffix}"), head, model.embedding_size)


def pictures_of(loss: FaceLossConfig) -> int:
    """K: pictures of each person in a batch that the loss is judged on."""
    return JUDGED_PICTURES if isinstance(loss, ArcFaceConfig) else loss.pictures_per_person


def check_start(card: Card, model: FaceModelConfig) -> None:
    """Raise ValueError where a checkpoint is of another network, or saw other pixel values."""
    if card.network != model.network:
        raise ValueError(f"model.network {model.network}: model.weights are of {card.network}")
    check_pixels(card, model.preprocess, model.weights, "model.preprocess")
    check_activation(card, "relu", model.weights)


def begin_as(card: Card, model: FaceModelConfig) -> FaceModelConfig:
    """The model of a checkpoint to start from, where none was named. Raises ValueError."""
    if not isinstance(card.preprocess, FacePreprocess):
        raise ValueError(
            f"model.weights {model.weights}: of no embedder of faces; to start from its features "
            f"say --model.network {card.network} and the pixels that it knows (--model.preprocess)"
        )
    return replace(
        model,
        network=card.network,
        embedding_size=card.embedding_size,
        preprocess=card.preprocess,
    )


def load_start(embedder: nn.Module, model: FaceModelConfig) -> None:
    """Copy a checkpoint's weights; the last layer, and what norms its numbers, only where it gives
    such an embedding.
    """
    found, card = load_checkpoint(model.weights, "cpu")
    check_start(card, model)
    state, own = found.state_dict(), embedder.state_dict()
    if card.classes or card.embedding_size != model.embedding_size:
        head = next(name for name, layer in embedder.named_modules() if layer is head_of(embedder))
        behind = dropwhile(lambda name: not name.startswith(f"{head}."), own)
        state |= {name: own[name] for name in behind}
    load_state(embedder, state, model.weights)
