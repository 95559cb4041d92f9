"""Agreement of groups with people: on paper, against loops over pairs and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.cluster import pair_confusion_matrix

from vision_ops.metrics.clustering import ClusteringAccumulator, ClusteringResult


def judged(people: list[str], clusters: list[str | None]) -> ClusteringResult:
    found = ClusteringAccumulator()
    found.update(people, clusters)
    return found.result()


def test_five_faces_on_paper() -> None:
    found = judged(["a", "a", "a", "b", "b"], ["1", "1", "2", "2", None])
    # pairs put together: 2, of which a-a in 1 is right; true pairs: 3 + 1
    assert (found.pairwise.precision, found.pairwise.recall) == (1 / 2, 1 / 4)
    assert found.pairwise.f1 == pytest.approx(1 / 3)
    # precision by face 1, 1, 1/2, 1/2, 1; recall 2/3, 2/3, 1/3, 1/2, 1/2
    assert found.bcubed.precision == pytest.approx(4 / 5)
    assert found.bcubed.recall == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 / 2 + 1 / 2) / 5)
    assert (found.num_faces, found.num_people, found.num_clusters, found.num_alone) == (5, 2, 3, 1)


def test_perfect_groups_score_one_and_their_names_do_not_matter() -> None:
    found = judged(list("aabbc"), ["x", "x", "y", "y", None])
    assert found.pairwise.f1 == found.bcubed.f1 == 1


def test_all_in_one_and_each_alone_are_the_two_ways_to_fail() -> None:
    one = judged(list("aabb"), ["x"] * 4)
    assert (one.pairwise.recall, one.bcubed.recall) == (1, 1)
    assert (one.pairwise.precision, one.bcubed.precision) == (1 / 3, 1 / 2)
    alone = judged(list("aabb"), [None, "", None, "z"])
    assert (alone.pairwise.precision, alone.bcubed.precision) == (1, 1)
    assert (alone.pairwise.recall, alone.pairwise.f1) == (0, 0)
    assert alone.bcubed.recall == 1 / 2


def test_no_faces_are_an_error() -> None:
    with pytest.raises(ValueError, match="no faces"):
        ClusteringAccumulator().result()


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("123")), min_size=2))
def test_it_equals_loops_over_faces_and_pairs(faces: list[tuple[str, str]]) -> None:
    people, clusters = (list(each) for each in zip(*faces, strict=True))
    found = ClusteringAccumulator()
    for person, cluster in faces:  # one at a time, as all at once
        found.update([person], [cluster])
    result = found.result()
    (_, apart), (missed, both) = pair_confusion_matrix(people, clusters)
    # scikit-learn's [1, 0] are pairs of one person in two clusters, [0, 1] the reverse
    assert result.pairwise.precision == (both / (both + apart) if both + apart else 1)
    assert result.pairwise.recall == (both / (both + missed) if both + missed else 1)
    who, where = np.array(people), np.array(clusters)
    precise = [np.mean(who[where == where[k]] == who[k]) for k in range(len(faces))]
    complete = [np.mean(where[who == who[k]] == where[k]) for k in range(len(faces))]
    assert result.bcubed.precision == pytest.approx(np.mean(precise))
    assert result.bcubed.recall == pytest.approx(np.mean(complete))
