"""Clusters equal those of scikit-learn over all distances at once, and of people who are apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN, AgglomerativeClustering

from tests.made_faces import make_people, unit
from vision_ops.faces import clusters
from vision_ops.faces.clusters import NOBODY, cluster


def groups(labels: np.ndarray) -> set[frozenset[int]]:
    """The groups of a labelling, without those of nobody."""
    return {frozenset(np.flatnonzero(labels == k).tolist()) for k in set(labels) - {NOBODY}}


def faces_of(seed: int, people: int, each: int, noise: float) -> np.ndarray:
    images = make_people(people, each, size=6, noise=noise, seed=seed)
    return np.stack([image.faces[0].embedding for image in images])


@settings(max_examples=40)
@given(
    seed=st.integers(0, 9999),
    people=st.integers(1, 8),
    each=st.integers(1, 6),
    threshold=st.floats(0.05, 0.95),
)
def test_average_linkage_by_parts_is_that_of_all_faces_at_once(
    seed: int, people: int, each: int, threshold: float
):
    faces = faces_of(seed, people, each, 0.8)
    labels = cluster(faces, threshold, min_faces=1)
    if len(faces) == 1:
        assert labels.tolist() == [0]
        return
    distances = np.maximum(1 - faces.astype(np.float64) @ faces.T.astype(np.float64), 0)
    np.fill_diagonal(distances, 0)
    whole = AgglomerativeClustering(
        n_clusters=None,  # pyright: ignore[reportArgumentType]
        metric="precomputed",
        linkage="average",
        distance_threshold=1 - threshold,
    ).fit((distances + distances.T) / 2)
    assert groups(labels) == groups(whole.labels_)


@settings(max_examples=40)
@given(seed=st.integers(0, 9999), threshold=st.floats(0.05, 0.95), min_faces=st.integers(1, 5))
def test_dbscan_over_the_graph_is_that_over_all_distances(
    seed: int, threshold: float, min_faces: int
):
    faces = faces_of(seed, 5, 5, 0.8)
    labels = cluster(faces, threshold, method="dbscan", min_faces=min_faces)
    distances = np.maximum(1 - faces.astype(np.float64) @ faces.T.astype(np.float64), 0)
    whole = DBSCAN(eps=1 - threshold, min_samples=min_faces, metric="precomputed").fit(distances)
    wanted = {group for group in groups(whole.labels_) if len(group) >= min_faces}
    assert groups(labels) == wanted


@pytest.mark.parametrize("method", ["average", "dbscan"])
def test_people_who_are_apart_are_found_the_largest_first(method: clusters.Method):
    faces = make_people(6, 9, size=64, noise=0.4, seed=3)
    alone = make_people(1, 1, size=64, seed=77)
    kept = [*faces[:3], *faces[9:18], *faces[18:22], *alone]
    vectors = np.stack([image.faces[0].embedding for image in kept])
    labels = cluster(vectors, 0.5, method=method)
    assert labels.tolist() == [2] * 3 + [0] * 9 + [1] * 4 + [NOBODY]


def test_twins_of_the_same_embedding_are_one_person_in_both_ways():
    twins = np.repeat(unit(np.eye(4)[:2]), 3, axis=0)
    for method in ("average", "dbscan"):
        assert cluster(twins, 1.0, method=method).tolist() == [0, 0, 0, 1, 1, 1]


def test_no_faces_are_no_people():
    assert cluster(np.zeros((0, 4), np.float32), 0.5).tolist() == []


def test_too_many_that_hang_together_are_refused_in_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clusters, "MOST_TOGETHER", 4)
    with pytest.raises(ValueError, match="6 faces hang together.*higher threshold, or method"):
        cluster(unit(np.ones((6, 3))), 0.5)
