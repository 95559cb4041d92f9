"""Batches of people with pictures: who is in them, how often, and that they are always the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_ops.learners.people import draw_people


@settings(max_examples=50)
@given(
    counts=st.lists(st.integers(1, 9), min_size=3, max_size=12),
    people=st.integers(2, 3),
    pictures=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_every_batch_has_different_people_with_as_many_pictures_each(
    counts: list[int], people: int, pictures: int, seed: int
):
    targets = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    batches = draw_people(targets, people, pictures, 10, np.random.default_rng(seed))
    assert batches.shape == (10, people * pictures)
    for batch in batches.reshape(10, people, pictures):
        of = targets[batch]
        assert (of == of[:, :1]).all()
        assert len(set(of[:, 0].tolist())) == people
        for person, rows in zip(of[:, 0], batch, strict=True):
            assert len(set(rows.tolist())) == min(pictures, counts[person])


def test_people_and_pictures_come_in_turns():
    targets = np.repeat(np.arange(6), 8)
    batches = draw_people(targets, 3, 4, 4, np.random.default_rng(0))  # 48 pictures of 48
    assert sorted(batches.ravel().tolist()) == list(range(48))
    assert sorted(targets[batches[:2]].ravel().tolist()) == sorted([*range(6)] * 4)


def test_same_draws_give_the_same_batches_and_others_give_others():
    targets = np.repeat(np.arange(9), 4)
    first, again, other = (
        draw_people(targets, 3, 2, 5, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("targets", [[0, 0, 1, 1], []])
def test_fewer_people_than_a_batch_wants_are_refused(targets: list[int]):
    with pytest.raises(ValueError, match="people: a batch wants 3 different ones"):
        draw_people(np.array(targets, np.int64), 3, 2, 1, np.random.default_rng(0))
