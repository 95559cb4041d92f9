"""How good found boxes are, from rows that come in batches.

As in `vision_ops.metrics.classification`: sums are integers (IoU as multiples of 2**-32), so any
batching and any order of merging give the very same numbers.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

FIXED_POINT = 1 << 32
NUM_BINS = 20
HIT = 0.5
"""IoU above which a box is found (Russakovsky et al. 2015, sec. 4.1)"""


@dataclass(frozen=True, kw_only=True)
class BoxResult:
    """All numbers of a table of boxes."""

    num_rows: int
    mean_iou: float
    """0..1; NaN without rows"""
    above_half: float
    """share of rows of IoU > 0.5, 0..1; NaN without rows"""
    localisation_accuracy: float
    """share of rows with the right class and IoU > 0.5, 0..1, over those whose truth is a class;
    NaN where none is"""
    accuracy: float
    """share of those rows with the right class, wherever their box is, 0..1; NaN likewise"""
    histogram: Int64[np.ndarray, " N"]
    """rows by IoU, in NUM_BINS of equal width over 0..1"""
    support: Int64[np.ndarray, " K"]
    """rows by true class"""
    class_iou: Float64[np.ndarray, " K"]
    """mean IoU by true class; NaN where there is none"""
    class_above_half: Float64[np.ndarray, " K"]
    class_accuracy: Float64[np.ndarray, " K"]
    """right class and IoU > 0.5, by true class"""
    class_recall: Float64[np.ndarray, " K"]
    """right class, by true class"""


def iou(a: Float[np.ndarray, "*N 4"], b: Float[np.ndarray, "*N 4"]) -> Float64[np.ndarray, "*N"]:
    """Intersection over union of boxes (x0, y0, x1, y1), broadcast against each other, 0..1.

    0 where neither has an area, or edges are in the wrong order.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = (high - low).clip(min=0.0).prod(axis=-1)
    both = _area(a) + _area(b) - shared
    return np.divide(shared, both, out=np.zeros_like(shared), where=both > 0)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).clip(min=0.0).prod(axis=-1)


class BoxAccumulator:
    """Sums of IoU and counts of hits by true class; a last class for truths that are none."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.rows = np.zeros(num_classes + 1, np.int64)
        self.above = np.zeros(num_classes + 1, np.int64)
        self.right = np.zeros(num_classes + 1, np.int64)
        self.named = np.zeros(num_classes + 1, np.int64)
        self.histogram = np.zeros(NUM_BINS, np.int64)
        self.sums = [0] * (num_classes + 1)  # fixed point, Python integers: no overflow

    def update(
        self,
        truth: Int[np.ndarray, " B"],
        overlap: Float[np.ndarray, " B"],
        right_class: Bool[np.ndarray, " B"],
    ) -> None:
        """Add rows: true class index (-1: not one of them), IoU 0..1, whether the class is right.

        Raises ValueError for an index outside -1..K-1 and an IoU outside 0..1.
        """
        if len(truth) and not (truth.min() >= -1 and truth.max() < self.num_classes):
            raise ValueError(f"truth: {truth}, accepted: -1..{self.num_classes - 1}")
        if not ((overlap >= 0) & (overlap <= 1)).all():  # NaN fails too
            raise ValueError(f"overlap: {overlap}, accepted: 0..1")
        above = overlap > HIT
        np.add.at(self.rows, truth, 1)
        np.add.at(self.above, truth[above], 1)
        np.add.at(self.right, truth[above & right_class], 1)
        np.add.at(self.named, truth[right_class], 1)
        self.histogram += np.histogram(overlap, NUM_BINS, range=(0, 1))[0]
        fixed = np.zeros(self.num_classes + 1, np.int64)
        np.add.at(fixed, truth, np.rint(overlap * FIXED_POINT).astype(np.int64))
        self.sums = [a + int(b) for a, b in zip(self.sums, fixed, strict=True)]

    def merge(self, other: "BoxAccumulator") -> None:
        """Add another's rows. Raises ValueError where its classes are not as many."""
        if self.num_classes != other.num_classes:
            raise ValueError(f"merge: {other.num_classes} classes into {self.num_classes}")
        self.rows += other.rows
        self.above += other.above
        self.right += other.right
        self.named += other.named
        self.histogram += other.histogram
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]

    def result(self) -> BoxResult:
        """All numbers."""
        rows, known = int(self.rows.sum()), int(self.rows[:-1].sum())
        sums = np.array([value / FIXED_POINT for value in self.sums])
        return BoxResult(
            num_rows=rows,
            mean_iou=sum(self.sums) / FIXED_POINT / rows if rows else float("nan"),
            above_half=int(self.above.sum()) / rows if rows else float("nan"),
            localisation_accuracy=int(self.right[:-1].sum()) / known if known else float("nan"),
            accuracy=int(self.named[:-1].sum()) / known if known else float("nan"),
            histogram=self.histogram.copy(),
            support=self.rows[:-1].copy(),
            class_iou=_mean(sums[:-1], self.rows[:-1]),
            class_above_half=_mean(self.above[:-1], self.rows[:-1]),
            class_accuracy=_mean(self.right[:-1], self.rows[:-1]),
            class_recall=_mean(self.named[:-1], self.rows[:-1]),
        )


def _mean(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
