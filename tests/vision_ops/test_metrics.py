"""Metrics against scikit-learn, against loops over rows, and on cases small enough for paper."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from vision_ops.metrics.classification import (
    CalibrationAccumulator,
    ClassificationAccumulator,
    ClassificationResult,
)
from vision_ops.metrics.roc import Roc, RocAccumulator

TOLERANCE = 1e-6
ZERO: Any = {"zero_division": 0}


def make_table(num_rows: int, num_classes: int, levels: int, seed: int) -> tuple[np.ndarray, ...]:
    """Truth (B,), float32 probabilities (B, K); few levels make ties, some classes are absent."""
    rng = np.random.default_rng(seed)
    present = rng.choice(num_classes, size=rng.integers(1, num_classes + 1), replace=False)
    truth = rng.choice(present, size=num_rows)
    scores = rng.integers(0, levels, (num_rows, num_classes)).astype(np.float32) + 0.01
    scores[np.arange(num_rows), truth] += rng.integers(0, levels, num_rows)
    return truth, (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def rank(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes by falling score with scikit-learn's order of ties, and their scores."""
    order = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
    return order, np.take_along_axis(scores, order, axis=1)


def accumulate(truth: np.ndarray, scores: np.ndarray) -> ClassificationResult:
    accumulator = ClassificationAccumulator(scores.shape[1])
    accumulator.update(truth, *rank(scores))
    return accumulator.result()


tables = st.tuples(
    st.integers(1, 60), st.integers(2, 8), st.sampled_from([2, 4, 1000]), st.integers(0, 9999)
).map(lambda sizes: make_table(*sizes))


@given(table=tables)
@settings(max_examples=60)
def test_counts_and_averages_equal_scikit_learn(table: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = table
    found, labels = accumulate(truth, scores), rank(scores)[0][:, 0]
    classes = np.arange(scores.shape[1])
    np.testing.assert_array_equal(
        found.confusion, sk.confusion_matrix(truth, labels, labels=classes)
    )
    assert found.accuracy == pytest.approx(sk.accuracy_score(truth, labels), abs=TOLERANCE)
    wanted: Any = sk.precision_recall_fscore_support(truth, labels, labels=classes, **ZERO)
    per_class = found.per_class
    ours = (per_class.precision, per_class.recall, per_class.f1, per_class.support)
    for mine, theirs in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=TOLERANCE)
    for name, average in found.averages.items():
        theirs: Any = sk.precision_recall_fscore_support(truth, labels, average=name, **ZERO)
        np.testing.assert_allclose(
            (average.precision, average.recall, average.f1), theirs[:3], atol=TOLERANCE
        )


