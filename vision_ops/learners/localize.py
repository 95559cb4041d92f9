"""Learning to say what is in a picture and where: class and one box."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from vision_ops.augment import AugmentConfig
from vision_ops.augment_boxes import augment_with_boxes, check_box_augment
from vision_ops.card import LOCALIZER, Card, check_activation, check_pixels, sha256_file
from vision_ops.checkpoint import load_checkpoint, load_state, save_checkpoint
from vision_ops.inputs import Inputs
from vision_ops.learners.descent import Descent, mean_loss
from vision_ops.learners.optimizer import OptimConfig, make_optimizer
from vision_ops.losses.boxes import box_loss
from vision_ops.metrics.boxes import HIT, iou
from vision_ops.models import build, embedding_size, in_fast_layout
from vision_ops.models.localizer import Localizer
from vision_ops.normalize import normalize
from vision_ops.preprocess import Preprocess


@dataclass(frozen=True, kw_only=True)
class LocalizerModelConfig:
    """Which network finds things, and what it begins with."""

    encoder: str = "residual"
    """a network of convolutions: residual, torchvision:NAME, timm:NAME or module:function"""
    weights: str = ""
    """checkpoint of that network, by name, whose features are begun with; empty: random ones"""
    encoder_rate: float = 1.0
    """learning rate of the encoder as a part of the heads'; 0: its weights stay (its batch norm's
    statistics do not)"""
    preprocess: Inputs = field(default_factory=lambda: Preprocess(resize_px=0))
    """how pictures become the network's input; a squash (resize_px 0) cuts off no box"""
    classes: tuple[str, ...] = ()
    """class names in the order of the logits; empty: those of the data, sorted"""
    licence: str = "unknown"
    """of the weights that come out: said in the checkpoint; unknown: that of `weights`"""

    def __post_init__(self) -> None:
        if not 0 <= self.encoder_rate <= 1:
            raise ValueError(f"model.encoder_rate {self.encoder_rate}: must be 0..1")
        if not self.weights and self.encoder_rate != 1:
            raise ValueError("model.encoder_rate: for an encoder that begins with --model.weights")
        if not isinstance(self.preprocess, Preprocess):
            raise ValueError("model.preprocess: boxes are of pictures")

    @property
    def network(self) -> str:
        """As the checkpoint will name it."""
        return f"{LOCALIZER}{self.encoder}"


