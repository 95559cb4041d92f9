"""What was good once is not lost: to a repetition of what failed, or to another request."""

import io
import shutil
import tarfile
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.runtime.drawn import read_pictures
from jobs.runtime.plan import Plan, load_files, plan_numbers
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage
from tests.jobs.runtime.toy import make_pictures, rows_of, run_toy

INLINE = Resources(engine="inline", max_failed_fraction=1.0)
RAY = Resources(max_failed_fraction=1.0, num_cpus=2, actors=2)


def drawn(data: bytes, row: object) -> bytes:
    return b"drawn " + data


@pytest.mark.parametrize("archives", [False, True])
@pytest.mark.parametrize("resources", [INLINE, RAY], ids=["inline", "ray"])
def test_good_rows_and_pictures_stay_where_the_input_is_gone_when_failed_ones_are_tried_again(
    tmp_path: Path, local_ray: None, archives: bool, resources: Resources
):
    pictures = make_pictures(tmp_path / "in", 25, {12: b"bad", 14: b"bad"})
    run = run_toy(pictures, tmp_path / "out", resources, draw=drawn, archives=archives)[1]
    before = rows_of(run)
    shown = read_pictures(run.storage, [str(r["image_uri"]) for r in before if r["image_uri"]])
    for number in (3, 11, 14, 17):  # two good ones and a bad one of the slice, one of another
        (pictures / f"{number:04}.png").unlink()

    plan, run = run_toy(
        pictures, tmp_path / "out", resources, retry_failed=True, draw=drawn, archives=archives
    )

    assert len(plan.todo) == 1
    after = rows_of(run)
    assert run.manifest["counts"] == {"read": 25, "ok": 23, "failed": 2}
    assert str(after[14].pop("error")).startswith("gone")  # what is wrong with it now
    before[14].pop("error")
    assert (before[14].pop("stage"), after[14].pop("stage")) == ("decode", "read")
    assert after == before
    assert read_pictures(run.storage, list(shown)) == shown
    assert len(shown) == 23


def test_a_run_directory_that_was_moved_keeps_its_pictures_where_inputs_are_gone(tmp_path: Path):
    pictures = make_pictures(tmp_path / "in", 5, {2: b"bad"})
    run_toy(pictures, tmp_path / "first", INLINE, draw=drawn, archives=True)
    (tmp_path / "first").rename(tmp_path / "out")

    def members() -> list[str]:
        (path,) = (tmp_path / "out" / "images").iterdir()
        with tarfile.open(path) as tar:
            return sorted(tar.getnames())

    before = members()
    (pictures / "0000.png").unlink()

    run_toy(pictures, tmp_path / "out", INLINE, retry_failed=True, draw=drawn, archives=True)

    assert members() == before


def test_a_plan_of_numbers_is_not_replaced_by_a_request_that_is_refused(tmp_path: Path):
    storage = Storage()

    def planned(out: Path, kind: str, count: int) -> Plan:
        origin = Origin(source=Source(uri=str(tmp_path / kind)), storage=storage)
        with Run.open(str(out), job=kind, config={}, identity={}, storage=storage) as run:
            plan = plan_numbers(origin, run, count)
            run.note(status="running")
            for piece in plan.todo:
                table = pa.table({"id": ["1"]}).replace_schema_metadata(
                    {"argus.ok": "1", "argus.failed": "0", "argus.fingerprint": run.fingerprint}
                )
                pq.write_table(table, tmp_path / "part")
                run.put_file(f"results/part-{piece.slice_id}.parquet", tmp_path / "part")
        return plan

    out = tmp_path / "out"
    for count in (100, 200):
        planned(out, "one", count)
    (out / "manifest.json").unlink()
    before = (out / "plan.parquet").read_bytes()
    with pytest.raises(ValueError, match="another request"):
        planned(out, "two", 50)
    assert (out / "plan.parquet").read_bytes() == before
    assert planned(out, "one", 200).todo == []


