"""The law of the engine: in = out, each image once, whatever happens on the way."""

import json
import os
import posixpath
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.runtime.bulk import find_bound
from jobs.runtime.drawn import image_name, read_pictures
from jobs.runtime.ray_engine import _payload_bytes
from jobs.runtime.resources import Resources, decide_engine, make_pool
from jobs.runtime.run import Run, TooManyFailedError
from jobs.runtime.slices import UNKNOWN, make_slice
from jobs.runtime.storage import Storage, StorageConfig
from tests.jobs.runtime.toy import (
    DyingOperator,
    MistakenOperator,
    RegroupingOperator,
    ToyDecoder,
    make_pictures,
    rows_of,
    run_toy,
)

SPECIAL = {3: b"bad", 17: b"kill", 25: b"bad", 26: b"bad"}
INLINE = Resources(engine="inline", max_failed_fraction=1.0)
PLACES = {
    "inline": INLINE,
    "together": Resources(max_failed_fraction=1.0, num_cpus=2, actors=2, batch_size=7),
    "apart": Resources(max_failed_fraction=1.0, num_cpus=2, actors=1, placement="apart"),
}


def parts_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "results").iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """35 pictures, four of them bad, and what one attempt in this process makes of them."""
    root = tmp_path_factory.mktemp("undisturbed")
    pictures = make_pictures(root / "in", 35, SPECIAL)
    run_toy(pictures, root / "out", INLINE)
    return pictures, root / "out"


def test_every_image_is_one_row_in_order_with_its_result_or_its_cause(
    undisturbed: tuple[Path, Path],
):
    pictures, out = undisturbed
    run = Run.load(str(out), Storage())

    rows = rows_of(run)

    assert [row["id"] for row in rows] == sorted(path.name for path in pictures.iterdir())
    for number, row in enumerate(rows):
        letter = 97 + number % 26
        if number in SPECIAL:
            assert (row["status"], row["stage"], row["mean"]) == ("failed", "decode", None)
            assert row["error"]
        else:
            assert (row["status"], row["error"], row["mean"]) == ("ok", "", 1000 + letter)
            assert row["words"] == ["x", str(1000 + letter)]
            assert row["embedding"] == [1000 + letter, -1000 - letter]
    assert rows[17]["error"] == "worker died (exit code 9)"
    assert run.manifest["counts"] == {"read": 35, "ok": 31, "failed": 4}
    assert run.manifest["status"] == "done"


@pytest.mark.parametrize("place", ["together", "apart"])
def test_both_placements_on_ray_write_the_same_bytes(
    undisturbed: tuple[Path, Path], tmp_path: Path, place: str, local_ray: None
):
    pictures, out = undisturbed

    _, run = run_toy(pictures, tmp_path / "out", PLACES[place])

    assert parts_of(tmp_path / "out") == parts_of(out)
    if PLACES[place].actors == 1:  # on two CPUs it infers two slices at a time
        assert run.manifest["bound"].endswith("of 2 workers")


@pytest.mark.parametrize(
    ("seconds", "workers", "bound"),
    [
        ({"read": 1, "decode": 2, "operate": 9, "write": 0.5}, 1, "inference, busy 90% of the"),
        ({"read": 12, "decode": 2, "operate": 9}, 2, "reading, busy 60% of the time of 2 workers"),
        ({"decode": 30}, 2, "decoding, busy 100%"),
        ({}, 1, "reading, busy 0%"),
    ],
)
def test_bound_is_the_busiest_stage_and_its_share(
    seconds: dict[str, float], workers: int, bound: str
):
    assert find_bound(seconds, 10.0 * workers, workers).startswith(bound)


def test_a_refused_request_leaves_a_plan_that_it_did_not_write(tmp_path: Path):
    pictures = make_pictures(tmp_path / "in", 3)
    plan = tmp_path / "out" / "plan.parquet"
    plan.parent.mkdir()
    plan.write_bytes(b"somebody's")

    with pytest.raises(ValueError, match=r"plan\.parquet"):
        run_toy(pictures, tmp_path / "out", INLINE)

    assert plan.read_bytes() == b"somebody's"


