"""Learning to name the class of a picture: network, loss, optimiser, schedule in one object."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_ops.augment import AugmentConfig, augment, mix
from vision_ops.card import Card, check_activation, check_pixels, check_size, sha256_file
from vision_ops.checkpoint import load_checkpoint, load_state, save_checkpoint
from vision_ops.clips import CLIP_NETWORKS, ClipPreprocess
from vision_ops.inputs import Inputs, kind_of_input
from vision_ops.learners.descent import Descent, mean_loss
from vision_ops.learners.optimizer import OptimConfig, make_optimizer
from vision_ops.models import (
    BeginsFromData,
    build,
    embedding_size,
    head_of,
    in_fast_layout,
    without_head,
)
from vision_ops.models.cnn_rnn import CnnRnn
from vision_ops.normalize import normalize
from vision_ops.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, and what it starts from."""

    network: str = "residual"
    """residual, resnet20, fast_cifar10, cnn_cifar10, cnn_224, convnet_1d (signals), convnet_2d,
    convnet_3d (volumes), torchvision:NAME, timm:NAME or module:function; for clips cnn_gru:,
    cnn_lstm: or cnn_mean: and one of these; empty: that of `weights`, with its activation and its
    preprocess"""
    activation: Literal["relu", "sigmoid", "tanh"] = "relu"
    """between the layers; networks of ours only"""
    preprocess: Inputs = field(default_factory=Preprocess)
    """how pictures become the network's input; goes into the checkpoint"""
    classes: tuple[str, ...] = ()
    """class names in the order of the logits; empty: those of the data, sorted"""
    licence: str = "unknown"
    """of the weights that come out: said in the checkpoint; unknown: that of `weights`"""
    dropout: float = 0.0
    """share of the last layer's inputs that are left out in training (Srivastava et al. 2014)"""
    weights: str = ""
    """checkpoint of such a network to start from: a path, s3://, torchvision: or timm: name; empty:
    random weights. Its last layer is kept where its classes are those that are learnt. A network of
    clips may also start from one of the network of its frames"""
    frozen: float = 0.0
    """first part of all steps, 0..1, in which the last layer alone learns; of clips all that stands
    behind the network of frames"""

    def __post_init__(self) -> None:
        if not self.network and not self.weights:
            raise ValueError("model.network: name one, or model.weights to start from")
        if not self.network and self.preprocess != Preprocess():
            raise ValueError(
                "model.preprocess: is that of model.weights where model.network is empty"
            )
        if not 0 <= self.frozen <= 1:
            raise ValueError(f"model.frozen {self.frozen}: must be 0..1")
        if self.frozen and not self.weights:
            raise ValueError("model.frozen: random weights would stay random; name model.weights")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout {self.dropout}: must be 0 or more, below 1")
        check_size(self.network, self.preprocess)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised."""

    kind: Literal["cross_entropy", "balanced_cross_entropy", "mse"] = "cross_entropy"
    """balanced: classes count as if all had as many pictures; mse: of the probabilities, averaged
    over classes, as Keras has it; evaluated is cross-entropy"""
    label_smoothing: float = 0.1
    """share of the target spread over all classes; in training only, not in evaluation"""
    class_weights: dict[str, float] = field(default_factory=dict)
    """what a picture of a class counts, by class name, those not named 1; in evaluation too"""

    def __post_init__(self) -> None:
        if self.class_weights and self.kind == "balanced_cross_entropy":
            raise ValueError(
                "loss.class_weights: balanced_cross_entropy weighs classes itself; "
                "take cross_entropy"
            )
        for name, weight in self.class_weights.items():
            if not 0 < weight < math.inf:
                raise ValueError(f"loss.class_weights {name} {weight}: must be above 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"loss.label_smoothing {self.label_smoothing}: must be 0 or more, below 1"
            )


@dataclass(frozen=True, kw_only=True)
class ClassifierLearnerConfig:
    """All that a learner is made of: the same config and batches give the same weights."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """which network"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """how it learns"""
    loss: LossConfig = field(default_factory=LossConfig)
    """what is minimised"""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """how training pictures are varied"""
    classes: tuple[str, ...]
    """class names, in the order of the logits"""
    counts: tuple[int, ...] = ()
    """pictures of each class to learn from; the balanced loss wants to know"""
    num_steps: int
    """steps of the whole training, for the schedule"""
    seed: int = 0
    """of the first weights and of the augmentation"""
    num_passes: int = 1
    """pieces that a batch is gone through in, of two pictures at least: gradients are added up,
    memory is saved"""
    source: str = "trained from random weights"
    """said in the checkpoint: what it was trained on"""

    def __post_init__(self) -> None:
        refuse_augment(self.model.preprocess, self.augment)
        if len(self.classes) < 2:
            raise ValueError(f"classes {self.classes}: a classifier needs at least two")
        if self.loss.kind == "balanced_cross_entropy" and (
            len(self.counts) != len(self.classes) or min(self.counts) < 1
        ):
            raise ValueError(f"counts {self.counts}: one above 0 for each of the classes")
        if unknown := sorted(self.loss.class_weights.keys() - set(self.classes)):
            raise ValueError(
                f"loss.class_weights {unknown[0]!r}: not a class; there are "
                + ", ".join(self.classes)
            )
        for name in ("num_steps", "num_passes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")

    @property
    def class_weights(self) -> tuple[float, ...]:
        """What a picture of each class counts in the loss; nothing where all count 1."""
        if self.loss.kind == "balanced_cross_entropy":
            return tuple(sum(self.counts) / (len(self.counts) * each) for each in self.counts)
        given = self.loss.class_weights
        return tuple(given.get(name, 1.0) for name in self.classes) if given else ()


def refuse_augment(preprocess: Inputs, config: AugmentConfig) -> None:
    """Raise ValueError where pictures are moved by more than they have, or what is made for
    pictures would change a signal or a volume.
    """
    if isinstance(preprocess, Preprocess | ClipPreprocess):
        least = min(preprocess.network_shape[-2:])
        if config.crop_pad_px >= least:
            raise ValueError(
                f"augment.crop_pad_px {config.crop_pad_px}: must be below the side of the "
                f"network's pictures, {least}"
            )
        return
    blank = asdict(AugmentConfig())
    if wanted := [name for name, value in asdict(config).items() if value != blank[name]]:
        raise ValueError(
            f"augment.{wanted[0]} {getattr(config, wanted[0])}: is for pictures; inputs of kind "
            f"{kind_of_input(preprocess)} are learnt from as they are (give it its default, "
            f"{blank[wanted[0]]})"
        )


class ClassifierLearner:
    """A classifier in training.

    reads   pixels   uint8  (B, H, W, 3)  sRGB, 0..255; clips (B, T, H, W, 3); or the shape and
                                          dtype of another kind of input
            target   int64  (B,)          index into the classes

    Batch norm's statistics and the dropout of a network are as in training during `step` and as in
    use during `evaluate`.
    """

    def __init__(self, config: ClassifierLearnerConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = config.model
            channels = model.preprocess.num_channels
            network = build(model.network, len(config.classes), model.activation, channels)
        if config.model.weights:
            load_start(network, config.model, config.classes)
        if config.model.dropout:
            head_of(network).register_forward_pre_hook(partial(drop, config.model.dropout))
        in_fast_layout(network.to(self.device))
        self.descent = Descent(
            network,
            make_optimizer(network, config.optim),
            config.optim,
            config.num_steps,
            seed=config.seed,
            num_passes=config.num_passes,
            head=network.behind_frames if isinstance(network, CnnRnn) else head_of(network),
            frozen=config.model.frozen,
        )
        self.class_weights = None
        if config.class_weights:
            self.class_weights = torch.tensor(config.class_weights, device=self.device)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network that learns or is evaluated, by name."""
        return self.descent.networks

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Share gradients with other processes: forward passes of training go through `wrap`."""
        self.descent.distribute(wrap)

    def begin(self, sample: Callable[[int], Mapping[str, Tensor]]) -> None:
        """Set what first weights depend on the data: once, before the first step.

        `sample` gives a batch of so many pictures, the same in every worker. Weights that were
        learnt before stay as they are.
        """
        network, average = self.descent.network, self.descent.average
        if isinstance(network, BeginsFromData) and not self.config.model.weights:
            pixels = sample(network.num_begin)["pixels"]
            network.begin(normalize(pixels, self.config.model.preprocess, self.device))
            if average is not None:
                average.load_state_dict(network.state_dict())

    def reseed(self, seed: int, rank: int = 0, num_workers: int = 1) -> None:
        """Begin anew what the next step draws."""
        self.descent.reseed(seed, rank, num_workers)

    def phases(self) -> Iterator[float]:
        """Parts of all steps, 0..1, in which a step costs alike; see `Descent.phases`."""
        return self.descent.phases()

    def step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """One gradient step; what it lowers (before it), the gradient's norm, and the rate used."""
        changes, descent = self.config.augment, self.descent
        pixels = batch["pixels"].to(self.device)
        if changes != AugmentConfig():
            pixels = augment(pixels, changes, descent.draws)
        images = normalize(pixels, self.config.model.preprocess, self.device)
        target = batch["target"].to(self.device)
        if changes.mixup or changes.cutmix:
            images, target = mix(images, target, len(self.config.classes), changes)
        return descent.lower(
            len(images), lambda piece: self._loss(descent.forward(images[piece]), target[piece])
        )

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """What a step minimises; target int64 (B,), or (B, K) of sum 1.

        A weight is that of the picture's own class, or classes, for the smoothed part of its target
        too: `F.cross_entropy` takes those of the others there, and few pictures of a class would
        pull all others to it. The mean is over the pictures, not over their weights: that of two
        workers is that of one.
        """
        smooth, weights = self.config.loss.label_smoothing, self.class_weights
        is_mse = self.config.loss.kind == "mse"
        if target.ndim == 1 and (is_mse or weights is not None):
            target = F.one_hot(target, logits.shape[1]).float()
        if is_mse:
            wanted = target * (1 - smooth) + smooth / logits.shape[1]
            losses = F.mse_loss(logits.softmax(dim=1), wanted, reduction="none").mean(dim=1)
            return (losses if weights is None else losses * (target @ weights)).mean()
        if weights is not None:
            target = target * weights
            spread = target.sum(dim=1, keepdim=True) / logits.shape[1]
            target, smooth = target * (1 - smooth) + smooth * spread, 0.0
        return F.cross_entropy(logits, target, label_smoothing=smooth, reduction="sum") / len(
            logits
        )

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Sums over the batch, to be added up: loss and its square, hits, images.

        The loss is cross-entropy without smoothing, by the classes' weights where they have some,
        in float64 from the logits on.
        """
        network = self.descent.evaluated.eval()
        logits = network(normalize(batch["pixels"], self.config.model.preprocess, self.device))
        target = batch["target"].to(self.device)
        loss = F.cross_entropy(logits.double(), target, reduction="none")
        if self.class_weights is not None:
            loss = loss * self.class_weights[target]
        correct = (logits.argmax(dim=1) == target).sum()
        return {
            "loss": loss.sum().item(),
            "loss_squared": loss.square().sum().item(),
            "correct": float(correct.item()),
            "count": float(len(target)),
        }

    @staticmethod
    def summarize(sums: Mapping[str, float]) -> dict[str, float]:
        """From the added sums of `evaluate`: mean loss and its standard error, accuracy 0..1."""
        return {**mean_loss(sums), "accuracy": sums["correct"] / sums["count"]}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; `torch.load(weights_only=True)` reads it."""
        return self.descent.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.descent.load_state_dict(state)

    def save(self, path: Path) -> None:
        """Write what `evaluate` evaluates as a checkpoint with its card."""
        config = self.config
        network = self.descent.evaluated
        card = Card(
            network=config.model.network,
            activation=config.model.activation,
            classes=config.classes,
            preprocess=config.model.preprocess,
            licence=config.model.licence,
            source=config.source,
            parent=sha256_file(config.model.weights) if config.model.weights else "",
            embedding_size=embedding_size(network, config.model.preprocess.network_shape),
        )
        save_checkpoint(path, network, card)


