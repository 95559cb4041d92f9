"""Error against quality discard: what is gained by leaving the worst pictures out."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from vision_ops.metrics.scores import count_into

NUM_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class DiscardCurve:
    """FNMR of what is left, by how much was discarded; falls where quality tells errors."""

    discarded: Float64[np.ndarray, " Q"]
    """share of genuine pairs left out, 0 first; rising"""
    fnmr: Float64[np.ndarray, " Q"]
    """share of those left whose score is below the threshold"""
    quality: Float64[np.ndarray, " Q"]
    """pairs of which one face is below are left out"""
    num_pairs: int
    num_errors: int
    """genuine pairs, and those missed, with nothing discarded"""

    def at(self, share: float) -> float:
        """FNMR with at most `share` of the pairs discarded."""
        return float(self.fnmr[np.searchsorted(self.discarded, share, side="right") - 1])


class DiscardAccumulator:
    """Counts genuine pairs by the lower quality of their two faces (Grother & Tabassi 2007).

    The threshold is that of the wanted FAR with nothing discarded, and stays. Quality is cut in a
    thousand steps; each point of the curve is exact for its step.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.pairs: Int64[np.ndarray, " Q"] = np.zeros(NUM_STEPS + 1, np.int64)
        self.errors: Int64[np.ndarray, " Q"] = np.zeros(NUM_STEPS + 1, np.int64)

    def update(self, scores: Float[np.ndarray, " B"], quality: Float[np.ndarray, " B"]) -> None:
        """Add genuine pairs: how alike, and the lower quality of the two faces, 0..1."""
        if not (np.isfinite(quality).all() and (quality >= 0).all() and (quality <= 1).all()):
            raise ValueError("quality: not all within 0..1")
        steps = np.floor(quality.astype(np.float64) * NUM_STEPS).astype(np.int64)
        count_into(self.pairs, steps)
        count_into(self.errors, steps[scores < self.threshold])

    def result(self) -> DiscardCurve:
        """The curve. ValueError where there are no pairs."""
        total = int(self.pairs.sum())
        if not total:
            raise ValueError("discard: no genuine pairs")
        first = np.flatnonzero(self.pairs)  # cutting elsewhere leaves out nothing more
        left = np.cumsum(self.pairs[::-1])[::-1][first]
        errors = np.cumsum(self.errors[::-1])[::-1][first]
        return DiscardCurve(
            discarded=1 - left / total,
            fnmr=errors / left,
            quality=first / NUM_STEPS,
            num_pairs=total,
            num_errors=int(self.errors.sum()),
        )