def test_a_second_attempt_does_only_what_is_missing(undisturbed: tuple[Path, Path], tmp_path: Path):
    pictures, out = undisturbed
    again = shutil.copytree(out, tmp_path / "out")
    missing = sorted((again / "results").iterdir())[1]
    whole = missing.read_bytes()
    missing.unlink()

    plan, run = run_toy(pictures, again, INLINE)

    assert [f"part-{piece.slice_id}.parquet" for piece in plan.todo] == [missing.name]
    assert missing.read_bytes() == whole
    assert run.manifest["counts"] == {"read": 35, "ok": 31, "failed": 4}
    assert run.manifest["attempts"] == 2


def test_a_grown_source_adds_slices_and_leaves_the_old_ones(tmp_path: Path):
    pictures = make_pictures(tmp_path / "in", 15)
    run_toy(pictures, tmp_path / "out", INLINE)
    before = parts_of(tmp_path / "out")
    (pictures / "0000-first.png").write_bytes(b"z")
    (pictures / "sub").mkdir()
    (pictures / "sub" / "late.png").write_bytes(b"y")

    plan, run = run_toy(pictures, tmp_path / "out", INLINE)

    assert (len(plan.slices), len(plan.todo), plan.num_new) == (3, 1, 1)
    after = parts_of(tmp_path / "out")
    assert before.items() < after.items()
    assert len(rows_of(run)) == len({row["id"] for row in rows_of(run)}) == 17
    assert run_toy(pictures, tmp_path / "out", INLINE)[0].todo == []


def test_an_image_changed_since_the_plan_is_refused_by_name(tmp_path: Path):
    pictures = make_pictures(tmp_path / "in", 5)
    run_toy(pictures, tmp_path / "out", INLINE)
    (pictures / "0003.png").write_bytes(b"other bytes")

    with pytest.raises(ValueError, match=r"0003.png: changed since"):
        run_toy(pictures, tmp_path / "out", INLINE)


def test_a_run_directory_of_another_request_is_refused_with_the_difference(tmp_path: Path):
    one, two = make_pictures(tmp_path / "one", 3), make_pictures(tmp_path / "two", 3)
    run_toy(one, tmp_path / "out", INLINE)

    with pytest.raises(ValueError, match=r"data.uri was '.*one', now '.*two'"):
        run_toy(two, tmp_path / "out", INLINE)


def test_a_run_directory_inside_its_source_is_refused(tmp_path: Path):
    pictures = make_pictures(tmp_path / "in", 3)
    with pytest.raises(ValueError, match="would become input"):
        run_toy(pictures, pictures / "out", INLINE)


def test_failed_rows_are_tried_again_only_when_asked(tmp_path: Path):
    pictures = make_pictures(tmp_path / "in", 25, {12: b"bad"})
    (pictures / "0004.png").rename(tmp_path / "away.png")
    (pictures / "0004.png").symlink_to(tmp_path / "later.png")
    shutil.copy(tmp_path / "away.png", tmp_path / "later.png")
    run_toy(pictures, tmp_path / "out", INLINE)

    assert run_toy(pictures, tmp_path / "out", INLINE)[0].todo == []
    plan, run = run_toy(pictures, tmp_path / "out", INLINE, retry_failed=True)

    assert len(plan.todo) == 1
    assert run.manifest["counts"] == {"read": 25, "ok": 24, "failed": 1}


def test_too_many_failures_end_the_run_with_their_causes_and_keep_what_is_done(tmp_path: Path):
    bad = {i: b"bad" for i in range(60, 130)}
    pictures = make_pictures(tmp_path / "in", 130, bad)
    resources = Resources(engine="inline", actors=1, max_failed_fraction=0.2)

    with pytest.raises(TooManyFailedError, match=r"40 of 100 .*\n *40  decode: .*bad bytes N"):
        run_toy(pictures, tmp_path / "out", resources)

    assert len(parts_of(tmp_path / "out")) == 10
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"


