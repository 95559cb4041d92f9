"""Groups: what belongs together is never torn between learning and validation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.runtime.examples import Examples, held_out, refuse_shared_groups, validation_part
from jobs.runtime.sources.origin import Source
from tests.jobs.runtime.source_rows import rows_of, write_tree


def groups_of(uri: Path, **options: object) -> list[str]:
    return [row.group for row in rows_of(uri, **options)[1]]


def examples(ids: list[str], groups: list[str]) -> Examples:
    count = len(ids)
    return Examples(
        blocks=[],
        shape=(1,),
        dtype="|u1",
        places=np.zeros((count, 3), np.int64),
        ids=np.array(ids, np.str_),
        truths=np.full(count, "a"),
        groups=np.array(groups, np.str_),
        extents=np.zeros((count, 1), np.int32),
        digests=np.arange(count, dtype=np.uint64),
    )


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    return pa.table(
        {"patient": ["p1", "p2", None, "p1"], "visit": [1, 2, 2, 3], "label": ["x", "y", "x", "y"]}
    )


def test_a_parquet_column_named_for_patients_is_the_group(tmp_path: Path, table: pa.Table):
    images = table.append_column("image", pa.array([b"1", b"2", b"3", b"4"]))
    pq.write_table(images, tmp_path / "x.parquet", row_group_size=3)
    assert groups_of(tmp_path) == ["p1", "p2", "", "p1"]
    assert groups_of(tmp_path, group="visit") == ["1", "2", "2", "3"]
    assert groups_of(tmp_path, group="none") == [""] * 4
    with pytest.raises(ValueError, match="data.group: no column 'subject_no'; there are"):
        groups_of(tmp_path, group="subject_no")


def test_a_table_of_addresses_has_a_group_column_too(tmp_path: Path, table: pa.Table):
    folder = write_tree(tmp_path / "p", {f"sub-9_{i}.png": b"x" for i in range(4)})
    addresses = table.append_column("uri", pa.array([f"p/sub-9_{i}.png" for i in range(4)]))
    pq.write_table(addresses, tmp_path / "list.parquet", row_group_size=2)
    source = tmp_path / "list.parquet"
    assert groups_of(source) == ["p1", "p2", "", "p1"]
    assert groups_of(source, group="visit", slice_rows=3) == ["1", "2", "2", "3"]
    assert groups_of(source, group="none") == [""] * 4
    assert groups_of(folder, group="none") == [""] * 4


def test_a_subject_in_a_path_is_the_group_as_bids_names_it(tmp_path: Path):
    names = ["sub-01/anat/a.png", "sub-01/func/b.png", "x/sub-02_T1w.png", "mysub-03.png", "d.png"]
    write_tree(tmp_path, {name: b"x" for name in names})
    told = dict(zip(sorted(names), groups_of(tmp_path), strict=True))
    assert [told[name] for name in names] == ["sub-01", "sub-01", "sub-02", "", ""]


def test_a_pattern_finds_the_group_in_ids(tmp_path: Path):
    write_tree(tmp_path, {name: b"x" for name in ("a/patient7-1.png", "b/patient7-2.png", "c.png")})
    assert groups_of(tmp_path, group=r"patient(\d+)") == ["7", "7", ""]
    assert groups_of(tmp_path, group=r"^([ab])/") == ["a", "b", ""]


@pytest.mark.parametrize(
    ("group", "said"),
    [("sub-(", "no pattern"), ("(a)(b)", r"must have one \(…\)")],
)
def test_what_is_no_pattern_is_refused_at_once(group: str, said: str):
    with pytest.raises(ValueError, match=said):
        Source(uri="x", group=group)


def test_a_column_of_groups_is_refused_where_rows_have_no_columns(tmp_path: Path):
    write_tree(tmp_path, {"a.png": b"x"})
    with pytest.raises(ValueError, match="data.group: 'patient'; rows of files have no columns"):
        groups_of(tmp_path, group="patient")


@given(
    groups=st.lists(st.sampled_from(["", "p1", "p2", "p3", "p4", "p5"]), min_size=1, max_size=60),
    seed=st.integers(0, 50),
)
def test_a_group_lies_on_one_side_and_stays_there_when_others_come(groups: list[str], seed: int):
    ids = [f"row {i}" for i in range(len(groups))]
    everything = examples(ids, groups)
    try:
        kept = validation_part(everything, 0.4, seed)
    except ValueError:
        names = np.array([name or id for name, id in zip(groups, ids, strict=True)])
        assert any(groups)  # with no group at all, nothing is refused
        assert len(set(held_out(names, 0.4, seed).tolist())) == 1
        return
    sides: dict[str, set[bool]] = {}
    for name, side in zip(groups, kept.tolist(), strict=True):
        sides.setdefault(name, set()).add(side)
    assert all(len(side) == 1 for name, side in sides.items() if name)
    for name, side in zip(groups, kept.tolist(), strict=True):  # whatever other rows there are
        if name:
            assert held_out(np.array([name]), 0.4, seed).tolist() == [side]
    half = everything.take(np.arange(len(groups)) % 2 == 0)
    names = np.where(half.groups == "", half.ids, half.groups)
    assert held_out(names, 0.4, seed).tolist() == kept[::2].tolist()


def test_rows_without_a_group_are_split_one_by_one_about_as_asked():
    ids = [f"row {i}" for i in range(4000)]
    kept = validation_part(examples(ids, [""] * 4000), 0.25, seed=0)
    assert 0.22 < kept.mean() < 0.28
    other = validation_part(examples(ids, [""] * 4000), 0.25, seed=1)
    assert (kept != other).any()


def test_one_group_alone_cannot_be_split_and_is_told_how_it_could():
    with pytest.raises(
        ValueError, match=r"1 groups \(100\) cannot be split 0.9 : 0.1; name a --va"
    ):
        validation_part(examples(["100#1", "100#2"], ["100", "100"]), 0.1, seed=0)


def test_a_group_on_both_sides_is_refused_by_name():
    learn = examples(["a", "b", "c"], ["p1", "p2", ""])
    fine = examples(["d", "e"], ["p3", ""])
    refuse_shared_groups(learn, fine)
    torn = replace(fine, groups=np.array(["p2", ""]))
    with pytest.raises(ValueError, match="1 groups are learnt from too: p2; take them from one"):
        refuse_shared_groups(learn, torn)
