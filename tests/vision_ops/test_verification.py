"""Verification metrics: by hand, against scikit-learn, and in bounded memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve

from vision_ops.faces.comparisons import cosine, impostor_pairs
from vision_ops.metrics.discard import DiscardAccumulator
from vision_ops.metrics.folds import FoldAccumulator
from vision_ops.metrics.scores import COSINE, NEVER, ScoreGrid, at_or_above, lowest_index
from vision_ops.metrics.verification import VerificationAccumulator, VerificationResult

EXAMPLE = ([0.9, 0.8, 0.4, 0.7, 0.3, 0.2], [True, True, True, False, False, False])
"""AUC by hand: of 9 (genuine, impostor) pairs all but (0.4, 0.7) are in order"""


def judged(
    scores: list[float], same: list[bool], *, with_failures: bool = False
) -> VerificationResult:
    found = VerificationAccumulator()
    found.update(np.array(scores, np.float32), np.array(same))
    return found.result(with_failures=with_failures)


def made(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping scores (B,) float32 and whether each is of one person."""
    rng = np.random.default_rng(seed)
    same = rng.random(num) < 0.3
    return rng.normal(np.where(same, 0.5, 0.1), 0.15).clip(-1, 1).astype(np.float32), same


def test_six_pairs_give_the_numbers_found_on_paper() -> None:
    found = judged(*EXAMPLE)
    assert (found.num_genuine, found.num_impostor) == (3, 3)
    assert found.auc == pytest.approx(8 / 9)
    assert found.eer == pytest.approx(1 / 3)  # at 0.7: one of three impostors, one of three missed
    assert found.eer_threshold == pytest.approx(0.7, abs=2**-20)
    tenth = found.points[0]
    assert (tenth.far, tenth.tar) == (0, pytest.approx(2 / 3))
    assert 0.7 < tenth.threshold <= 0.7 + 2**-19
    assert tenth.insufficient  # three impostors cannot say what one in ten does
    third = VerificationAccumulator()
    third.update(np.array(EXAMPLE[0]), np.array(EXAMPLE[1]))
    (point,) = third.result([1 / 3]).points
    assert (point.far, point.tar) == (pytest.approx(1 / 3), 1.0)  # 0.4 is above 0.3 and 0.2
    assert 0.3 < point.threshold <= 0.3 + 2**-19
    assert not point.insufficient


@pytest.mark.parametrize("seed", range(3))
def test_areas_and_equal_error_equal_scikit_learn(seed: int) -> None:
    scores, same = made(3000, seed)
    found = judged(scores.tolist(), same.tolist())
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    wanted = brentq(lambda x: 1 - x - interp1d(far, tar)(x), 0, 1)
    assert abs(found.auc - roc_auc_score(same, scores)) <= found.auc_error + 1e-12
    assert found.auc_error < 1e-5
    assert found.eer == pytest.approx(wanted, abs=1e-3 / 3)


def test_rates_at_a_threshold_are_those_of_the_scores_themselves() -> None:
    scores, same = made(20_000, 5)
    for point in judged(scores.tolist(), same.tolist()).points:
        assert point.far == np.mean(scores[~same] >= point.threshold) <= point.target_far
        assert point.tar == np.mean(scores[same] >= point.threshold)
        lower = point.threshold - 2**-20  # the next smaller one accepts too many
        assert np.mean(scores[~same] >= lower) > point.target_far


def test_too_few_impostors_are_said_to_be() -> None:
    scores, same = made(20_000, 6)  # 14,000 impostors
    found = judged(scores.tolist(), same.tolist()).points
    assert [p.insufficient for p in found] == [False] * 4 + [True] * 2


