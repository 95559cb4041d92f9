"""Plans of loose files: appended to, compared with what is there, and never held in memory."""

import json
import logging
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.runtime import plan as planning
from jobs.runtime.plan import Plan, load_files, make_plan, read_slices
from jobs.runtime.run import Run
from jobs.runtime.sources import read_slice
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage


def planned(pictures: Path, out: Path, **options: bool) -> Plan:
    """One attempt at a run of these files, three a slice, that ends after its plan."""
    storage = Storage()
    source = Source(uri=str(pictures), slice_rows=3)
    with Run.open(str(out), job="x", config={}, identity={}, storage=storage) as run:
        found = make_plan(Origin(source=source, storage=storage), run, **options)
        if options.get("write", True):
            run.note(status="running")
    return found


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def names_of(plan: Plan) -> list[list[str]]:
    storage = plan.origin.storage
    return [list(load_files(plan.folder, storage, piece).files) for piece in plan.slices]


def test_files_that_come_between_planned_ones_are_appended_each_time(tmp_path: Path):
    pictures, out = tmp_path / "in", tmp_path / "out"
    grown = [list("bdfhjl"), list("ckz"), ["a", "e", "g/1", "g/2"], ["d2"], ["zz"]]
    slices: list[list[str]] = []
    for number, letters in enumerate(grown):
        fresh = sorted(f"{letter}.jpg" for letter in letters)
        touch(pictures, *fresh)

        plan = planned(pictures, out)

        slices += [fresh[i : i + 3] for i in range(0, len(fresh), 3)]
        assert names_of(plan) == slices, number
        assert plan.num_new == -(-len(fresh) // 3)
        assert not any(piece.files for piece in plan.slices)
        assert [piece.position for piece in plan.slices] == list(range(len(slices)))
    before = (out / "plan.parquet").stat()
    assert planned(pictures, out).num_new == 0
    assert (out / "plan.parquet").stat().st_ino == before.st_ino  # it is left alone


def test_what_was_planned_and_is_gone_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    pictures, out = tmp_path / "in", tmp_path / "out"
    touch(pictures, *(f"{n:02}.jpg" for n in range(30)))
    planned(pictures, out)
    touch(pictures, "03b.jpg")
    planned(pictures, out)
    for name in ("00.jpg", "03b.jpg", "29.jpg"):
        (pictures / name).unlink()

    with caplog.at_level(logging.WARNING):
        plan = planned(pictures, out)

    told = [r.getMessage().split(":")[0] for r in caplog.records if "no longer" in r.getMessage()]
    assert told == ["00.jpg", "03b.jpg", "29.jpg"]
    assert (plan.num_new, len(plan.slices)) == (0, 11)


@pytest.mark.parametrize("name", ["00.jpg", "07b.jpg", "29.jpg"])
def test_a_change_is_seen_wherever_it_is(tmp_path: Path, name: str):
    pictures, out = tmp_path / "in", tmp_path / "out"
    touch(pictures, *(f"{n:02}.jpg" for n in range(30)))
    planned(pictures, out)
    touch(pictures, "07b.jpg", "zz.jpg")
    planned(pictures, out)
    (pictures / name).write_bytes(b"another")
    touch(pictures, "00a.jpg")

    with pytest.raises(ValueError, match=f"{name}: changed since this run planned it"):
        planned(pictures, out)
    assert len(read_slices(Run.load(str(out), Storage()))) == 11


def test_more_than_was_planned_is_counted_and_refused_where_it_may_not_be(tmp_path: Path):
    pictures, out = tmp_path / "in", tmp_path / "out"
    touch(pictures, "b.jpg", "d.jpg")
    planned(pictures, out)
    touch(pictures, "c.jpg", "a.jpg", "e.jpg")
    with pytest.raises(ValueError, match=r"grew by 3 files .*the first: .*/a\.jpg\)"):
        planned(pictures, out, may_grow=False)


def test_a_dry_run_reads_the_files_that_it_would_plan_and_leaves_nothing(tmp_path: Path):
    pictures, out = tmp_path / "in", tmp_path / "out"
    touch(pictures, *(f"{n}.jpg" for n in range(8)))

    plan = planned(pictures, out, write=False)

    assert not out.exists()
    whole = [load_files(plan.folder, plan.origin.storage, piece) for piece in plan.slices]
    data = [row.data.decode() for piece in whole for row in read_slice(plan.origin, piece)]
    assert data == [f"{n}.jpg" for n in range(8)]

    planned(pictures, out)
    touch(pictures, "5b.jpg")
    assert names_of(planned(pictures, out, write=False))[-1] == ["5b.jpg"]
    assert len(read_slices(Run.load(str(out), Storage()))) == 3


def test_a_plan_of_many_slices_has_few_row_groups_and_each_slice_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(planning, "MAX_ROW_GROUPS", 4)
    monkeypatch.setattr(planning, "MOST_ROWS", 3)
    pictures, out = tmp_path / "in", tmp_path / "out"
    names = [f"{n:04}.jpg" for n in range(900)]
    touch(pictures, *names)
    first = planned(pictures, out)
    touch(pictures, "0450b.jpg", *(f"x{n:03}.jpg" for n in range(40)))

    plan = planned(pictures, out)

    metadata = pq.read_metadata(out / "plan.parquet")
    assert metadata.num_row_groups <= 5
    assert metadata.num_rows == len(plan.slices) == 300 + 14
    assert plan.slices[:300] == first.slices
    found = names_of(plan)
    assert [name for each in found[:300] for name in each] == names
    assert found[300][0] == "0450b.jpg"
    assert planned(pictures, out).num_new == 0


def test_a_kill_between_plan_and_manifest_costs_nothing(tmp_path: Path):
    """The plan of another request is overwritten; one of the same is gone on with."""
    pictures, out = tmp_path / "in", tmp_path / "out"
    touch(pictures, "a.jpg", "b.jpg")
    planned(pictures, out)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").unlink()
    assert planned(pictures, out).num_new == 0
    table = pq.read_table(out / "plan.parquet")
    other = table.replace_schema_metadata({planning.FINGERPRINT: b"other"})
    pq.write_table(other, out / "plan.parquet")
    os.remove(out / "manifest.json")
    touch(pictures, "c.jpg")

    plan = planned(pictures, out)

    assert names_of(plan) == [["a.jpg", "b.jpg", "c.jpg"]]
    told = pq.read_schema(out / "plan.parquet").metadata[planning.FINGERPRINT].decode()
    assert told == manifest["fingerprint"]


def test_an_empty_shard_does_not_grow_a_source(tmp_path: Path):
    """Other tools write such: a training over them could never be repeated."""
    (tmp_path / "in").mkdir()
    for name, rows in (("a", [b"1", b"2"]), ("b", [])):
        column = pa.array(rows, pa.binary())
        pq.write_table(pa.table({"image": column}), tmp_path / "in" / f"{name}.parquet")
    with pq.ParquetWriter(tmp_path / "in" / "c.parquet", pa.schema([("image", pa.binary())])):
        pass

    for _ in range(2):
        assert planned(tmp_path / "in", tmp_path / "out", may_grow=False).rows == 2
    pq.write_table(pa.table({"image": [b"3"]}), tmp_path / "in" / "d.parquet")
    with pytest.raises(ValueError, match="grew by"):
        planned(tmp_path / "in", tmp_path / "out", may_grow=False)
