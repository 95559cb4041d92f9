"""The parts of a training that need no network: which epoch is best, what is kept back, classes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.runtime.checkpoints import best_of
from jobs.runtime.examples import class_names, held_out, some_of_each, targets
from jobs.runtime.learner import TrainingConfig, num_steps
from jobs.runtime.ray_training import even_share, smallest_store
from jobs.runtime.training import TrainingResources, decide_engine


def epochs(*losses: float, error: float = 0.0) -> list[dict[str, float]]:
    return [{"epoch": n + 1, "loss": x, "loss_error": error} for n, x in enumerate(losses)]


def test_best_epoch_is_the_lowest_where_values_are_exact():
    assert best_of(epochs(0.5, 0.2, 0.3))["epoch"] == 2
    assert best_of(epochs(0.5, 0.2, 0.2))["epoch"] == 3


def test_best_epoch_is_the_last_that_chance_cannot_tell_from_the_lowest():
    assert best_of(epochs(0.5, 0.2, 0.24, 0.4, error=0.05))["epoch"] == 3


def test_an_early_stop_restores_the_lowest_not_the_rise_that_ended_it():
    risen = epochs(0.5, 0.3, 0.31, 0.32, 0.33, 0.34, 0.345, error=0.05)
    assert best_of(risen)["epoch"] == 7
    assert best_of(risen, patience=5)["epoch"] == 2


@given(st.lists(st.floats(0, 9), min_size=1, max_size=20), st.floats(0, 2))
def test_best_so_far_is_replaced_by_the_newest_epoch_alone(losses: list[float], error: float):
    history = epochs(*losses, error=error)
    best = history[0]
    for count in range(1, len(history) + 1):
        now = best_of(history[:count])
        assert now in (best, history[count - 1])  # the file of an older epoch is gone
        best = now


@given(st.sets(st.text(max_size=8), min_size=1, max_size=50), st.integers(0, 9))
def test_what_is_kept_back_does_not_depend_on_what_else_there_is(names: set[str], seed: int):
    ids = np.array(sorted(names), np.str_)
    together = held_out(ids, 0.3, seed)
    alone = np.concatenate([held_out(ids[i : i + 1], 0.3, seed) for i in range(len(ids))])
    assert np.array_equal(together, alone)


def test_share_kept_back_is_about_the_fraction_and_changes_with_the_seed():
    ids = np.array([f"row-{number}" for number in range(5000)])
    kept = held_out(ids, 0.1, seed=0)
    assert 430 < kept.sum() < 570
    assert 20 < (kept & held_out(ids, 0.1, seed=1)).sum() < 90


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 9))
def test_some_examples_are_of_every_class_and_fewer_are_among_more(
    classes: list[int], wanted: int, seed: int
):
    names = np.array(classes).astype(np.str_)
    chosen = some_of_each(names, wanted, seed)
    assert len(chosen) == min(wanted, len(names))
    assert np.array_equal(chosen, np.unique(chosen))
    assert len(set(names[chosen])) == min(wanted, len(set(classes)))
    assert set(chosen) <= set(some_of_each(names, wanted + 1, seed))


def test_a_rare_class_is_among_few_examples():
    names = np.array(["common"] * 990 + [f"rare {number}" for number in range(10)])
    assert len(set(names[some_of_each(names, 20, seed=0)])) == 11


def test_smallest_object_store_counts_where_workers_may_stand():
    def node(store: float, *, alive: bool = True, cpus: float = 2.0) -> dict[str, Any]:
        return {"Alive": alive, "Resources": {"CPU": cpus, "object_store_memory": store}}

    nodes = [node(9e9), node(4e9), node(1e9, alive=False), node(2e9, cpus=0)]
    assert smallest_store(nodes) == 4e9
    assert smallest_store([]) == 0


def test_workers_share_the_cpus_of_nodes_that_have_any():
    def nodes(*cpus: int) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": n} if n else {}} for n in cpus]

    assert even_share(nodes(0, 8, 8), 2) == 7  # a head without CPUs gives no worker less
    assert even_share(nodes(0, 16, 16), 1) == 15
    assert even_share(nodes(8, 8), 4) == 3
    assert even_share(nodes(2), 2) == 1
    assert even_share([], 1) == 1


def test_classes_are_sorted_by_number_where_they_are_numbers():
    assert class_names(np.array(["10", "9", "9", "1"]), ()) == ("1", "9", "10")
    assert class_names(np.array(["b", "a", "10", "9"]), ()) == ("9", "10", "a", "b")
    assert class_names(np.array(["b"]), ("c", "b")) == ("c", "b")


def test_targets_are_indices_of_the_classes():
    assert targets(np.array(["b", "a", "b"]), ("a", "b"), "data").tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"validation: rows are of \['z'\], not of \['a', 'b'\]"):
        targets(np.array(["z"]), ("a", "b"), "validation")


@pytest.mark.parametrize(("count", "steps"), [(64, 2), (127, 2), (130, 4), (5, 2)])
def test_steps_are_whole_batches_of_every_epoch(count: int, steps: int):
    assert num_steps(count, TrainingConfig(epochs=2, batch_size=64)) == steps


@pytest.mark.parametrize(
    ("options", "engine"),
    [
        ({}, "inline"),
        ({"num_workers": 2}, "ray"),
        ({"gpus_per_worker": 0.5}, "ray"),
        ({"gpus_per_worker": 0}, "inline"),
        ({"engine": "ray"}, "ray"),
        ({"engine": "inline"}, "inline"),
    ],
)
def test_ray_is_started_for_several_workers_and_on_a_cluster(
    options: dict[str, Any], engine: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert decide_engine(TrainingResources(**options)).engine == engine
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    on_cluster = decide_engine(TrainingResources(**options)).engine
    assert on_cluster == options.get("engine", "ray")


def test_inline_engine_with_several_workers_is_refused():
    with pytest.raises(ValueError, match="inline engine has one"):
        TrainingResources(engine="inline", num_workers=2)
