"""Heart beats of WFDB records: a row per annotated beat, whatever is missing or damaged."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jobs.runtime.reread import _holding
from jobs.runtime.slices import Row
from jobs.runtime.sources import choose, cut_slices, read_slice
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.sources.wfdb import AAMI, AFTER_S, BEFORE_S, load_package, quietly
from jobs.runtime.storage import Storage, StorageConfig
from tests.jobs.runtime.source_rows import rows_of

package = load_package()
RATE, LENGTH = 100, 3000
BEFORE, AFTER = round(BEFORE_S * RATE), round(AFTER_S * RATE)
SAMPLES = (10, 300, 700, 705, 1500, 2500, 2990)
SYMBOLS = ("N", "V", "+", "A", "N", "/", "F")


def write_record(folder: Path, name: str = "100") -> np.ndarray:
    """A record of two leads and six beats; returns its signal in mV as it is stored (L, 2)."""
    folder.mkdir(exist_ok=True, parents=True)
    time = np.arange(LENGTH) / RATE
    signal = np.stack([np.sin(time), 2 * np.cos(3 * time)], axis=1)
    with quietly():
        package.wrsamp(
            name, fs=RATE, units=["mV", "mV"], sig_name=["MLII", "V5"], p_signal=signal,
            fmt=["16", "16"], write_dir=str(folder),
        )  # fmt: skip
        package.wrann(name, "atr", np.array(SAMPLES), list(SYMBOLS), write_dir=str(folder))
        return package.rdrecord(str(folder / name)).p_signal


def window(row: Row) -> np.ndarray:
    return np.load(io.BytesIO(row.data))


@pytest.mark.parametrize("slice_rows", [1, 4, 100])
def test_each_beat_is_a_row_with_its_aami_class_its_record_and_a_window_of_both_leads(
    tmp_path: Path, slice_rows: int
):
    signal = write_record(tmp_path / "db")
    slices, rows = rows_of(tmp_path / "db", slice_rows=slice_rows)
    assert {piece.format for piece in slices} == {"wfdb"}
    assert [row.id for row in rows] == [f"100#{s}" for s in (10, 300, 705, 1500, 2500, 2990)]
    assert [row.truth for row in rows] == ["N", "V", "S", "N", "Q", "F"]
    assert {row.group for row in rows} == {"100"}
    assert not any(row.error for row in rows)
    found = window(rows[1])
    assert (found.shape, found.dtype) == ((BEFORE + AFTER, 2), np.float32)
    assert np.array_equal(found, signal[300 - BEFORE : 300 + AFTER].astype(np.float32))


def test_a_beat_near_an_end_repeats_the_record_s_first_or_last_sample(tmp_path: Path):
    signal = write_record(tmp_path).astype(np.float32)
    _, rows = rows_of(tmp_path)
    first, last = window(rows[0]), window(rows[-1])
    assert np.array_equal(first[BEFORE - 10 :], signal[: 10 + AFTER])
    assert (first[: BEFORE - 10] == signal[0]).all()
    assert np.array_equal(last[: BEFORE + 10], signal[2990 - BEFORE :])
    assert (last[BEFORE + 10 :] == signal[-1]).all()


def test_the_truth_may_be_the_annotator_s_symbol_or_left_out(tmp_path: Path):
    write_record(tmp_path)
    assert [r.truth for r in rows_of(tmp_path, label="symbol")[1]] == ["N", "V", "A", "N", "/", "F"]
    assert {r.truth for r in rows_of(tmp_path, label="none")[1]} == {None}
    with pytest.raises(ValueError, match="data.label: 'folder'; of a beat"):
        rows_of(tmp_path, label="folder")


def test_groups_are_the_record_a_pattern_or_none(tmp_path: Path):
    write_record(tmp_path / "sub-07", "rec1")
    groups = {}
    for group in ("auto", "none", r"(sub-\d+)"):
        groups[group] = {row.group for row in rows_of(tmp_path, group=group)[1]}
    assert groups == {"auto": {"sub-07"}, "none": {""}, r"(sub-\d+)": {"sub-07"}}
    with pytest.raises(ValueError, match="rows of wfdb have no columns"):
        rows_of(tmp_path, group="patient")


def test_every_beat_symbol_of_physionet_has_one_of_five_classes():
    beats = {label.symbol for label in package.io.annotation.ann_labels[1:14]} | set("/fejnErQB?")
    beats -= {"!", "|"}
    assert beats <= AAMI.keys()
    assert set(AAMI.values()) == set("NSVFQ")
    assert {s for s, name in AAMI.items() if name == "S"} == set("AaJS")


@pytest.mark.parametrize("missing", ["100.dat", "100.atr"])
def test_a_record_that_lacks_a_file_is_one_failed_row_and_the_others_are_read(
    tmp_path: Path, missing: str
):
    write_record(tmp_path)
    write_record(tmp_path, "101")
    (tmp_path / missing).unlink()
    _, rows = rows_of(tmp_path)
    assert [row.error for row in rows] == [f"{missing} is not there", *[""] * 6]
    assert rows[0].group == "100"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("100.hea", b"", "damaged 100.hea"),
        ("100.hea", b"100 two 360\n", "damaged 100.hea"),
        ("100.hea", b"100/2 2 360 1000\na 500\nb 500\n", "several segments"),
        ("100.hea", b"100 1 100 3000\n../../secret 16 200\n", "damaged 100.hea"),
        ("100.hea", b"100 9999 100 3000\n" + b"100.dat 16 200\n" * 9999, "damaged 100.hea"),
        ("100.hea", b"100 65 100 3000\n" + b"100.dat 16 200\n" * 65, "65 leads"),
        ("100.atr", b"", "damaged 100.atr: breaks off"),
        ("100.atr", b"\x12\x04\x3b\x04", "damaged 100.atr: breaks off"),
        ("100.atr", bytes(2), "no beat is annotated in this record"),
    ],
)
def test_a_damaged_record_is_one_failed_row(tmp_path: Path, name: str, data: bytes, said: str):
    write_record(tmp_path)
    (tmp_path / name).write_bytes(data)
    _, rows = rows_of(tmp_path)
    assert len(rows) == 1
    assert said in rows[0].error


def test_a_signal_that_breaks_off_fails_the_beats_it_lacks_alone(tmp_path: Path):
    signal = write_record(tmp_path)
    path = tmp_path / "100.dat"
    path.write_bytes(path.read_bytes()[: 1600 * 4])
    _, rows = rows_of(tmp_path)
    assert [bool(row.error) for row in rows] == [False] * 4 + [True] * 2
    assert all("damaged signal" in row.error for row in rows[4:])
    assert np.array_equal(window(rows[3]), signal[1470:1550].astype(np.float32))


@pytest.mark.parametrize("gone", ["100.hea", "100.dat", "100.atr"])
def test_a_file_that_went_after_planning_fails_as_many_rows_as_were_planned(tmp_path, gone):
    write_record(tmp_path)
    origin = Origin(source=Source(uri=str(tmp_path)), storage=Storage())
    format, entries, _ = choose(origin, origin.find())
    slices = list(cut_slices(origin, format, entries))
    (tmp_path / gone).unlink()
    rows = [row for piece in slices for row in read_slice(origin, piece)]
    assert len(rows) == len({row.id for row in rows}) == 6
    assert {row.error for row in rows} == {f"{gone} is not there"}


def test_two_beats_on_one_sample_are_two_rows(tmp_path: Path):
    write_record(tmp_path)
    with quietly():
        package.wrann("100", "atr", np.array([50, 50]), ["N", "V"], write_dir=str(tmp_path))
    assert [row.id for row in rows_of(tmp_path)[1]] == ["100#50", "100#50-1"]


def test_a_beat_is_found_again_by_its_id(tmp_path: Path):
    write_record(tmp_path / "a")
    write_record(tmp_path / "b")
    slices, _ = rows_of(tmp_path)
    origin = Origin(source=Source(uri=str(tmp_path)), storage=Storage())
    held = list(_holding(origin, slices, ["b/100#705"]))
    assert [Path(piece.uri).parent.name for piece in held] == ["b"]


def test_a_record_on_s3_is_read_alike_and_leaves_nothing_here(
    tmp_path: Path, s3: StorageConfig, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    write_record(tmp_path / "db")
    storage = Storage(s3)
    for path in (tmp_path / "db").iterdir():
        storage.put(f"{bucket}/{path.name}", path.read_bytes())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    origin = Origin(source=Source(uri=bucket), storage=storage)
    format, entries, beside = choose(origin, origin.find())
    rows = [r for piece in cut_slices(origin, format, entries) for r in read_slice(origin, piece)]
    assert (format, dict(beside)) == ("wfdb", {".atr": 1, ".dat": 1})
    assert [row.data for row in rows] == [row.data for row in rows_of(tmp_path / "db")[1]]
    assert not list(scratch.iterdir())


def test_record_100_has_the_beats_that_its_directory_lists(shared_data: Path):
    _, rows = rows_of(shared_data / "signals" / "mitbih-100", label="symbol")
    assert Counter(row.truth for row in rows) == {"N": 2239, "A": 33, "V": 1}
    assert {window(row).shape for row in rows} == {(288, 2)}
    mean = np.mean([window(row)[:, 0] for row in rows if row.truth == "N"], axis=0)
    assert abs(int(mean.argmax()) - round(BEFORE_S * 360)) <= 3  # R peaks where they should be