def test_a_few_rows_that_all_fail_are_no_success_and_a_bad_start_is_no_failure(tmp_path: Path):
    strict = Resources(engine="inline", actors=1)
    all_bad = make_pictures(tmp_path / "bad", 25, dict.fromkeys(range(25), b"bad"))
    for _ in range(2):  # the second attempt finds it done, and no better
        with pytest.raises(TooManyFailedError, match="25 of 25 rows failed"):
            run_toy(all_bad, tmp_path / "none", strict)
    assert sum(len(pq.read_table(part)) for part in (tmp_path / "none/results").iterdir()) == 25

    one_good = make_pictures(tmp_path / "in", 25, dict.fromkeys(range(24), b"bad"))
    _, run = run_toy(one_good, tmp_path / "out", strict)
    assert run.manifest["counts"] == {"read": 25, "ok": 1, "failed": 24}


def test_a_slice_too_large_for_every_node_is_refused_with_the_numbers(local_ray: None):
    """Ray would wait for a node that has so much memory."""
    piece = make_slice("webdataset", "s3://b/x.tar", "", (0, 1), UNKNOWN, 300_000_000)
    assert _payload_bytes([piece], ToyDecoder()) == 2 * 3_000 * 12  # guessed by its bytes
    large = replace(ToyDecoder(), shape=(100_000, 100_000, 3))
    with pytest.raises(ValueError, match=r"apart: .* \(3,000 rows\) take 180,000.0 GB, the larg"):
        _payload_bytes([piece], large)


@pytest.mark.slow
def test_a_slice_that_ends_every_actor_ends_the_run(tmp_path: Path, local_ray: None):
    pictures = make_pictures(tmp_path / "in", 35, {31: b"!"})
    with pytest.raises(RuntimeError, match="a worker died 6 times over one slice; smaller slices"):
        run_toy(pictures, tmp_path / "out", PLACES["together"], operator=DyingOperator)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"


@pytest.mark.parametrize("place", ["inline", "together"])
def test_a_bug_in_the_operator_ends_the_run_with_its_own_words(
    tmp_path: Path, place: str, local_ray: None
):
    pictures = make_pictures(tmp_path / "in", 12, {11: b"!"})

    with pytest.raises((TypeError, RuntimeError), match="^(TypeError: )?a bug in the operator$"):
        run_toy(pictures, tmp_path / "out", PLACES[place])


@pytest.mark.parametrize("place", ["inline", "together", "apart"])
def test_an_image_that_takes_longer_than_was_allowed_is_a_failed_row(
    tmp_path: Path, place: str, local_ray: None
):
    pictures = make_pictures(tmp_path / "in", 12, {7: b"hang"})
    patience = replace(PLACES[place], decode_timeout_s=0.5, max_failed_fraction=1.0)

    _, run = run_toy(pictures, tmp_path / "out", patience)

    failed = [row for row in rows_of(run) if row["status"] == "failed"]
    assert [(row["id"], row["stage"]) for row in failed] == [("0007.png", "decode")]
    assert "0.5 s" in str(failed[0]["error"])


def test_a_run_behind_one_that_failed_has_all_cpus_though_its_trace_is_kept(
    tmp_path: Path, local_ray: None
):
    """`apart` on two CPUs wants both; a notebook keeps the trace of the last error."""
    bad = make_pictures(tmp_path / "bad", 12, {11: b"!"})
    with pytest.raises(RuntimeError, match="a bug in the operator") as kept:
        run_toy(bad, tmp_path / "failed", PLACES["together"])

    _, run = run_toy(make_pictures(tmp_path / "in", 12), tmp_path / "out", PLACES["apart"])

    assert len(rows_of(run)) == 12
    assert kept.tb is not None


@pytest.mark.parametrize("place", ["inline", "together"])
def test_what_a_library_refuses_in_mid_run_is_no_bad_request(
    tmp_path: Path, place: str, local_ray: None
):
    pictures = make_pictures(tmp_path / "in", 12, {11: b"!"})

    with pytest.raises(RuntimeError, match=r"ValueError: cannot reshape that"):
        run_toy(pictures, tmp_path / "out", PLACES[place], operator=MistakenOperator)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "interrupted"


