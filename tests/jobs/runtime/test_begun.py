"""What a later attempt at a training learns from: what the first one did, or nothing."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.runtime.begun import EXAMPLES, as_begun
from jobs.runtime.checkpoints import STATE
from jobs.runtime.examples import Examples
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage


def examples(*ids: str) -> Examples:
    return Examples(
        blocks=[],
        shape=(2, 2, 3),
        dtype="|u1",
        places=np.zeros((len(ids), 3), np.int64),
        ids=np.array(ids, np.str_),
        truths=np.array(["a"] * len(ids), np.str_),
        groups=np.array([""] * len(ids), np.str_),
        extents=np.zeros((len(ids), 2), np.int32),
        digests=np.array([sum(each.encode()) for each in ids], np.uint64),
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(str(tmp_path), Storage(), {"fingerprint": "f"})
    as_begun(run, {"learn": examples("c", "a", "d"), "validate": examples("b")})
    run.put(STATE, b"steps were made")
    return run


def ids(sides: dict[str, Examples]) -> dict[str, list[str]]:
    return {side: each.ids.tolist() for side, each in sides.items()}


def test_what_was_left_out_stays_left_out_and_is_said(run: Run, caplog: pytest.LogCaptureFixture):
    now = {"learn": examples("x", "c", "a", "y", "d"), "validate": examples("b", "z")}
    with caplog.at_level(logging.WARNING):
        assert ids(as_begun(run, now)) == {"learn": ["c", "a", "d"], "validate": ["b"]}
    assert [record.getMessage().split(":")[-1] for record in caplog.records] == [" x, y", " z"]


def test_an_example_that_is_gone_ends_it_by_name_and_its_return_continues_it(run: Run):
    with pytest.raises(ValueError, match=r"1 examples that .* no longer there.*: a; the same"):
        as_begun(run, {"learn": examples("c", "d"), "validate": examples("b")})
    whole = {"learn": examples("c", "a", "d"), "validate": examples("b")}
    assert ids(as_begun(run, whole)) == ids(whole)


def test_other_values_are_learnt_from_and_said(run: Run, caplog: pytest.LogCaptureFixture):
    other = replace(examples("c", "a", "d"), digests=np.array([99, 1, 100], np.uint64))
    with caplog.at_level(logging.WARNING):
        as_begun(run, {"learn": other, "validate": examples("b")})
    assert "1 examples are decoded to other values" in caplog.text
    assert caplog.text.strip().endswith("the first: a")


def test_before_the_first_state_there_is_nothing_to_keep_to(tmp_path: Path):
    run = Run(str(tmp_path), Storage(), {"fingerprint": "f"})
    as_begun(run, {"learn": examples("a")})
    assert ids(as_begun(run, {"learn": examples("b", "c")})) == {"learn": ["b", "c"]}
    run.put(STATE, b"steps were made")
    with pytest.raises(ValueError, match="no longer there"):
        as_begun(run, {"learn": examples("a")})
    assert (tmp_path / EXAMPLES).exists()
