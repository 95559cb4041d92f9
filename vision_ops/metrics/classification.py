"""How good single-label predictions are, from rows that come in batches.

Every accumulator has `update(batch)`, `merge(other)` and `result()`. Sums are kept in integers
(probabilities as multiples of 2**-32), so any batching and any order of merging give the very same
numbers; they equal scikit-learn's to 1e-6. Memory is O(K^2) and, for ROC curves, `max_values`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from vision_ops.metrics.roc import Roc, RocAccumulator

FIXED_POINT = 1 << 32
EPSILON = float(np.finfo(np.float32).eps)
"""smallest probability of a logarithm, as scikit-learn takes for float32"""


@dataclass(frozen=True, kw_only=True)
class Averages:
    """One way to put the classes together."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class PerClass:
    """By class index; 0 where there is nothing to divide by (scikit-learn's zero_division)."""

    precision: Float64[np.ndarray, " K"]
    """right among the rows given this label, 0..1"""
    recall: Float64[np.ndarray, " K"]
    """right among the rows of this class, 0..1"""
    f1: Float64[np.ndarray, " K"]
    """harmonic mean of the two, 0..1"""
    support: Int64[np.ndarray, " K"]
    """rows of this class"""
    predicted: Int64[np.ndarray, " K"]
    """rows given this label"""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far confidence is from the share of right answers, in equal bins of confidence.

    Bin m of M holds (m / M, (m + 1) / M], as in Guo et al. 2017, eq. 3; bin 0 also holds 0.
    """

    edges: Float64[np.ndarray, " M+1"]
    counts: Int64[np.ndarray, " M"]
    confidence: Float64[np.ndarray, " M"]
    """mean confidence of a bin; NaN where it is empty"""
    accuracy: Float64[np.ndarray, " M"]
    """share of right answers of a bin; NaN where it is empty"""
    error: float
    """expected calibration error: mean |accuracy - confidence| over the rows, 0..1"""


@dataclass(frozen=True, kw_only=True)
class ClassificationResult:
    """All numbers of a table of predictions."""

    num_rows: int
    accuracy: float
    """share of rows whose label is the truth, 0..1; NaN without rows"""
    top_k_accuracy: float | None
    """share of rows whose truth is among the first k labels; None: rows hold fewer than k"""
    averages: dict[str, Averages]
    """macro (mean of classes), micro (all rows alike), weighted (by support); over the classes that
    are a truth or a label of some row"""
    per_class: PerClass
    confusion: Int64[np.ndarray, "K K"]
    """rows by truth (first axis) and label"""
    calibration: Calibration
    log_loss: float | None
    """mean -ln(probability of the truth), nats; None: rows do not hold every class"""
    roc: Roc | None
    """one-vs-rest curves; None: rows do not hold every class"""


class Confusion:
    """Counts rows by truth and label."""

    def __init__(self, num_classes: int) -> None:
        self.matrix: Int64[np.ndarray, "K K"] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, truth: Int[np.ndarray, " B"], label: Int[np.ndarray, " B"]) -> None:
        """Add rows by class index."""
        np.add.at(self.matrix, (truth, label), 1)

    def merge(self, other: "Confusion") -> None:
        """Add another's rows."""
        self.matrix += other.matrix

    def per_class(self) -> PerClass:
        """Precision, recall and F1 of every class."""
        right, support = np.diagonal(self.matrix), self.matrix.sum(axis=1)
        predicted = self.matrix.sum(axis=0)
        return PerClass(
            precision=_quotient(right, predicted),
            recall=_quotient(right, support),
            f1=_quotient(2 * right, support + predicted),
            support=support,
            predicted=predicted,
        )

    def averages(self) -> dict[str, Averages]:
        """Macro, micro and weighted averages over the classes that occur."""
        per_class = self.per_class()
        occurs = (per_class.support + per_class.predicted) > 0
        accuracy = self.accuracy()
        return {
            "macro": _average(per_class, occurs.astype(np.float64)),
            "micro": Averages(precision=accuracy, recall=accuracy, f1=accuracy),
            "weighted": _average(per_class, per_class.support.astype(np.float64)),
        }

    def accuracy(self) -> float:
        """Share of right rows; NaN without rows."""
        total = int(self.matrix.sum())
        return int(np.trace(self.matrix)) / total if total else float("nan")


class CalibrationAccumulator:
    """Counts rows and sums confidence by bin of confidence."""

    def __init__(self, num_bins: int = 15) -> None:
        self.counts = np.zeros(num_bins, np.int64)
        self.right = np.zeros(num_bins, np.int64)
        self.confidence = [0] * num_bins  # fixed point, Python integers: no overflow

    def update(self, confidence: Float[np.ndarray, " B"], right: np.ndarray) -> None:
        """Add rows: confidence 0..1 of each label, and whether it is the truth (bool).

        Raises ValueError for a confidence outside 0..1.
        """
        values = confidence.astype(np.float64)
        _check_probabilities("confidence", values)
        num_bins = len(self.counts)
        bins = (np.ceil(values * num_bins).astype(np.int64) - 1).clip(0, num_bins - 1)
        self.counts += np.bincount(bins, minlength=num_bins)
        self.right += np.bincount(bins[right], minlength=num_bins)
        fixed = np.zeros(num_bins, np.int64)
        np.add.at(fixed, bins, _fixed_point(values))
        self.confidence = [a + int(b) for a, b in zip(self.confidence, fixed, strict=True)]

    def merge(self, other: "CalibrationAccumulator") -> None:
        """Add another's rows."""
        self.counts += other.counts
        self.right += other.right
        self.confidence = [a + b for a, b in zip(self.confidence, other.confidence, strict=True)]

    def result(self) -> Calibration:
        """Bins of a reliability diagram, and the expected calibration error."""
        filled, num_rows = self.counts > 0, int(self.counts.sum())
        total = np.array([value / FIXED_POINT for value in self.confidence])
        confidence, accuracy = (np.full(len(total), np.nan) for _ in range(2))
        confidence[filled] = total[filled] / self.counts[filled]
        accuracy[filled] = self.right[filled] / self.counts[filled]
        gap = float(np.abs(self.right - total).sum())
        return Calibration(
            edges=np.linspace(0, 1, len(total) + 1),
            counts=self.counts.copy(),
            confidence=confidence,
            accuracy=accuracy,
            error=gap / num_rows if num_rows else float("nan"),
        )


