"""One-vs-rest ROC curves of a single-label classifier, exact in bounded memory.

A ROC curve depends on the scores only by their order, so it is enough to know how many positives
and negatives share each distinct float32 score. They are kept as sorted counts: equal scores cost
nothing, and two tables of counts merge into one whatever the order of the rows was. Beyond
`max_values` distinct scores the lowest mantissa bits are dropped, one at a time, until neighbours
merge enough; the result then says `exact=False` and how wrong each area can be at most.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Int64, UInt64

PENDING_VALUES = 1 << 20
"""scores gathered before they are sorted into the counts"""
SCORE_BITS = np.uint64(32)
SIGN = np.uint32(0x80000000)


@dataclass(frozen=True, kw_only=True)
class RocCurve:
    """One class against the rest; point 0 is (0, 0) with threshold +inf, as in scikit-learn."""

    false_positive_rate: Float64[np.ndarray, " P"]
    true_positive_rate: Float64[np.ndarray, " P"]
    thresholds: Float64[np.ndarray, " P"]
    """a row is called positive at a score >= threshold; falling"""

    def thin(self, num_points: int) -> "RocCurve":
        """The same curve in at most `num_points` + 2 points, evenly spread along its length."""
        fpr, tpr = self.false_positive_rate, self.true_positive_rate
        length = fpr + tpr  # both only grow: 0..2
        wanted = np.searchsorted(length, np.linspace(0, 2, num_points))
        kept = np.unique(np.concatenate([[0], wanted.clip(max=len(fpr) - 1), [len(fpr) - 1]]))
        return RocCurve(
            false_positive_rate=fpr[kept],
            true_positive_rate=tpr[kept],
            thresholds=self.thresholds[kept],
        )


@dataclass(frozen=True, kw_only=True)
class Roc:
    """All one-vs-rest curves of a table of scores."""

    curves: tuple[RocCurve | None, ...]
    """by class; None where the class has no positive or no negative rows"""
    auc: Float64[np.ndarray, " K"]
    """area under each curve, 0..1; NaN where there is no curve"""
    macro_auc: float
    """mean of the areas there are; NaN if there is none"""
    exact: bool
    """False: scores were rounded to save memory"""
    auc_error: Float64[np.ndarray, " K"]
    """largest possible error of each area by that rounding; 0 where exact"""


class RocAccumulator:
    """Counts scores per class; `update` in any batches and `merge` in any order give one result."""

    def __init__(self, num_classes: int, max_values: int = 10_000_000) -> None:
        """Holds at most `max_values` distinct scores over all classes.

        They take 16 bytes each, and up to 120 at the peak, while new ones are sorted in.
        """
        if max_values < num_classes:
            raise ValueError(
                f"max_values: {max_values}, must be at least the {num_classes} classes"
            )
        self.num_classes = num_classes
        self.max_values = max_values
        self.dropped_bits = 0
        self._all = _SortedCounts()
        self._positive = _SortedCounts()

    def update(self, truth: Int[np.ndarray, " B"], scores: Float[np.ndarray, "B K"]) -> None:
        """Add rows: the class index of each and its scores (float32; higher is more likely).

        Raises ValueError for a score that is not finite.
        """
        if not np.isfinite(scores).all():
            raise ValueError("scores: hold NaN or infinity; a ROC curve needs an order")
        keys = _keys(scores)
        self._all.add(keys.ravel())
        self._positive.add(keys[np.arange(len(truth)), truth])
        if self._all.num_pending >= max(PENDING_VALUES, len(self._all.keys) // 2):
            self._shrink()

    def merge(self, other: "RocAccumulator") -> None:
        """Add the rows of another accumulator of the same classes and limit."""
        if (other.num_classes, other.max_values) != (self.num_classes, self.max_values):
            raise ValueError(
                f"merge: {other.num_classes} classes and {other.max_values} values "
                f"into {self.num_classes} and {self.max_values}"
            )
        self._all.merge(other._all)
        self._positive.merge(other._positive)
        self._drop(max(self.dropped_bits, other.dropped_bits))
        self._shrink()

    def _drop(self, bits: int) -> None:
        """Round every score to `bits` fewer mantissa bits; once dropped they stay dropped."""
        self.dropped_bits = bits
        self._all.round(bits)
        self._positive.round(bits)

    def _shrink(self) -> None:
        # Rounding to b bits and then to b' < b equals rounding to b' at once, and a part never has
        # more distinct values than the whole: the bits left do not depend on the order of rows.
        self._drop(self.dropped_bits)
        while len(self._all.keys) > self.max_values and self.dropped_bits < 31:
            self._drop(self.dropped_bits + 1)

    def result(self, max_points: int = 0) -> Roc:
        """Curves and areas of the rows so far; curves thinned to about `max_points` (0: whole)."""
        self._shrink()
        keys, totals = self._all.keys, self._all.counts
        positives = np.zeros_like(totals)
        positives[np.searchsorted(keys, self._positive.keys)] = self._positive.counts
        starts = np.searchsorted(
            keys, np.arange(self.num_classes + 1, dtype=np.uint64) << SCORE_BITS
        )
        curves: list[RocCurve | None] = []
        auc, auc_error = np.full(self.num_classes, np.nan), np.zeros(self.num_classes)
        for k in range(self.num_classes):
            falling = slice(starts[k], starts[k + 1])
            hits = positives[falling][::-1]
            misses = totals[falling][::-1] - hits
            if not hits.sum() or not misses.sum():
                curves.append(None)
                continue
            curve = curve_of(hits, misses, _scores(keys[falling][::-1]))
            curves.append(curve.thin(max_points) if 0 < max_points < len(hits) else curve)
            auc[k] = area_under(hits, misses)
            if self.dropped_bits:  # rows of one rounded score might be in the best or worst order
                tied = float((hits.astype(np.float64) * misses).sum())
                auc_error[k] = tied / 2 / (float(hits.sum()) * float(misses.sum()))
        known = auc[~np.isnan(auc)]
        return Roc(
            curves=tuple(curves),
            auc=auc,
            macro_auc=float(known.mean()) if len(known) else float("nan"),
            exact=self.dropped_bits == 0,
            auc_error=auc_error,
        )


class _SortedCounts:
    """A multiset of 64-bit keys: sorted distinct keys, how often each, and those not sorted yet."""

    def __init__(self) -> None:
        self.keys: UInt64[np.ndarray, " V"] = np.empty(0, np.uint64)
        self.counts: Int64[np.ndarray, " V"] = np.empty(0, np.int64)
        self._pending: list[np.ndarray] = []
        self.num_pending = 0

    def add(self, keys: UInt64[np.ndarray, " N"]) -> None:
        self._pending.append(keys)
        self.num_pending += len(keys)

    def merge(self, other: "_SortedCounts") -> None:
        self._sort_in(other.keys, other.counts)
        for keys in other._pending:
            self.add(keys)

    def round(self, bits: int) -> None:
        """Sort in what is pending, then clear the lowest `bits` of every key."""
        mask = np.uint64(((1 << 64) - 1) ^ ((1 << bits) - 1))
        if self._pending:
            pending, self._pending, self.num_pending = self._pending, [], 0
            keys, counts = np.unique(np.concatenate(pending) & mask, return_counts=True)
            self._sort_in(keys, counts)
        if bits:
            self.keys, self.counts = _sum_equal(self.keys & mask, self.counts)

    def _sort_in(self, keys: np.ndarray, counts: np.ndarray) -> None:
        keys, counts = np.concatenate([self.keys, keys]), np.concatenate([self.counts, counts])
        order = np.argsort(keys, kind="stable")
        self.keys, self.counts = _sum_equal(keys[order], counts[order])


def _sum_equal(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys, each once, with the sum of its counts."""
    if not len(keys):
        return keys, counts
    first = np.concatenate([[True], keys[1:] != keys[:-1]])
    return keys[first], np.add.reduceat(counts, np.flatnonzero(first))