@pytest.mark.parametrize("archives", [False, True])
def test_a_tar_that_is_gone_keeps_its_rows_and_pictures(tmp_path: Path, archives: bool):
    """Compressed ones are cut into one slice, whose rows nobody counted before they were read."""
    to = partial(run_toy, tmp_path / "in", tmp_path / "out", INLINE, draw=drawn, archives=archives)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        with tarfile.open(tmp_path / "in" / f"{name}.tar.gz", "w:gz") as tar:
            for number in range(9):
                header = tarfile.TarInfo(f"{number}.png")
                data = b"bad" if number == 5 else bytes([97 + number])
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    before, images = rows_of(to()[1]), tmp_path / "out" / "images"
    made = {path: path.read_bytes() for path in images.rglob("*.*") if path.is_file()}
    (tmp_path / "in" / "a.tar.gz").unlink()

    plan, run = to(retry_failed=True)

    assert len(plan.todo) == 2
    assert rows_of(run) == before
    assert {path: path.read_bytes() for path in made} == made
    assert len(made) == (2 if archives else 16)
    assert run.manifest["counts"] == {"read": 18, "ok": 16, "failed": 2}


def test_parts_of_another_request_are_refused_where_the_manifest_was_lost(tmp_path: Path):
    out = tmp_path / "out"
    one, two = make_pictures(tmp_path / "one", 12), make_pictures(tmp_path / "two", 12)
    run_toy(one, out, INLINE)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "manifest.json").unlink()

    with pytest.raises(ValueError, match=r"part-.* another request .*choose another --out"):
        run_toy(two, out, INLINE)

    before.pop(out / "manifest.json")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    plan, run = run_toy(one, out, INLINE)  # the same request goes on
    assert plan.todo == []
    assert run.manifest["counts"]["ok"] == 12

    first, second = sorted((out / "results").iterdir())
    other = run_toy(two, tmp_path / "other", INLINE)[1]
    shutil.copy(other.parts()[0].uri, second)
    with pytest.raises(ValueError, match=rf"{second.name} was made by another request"):
        run_toy(one, out, INLINE)


def test_a_manifest_of_something_else_is_refused_as_no_run(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text('{"gallery": 1}')
    with pytest.raises(ValueError, match=r"manifest.json is of no run: it lacks attempts, config"):
        run_toy(make_pictures(tmp_path / "in", 3), tmp_path / "out", INLINE)


@pytest.mark.parametrize("name", ["photos[v2]", "photos*", "what?"])
def test_a_run_directory_may_have_any_name(tmp_path: Path, name: str):
    pictures = make_pictures(tmp_path / "in", 12)
    other = run_toy(pictures, tmp_path / "runs" / "photosv", INLINE)[1]

    _, run = run_toy(pictures, tmp_path / "runs" / name, INLINE)

    assert rows_of(run) == rows_of(other)
    assert run_toy(pictures, tmp_path / "runs" / name, INLINE)[0].todo == []


def test_names_of_a_plan_that_another_attempt_replaced_are_not_taken_for_a_slices_own(
    tmp_path: Path,
):
    pictures = make_pictures(tmp_path / "in", 25)
    plan, _ = run_toy(pictures, tmp_path / "out", INLINE)
    path = tmp_path / "out" / "plan.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take([1, 0, 2]), path)

    assert load_files(plan.folder, Storage(), plan.slices[2]).files
    with pytest.raises(RuntimeError, match="another attempt over the same --out replaced it"):
        load_files(plan.folder, Storage(), plan.slices[0])


def test_rows_come_in_order_however_many_parts_are_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, run = run_toy(make_pictures(tmp_path / "in", 205), tmp_path / "out", INLINE)
    parts = [pq.read_table(entry.uri, columns=["id"])["id"].to_pylist() for entry in run.parts()]
    wanted = [name for part in parts for name in part]
    for limit in (0, 5_000, 64_000_000):
        monkeypatch.setattr("jobs.runtime.run.BYTES_IN_FLIGHT", limit)
        found = [name for batch in run.results(["id"]) for name in batch["id"].to_pylist()]
        assert found == wanted

    Path(run.parts()[3].uri).write_bytes(b"PAR1")
    with pytest.raises(RuntimeError, match="damaged"):
        list(run.results())