class ClassificationAccumulator:
    """All of the above from ranked predictions: the rows that a bulk job writes."""

    def __init__(
        self, num_classes: int, *, top_k: int = 5, num_bins: int = 15, max_values: int = 10_000_000
    ) -> None:
        """`max_values` bounds the memory of the ROC curves, see `RocAccumulator`."""
        self.num_classes = num_classes
        self.top_k = min(top_k, num_classes)
        self.confusion = Confusion(num_classes)
        self.calibration = CalibrationAccumulator(num_bins)
        self.roc = RocAccumulator(num_classes, max(max_values, num_classes))
        self.hits = 0
        self.loss = 0  # fixed point
        self.num_ranked = num_classes  # the fewest labels that a row held

    def update(
        self,
        truth: Int[np.ndarray, " B"],
        ranked: Int[np.ndarray, "B M"],
        probabilities: Float[np.ndarray, "B M"],
    ) -> None:
        """Add rows.

        truth          class index
        ranked         the M most probable classes, best first; M = K for ROC curves and log loss
        probabilities  of those classes, 0..1

        Raises ValueError for an index outside 0..K-1 and a probability outside 0..1.
        """
        if not len(truth):
            return
        self._check(truth, ranked)
        _check_probabilities("probabilities", probabilities)
        self.confusion.update(truth, ranked[:, 0])
        self.calibration.update(probabilities[:, 0], ranked[:, 0] == truth)
        found = ranked == truth[:, None]
        self.hits += int(found[:, : self.top_k].any(axis=1).sum())
        self.num_ranked = min(self.num_ranked, ranked.shape[1])
        if self.num_ranked < self.num_classes:
            return
        scores = np.zeros((len(truth), self.num_classes), np.float32)
        np.put_along_axis(scores, ranked, probabilities.astype(np.float32), axis=1)
        self.roc.update(truth, scores)
        likelihood = scores[np.arange(len(truth)), truth].astype(np.float64)
        self.loss += int(_fixed_point(-np.log(likelihood.clip(EPSILON, 1 - EPSILON))).sum())

    def _check(self, truth: np.ndarray, ranked: np.ndarray) -> None:
        for name, indices in (("truth", truth), ("ranked", ranked)):
            if indices.min() < 0 or indices.max() >= self.num_classes:
                bad = indices[(indices < 0) | (indices >= self.num_classes)].flat[0]
                raise ValueError(f"{name}: class {bad}, accepted: 0..{self.num_classes - 1}")

    def merge(self, other: "ClassificationAccumulator") -> None:
        """Add the rows of another accumulator of the same classes, k, bins and limit."""
        if (self.num_classes, self.top_k) != (other.num_classes, other.top_k):
            raise ValueError(
                f"merge: {other.num_classes} classes and top {other.top_k} "
                f"into {self.num_classes} and {self.top_k}"
            )
        self.confusion.merge(other.confusion)
        self.calibration.merge(other.calibration)
        self.roc.merge(other.roc)
        self.hits += other.hits
        self.loss += other.loss
        self.num_ranked = min(self.num_ranked, other.num_ranked)

    def result(self, max_points: int = 0) -> ClassificationResult:
        """All numbers; ROC curves thinned to about `max_points` (0: every point)."""
        num_rows = int(self.confusion.matrix.sum())
        whole = self.num_ranked == self.num_classes and num_rows > 0
        ranked = self.num_ranked >= self.top_k and num_rows > 0
        return ClassificationResult(
            num_rows=num_rows,
            accuracy=self.confusion.accuracy(),
            top_k_accuracy=self.hits / num_rows if ranked else None,
            averages=self.confusion.averages(),
            per_class=self.confusion.per_class(),
            confusion=self.confusion.matrix.copy(),
            calibration=self.calibration.result(),
            log_loss=self.loss / FIXED_POINT / num_rows if whole else None,
            roc=self.roc.result(max_points) if whole else None,
        )


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)


def _average(per_class: PerClass, weights: np.ndarray) -> Averages:
    total = weights.sum()
    shares = weights / total if total else np.full(len(weights), np.nan)
    return Averages(
        precision=float(per_class.precision @ shares),
        recall=float(per_class.recall @ shares),
        f1=float(per_class.f1 @ shares),
    )


def _fixed_point(values: np.ndarray) -> np.ndarray:
    return np.rint(values * FIXED_POINT).astype(np.int64)


def _check_probabilities(name: str, values: np.ndarray) -> None:
    if not ((values >= 0) & (values <= 1 + EPSILON * 8)).all():  # NaN fails too
        bad = values[~((values >= 0) & (values <= 1 + EPSILON * 8))][0]
        raise ValueError(f"{name}: {bad}, accepted: 0..1")