def test_a_run_on_s3_is_planned_read_written_and_resumed_there(
    s3: StorageConfig, bucket: str, undisturbed: tuple[Path, Path], local_ray: None
):
    storage = Storage(s3)
    for path in undisturbed[0].iterdir():
        storage.put(f"{bucket}/in put/{path.name}", path.read_bytes())

    _, run = run_toy(f"{bucket}/in put", f"{bucket}/out", PLACES["together"], storage=s3)
    first = rows_of(run)
    entry = run.parts()[0]
    storage.delete(entry.uri)
    plan, run = run_toy(f"{bucket}/in put", f"{bucket}/out", INLINE, storage=s3)

    assert len(plan.todo) == 1
    assert rows_of(run) == first
    local = rows_of(Run.load(str(undisturbed[1]), Storage()))
    kept = ("id", "status", "stage", "error", "mean", "words", "embedding")
    assert [[row[k] for k in kept] for row in first] == [[row[k] for k in kept] for row in local]
    assert first[0]["uri"] == f"{bucket}/in put/0000.png"
    written = b"".join(storage.read(e.uri) for e in storage.find(f"{bucket}/out"))
    assert b"testing-secret" not in written


def test_parts_that_are_damaged_or_of_no_planned_slice_are_named(
    undisturbed: tuple[Path, Path], tmp_path: Path
):
    photos, out = undisturbed
    shutil.copytree(out, tmp_path / "run")
    first, second, *_ = sorted((tmp_path / "run" / "results").iterdir())
    whole = first.read_bytes()

    first.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RuntimeError, match=rf"{first.name}: damaged .*remove it"):
        run_toy(str(photos), str(tmp_path / "run"), INLINE)
    first.write_bytes(b"")  # what a power cut may leave
    plan, run = run_toy(str(photos), str(tmp_path / "run"), INLINE)
    assert len(plan.todo) == 1
    assert rows_of(run) == rows_of(Run.load(str(out), Storage()))

    shutil.copy(second, second.with_name("part-0123456789abcdef01234567.parquet"))
    with pytest.raises(RuntimeError, match="1 parts are of no planned slice: .'0123456789abcdef"):
        run_toy(str(photos), str(tmp_path / "run"), INLINE)


def test_parts_say_what_made_them(undisturbed: tuple[Path, Path]):
    part = next((undisturbed[1] / "results").iterdir())
    metadata = pq.read_schema(part).metadata
    manifest = json.loads((undisturbed[1] / "manifest.json").read_text())

    assert metadata[b"argus.fingerprint"].decode() == manifest["fingerprint"]
    assert metadata[b"argus.weights"] == b"toy"
    assert pq.read_table(part).num_rows == int(metadata[b"argus.ok"]) + int(
        metadata[b"argus.failed"]
    )


def draw_initial(data: bytes, row: Mapping[str, Any]) -> bytes:
    """Nothing of a `c`; else the first letter and the mean."""
    return b"" if data[:1] == b"c" else data[:1] + str(int(row["mean"])).encode()


@pytest.mark.parametrize("place", ["inline", pytest.param("apart", marks=pytest.mark.slow)])
def test_what_is_drawn_of_a_row_lies_by_its_id_and_what_cannot_be_costs_no_row(
    tmp_path: Path, place: str, local_ray: None
):
    pictures = make_pictures(tmp_path / "in", 14, {3: b"bad"})

    _, run = run_toy(pictures, tmp_path / "out", PLACES[place], draw=draw_initial)

    for number, row in enumerate(rows_of(run)):
        assert row["status"] == ("failed" if number == 3 else "ok")
        path = tmp_path / "out" / "images" / f"{number:04}.png.jpg"
        drawn = number not in (2, 3)
        assert row["image_uri"] == (str(path) if drawn else None)
        assert path.exists() == drawn
        if drawn:
            assert path.read_bytes() == bytes([97 + number]) + str(1097 + number).encode()


