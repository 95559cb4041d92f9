"""Learning to make pictures of pictures from pairs (pix2pix, Isola et al. 2017)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.augment_pairs import PairAugmentConfig, augment_pairs
from vision_ops.canvas import Canvas
from vision_ops.card import UNET, Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.learners.adversaries import Adversaries, as_images, refuse_pieces
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.losses.adversarial import AdversarialConfig
from vision_ops.metrics.sliced import projected_patches, texture_distance
from vision_ops.models import build, in_fast_layout
from vision_ops.models.patch_gan import PatchDiscriminator, least_side
from vision_ops.models.unet import usual_depth
from vision_ops.pairs import PairPreprocess

EVALUATED_AT_ONCE = 16
PARTS = 5


@dataclass(frozen=True, kw_only=True)
class TranslationModelConfig:
    """Which networks."""

    width: int = 32
    """channels of the outermost layers of both; 64 in the paper, four times the work of 32"""
    discriminator_halvings: int = 3
    """3: patches of 70 px are judged, 2: of 34, 1: of 16, 5: of 286"""
    dropout: float = 0.5
    """of the generator's inner layers, while it learns: its only noise"""
    preprocess: PairPreprocess = field(default_factory=PairPreprocess)
    """size at which pairs are learnt, which half is given; as often as it can be halved the
    generator does, 8 times at the most"""
    licence: str = "unknown"
    """of the weights that come out: said in the checkpoint"""

    def __post_init__(self) -> None:
        for name in ("width", "discriminator_halvings"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} {getattr(self, name)}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout {self.dropout}: must be 0 or more, below 1")
        size = (self.preprocess.height_px, self.preprocess.width_px)
        usual_depth(*size)
        if min(size) < least_side(self.discriminator_halvings):
            raise ValueError(
                f"model.discriminator_halvings {self.discriminator_halvings}: needs "
                f"{least_side(self.discriminator_halvings)} px a side, pictures have {min(size)}"
            )

    @property
    def network(self) -> str:
        """As the checkpoint will name it."""
        depth = usual_depth(self.preprocess.height_px, self.preprocess.width_px)
        return f"{UNET}{self.width}x{depth}"