def test_a_pair_that_could_not_be_compared_is_an_error_of_the_whole_system_alone() -> None:
    scores = [*EXAMPLE[0], NEVER, NEVER]
    same = [*EXAMPLE[1], True, False]
    without, whole = judged(scores, same), judged(scores, same, with_failures=True)
    assert (without.num_genuine, whole.num_genuine) == (3, 4)
    assert without.points[0].tar == pytest.approx(2 / 3)
    assert whole.points[0].tar == pytest.approx(2 / 4)
    assert whole.points[0].threshold == without.points[0].threshold


def test_what_is_no_score_is_refused() -> None:
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            judged([0.5, wrong], [True, False])
    with pytest.raises(ValueError, match="1 genuine and 0 impostor"):
        judged([0.5], [True])


def test_scores_outside_the_grid_count_at_its_ends() -> None:
    index = COSINE.index(np.array([-1.5, -1.0, 1.0, 1.0000001, NEVER], np.float32))
    assert index.tolist() == [1, 1, COSINE.size - 1, COSINE.size - 1, 0]
    assert COSINE.threshold(COSINE.size - 1) == 1.0
    assert COSINE.threshold(1) == -1.0


@settings(max_examples=40)
@given(
    values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60),
    places=st.lists(st.integers(1, COSINE.size), min_size=1, max_size=20),
)
def test_a_score_reaches_a_threshold_exactly_where_its_index_does(
    values: list[float], places: list[int]
) -> None:
    scores = np.array(values, np.float32)
    for place in places:
        reached = scores.astype(np.float64) >= COSINE.threshold(place)
        np.testing.assert_array_equal(COSINE.index(scores) >= place, reached)


def test_the_lowest_index_lets_through_no_more_than_its_share() -> None:
    above = at_or_above(np.array([0, 5, 3, 1, 1]))
    assert above.tolist() == [10, 10, 5, 2, 1]
    assert [lowest_index(above, s) for s in (1.0, 0.5, 0.49, 0.1, 0.09)] == [1, 2, 3, 4, 5]


@settings(max_examples=10)
@given(cuts=st.lists(st.integers(0, 500), max_size=4), seed=st.integers(0, 9))
def test_pieces_and_merges_give_what_the_whole_gives(cuts: list[int], seed: int) -> None:
    scores, same = made(500, seed)
    grid = ScoreGrid(step_bits=10)
    whole, parts = VerificationAccumulator(grid), VerificationAccumulator(grid)
    whole.update(scores, same)
    edges = [0, *sorted(cuts), 500]
    for start, stop in zip(edges, edges[1:], strict=False):
        part = VerificationAccumulator(grid)
        part.update(scores[start:stop], same[start:stop])
        parts.merge(part)
    np.testing.assert_array_equal(whole.genuine, parts.genuine)
    np.testing.assert_array_equal(whole.impostor, parts.impostor)