def test_several_pictures_of_a_row_lie_below_its_id(tmp_path: Path):
    pictures = make_pictures(tmp_path / "in", 4, {3: b"bad"})

    _, run = run_toy(
        pictures,
        tmp_path / "out",
        PLACES["inline"],
        draw_each=lambda id, row: {f"{id}/{k}": b"x" for k in range(int(row["mean"]) - 1097)},
    )

    for number, row in enumerate(rows_of(run)):
        folder = tmp_path / "out" / "images" / f"{number:04}.png"
        paths = [folder / f"{k}.jpg" for k in range(number)]
        assert row["image_uris"] == (None if number == 3 else list(map(str, paths)))
        assert all(path.read_bytes() == b"x" for path in paths if number != 3)


@pytest.mark.parametrize("place", ["inline", pytest.param("apart", marks=pytest.mark.slow)])
def test_pictures_of_a_slice_lie_in_one_tar_that_readers_of_webdataset_take(
    tmp_path: Path, place: str, local_ray: None
):
    pictures = make_pictures(tmp_path / "in", 14, {3: b"bad"})
    (tmp_path / "in" / "0013.png").rename(tmp_path / "in" / "v1.2 #é.png")

    _, run = run_toy(pictures, tmp_path / "out", PLACES[place], draw=draw_initial, archives=True)

    rows = rows_of(run)
    uris = [row["image_uri"] for row in rows]
    assert [number for number, uri in enumerate(uris) if uri is None] == [2, 3]
    wanted = [str(uri) for uri in uris if uri]
    found = read_pictures(run.storage, [*wanted, str(tmp_path / "gone.jpg")])
    assert sorted(found) == sorted(wanted)
    for number, row in enumerate(rows):
        if uri := row["image_uri"]:
            letter = b"n" if number == 13 else bytes([97 + number])
            assert found[str(uri)][:1] == letter
    assert wanted[-1].endswith("#v1%2E2 %23é%2Epng.jpg")
    tars = {uri.partition("#")[0] for uri in wanted}
    assert {str(path) for path in (tmp_path / "out" / "images").iterdir()} == tars
    assert len(tars) == 2
    _, again = run_toy(tmp_path / "out" / "images", tmp_path / "again", INLINE)
    read = [(row["status"], str(row["uri"]).partition("#")[0]) for row in rows_of(again)]
    assert read == [("ok", tar) for tar in sorted(tars) for uri in wanted if uri.startswith(tar)]
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()}
    for part in (tmp_path / "out" / "results").glob("part-*"):
        part.unlink()
    run_toy(pictures, tmp_path / "out", PLACES[place], draw=draw_initial, archives=True)
    assert {path: path.read_bytes() for path in (tmp_path / "out" / "images").iterdir()} == before


@pytest.mark.parametrize("place", ["inline", pytest.param("apart", marks=pytest.mark.slow)])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_an_operator_that_makes_its_own_batches_of_a_slice_gives_the_same_rows(
    tmp_path: Path, place: str, batch_size: int, local_ray: None
):
    """Batches of which nothing decoded among them, and a last one; slices are of ten rows."""
    bad = {number: b"bad" for number in (0, 1, 2, 7, 19, 20, 21, 22)}
    pictures = make_pictures(tmp_path / "in", 23, bad)
    resources = replace(PLACES[place], batch_size=batch_size, max_failed_fraction=1.0)

    _, plain = run_toy(pictures, tmp_path / "plain", resources)
    _, run = run_toy(pictures, tmp_path / "out", resources, operator=RegroupingOperator)

    assert rows_of(run) == rows_of(plain)


def test_an_operator_that_loses_a_batch_ends_the_run(tmp_path: Path):
    class Forgetful(RegroupingOperator):
        def regrouped(self, batches: Any) -> Any:
            yield from list(super().regrouped(batches))[:-1]

    pictures = make_pictures(tmp_path / "in", 12)
    resources = replace(PLACES["inline"], batch_size=4)
    with pytest.raises(RuntimeError, match="gave nothing for 1 batches"):
        run_toy(pictures, tmp_path / "out", resources, operator=Forgetful)


@given(st.lists(st.sampled_from(["..", ".", "a", "b.png", ""]), max_size=8))
def test_no_id_leads_its_picture_out_of_the_run_directory(parts: list[str]):
    """A tar may hold such names, where `--data.ignore` does not keep them out."""
    path = posixpath.normpath(f"/run/{image_name('x.tar#' + '/'.join(parts))}")
    assert path.startswith("/run/images/x.tar/")


