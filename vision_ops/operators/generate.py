"""Pictures of noise, by number. Light on purpose: drivers read what is asked for without torch."""

from dataclasses import dataclass

import numpy as np

from vision_ops.card import Card
from vision_ops.noise import noise_of

Batch = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Which network makes pictures, and by which seed."""

    weights: str = "runs/train_gan/checkpoints/best.safetensors"
    """checkpoint of a generator, as `jobs.train_gan` writes it"""
    seed: int = 0
    """of the noise: another seed, other pictures"""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"op.seed {self.seed}: must not be negative")


class Dreamer:
    """Make the picture of each number.

    reads   pixels      int64  (B, 1)   numbers of pictures, 0 or more
    adds    picture     list   (B,)     uint8 (S, S, 3), sRGB
            seed        int64  (B,)
            height_px   int32  (B,)
            width_px    int32  (B,)
    drops   pixels, extent

    Each picture is a pass of its own: the same bits (CPU) whatever else is asked for. So many
    threads as `callers` says may call it.
    """

    def __init__(self, config: GeneratorConfig, callers: int = 1) -> None:
        """Raises ValueError for a checkpoint of another network."""
        import torch  # actors pay, not drivers

        from vision_ops.card import sha256_file
        from vision_ops.checkpoint import load_checkpoint
        from vision_ops.device import pick_device
        from vision_ops.models.dcgan import AsPixels, DcganGenerator
        from vision_ops.precision.forward import open_forward

        self.config = config
        self.device = pick_device()
        network, card = load_checkpoint(config.weights, self.device)
        check_dreams(card, config.weights)
        assert isinstance(network, DcganGenerator)
        self.length = card.embedding_size
        self.as_tensor = torch.from_numpy
        self.forward = open_forward(
            AsPixels(network).eval(),
            sha256_file(config.weights)[:16],
            torch.zeros((1, self.length), device=self.device),
            callers=callers,
        )

    def __call__(self, batch: Batch) -> Batch:
        numbers = batch["pixels"][:, 0]
        pictures = np.empty(len(numbers), object)
        for place, noise in enumerate(noise_of(numbers, self.length, self.config.seed)):
            rows = self.as_tensor(noise[None]).to(self.device)
            found = self.forward(rows)[0].detach().cpu().numpy()[0]
            pictures[place] = found.round().astype(np.uint8)
        sizes = np.array([each.shape[:2] for each in pictures], np.int32).reshape(-1, 2)
        return {
            "picture": pictures,
            "seed": np.full(len(numbers), self.config.seed, np.int64),
            "height_px": sizes[:, 0],
            "width_px": sizes[:, 1],
        }


def check_dreams(card: Card, weights: str) -> None:
    """Raise ValueError where a checkpoint makes no pictures of noise."""
    if not card.is_dreamer:
        raise ValueError(
            f"weights {weights}: {card.network} makes no pictures of noise; "
            "`python -m jobs.train_gan` trains what does"
        )
