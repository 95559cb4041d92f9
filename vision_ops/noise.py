"""Noise by number: what networks that make pictures from nothing are given.

Light on purpose: decoder processes import it and start without torch.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What such a network sees: so many normal numbers, the same for a seed and a number.

    What is decoded is the number alone: int64 (1,).
    """

    length: int = 100
    """100 as Radford et al. (2016)"""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"length {self.length}: must be at least 1")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a number."""
        return (1,)

    @property
    def dtype(self) -> np.dtype:
        """Of a number."""
        return np.dtype(np.int64)

    @property
    def num_channels(self) -> int:
        """Of the pictures that are made."""
        return 3

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Of the noise: (E,)."""
        return (self.length,)

    def describe(self) -> dict[str, str]:
        """What a person is told of it."""
        return {"input": f"{self.length} normal numbers, drawn from a seed and a picture's number"}


class DecodeNumber:
    """Decoder of decimal digits; picklable. Bad bytes never raise."""

    suffixes: tuple[str, ...] = ()

    def __init__(self, noise: Noise) -> None:
        self.shape = noise.shape
        self.dtype = noise.dtype
        self.extent: tuple[int, ...] = (1,)

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        """Write the number into out (1,); return "" or why it is not there."""
        if not data.isdigit():
            return f"no number: {data[:20]!r}"
        out[0] = int(data)
        return ""


def noise_of(
    numbers: Int64[np.ndarray, " B"], length: int, seed: int
) -> Float32[np.ndarray, "B E"]:
    """Normal numbers for each picture's number, each from a generator of its own."""
    rows = [
        np.random.default_rng([seed, number]).standard_normal(length, np.float32)
        for number in numbers.tolist()
    ]
    return np.stack(rows) if rows else np.zeros((0, length), np.float32)
