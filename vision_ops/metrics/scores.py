"""Scores of comparisons, counted on a fine grid: any number of them in the memory of the grid.

Every threshold that is ever chosen lies on the grid, and a score counts in the step at or below
which it lies; so `score >= threshold` is decided on the counts exactly as on the scores
themselves, and every rate at a threshold is exact. What the grid costs is the choice of
thresholds alone: they are multiples of the step, 2^-20 for cosines, which is less than float32
embeddings of a few hundred numbers can tell.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

NEVER = float("-inf")
"""the score of a comparison that could not be made: below every threshold"""


@dataclass(frozen=True, kw_only=True)
class ScoreGrid:
    """Equal steps from `low` to `high`; index 0 stands for NEVER, index 1 begins at `low`.

    Scores outside are counted in the first or last step. `low` and `high` must be whole steps.
    """

    low: float = -1.0
    high: float = 1.0
    step_bits: int = 20
    """the step is 2^-step_bits: in float32, too, scores are put into steps without rounding"""

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            if not (getattr(self, name) / self.step).is_integer():
                raise ValueError(f"{name} {getattr(self, name)}: not a multiple of {self.step}")
        if not self.low < self.high:
            raise ValueError(f"low {self.low}: must be below high {self.high}")

    @property
    def step(self) -> float:
        """Width of a step."""
        return 2.0**-self.step_bits

    @property
    def size(self) -> int:
        """Number of indices: NEVER, the steps, and one that begins at `high`."""
        return round((self.high - self.low) / self.step) + 2

    def index(self, scores: Float[np.ndarray, "*B"]) -> Int64[np.ndarray, "*B"]:
        """Index 0..size - 1 of each score. Raises ValueError for NaN and +infinity."""
        if np.isnan(scores).any() or np.isposinf(scores).any():
            raise ValueError("scores: hold NaN or infinity; a threshold needs an order")
        scaled = scores * scores.dtype.type(2.0**self.step_bits)  # exact: a power of two
        bounds = (self.low / self.step, self.high / self.step)
        steps = np.floor(scaled).clip(*bounds).astype(np.int64)
        return np.where(np.isneginf(scores), 0, steps - round(bounds[0]) + 1)

    def threshold(self, index: Int64[np.ndarray, "*B"] | int) -> Float64[np.ndarray, "*B"]:
        """The lowest score of an index 1..size; that of `size` is above all that are counted."""
        return self.low + (np.asarray(index, np.float64) - 1) * self.step

    def coarser(self, step_bits: int) -> "ScoreGrid":
        """The same range in steps of 2^-step_bits."""
        return ScoreGrid(low=self.low, high=self.high, step_bits=step_bits)


COSINE = ScoreGrid()
"""of cosine similarities: 2,097,154 indices, 16.8 MB of counts"""


def count_into(counts: Int64[np.ndarray, " V"], indices: Int64[np.ndarray, "*B"]) -> None:
    """Add 1 at each index, in place."""
    if indices.size * 8 < len(counts):
        np.add.at(counts, indices.ravel(), 1)
    else:
        counts += np.bincount(indices.ravel(), minlength=len(counts))


def at_or_above(counts: Int64[np.ndarray, "... V"]) -> Int64[np.ndarray, "... V"]:
    """How many lie at or above each index."""
    return np.flip(np.cumsum(np.flip(counts, -1), -1), -1)


def lowest_index(above: Int64[np.ndarray, " V"], share: float) -> int:
    """The smallest index from 1 on at or above which at most `share` of all lie.

    above   int64 (V,)  `at_or_above` of the counts, falling; above[0] is all of them
    """
    allowed = int(share * above[0] * (1 + 1e-12))  # 0.1 * 30 is 3
    return max(1, len(above) - int(np.searchsorted(above[::-1], allowed, side="right")))