def _keys(scores: Float[np.ndarray, "B K"]) -> UInt64[np.ndarray, "B K"]:
    """Class in the high half, score in the low half, as an unsigned integer of the same order."""
    bits = np.ascontiguousarray(scores.astype(np.float32) + np.float32(0)).view(np.uint32)  # no -0
    ordered = np.where(bits & SIGN, ~bits, bits | SIGN).astype(np.uint64)
    return ordered | (np.arange(scores.shape[1], dtype=np.uint64) << SCORE_BITS)


def _scores(keys: UInt64[np.ndarray, " V"]) -> Float64[np.ndarray, " V"]:
    ordered = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    bits = np.where(ordered & SIGN, ordered ^ SIGN, ~ordered)
    return bits.view(np.float32).astype(np.float64)


def curve_of(hits: np.ndarray, misses: np.ndarray, scores: np.ndarray) -> RocCurve:
    """The curve of positives and negatives (int64 (V,)) at each distinct score, falling."""
    return RocCurve(
        false_positive_rate=np.concatenate([[0.0], np.cumsum(misses) / misses.sum()]),
        true_positive_rate=np.concatenate([[0.0], np.cumsum(hits) / hits.sum()]),
        thresholds=np.concatenate([[np.inf], scores]),
    )


def area_under(hits: np.ndarray, misses: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order, ties half (Mann-Whitney U)."""
    above = np.cumsum(hits) - hits  # positives with a higher score
    ordered = (misses * (above + hits / 2)).sum()
    return float(ordered) / (float(hits.sum()) * float(misses.sum()))
