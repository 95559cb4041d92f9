"""Pairs of pictures that lie side by side in one file: what is given, and what is to come of it.

Light on purpose: decoder processes import it and start without torch.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from vision_ops.decode import DecodeConfig, UnreadableImageError, read_rgb
from vision_ops.decode.formats import IMAGE_SUFFIXES, too_much
from vision_ops.preprocess import MAX_SIZE_PX, RESAMPLING, Interpolation

Side = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class PairPreprocess:
    """How a file that holds two pictures of one size side by side becomes a source and a target.

    Each half is resized by itself, so that nothing of one bleeds into the other.
    """

    height_px: int = 64
    """height that the network sees"""
    width_px: int = 64
    """width that the network sees"""
    source: Side = "right"
    """the half that is given, right as in CMP Facades' label maps; the other one is to be made"""
    interpolation: Interpolation = "bilinear"
    """filter of the resize, antialiased as PIL's are (nearest apart)"""
    tolerance: float = 0.05
    """part by which the proportions of a half may differ from those that the network sees: it is
    squashed; beyond, the file is no pair"""

    def __post_init__(self) -> None:
        for name in ("height_px", "width_px"):
            if not 1 <= getattr(self, name) <= MAX_SIZE_PX:
                raise ValueError(f"{name} {getattr(self, name)}: must be 1..{MAX_SIZE_PX}")
        if not 0 <= self.tolerance < float("inf"):
            raise ValueError(f"tolerance {self.tolerance}: must be 0 or more")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a decoded pair: (2, H, W, 3), the source first."""
        return (2, self.height_px, self.width_px, 3)

    @property
    def dtype(self) -> np.dtype:
        """Of a decoded pair."""
        return np.dtype(np.uint8)

    @property
    def num_channels(self) -> int:
        """Of each picture."""
        return 3

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Of what a generator sees, channels first: (3, H, W)."""
        return (3, self.height_px, self.width_px)

    def describe(self) -> dict[str, str]:
        """What a person is told of it."""
        size = f"{self.height_px} x {self.width_px} (height x width)"
        return {"pixels": f"pairs side by side, {self.source} half given, each resized to {size}"}


class DecodePair:
    """Decoder of pairs, see `PairPreprocess`; picklable. Bad bytes never raise.

    What cannot be a pair is refused with the reason: an odd width, or halves of which the
    proportions are not those that the network sees.
    """

    def __init__(self, config: DecodeConfig, preprocess: PairPreprocess) -> None:
        self.config = config
        self.preprocess = preprocess
        self.shape = preprocess.shape
        self.dtype = preprocess.dtype
        self.suffixes = tuple(sorted(IMAGE_SUFFIXES))
        self.extent: tuple[int, ...] = ()
        """height and width of one half of the file decoded last"""

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        """Write uint8 sRGB source and target into out (2, H, W, 3); return "" or why not."""
        config = self.config
        try:
            if len(data) > config.max_megabytes * 1e6:
                raise UnreadableImageError(too_much(len(data), "megabytes", config.max_megabytes))
            whole = read_rgb(data, config.max_megapixels, config.apply_icc)
            halves = self._halves(whole)
        except UnreadableImageError as refusal:
            return str(refusal)
        except MemoryError:
            return "not enough memory for this picture"
        out[0], out[1] = halves if self.preprocess.source == "left" else halves[::-1]
        self.extent = (whole.height, whole.width // 2)
        return ""

    def _halves(self, whole: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        """Left and right, uint8 (H, W, 3) each."""
        height_px, width_px = self.preprocess.height_px, self.preprocess.width_px
        told = f"{whole.width} x {whole.height} px (width x height)"
        if whole.width % 2:
            raise UnreadableImageError(f"no pair of pictures side by side: {told}, an odd width")
        width = whole.width // 2
        off = width / whole.height / (width_px / height_px)
        if max(off, 1 / off) > 1 + self.preprocess.tolerance:
            raise UnreadableImageError(
                f"no pair of pictures side by side: {told}, halves of {width} x {whole.height} "
                f"where {width_px} x {height_px} are wanted, or others of these proportions "
                f"(tolerance {self.preprocess.tolerance:g})"
            )
        left, right = (
            whole.crop((first, 0, first + width, whole.height)).resize(
                (width_px, height_px), RESAMPLING[self.preprocess.interpolation]
            )
            for first in (0, width)
        )
        return np.asarray(left), np.asarray(right)