@dataclass(frozen=True, kw_only=True)
class LocalizerLearnerConfig:
    """All that a learner is made of: the same config and batches give the same weights."""

    model: LocalizerModelConfig = field(default_factory=LocalizerModelConfig)
    """which network"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """how it learns"""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """how training pictures are varied"""
    classes: tuple[str, ...]
    """class names, in the order of the logits; one suffices"""
    num_steps: int
    """steps of the whole training, for the schedule"""
    seed: int = 0
    """of the first weights and of the augmentation"""
    num_passes: int = 1
    """pieces that a batch is gone through in: gradients are added up, memory is saved"""
    source: str = "trained from random weights"
    """said in the checkpoint: what it was trained on"""

    def __post_init__(self) -> None:
        check_box_augment(self.augment)
        if not self.classes:
            raise ValueError("classes: there is none")
        for name in ("num_steps", "num_passes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")


class LocalizerLearner:
    """A localizer in training.

    reads   pixels   uint8    (B, H, W, 3)  sRGB, 0..255
            target   int64    (B,)          index into the classes
            box      float32  (B, 4)        x0, y0, x1, y1 in parts of these pixels, 0..1

    It lowers cross-entropy + 5 * smooth L1 + 2 * (1 - GIoU), see `vision_ops.losses.boxes`.
    """

    def __init__(self, config: LocalizerLearnerConfig, device: torch.device | str = "cpu") -> None:
        """Raises ValueError where `model.weights` are of another network than the encoder."""
        self.config = config
        self.device = torch.device(device)
        model = config.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = build(model.network, len(config.classes))
        assert isinstance(network, Localizer)
        if model.weights:
            begin_with(network, model)
        in_fast_layout(network.to(self.device))
        self.descent = Descent(
            network,
            make_optimizers(network, config.optim, model.encoder_rate),
            config.optim,
            config.num_steps,
            seed=config.seed,
            num_passes=config.num_passes,
        )

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network that learns or is evaluated, by name."""
        return self.descent.networks

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Share gradients with other processes: forward passes of training go through `wrap`."""
        self.descent.distribute(wrap)

    def begin(self, sample: Callable[[int], Mapping[str, Tensor]]) -> None:
        """Nothing: no first weight depends on the data."""

    def reseed(self, seed: int, rank: int = 0, num_workers: int = 1) -> None:
        """Begin anew what the next step draws."""
        self.descent.reseed(seed, rank, num_workers)

    def step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """One gradient step; what it lowers (before it), the gradient's norm, and the rate used."""
        descent, config = self.descent, self.config
        pixels, boxes = augment_with_boxes(
            batch["pixels"].to(self.device), batch["box"].to(self.device), config.augment,
            descent.draws,
        )  # fmt: skip
        images = normalize(pixels, config.model.preprocess, self.device)
        target = batch["target"].to(self.device)

        def loss(piece: slice) -> Tensor:
            logits, found = descent.forward(images[piece])
            return F.cross_entropy(logits, target[piece]) + box_loss(found, boxes[piece]).mean()

        return descent.lower(len(images), loss)

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Sums over the batch, to be added up: loss and its square, hits, IoU, images.

        The loss is what a step lowers, without augmentation, in float64 from the network's
        outputs on. Boxes found are cut off at the picture's edges before IoU.
        """
        network = self.descent.evaluated.eval()
        images = normalize(batch["pixels"], self.config.model.preprocess, self.device)
        logits, found = network(images)
        target, boxes = batch["target"].to(self.device), batch["box"].to(self.device).double()
        loss = F.cross_entropy(logits.double(), target, reduction="none")
        loss = loss + box_loss(found.double(), boxes)
        right = (logits.argmax(dim=1) == target).cpu().numpy()
        overlap = iou(found.double().clamp(0, 1).cpu().numpy(), boxes.cpu().numpy())
        return {
            "loss": loss.sum().item(),
            "loss_squared": loss.square().sum().item(),
            "correct": float(right.sum()),
            "iou": float(overlap.sum()),
            "above_half": float((overlap > HIT).sum()),
            "localised": float(((overlap > HIT) & right).sum()),
            "count": float(len(target)),
        }

    @staticmethod
    def summarize(sums: Mapping[str, float]) -> dict[str, float]:
        """From the added sums of `evaluate`: means, the loss's standard error, shares 0..1.

        accuracy is of the class alone; localisation_accuracy wants an IoU above 0.5 too.
        """
        count = sums["count"]
        return {
            **mean_loss(sums),
            "accuracy": sums["correct"] / count,
            "iou": sums["iou"] / count,
            "above_half": sums["above_half"] / count,
            "localisation_accuracy": sums["localised"] / count,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; `torch.load(weights_only=True)` reads it."""
        return self.descent.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.descent.load_state_dict(state)

    def save(self, path: Path) -> None:
        """Write what `evaluate` evaluates as a checkpoint with its card."""
        config, network = self.config, self.descent.evaluated
        card = Card(
            network=config.model.network,
            classes=config.classes,
            preprocess=config.model.preprocess,
            licence=config.model.licence,
            source=config.source,
            parent=sha256_file(config.model.weights) if config.model.weights else "",
            embedding_size=embedding_size(network, config.model.preprocess.network_shape),
        )
        save_checkpoint(path, network, card)


def make_optimizers(network: Localizer, config: OptimConfig, encoder_rate: float) -> Optimizer:
    """One optimiser over heads and encoder, the latter at its part of the learning rate.

    An encoder at rate 0 takes no part: it has no gradients.
    """
    network.encoder.requires_grad_(encoder_rate > 0)
    optimizer = make_optimizer(nn.ModuleList([network.box_head, network.class_head]), config)
    if encoder_rate:
        slower = replace(config, learning_rate=config.learning_rate * encoder_rate)
        for group in make_optimizer(network.encoder, slower).param_groups:
            optimizer.add_param_group(group)
    return optimizer


def check_start(card: Card, model: LocalizerModelConfig) -> None:
    """Raise ValueError where a checkpoint is of another network or of other pixels."""
    if card.network != model.encoder:
        raise ValueError(
            f"model.weights {model.weights}: of {card.network}, --model.encoder is {model.encoder}"
        )
    assert isinstance(model.preprocess, Preprocess)
    check_pixels(card, model.preprocess, model.weights, "model.preprocess")
    check_activation(card, "relu", model.weights)


def begin_with(network: Localizer, model: LocalizerModelConfig) -> None:
    """Copy a classifier's weights into the encoder; the layers behind its map are left out."""
    classifier, card = load_checkpoint(model.weights, "cpu")
    check_start(card, model)
    given, encoder = classifier.state_dict(), network.encoder.network
    load_state(encoder, {name: given[name] for name in encoder.state_dict()}, model.weights)
