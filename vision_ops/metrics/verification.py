"""How well scores tell pairs of one person from pairs of two: verification, 1:1.

A genuine pair shows one person, an impostor pair two; a pair is accepted at a score at or above
the threshold. FAR (false accept rate) is the share of impostor pairs that are accepted, TAR (true
accept rate) that of genuine ones, FNMR = 1 - TAR. Everything is counted on a grid of scores, see
`vision_ops.metrics.scores`: 15 million pairs take the memory of 15 thousand.

A pair of which one face was not found has the score NEVER. Results come without such pairs (the
errors of comparing) and with them (of the whole system: a genuine one is missed, an impostor
refused), as ISO/IEC 19795-1 tells matching from transaction errors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from vision_ops.metrics.roc import RocCurve, area_under, curve_of
from vision_ops.metrics.scores import (
    COSINE,
    ScoreGrid,
    at_or_above,
    count_into,
    lowest_index,
)

FALSE_ACCEPT_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What a threshold does that was chosen for a false accept rate."""

    target_far: float
    threshold: float
    """the smallest on the grid whose FAR is at most the target"""
    far: float
    """achieved, on these pairs"""
    tar: float
    num_impostors: int
    insufficient: bool
    """fewer than 1 / target impostor pairs: the data cannot say"""


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """The numbers of a set of pairs."""

    num_genuine: int
    num_impostor: int
    auc: float
    """share of (genuine, impostor) pairs in the right order, ties half; 0..1"""
    auc_error: float
    """the largest error of it by the grid"""
    eer: float
    """where FAR and FNMR are equal, on the line between the two nearest points of the curve"""
    eer_threshold: float
    points: tuple[OperatingPoint, ...]
    curve: RocCurve
    """thinned, evenly in the logarithm of FAR and in TAR"""


class VerificationAccumulator:
    """Counts scores of pairs; `update` in any pieces and `merge` in any order give one result."""

    def __init__(self, grid: ScoreGrid = COSINE) -> None:
        self.grid = grid
        self.genuine: Int64[np.ndarray, " V"] = np.zeros(grid.size, np.int64)
        self.impostor: Int64[np.ndarray, " V"] = np.zeros(grid.size, np.int64)

    def update(self, scores: Float[np.ndarray, "*B"], same: Bool[np.ndarray, "*B"]) -> None:
        """Add pairs: how alike, and whether they show one person. ValueError for NaN."""
        indices = self.grid.index(scores)
        count_into(self.genuine, indices[same])
        count_into(self.impostor, indices[~same])

    def merge(self, other: "VerificationAccumulator") -> None:
        """Add the pairs of another accumulator on the same grid."""
        if other.grid != self.grid:
            raise ValueError(f"merge: scores on {other.grid} into {self.grid}")
        self.genuine += other.genuine
        self.impostor += other.impostor

    @property
    def num_failed(self) -> tuple[int, int]:
        """Genuine and impostor pairs of which a face was not found."""
        return int(self.genuine[0]), int(self.impostor[0])

    def result(
        self,
        rates: Sequence[float] = FALSE_ACCEPT_RATES,
        *,
        with_failures: bool = False,
        max_points: int = 400,
    ) -> VerificationResult:
        """The numbers. ValueError where there are no genuine or no impostor pairs."""
        genuine, impostor = self.genuine, self.impostor
        if not with_failures:
            genuine, impostor = _without_failures(genuine), _without_failures(impostor)
        num_genuine, num_impostor = int(genuine.sum()), int(impostor.sum())
        if not num_genuine or not num_impostor:
            raise ValueError(
                f"pairs: {num_genuine:,} genuine and {num_impostor:,} impostor; wanted: both"
            )
        falling = np.flatnonzero(genuine + impostor)[::-1]
        hits, misses = genuine[falling], impostor[falling]
        curve = curve_of(hits, misses, self.grid.threshold(falling))
        eer, threshold = equal_error(curve)
        tied = float((hits.astype(np.float64) * misses)[falling > 0].sum())
        return VerificationResult(
            num_genuine=num_genuine,
            num_impostor=num_impostor,
            auc=area_under(hits, misses),
            auc_error=tied / 2 / (float(num_genuine) * num_impostor),
            eer=eer,
            eer_threshold=threshold,
            points=tuple(_points(self.grid, genuine, impostor, rates)),
            curve=thin(curve, max_points),
        )


def _without_failures(counts: Int64[np.ndarray, " V"]) -> Int64[np.ndarray, " V"]:
    kept = counts.copy()
    kept[0] = 0
    return kept


def _points(
    grid: ScoreGrid, genuine: np.ndarray, impostor: np.ndarray, rates: Sequence[float]
) -> Iterator[OperatingPoint]:
    accepted, false = at_or_above(genuine), at_or_above(impostor)
    for rate in rates:
        index = lowest_index(false, rate)
        inside = index < grid.size
        yield OperatingPoint(
            target_far=rate,
            threshold=float(grid.threshold(index)),
            far=float(false[index] / false[0]) if inside else 0.0,
            tar=float(accepted[index] / accepted[0]) if inside else 0.0,
            num_impostors=int(false[0]),
            insufficient=bool(false[0] * rate * (1 + 1e-12) < 1),
        )


def equal_error(curve: RocCurve) -> tuple[float, float]:
    """Rate 0..1 at which the curve's straight pieces meet FAR = FNMR, and the threshold there."""
    far, fnmr = curve.false_positive_rate, 1 - curve.true_positive_rate
    after = int(np.argmax(far - fnmr > -1e-12))  # from the first, (0, 1), to the last, (1, 0)
    before = after - 1
    gap, beyond = fnmr[before] - far[before], far[after] - fnmr[after]
    part = gap / (gap + beyond)
    rate = far[before] + part * (far[after] - far[before])
    return float(rate), float(curve.thresholds[after])


def thin(curve: RocCurve, max_points: int) -> RocCurve:
    """The curve in at most `max_points` points, half of them evenly in log FAR, half in TAR."""
    far, tar = curve.false_positive_rate, curve.true_positive_rate
    if len(far) <= max_points:
        return curve
    half = max_points // 2 - 1
    least = far[far > 0][0]
    by_far = np.searchsorted(far, np.geomspace(least, 1, half), side="right") - 1
    by_tar = np.searchsorted(tar, np.linspace(0, 1, half))
    kept = np.unique(np.concatenate([[0], by_far, by_tar, [len(far) - 1]]))
    return RocCurve(
        false_positive_rate=far[kept],
        true_positive_rate=tar[kept],
        thresholds=curve.thresholds[kept],
    )