def check_start(card: Card, model: ModelConfig) -> None:
    """Raise ValueError where a checkpoint is neither of the network nor of that of its frames.

    Or where it learnt from other values, or with another function between its layers.
    """
    check_activation(card, model.activation, model.weights)
    family, _, encoder = model.network.partition(":")
    if card.network == model.network:
        if isinstance(model.preprocess, Preprocess):
            check_pixels(card, model.preprocess, model.weights, "model.preprocess")
        return
    if family not in CLIP_NETWORKS or card.network != encoder:
        raise ValueError(f"model.network {model.network}: model.weights are of {card.network}")
    assert isinstance(model.preprocess, ClipPreprocess)
    check_pixels(card, model.preprocess.frame, model.weights, "model.preprocess.frame")


def load_start(network: nn.Module, model: ModelConfig, classes: tuple[str, ...]) -> None:
    """Copy a checkpoint's weights into a network, the last layer only where its classes are those.

    Weights of the network of frames go there, without their last layer. Raises ValueError where
    they are of another network.
    """
    found, card = load_checkpoint(model.weights, "cpu")
    check_start(card, model)
    if isinstance(network, CnnRnn) and card.network != model.network:
        load_state(network.encoder, without_head(found)[0].state_dict(), model.weights)
        return
    state, own = found.state_dict(), network.state_dict()
    head = next(name for name, layer in network.named_modules() if layer is head_of(network))
    if card.classes != classes:
        state |= {name: value for name, value in own.items() if name.startswith(f"{head}.")}
    load_state(network, state, model.weights)


def drop(share: float, layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Hook: dropout before a layer, in training only; it leaves no trace in the weights."""
    return (F.dropout(inputs[0], share, layer.training),)
