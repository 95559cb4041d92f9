"""Less of a style, where the method itself has no way to it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vision_ops.style import Stylised, Stylist


class Faded:
    """A `Stylist` whose pictures are mixed with what they were made of, pixel by pixel.

    `strength` 0..1 is the share of what `stylist` makes, the rest is the content: 0 gives that. A
    mixture of sRGB values; losses are those of the unmixed pictures.
    """

    def __init__(self, stylist: Stylist, strength: float) -> None:
        self.stylist = stylist
        self.strength = np.float32(strength)

    def __call__(self, contents: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Stylised]:
        """See `Stylist`."""
        made = self.stylist(contents)
        return [
            Stylised(self._mixed(content, each.pixels), each.losses)
            for content, each in zip(contents, made, strict=True)
        ]

    def _mixed(
        self, content: UInt8[np.ndarray, "H W 3"], made: UInt8[np.ndarray, "H W 3"]
    ) -> UInt8[np.ndarray, "H W 3"]:
        values = content + self.strength * (made.astype(np.float32) - content)
        return values.round().astype(np.uint8)
