"""Whole pictures of any size and shape, in one corner of an array of one size.

Light on purpose: decoder processes import it and start without torch.
"""

from dataclasses import dataclass

import numpy as np

MAX_LONGEST_PX = 16_384


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """How a picture is brought to an operator that wants all of it, in its own proportions.

    It lies at the top left of (longest_px, longest_px, 3); what is beside it means nothing.
    """

    longest_px: int = 1024
    """longer side of a picture at the most: larger ones are reduced, none is enlarged"""

    def __post_init__(self) -> None:
        if not 1 <= self.longest_px <= MAX_LONGEST_PX:
            raise ValueError(f"longest_px {self.longest_px}: must be 1..{MAX_LONGEST_PX}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a decoded picture, with what is beside it."""
        return (self.longest_px, self.longest_px, 3)

    @property
    def dtype(self) -> np.dtype:
        """Of a decoded picture."""
        return np.dtype(np.uint8)

    @property
    def num_channels(self) -> int:
        """Of what is decoded."""
        return 3

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Channels first: (3, H, W)."""
        return (3, self.longest_px, self.longest_px)

    def describe(self) -> dict[str, str]:
        """What a person is told of it."""
        return {"pixels": f"whole pictures, longer side {self.longest_px} at the most"}

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width on the canvas of a picture of this size; at least 1."""
        scale = min(1.0, self.longest_px / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))