@dataclass(frozen=True, kw_only=True)
class TranslationLossConfig(AdversarialConfig):
    """What the generator lowers: the adversarial loss + l1_weight * L1."""

    l1_weight: float = 100.0
    """of the mean absolute difference from the target, of values -1..1 (eq. 4); 0: none"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.l1_weight < float("inf"):
            raise ValueError(f"loss.l1_weight {self.l1_weight}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class TranslationLearnerConfig:
    """All that a learner is made of: the same config and batches give the same weights."""

    model: TranslationModelConfig = field(default_factory=TranslationModelConfig)
    """which networks"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """how both learn"""
    loss: TranslationLossConfig = field(default_factory=TranslationLossConfig)
    """what is minimised"""
    augment: PairAugmentConfig = field(default_factory=PairAugmentConfig)
    """how training pairs are varied"""
    num_steps: int
    """steps of the whole training, for the schedule"""
    seed: int = 0
    """of the first weights, of the augmentation and of dropout"""
    num_passes: int = 1
    """1: see `refuse_pieces`"""
    source: str = "trained from random weights"
    """said in the checkpoint: what it was trained on"""

    def __post_init__(self) -> None:
        refuse_pieces(self.num_passes)
        if self.num_steps < 1:
            raise ValueError(f"num_steps {self.num_steps}: must be at least 1")


class TranslationLearner:
    """A U-Net and a PatchGAN in training.

    reads   pixels   uint8  (B, 2, H, W, 3)  sRGB, 0..255: sources and targets
            row      int64  (B,)             numbers of the pairs, by which evaluations are ordered

    Both networks' norms are of each picture by itself: no loss depends on what else is in a batch,
    and several workers learn as one, but that each draws its own dropout.
    """

    def __init__(
        self, config: TranslationLearnerConfig, device: torch.device | str = "cpu"
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        model = config.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            generator = build(model.network, 0)
            discriminator = PatchDiscriminator(model.width, model.discriminator_halvings)
        for layer in generator.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = model.dropout
        self.adversaries = Adversaries(
            in_fast_layout(generator.to(self.device)),
            in_fast_layout(discriminator.to(self.device)),
            config.optim,
            config.loss,
            config.num_steps,
            seed=config.seed,
        )

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network that learns or is evaluated, by name."""
        return self.adversaries.networks

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Share gradients with other processes: forward passes of training go through `wrap`."""
        self.adversaries.distribute(wrap)

    def begin(self, sample: Callable[[int], Mapping[str, Tensor]]) -> None:
        """Nothing: no first weight depends on the data."""

    def reseed(self, seed: int, rank: int = 0, num_workers: int = 1) -> None:
        """Begin anew what the next step draws."""
        self.adversaries.reseed(seed, rank, num_workers)

    def step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """One step of each network; see `Adversaries.step`, and `l1` of values -1..1 before it."""
        pixels = batch["pixels"].to(self.device)
        pixels = augment_pairs(pixels, self.config.augment, self.adversaries.draws)
        given, real = as_images(pixels[:, 0]), as_images(pixels[:, 1])
        distances: list[Tensor] = []

        def off(made: Tensor) -> Tensor:
            distances.append((made - real).abs().mean())
            return self.config.loss.l1_weight * distances[0]

        found = self.adversaries.step(
            given, real, shown=lambda pictures: torch.cat([given, pictures], dim=1), beside=off
        )
        return {**found, "l1": distances[0].item()}

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Of each pair, to be put together: `row`, its L1, and projections of the patches of what
        is made and of the target.

        L1 is the mean absolute difference from the target in parts of the range of values, 0..1.
        """
        network = self.adversaries.evaluated.eval()
        found: dict[str, list[np.ndarray]] = {"row": [batch["row"].numpy()]}
        for first in range(0, len(batch["pixels"]), EVALUATED_AT_ONCE):
            pixels = batch["pixels"][first : first + EVALUATED_AT_ONCE].to(self.device)
            real = as_images(pixels[:, 1])
            for name, values in compared(network(as_images(pixels[:, 0])), real).items():
                found.setdefault(name, []).append(values)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    @staticmethod
    def summarize(sums: Mapping[str, Any]) -> dict[str, float]:
        """Of everything that `evaluate` gave: mean L1 as `difference`, `texture_distance` of all as
        `texture`, their sum as the loss, and its standard error by the spread of those of PARTS
        parts (of fewer than two pairs each: 0).

        L1 alone is lowest where a picture is the mean of all that might be wanted, which is
        blurred: it would choose a generator that its discriminator has taught nothing yet. Textures
        alone do not see what is where.
        """
        order = np.argsort(sums["row"], kind="stable")
        off, made, real = (sums[name][order] for name in ("off", "made", "real"))
        difference, texture = float(off.mean(dtype=np.float64)), texture_distance(made, real)
        error = 0.0
        if len(order) >= 2 * PARTS:
            parts = [slice(first, None, PARTS) for first in range(PARTS)]
            sums_of = [off[p].mean() + texture_distance(made[p], real[p]) for p in parts]
            error = float(np.std(sums_of, ddof=1) / np.sqrt(PARTS))
        return {
            "loss": difference + texture,
            "loss_error": error,
            "difference": difference,
            "texture": texture,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; `torch.load(weights_only=True)` reads it."""
        return self.adversaries.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.adversaries.load_state_dict(state)

    def save(self, path: Path) -> None:
        """Write the generator that `evaluate` evaluates as a checkpoint with its card."""
        model = self.config.model
        card = Card(
            network=model.network,
            classes=(),
            preprocess=Canvas(
                longest_px=max(model.preprocess.height_px, model.preprocess.width_px)
            ),
            licence=model.licence,
            source=self.config.source,
            embedding_size=0,
        )
        save_checkpoint(path, self.adversaries.evaluated, card)


def compared(
    made: Float[Tensor, "B 3 H W"], real: Float[Tensor, "B 3 H W"]
) -> dict[str, np.ndarray]:
    """What `TranslationLearner.evaluate` keeps of pictures (-1..1) beside their targets."""
    off = (made.float() - real).abs().flatten(1).mean(dim=1) / 2
    return {
        "off": off.cpu().numpy(),
        "made": projected_patches(made),
        "real": projected_patches(real),
    }
