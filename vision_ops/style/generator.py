"""Pictures made of pictures by a generator that learnt from pairs, in one pass each."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vision_ops.card import sha256_file
from vision_ops.checkpoint import load_checkpoint
from vision_ops.device import one_thread, pick_device
from vision_ops.models.unet import UNet
from vision_ops.precision.forward import open_forward
from vision_ops.style import Stylised
from vision_ops.style.gatys_config import TILE_PX
from vision_ops.style.maps import BANDS
from vision_ops.style.unet_bands import BandTranslator

Picture = UInt8[np.ndarray, "_ _ 3"]


class Translator:
    """A `Stylist` by a checkpoint of `unet:WIDTHxDEPTH`, as `jobs.train_translation` writes it.

    A picture keeps its size: its sides are filled up to multiples of 2^depth, mirrored, and what
    was filled up is cut off again. The network learnt from pictures of one size (its card's
    canvas): what is shown larger than there it takes for something else. Each picture is a pass of
    its own: the same bits whatever else is asked for. On a CPU it is compiled by OpenVINO where
    that can be had. Those of more than `tile_px` squared pixels are made in bands, in bounded
    memory (`BandTranslator`). So many threads as `callers` says may call it.
    """

    def __init__(self, checkpoint: str | Path, callers: int = 1, tile_px: int = TILE_PX) -> None:
        """Raises ValueError for a checkpoint of another network."""
        self.device = pick_device()
        network, card = load_checkpoint(checkpoint, self.device)
        if not isinstance(network, UNet):
            raise ValueError(
                f"weights {checkpoint}: {card.network} makes no pictures of pictures; "
                "`python -m jobs.train_translation` trains what does"
            )
        self.multiple = 2**network.depth
        """of which sides must be"""
        self.tile_px = tile_px
        self.in_bands = BandTranslator(network, tile_px**2 // BANDS)
        side = self.multiple
        example = torch.zeros((1, side, side, 3), dtype=torch.uint8, device=self.device)
        name = sha256_file(checkpoint)[:16]
        self.forward = open_forward(
            FromPixels(network).eval(), name, example, any_size=True, callers=callers
        )

    @torch.inference_mode()
    def __call__(self, contents: Sequence[Picture]) -> list[Stylised]:
        """See `Stylist`; losses are empty."""
        return [Stylised(self._translated(content), {}) for content in contents]

    def _translated(self, content: Picture) -> Picture:
        height, width = content.shape[:2]
        fill = ((0, -height % self.multiple), (0, -width % self.multiple), (0, 0))
        filled = torch.from_numpy(np.pad(content, fill, mode="symmetric")).to(self.device)
        if height * width > self.tile_px**2:
            with one_thread() if self.device.type == "cpu" else nullcontext():
                return self.in_bands(filled).cpu().numpy()[:height, :width]
        found = self.forward(filled[None])[0].cpu().numpy()
        return found[0, :height, :width].round().astype(np.uint8)


class FromPixels(nn.Module):
    """uint8 (B, H, W, 3), sRGB, sides multiples of 2^depth -> float (B, H, W, 3), 0..255."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: UInt8[Tensor, "B H W 3"]) -> tuple[Float[Tensor, "B H W 3"]]:
        images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return (((self.network(images) + 1) * 127.5).permute(0, 2, 3, 1),)