def peak_of_judging(num_faces: int) -> tuple[int, int]:
    """Impostor pairs of so many faces, and the most bytes that judging them took at a time."""
    rng = np.random.default_rng(num_faces)
    faces = rng.normal(size=(num_faces, 8)).astype(np.float32)
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    people = np.arange(num_faces) // 2
    tracemalloc.start()
    try:
        found = VerificationAccumulator()
        for pairs in impostor_pairs(faces, people, cosine, 10**9):
            found.update(pairs.scores, np.zeros(len(pairs.scores), bool))
        return int(found.impostor.sum()), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_four_times_the_pairs_take_no_more_memory() -> None:
    (some, before), (many, after) = peak_of_judging(3200), peak_of_judging(6400)
    assert (some, many) == (3200 * 3198 // 2, 6400 * 6398 // 2)
    assert after < 1.05 * before
    assert peak_of_judging(100)[1] < before / 2  # it is the block's memory that is measured


def test_a_thinned_curve_keeps_its_ends_and_only_its_own_points() -> None:
    scores, same = made(20_000, 2)
    curve = judged(scores.tolist(), same.tolist()).curve
    assert len(curve.thresholds) <= 400
    assert (curve.false_positive_rate[0], curve.true_positive_rate[0]) == (0, 0)
    assert (curve.false_positive_rate[-1], curve.true_positive_rate[-1]) == (1, 1)
    middle = len(curve.thresholds) // 2
    wanted = np.mean(scores[same] >= curve.thresholds[middle])
    assert curve.true_positive_rate[middle] == wanted


def test_folds_choose_their_threshold_on_the_others() -> None:
    folds = FoldAccumulator(2)
    folds.update(0, np.array([0.6, 0.5, 0.1, 0.0]), np.array([True, True, False, False]))
    folds.update(1, np.array([0.9, 0.3, 0.4, 0.2]), np.array([True, True, False, False]))
    found = folds.result()
    # fold 1 alone: 3 of 4 right above 0.4; all of fold 0 is right between 0.1 and 0.5, the middle
    # of which accepts the pairs of 0.9, 0.3 and 0.4
    assert 0.1 < found.thresholds[1] <= 0.5
    assert found.thresholds[1] == pytest.approx(0.3, abs=1e-3)
    assert found.accuracies[1] in (0.5, 0.75)
    mean, spread = np.mean(found.accuracies), np.std(found.accuracies, ddof=1)
    assert found.mean == mean
    assert found.standard_error == pytest.approx(spread / np.sqrt(2))


def test_ten_folds_equal_a_loop_over_all_thresholds() -> None:
    rng = np.random.default_rng(3)
    same = np.tile(np.repeat([True, False], 30), 10)
    fold = np.repeat(np.arange(10), 60)
    scores = np.round(rng.normal(np.where(same, 0.5, 0.2), 0.2), 2).clip(-1, 1)
    folds = FoldAccumulator(10)
    for k in range(10):
        folds.update(k, scores[fold == k], same[fold == k])
    found = folds.result()
    candidates = np.arange(-100, 102) / 100 - 0.005  # between all scores
    for k in range(10):
        learnt, held = fold != k, fold == k
        right = [np.mean((scores[learnt] >= t) == same[learnt]) for t in candidates]
        at = found.thresholds[k]
        assert np.mean((scores[learnt] >= at) == same[learnt]) == max(right)
        assert found.accuracies[k] == np.mean((scores[held] >= at) == same[held])


def test_balanced_folds_weigh_few_genuine_pairs_as_much_as_many_impostors() -> None:
    folds = FoldAccumulator(2, balanced=True)
    for k in range(2):
        folds.update(k, np.array([0.9, 0.1]), np.array([True, True]))
        folds.update(k, np.full(1000, 0.3), np.zeros(1000, bool))
    assert folds.result().accuracies == (0.75, 0.75)  # one of two missed, no false accept
    with pytest.raises(ValueError, match="pairs .genuine, impostor. by fold"):
        FoldAccumulator(2, balanced=True).result()


def test_a_genuine_pair_without_a_face_costs_accuracy_and_an_impostor_does_not() -> None:
    folds = FoldAccumulator(2)
    for k in range(2):
        folds.update(k, np.array([0.9, NEVER, 0.1, NEVER]), np.array([True, True, False, False]))
    assert folds.result().accuracies == (1.0, 1.0)
    assert folds.result(with_failures=True).accuracies == (0.75, 0.75)


def test_discarding_the_worst_quality_removes_the_errors_it_tells() -> None:
    found = DiscardAccumulator(threshold=0.5)
    found.update(np.array([0.4, 0.6, 0.7, 0.3]), np.array([0.1, 0.2, 0.9, 0.9]))
    curve = found.result()
    assert curve.discarded.tolist() == [0, 0.25, 0.5]
    assert curve.fnmr.tolist() == [2 / 4, 1 / 3, 1 / 2]
    assert (curve.num_pairs, curve.num_errors) == (4, 2)
    assert (curve.at(0.2), curve.at(0.25), curve.at(1)) == (1 / 2, 1 / 3, 1 / 2)
    with pytest.raises(ValueError, match="quality"):
        found.update(np.array([0.4]), np.array([1.2]))
