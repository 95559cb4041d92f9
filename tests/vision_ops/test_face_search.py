"""Exact search equals a plain loop, whatever the blocks and shards; so do neighbours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_faces import unit
from vision_ops.faces import search
from vision_ops.faces.search import COSINE, merge_named, nearest, neighbours, score_pairs


def brute_force(probes: np.ndarray, gallery: np.ndarray, k: int):
    """Scores and places by a loop over float64, sorted by (-score, place)."""
    found = []
    for probe in probes.astype(np.float64):
        scores = [
            np.float32(min(1.0, max(-1.0, probe @ one.astype(np.float64)))) for one in gallery
        ]
        found.append(sorted(zip([-s for s in scores], range(len(gallery)), strict=True))[:k])
    scores = np.array([[-s for s, _ in row] for row in found], np.float32)
    return scores.reshape(len(probes), -1), np.array(
        [[place for _, place in row] for row in found], np.int64
    ).reshape(len(probes), -1)


def crowded(seed: int, count: int, size: int) -> np.ndarray:
    """Embeddings among which many are equal, or nearly so: ties are the rule."""
    rng = np.random.default_rng(seed)
    few = unit(rng.normal(size=(max(1, count // 4), size)))
    return unit(few[rng.integers(0, len(few), count)] + rng.choice([0, 1e-8], (count, 1)))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 9999),
    num_probes=st.integers(0, 9),
    num_people=st.integers(1, 60),
    size=st.sampled_from([2, 3, 16, 128]),
    k=st.integers(1, 70),
    blocks=st.tuples(st.integers(1, 7), st.integers(1, 40)),
)
def test_the_nearest_are_those_of_a_plain_loop_with_ties_and_any_blocks(
    seed: int, num_probes: int, num_people: int, size: int, k: int, blocks: tuple[int, int]
):
    gallery = crowded(seed, num_people, size)
    probes = np.concatenate([gallery[:3], crowded(seed + 1, num_probes, size)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "PROBE_ROWS", blocks[0])
        patch.setattr(search, "GALLERY_ROWS", blocks[1])
        patch.setattr(search, "PAIRS_AT_ONCE", 5)
        found = nearest(probes, gallery, k)
    scores, places = brute_force(probes, gallery, k)
    np.testing.assert_array_equal(found.places, places)
    np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
def test_shards_answer_together_as_one(num_shards: int):
    rng = np.random.default_rng(5)
    gallery, probes = crowded(6, 500, 64), crowded(7, 40, 64)
    names = np.array([f"person {k:03d}" for k in rng.permutation(500)])
    order = np.argsort(names)
    whole = nearest(probes, gallery[order], 6)
    shards = np.array_split(rng.permutation(500), num_shards)
    answers = []
    for shard in shards:
        own = shard[np.argsort(names[shard])]
        found = nearest(probes, gallery[own], 6)
        answers.append((found.scores, names[own][found.places]))
    scores, who = merge_named([s for s, _ in answers], [n for _, n in answers], 6)
    np.testing.assert_array_equal(scores, whole.scores)
    np.testing.assert_array_equal(who, names[order][whole.places])


def test_a_matrix_product_errs_by_less_than_the_margin():
    vectors = unit(np.random.default_rng(0).normal(size=(600, 512)))
    rough = COSINE.block(vectors, vectors)
    rows, columns = (each.ravel() for each in np.indices(rough.shape))
    exact = score_pairs(vectors, vectors, rows, columns).reshape(rough.shape)
    assert 0 < np.abs(rough - exact).max() <= COSINE.margin(512)
    assert COSINE.margin(512) < 1e-4


def test_a_gallery_of_one_and_the_same_face_is_ranked_by_place():
    same = np.repeat(np.eye(1, 8, dtype=np.float32), 9000, axis=0)
    found = nearest(same[:2], same, 3)
    assert found.places.tolist() == [[0, 1, 2]] * 2
    assert found.scores.tolist() == [[1.0] * 3] * 2


def test_nobody_to_search_among_gives_nobody():
    none, some = np.zeros((0, 4), np.float32), unit(np.ones((3, 4)))
    assert nearest(some, none, 2).places.shape == (3, 0)
    assert nearest(none, some, 2).places.shape == (0, 2)
    with pytest.raises(ValueError, match="k: 0"):
        nearest(some, some, 0)


@settings(max_examples=30)
@given(seed=st.integers(0, 999), count=st.integers(0, 50), threshold=st.floats(-1, 1))
def test_neighbours_are_all_pairs_that_reach_the_threshold(seed: int, count: int, threshold: float):
    faces = crowded(seed, count, 3) if count else np.zeros((0, 3), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "PROBE_ROWS", 4)
        patch.setattr(search, "GALLERY_ROWS", 16)
        graph = neighbours(faces, threshold)
    wanted = {
        (i, k): np.float32(np.clip(a.astype(np.float64) @ b.astype(np.float64), -1, 1))
        for i, a in enumerate(faces)
        for k, b in enumerate(faces)
        if i != k
    }
    wanted = {place: score for place, score in wanted.items() if score >= np.float32(threshold)}
    coo = graph.tocoo()
    assert dict(zip(zip(coo.row, coo.col, strict=True), coo.data, strict=True)) == wanted
