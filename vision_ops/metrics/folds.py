"""Accuracy of verification over folds: View 2 of Labeled Faces in the Wild (Huang et al. 2007)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from vision_ops.metrics.scores import COSINE, ScoreGrid, at_or_above, count_into

FOLD_BITS = 15
"""thresholds are multiples of 2^-15 or of the grid's own step where that is wider"""


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """Accuracy on each fold, at the threshold that is best on the others."""

    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]
    num_pairs: tuple[int, ...]
    mean: float
    standard_error: float
    """sample standard deviation of the accuracies / sqrt(number of folds)"""
    balanced: bool


class FoldAccumulator:
    """Counts scores of pairs by fold; the order of updates is of no consequence."""

    def __init__(self, num_folds: int, grid: ScoreGrid = COSINE, *, balanced: bool = False) -> None:
        """`balanced`: genuine and impostor pairs weigh alike however many there are of each."""
        if num_folds < 2:
            raise ValueError(f"num_folds {num_folds}: a threshold is chosen on the other folds; 2")
        self.grid = grid.coarser(min(grid.step_bits, FOLD_BITS))
        self.balanced = balanced
        self.counts: Int64[np.ndarray, "F 2 V"] = np.zeros((num_folds, 2, self.grid.size), np.int64)

    def update(
        self, fold: int, scores: Float[np.ndarray, "*B"], same: Bool[np.ndarray, "*B"]
    ) -> None:
        """Add pairs of a fold: how alike (NEVER: not compared), whether they show one person."""
        indices = self.grid.index(scores)
        count_into(self.counts[fold, 0], indices[same])
        count_into(self.counts[fold, 1], indices[~same])

    def result(self, *, with_failures: bool = False) -> FoldResult:
        """The accuracies. ValueError for a fold that lacks what it is judged by."""
        counts = self.counts.copy()
        if not with_failures:
            counts[:, :, 0] = 0
        totals = counts.sum(axis=2)
        lacking = (totals == 0).any() if self.balanced else (totals.sum(axis=1) == 0).any()
        if lacking:
            raise ValueError(f"folds: pairs (genuine, impostor) by fold are {totals.tolist()}")
        accepted = at_or_above(counts)
        right = np.stack([accepted[:, 0], totals[:, 1, None] - accepted[:, 1]], axis=1)
        accuracies, thresholds = [], []
        for fold in range(len(counts)):
            others = np.arange(len(counts)) != fold
            score = self._accuracy(right[others].sum(axis=0), totals[others].sum(axis=0))
            best = np.flatnonzero(score[1:] == score[1:].max()) + 1  # 0 would accept NEVER
            index = int(best[len(best) // 2])  # amid scores that are all as good
            accuracies.append(float(self._accuracy(right[fold, :, index], totals[fold])))
            thresholds.append(float(self.grid.threshold(index)))
        return FoldResult(
            accuracies=tuple(accuracies),
            thresholds=tuple(thresholds),
            num_pairs=tuple(totals.sum(axis=1).tolist()),
            mean=float(np.mean(accuracies)),
            standard_error=float(np.std(accuracies, ddof=1) / np.sqrt(len(accuracies))),
            balanced=self.balanced,
        )

    def _accuracy(self, right: np.ndarray, totals: np.ndarray) -> np.ndarray:
        """Right decisions by all; (2, V) or (2,) genuine and impostor -> (V,) or ()."""
        if self.balanced:
            return (right[0] / totals[0] + right[1] / totals[1]) / 2
        return right.sum(axis=0) / totals.sum()