WORDS = st.lists(st.sampled_from(["x", ".png", ".jpg", ".JPEG", "#", "/y", "%23", "%25"]))
ENDS = st.sampled_from([".png", ".jpg", ".jpeg"])


@given(st.sampled_from(["", "a.tar#", "c#"]), WORDS, ENDS, WORDS, ENDS)
def test_pictures_of_two_rows_have_two_names(
    shard: str, one: list[str], end: str, other: list[str], another: str
):
    ids = {f"{shard}x{''.join(one)}{end}", f"{shard}x{''.join(other)}{another}"}
    assert len(set(map(image_name, ids))) == len(ids)


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("deep/x.jpg", "deep/x.jpg"),
        ("x.JPEG", "x.JPEG"),
        ("x.png", "x.png.jpg"),
        ("x.png.jpg", "x.png.jpg.jpg"),
        ("a.tar#b/000.jpg", "a.tar/b/000.jpg"),
        ("train.parquet#7", "train.parquet/7.jpg"),
        ("hash#1.jpg", "hash%231.jpg"),
        ("2026.01.05.jpg", "2026.01.05.jpg"),
    ],
)
def test_a_picture_is_named_after_its_row(id: str, name: str):
    assert image_name(id) == f"images/{name}"


@pytest.mark.parametrize(
    ("options", "cpus", "gpus", "told"),
    [
        ({}, 8, 0, "8 actors of 1 CPU, 1 thread, decode together"),
        ({"placement": "apart"}, 8, 0, "7 actors of 1 CPU, 1 thread, decode apart"),
        ({}, 8, 2, "2 actors of 0 CPU and 1 GPU, 4 threads, decode apart"),
        ({"gpus_per_actor": 0.5}, 8, 2, "4 actors of 0 CPU and 0.5 GPU, 2 threads, decode apart"),
        ({"gpus_per_actor": 0}, 8, 2, "8 actors of 1 CPU, 1 thread, decode together"),
        ({"actors": 2}, 8, 0, "2 actors of 1 CPU, 4 threads, decode together"),
        ({"placement": "together"}, 1, 2, "1 actors of 1 CPU and 1 GPU, 1 thread, decode together"),
    ],
)
def test_the_pool_follows_from_the_machine(
    options: dict[str, object], cpus: float, gpus: float, told: str
):
    assert str(make_pool(Resources(**options), cpus, gpus)) == told  # pyright: ignore


@pytest.mark.parametrize(
    ("engine", "rows", "cluster", "decided"),
    [
        ("auto", 0, "", "inline"),
        ("auto", 9_999, "", "inline"),
        ("auto", 10_000, "", "ray"),
        ("auto", -1, "", "ray"),  # a compressed tar does not say
        ("auto", 5, "ray://head:10001", "ray"),
        ("inline", 10**8, "ray://head:10001", "inline"),
        ("ray", 1, "", "ray"),
    ],
)
def test_few_rows_do_not_start_ray(
    monkeypatch: pytest.MonkeyPatch, engine: Any, rows: int, cluster: str, decided: str
):
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    assert decide_engine(Resources(engine=engine), rows).engine == decided


def test_gpus_that_are_not_wanted_are_not_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    decide_engine(Resources(), 5)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    decide_engine(Resources(gpus_per_actor=0), 5)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("options", "cpus", "gpus", "said"),
    [
        ({"actors": 3}, 2, 0, "3 of 1 CPU each do not fit 2 CPUs .* at most 2 do"),
        ({"actors": 2, "placement": "apart"}, 2, 0, "one CPU kept for reading; at most 1 do"),
        ({"actors": 2}, 8, 1, "1 GPU each do not fit 8 CPUs and 1 GPUs"),
        ({"placement": "apart"}, 1, 0, "none of 1 CPU each do not fit 1 CPUs"),
    ],
)
def test_a_pool_that_would_starve_is_refused_with_the_numbers(
    options: dict[str, object], cpus: float, gpus: float, said: str
):
    with pytest.raises(ValueError, match=said):
        make_pool(Resources(**options), cpus, gpus)  # pyright: ignore