@given(table=tables)
@settings(max_examples=60)
def test_top_k_and_log_loss_equal_scikit_learn(table: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = table
    found, classes = accumulate(truth, scores), np.arange(scores.shape[1])
    if scores.shape[1] > 5:
        wanted = sk.top_k_accuracy_score(truth, scores, k=5, labels=classes)
        assert found.top_k_accuracy == pytest.approx(wanted, abs=TOLERANCE)
    else:
        assert found.top_k_accuracy == 1  # every class is among the first five
    wanted = sk.log_loss(truth, scores, labels=classes)
    assert found.log_loss == pytest.approx(wanted, abs=TOLERANCE)


@given(table=tables)
@settings(max_examples=60)
def test_roc_curves_equal_scikit_learn(table: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = table
    roc = accumulate(truth, scores).roc
    assert roc is not None
    assert roc.exact
    areas = []
    for k, curve in enumerate(roc.curves):
        positive = truth == k
        if positive.all() or not positive.any():
            assert curve is None
            assert np.isnan(roc.auc[k])
            continue
        wanted = sk.roc_curve(positive, scores[:, k], drop_intermediate=False)
        assert curve is not None
        np.testing.assert_allclose(curve.false_positive_rate, wanted[0], atol=TOLERANCE)
        np.testing.assert_allclose(curve.true_positive_rate, wanted[1], atol=TOLERANCE)
        np.testing.assert_allclose(curve.thresholds, wanted[2], atol=TOLERANCE)
        areas.append(sk.roc_auc_score(positive, scores[:, k]))
        assert roc.auc[k] == pytest.approx(areas[-1], abs=TOLERANCE)
    if areas:
        assert roc.macro_auc == pytest.approx(np.mean(areas), abs=TOLERANCE)


@given(table=tables)
@settings(max_examples=40)
def test_calibration_error_equals_a_loop_over_bins(table: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = table
    labels, ranked = rank(scores)
    confidence, right = ranked[:, 0].astype(np.float64), labels[:, 0] == truth
    found = accumulate(truth, scores).calibration
    total = 0.0
    for m in range(15):
        inside = (confidence * 15 > m) & (confidence * 15 <= m + 1)
        assert found.counts[m] == inside.sum()
        if inside.any():
            total += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
            assert found.accuracy[m] == pytest.approx(right[inside].mean())
    assert found.error == pytest.approx(total, abs=TOLERANCE)


def batches(truth: np.ndarray, scores: np.ndarray, cuts: list[int]) -> Iterator[tuple]:
    bounds = [0, *sorted(min(cut, len(truth)) for cut in cuts), len(truth)]
    for start, stop in zip(bounds, bounds[1:], strict=False):
        yield truth[start:stop], scores[start:stop]


def numbers(result: ClassificationResult) -> list[np.ndarray]:
    roc = result.roc
    assert roc is not None
    curves = [curve.true_positive_rate for curve in roc.curves if curve is not None]
    return [
        np.array([result.accuracy, result.top_k_accuracy, result.log_loss, roc.macro_auc]),
        np.array([result.calibration.error]),
        result.calibration.confidence,
        result.confusion,
        roc.auc,
        roc.auc_error,
        *curves,
    ]


@given(
    table=tables,
    cuts=st.lists(st.integers(0, 60), max_size=5),
    seed=st.integers(0, 99),
    max_values=st.sampled_from([8, 20, 100_000]),
)
@settings(max_examples=60)
def test_any_batching_and_merge_order_gives_identical_numbers(
    table: tuple[np.ndarray, np.ndarray], cuts: list[int], seed: int, max_values: int
) -> None:
    truth, scores = table
    num_classes, rng = scores.shape[1], np.random.default_rng(seed)
    whole = ClassificationAccumulator(num_classes, max_values=max_values)
    whole.update(truth, *rank(scores))
    parts = []
    for batch_truth, batch_scores in batches(truth, scores, cuts):
        parts.append(ClassificationAccumulator(num_classes, max_values=max_values))
        parts[-1].update(batch_truth, *rank(batch_scores))
        if rng.random() < 0.5:
            parts[-1].result()  # looking does not change
    while len(parts) > 1:
        rng.shuffle(parts)
        parts[0].merge(parts.pop())
    for one, other in zip(numbers(whole.result()), numbers(parts[0].result()), strict=True):
        np.testing.assert_array_equal(one, other)


def roc_of(truth: np.ndarray, scores: np.ndarray, max_values: int) -> Roc:
    accumulator = RocAccumulator(scores.shape[1], max_values)
    accumulator.update(truth, scores)
    return accumulator.result()


@given(seed=st.integers(0, 9999), max_values=st.integers(6, 200))
@settings(max_examples=40)
def test_roc_beyond_its_memory_says_so_and_bounds_its_error(seed: int, max_values: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, 200)
    scores = rng.normal(np.eye(3)[truth] * 0.7, 1).astype(np.float32)  # negative scores too
    exact, rough = roc_of(truth, scores, 10_000), roc_of(truth, scores, max_values)
    assert exact.exact
    assert not rough.exact
    assert sum(len(curve.thresholds) - 1 for curve in rough.curves if curve) <= max_values
    assert (np.abs(exact.auc - rough.auc) <= rough.auc_error + 1e-12).all()


def test_roc_on_paper() -> None:
    truth = np.array([1, 1, 0, 0])
    positive = np.array([0.9, 0.4, 0.4, 0.1], np.float32)
    roc = roc_of(truth, np.stack([1 - positive, positive], axis=1), 100)
    curve = roc.curves[1]
    assert curve is not None
    assert curve.false_positive_rate.tolist() == [0, 0, 0.5, 1]
    assert curve.true_positive_rate.tolist() == [0, 0.5, 1, 1]
    assert roc.auc[1] == 0.875  # three of four pairs right, one tied


def test_zero_and_minus_zero_are_one_score() -> None:
    truth, scores = np.array([0, 1]), np.array([[0.0, -0.0], [-0.0, 0.0]], np.float32)
    assert roc_of(truth, scores, 10).auc.tolist() == [0.5, 0.5]


def test_thinned_curve_keeps_its_ends_and_its_corner() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 5000)
    scores = rng.normal(np.eye(2)[truth] * 2, 1).astype(np.float32)
    curve = roc_of(truth, scores, 100_000).curves[1]
    assert curve is not None
    thin = curve.thin(100)
    assert len(thin.thresholds) <= 102
    assert (thin.false_positive_rate[0], thin.true_positive_rate[-1]) == (0, 1)
    area = np.trapezoid(thin.true_positive_rate, thin.false_positive_rate)
    whole = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(whole, abs=1e-3)


def test_rows_with_few_labels_give_no_roc_no_log_loss_and_no_top_k() -> None:
    truth, scores = make_table(50, 8, 1000, seed=1)
    ranked, probabilities = rank(scores)
    for num_labels, has_top_k in ((5, True), (4, False)):
        accumulator = ClassificationAccumulator(8)
        accumulator.update(truth, ranked[:, :num_labels], probabilities[:, :num_labels])
        found = accumulator.result()
        assert found.roc is None
        assert found.log_loss is None
        assert (found.top_k_accuracy is not None) == has_top_k
        assert found.accuracy == accumulate(truth, scores).accuracy


def test_no_rows_give_nan_and_no_warning() -> None:
    found = ClassificationAccumulator(3).result()
    assert found.num_rows == 0
    assert np.isnan([found.accuracy, found.calibration.error]).all()
    assert found.roc is None


def test_impossible_input_is_refused_with_its_value() -> None:
    accumulator = ClassificationAccumulator(3)
    one = np.array([[0]]), np.array([[0.5]], np.float32)
    with pytest.raises(ValueError, match="truth: class 3, accepted: 0..2"):
        accumulator.update(np.array([3]), *one)
    with pytest.raises(ValueError, match="ranked: class -1"):
        accumulator.update(np.array([0]), np.array([[-1]]), one[1])
    for bad in (1.7, -0.2, np.nan):  # also of a class that is neither the first nor the true one
        told = np.array([[0.5, bad, 0.2]], np.float32)
        with pytest.raises(ValueError, match=r"probabilities: .*, accepted: 0\.\.1"):
            accumulator.update(np.array([0]), np.array([[0, 1, 2]]), told)
    assert accumulator.result().num_rows == 0
    with pytest.raises(ValueError, match="confidence: nan, accepted: 0..1"):
        CalibrationAccumulator().update(np.array([np.nan]), np.array([True]))
    with pytest.raises(ValueError, match="NaN or infinity"):
        RocAccumulator(1).update(np.array([0]), np.array([[np.nan]], np.float32))


def test_input_arrays_may_be_read_only_and_stay_as_they_were() -> None:
    truth, scores = make_table(20, 4, 5, seed=2)
    arrays = (truth, *rank(scores))
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ClassificationAccumulator(4).update(*arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
