"""Identification: ranks and rates by hand, and against a plain loop."""

import numpy as np
import pytest

from vision_ops.faces.comparisons import (
    Compared,
    Hardest,
    cosine,
    genuine_pairs,
    impostor_pairs,
    num_columns,
    searches,
)
from vision_ops.metrics.identification import IdentificationAccumulator, search
from vision_ops.metrics.scores import NEVER


def vectors(num: int, seed: int, size: int = 8) -> np.ndarray:
    """float32 (num, size), unit L2."""
    drawn = np.random.default_rng(seed).normal(size=(num, size))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def test_a_search_gives_own_score_rank_and_the_best_of_the_others() -> None:
    scores = np.array([[0.9, 0.2, 0.5], [0.3, 0.4, 0.4], [0.1, 0.7, 0.6]], np.float32)
    own, rank, others = search(scores, np.array([0, 1, -1]))
    assert own.tolist() == [np.float32(0.9), np.float32(0.4), NEVER]
    assert rank.tolist() == [1, 2, 4]  # a tie counts against the probe; 4: not in the gallery
    np.testing.assert_array_equal(others, np.array([0.5, 0.4, 0.7], np.float32))


def test_open_set_rates_by_hand() -> None:
    found = IdentificationAccumulator(max_rank=3)
    found.add_known(np.array([0.9, 0.6, 0.8, 0.5]), np.array([1, 1, 2, 7]))
    found.add_unknown(np.array([0.7, 0.4, 0.3, 0.2]))
    result = found.result([0.25, 0.2])
    assert result.cmc.tolist() == [0.5, 0.75, 0.75]
    assert (result.rank(1), result.rank(2), result.rank(99)) == (0.5, 0.75, 0.75)
    quarter, fifth = result.points
    assert (quarter.fpir, quarter.tpir) == (0.25, 0.5)  # above 0.4: 0.9 and 0.6 are named
    assert (fifth.fpir, fifth.tpir) == (0, 0.25)  # above 0.7: 0.9; 0.8 is not the most alike
    assert (quarter.insufficient, fifth.insufficient) == (False, True)
    assert 0.4 < quarter.threshold < 0.4001


def test_probes_without_a_face_find_and_alarm_nobody() -> None:
    found = IdentificationAccumulator()
    found.add_known(np.array([0.9]), np.array([1]))
    found.add_unknown(np.array([0.5]))
    found.add_failed(1, 1)
    result = found.result([0.5])
    assert (result.num_known, result.num_unknown, result.rank(50)) == (2, 2, 0.5)
    assert (result.points[0].fpir, result.points[0].tpir) == (0.5, 0.5)
    assert result.points[0].threshold == -1  # the half that showed no face alarms at none


def test_nobody_to_find_is_an_error() -> None:
    found = IdentificationAccumulator()
    found.add_unknown(np.array([0.5]))
    with pytest.raises(ValueError, match="no probe is of a person"):
        found.result()
    with pytest.raises(ValueError, match="rank 0"):
        found.add_known(np.array([0.5]), np.array([0]))


@pytest.mark.parametrize("max_pairs", [10**9, 600])
def test_blocks_give_every_pair_once(max_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vision_ops.faces.comparisons.ROWS", 7)
    monkeypatch.setattr("vision_ops.faces.comparisons.COLUMNS", 5)
    embeddings, people = vectors(60, 1), np.arange(60) * 7 % 20
    genuine = list(genuine_pairs(embeddings, people, cosine))
    impostor = list(impostor_pairs(embeddings, people, cosine, max_pairs))
    same = {frozenset((a, b)) for p in genuine for a, b in zip(p.a, p.b, strict=True)}
    wanted = {
        frozenset((i, j)) for i in range(60) for j in range(i) if people[i] == people[j]
    }  # fmt: skip
    assert same == wanted
    assert sum(len(pairs.a) for pairs in genuine) == len(wanted) == 60
    other = [frozenset((a, b)) for p in impostor for a, b in zip(p.a, p.b, strict=True)]
    assert len(other) == len(set(other))
    assert not set(other) & wanted
    columns = num_columns(60, max_pairs)
    assert columns == (60 if max_pairs == 10**9 else 10)
    held = {face for pair in other for face in pair if sum(face in p for p in other) == 57}
    assert len(held) == columns  # each of these is held against all 57 faces of others
    for pairs in impostor:
        np.testing.assert_allclose(
            pairs.scores, (embeddings[pairs.a] * embeddings[pairs.b]).sum(axis=1), atol=1e-6
        )


def test_searches_equal_a_loop_over_probes() -> None:
    embeddings, people = vectors(30, 2), np.arange(30) % 6
    gallery, probes = np.arange(6), np.arange(5, 30)  # 5 stands in the gallery itself
    (found,) = searches(embeddings, people, gallery, probes, cosine)
    for row, probe in enumerate(probes):
        scores = [float(embeddings[probe] @ embeddings[k]) for k in gallery]
        mine = scores.pop(people[probe])
        np.testing.assert_allclose(found.others[row], scores, atol=1e-6)
        if probe == 5:
            assert found.own[row] == NEVER
        else:
            assert found.own[row] == pytest.approx(mine, abs=1e-6)
            assert found.rank[row] == 1 + sum(score >= mine for score in scores)


def test_hardest_pairs_show_each_face_once() -> None:
    hardest = Hardest(2, sign=1)
    pairs = [(0.9, 0, 1), (0.8, 1, 2), (0.7, 3, 4), (0.95, 5, 0), (0.1, 8, 9)]
    for score, a, b in pairs:
        hardest.update(Compared(np.array([a]), np.array([b]), np.array([score])))
    assert hardest.rows() == [(0.95, 5, 0), (0.8, 1, 2)]
    lowest = Hardest(1, sign=-1)
    scores, places = np.linspace(1, -1, 500), np.arange(500)
    lowest.update(Compared(places, places + 500, scores))
    assert lowest.rows() == [(-1.0, 499, 999)]
