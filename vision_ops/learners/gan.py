"""Learning to make pictures from noise (DCGAN, Radford et al. 2016)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vision_ops.augment import AugmentConfig, augment
from vision_ops.card import DCGAN, Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.learners.adversaries import Adversaries, as_images, refuse_pieces
from vision_ops.learners.optimizer import OptimConfig
from vision_ops.losses.adversarial import AdversarialConfig
from vision_ops.metrics.sliced import projected, sliced_distance
from vision_ops.models import build, in_fast_layout
from vision_ops.models.dcgan import SIZES_PX, DcganDiscriminator
from vision_ops.noise import Noise, noise_of
from vision_ops.preprocess import Preprocess

PARTS = 5


@dataclass(frozen=True, kw_only=True)
class GanModelConfig:
    """Which networks."""

    width: int = 32
    """channels at half the size of both; 64 in the tutorials, four times the work of 32"""
    noise: Noise = field(default_factory=Noise)
    """what a picture is made of"""
    preprocess: Preprocess = field(
        default_factory=lambda: Preprocess(height_px=32, width_px=32, resize_px=32)
    )
    """size of the pictures, square, and how those learnt from are brought to it"""
    licence: str = "unknown"
    """of the weights that come out: said in the checkpoint"""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"model.width {self.width}: must be at least 1")
        height_px, width_px = self.preprocess.height_px, self.preprocess.width_px
        if height_px != width_px or height_px not in SIZES_PX:
            raise ValueError(
                f"model.preprocess: {height_px} x {width_px} px (height x width); must be square, "
                f"of {', '.join(map(str, SIZES_PX))} px"
            )

    @property
    def network(self) -> str:
        """As the checkpoint will name it."""
        return f"{DCGAN}{self.width}x{self.preprocess.height_px}"


@dataclass(frozen=True, kw_only=True)
class GanLearnerConfig:
    """All that a learner is made of: the same config and batches give the same weights."""

    model: GanModelConfig = field(default_factory=GanModelConfig)
    """which networks"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """how both learn"""
    loss: AdversarialConfig = field(default_factory=AdversarialConfig)
    """what is minimised"""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """how training pictures are varied"""
    num_steps: int
    """steps of the whole training, for the schedule"""
    seed: int = 0
    """of the first weights, of the augmentation and of the noise"""
    num_passes: int = 1
    """1: see `refuse_pieces`"""
    source: str = "trained from random weights"
    """said in the checkpoint: what it was trained on"""

    def __post_init__(self) -> None:
        refuse_pieces(self.num_passes)
        if self.augment.mixup or self.augment.cutmix:
            raise ValueError("augment.mixup, augment.cutmix: there are no labels to mix")
        if self.num_steps < 1:
            raise ValueError(f"num_steps {self.num_steps}: must be at least 1")


class GanLearner:
    """A DCGAN in training.

    reads   pixels   uint8  (B, S, S, 3)  sRGB, 0..255
            row      int64  (B,)          numbers of noise, of which pictures are made beside them

    Batch norm is of a worker's part of a batch.
    """

    def __init__(self, config: GanLearnerConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        model = config.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            generator = build(model.network, model.noise.length)
            discriminator = DcganDiscriminator(model.width, model.preprocess.height_px)
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
        """One step of each network; see `Adversaries.step`."""
        draws = self.adversaries.draws
        pixels = augment(batch["pixels"].to(self.device), self.config.augment, draws)
        seeds = (draws.uniform(len(pixels), 1)[:, 0].double() * 2**24).long().numpy()
        noise = noise_of(seeds, self.config.model.noise.length, self.config.seed)
        return self.adversaries.step(torch.from_numpy(noise).to(self.device), as_images(pixels))

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Projections (B, K) of the pictures and of as many that are made, and `row`, to be put
        together."""
        network = self.adversaries.evaluated.eval()
        noise = noise_of(batch["row"].numpy(), self.config.model.noise.length, self.config.seed)
        made = network(torch.from_numpy(noise).to(self.device))
        real = as_images(batch["pixels"].to(self.device))
        row = batch["row"].numpy()
        return {"real": projected(real), "made": projected(made), "row": row}

    @staticmethod
    def summarize(sums: Mapping[str, Any]) -> dict[str, float]:
        """Of everything that `evaluate` gave: `sliced_distance` as the loss, and its standard error
        by the spread of those of PARTS parts (of fewer than two pictures each: 0).
        """
        order = np.argsort(sums["row"], kind="stable")
        real, made = sums["real"][order], sums["made"][order]
        found = {"loss": sliced_distance(real, made), "loss_error": 0.0}
        if len(order) >= 2 * PARTS:
            parts = [sliced_distance(real[k::PARTS], made[k::PARTS]) for k in range(PARTS)]
            found["loss_error"] = float(np.std(parts, ddof=1) / np.sqrt(PARTS))
        return found

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
            preprocess=model.noise,
            licence=model.licence,
            source=self.config.source,
            embedding_size=model.noise.length,
        )
        save_checkpoint(path, self.adversaries.evaluated, card)
