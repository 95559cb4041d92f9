"""Style transfer: what every method of it gives. Light on purpose: configurations name methods
without torch.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


class Stylised(NamedTuple):
    """A picture in a style."""

    pixels: UInt8[np.ndarray, "H W 3"]
    """sRGB 0..255"""
    losses: Mapping[str, float]
    """content, style, total (and total_at_start) where the method has them; else empty"""


@runtime_checkable
class Stylist(Protocol):
    """A method of style transfer that has its network and its styles."""

    def __call__(self, contents: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Stylised]:
        """Pictures, sRGB 0..255, of any sizes (each side >= 16 px), each as one of the same size.

        Bit for bit the same (CPU) whichever pictures come in one call; for a seed the same each
        time. Not called by several threads.
        """
        ...


@runtime_checkable
class Follower(Protocol):
    """A `Stylist` that can begin with another picture than the content."""

    def follow(
        self, content: UInt8[np.ndarray, "H W 3"], before: UInt8[np.ndarray, "H W 3"] | None
    ) -> Stylised:
        """A picture of one frame, beginning with what was made of the frame before it.

        None: there is none, and it is as `Stylist` makes it.
        """
        ...
