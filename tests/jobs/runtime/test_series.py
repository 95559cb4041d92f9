"""Time series in .ts and .arff: each case a row, each bad line a failed row with its reason."""

import io
from pathlib import Path

import numpy as np
import pytest
from scipy.io import arff

from jobs.runtime.reread import _holding
from jobs.runtime.slices import Row
from jobs.runtime.sources import choose, cut_slices, read_slice
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage, StorageConfig
from tests.jobs.runtime.source_rows import rows_of

HEADER = "# a comment\n@problemName Toy\n@timeStamps false\n@univariate true\n"
TS = HEADER + "@classLabel true up down\n@data\n1,2,3:up\n3,2,1.5:down\n\n-1,0,1e2:up\n"
ARFF = """%comment with a “quote”
@RELATION toy
@attribute att1 numeric
@attribute 'att 2' REAL
@attribute att3 numeric
@attribute target {-1,1}

@data
1,2,3,-1
% between
0.5, ?,1e3,1
4,5,?,1
"""


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def values(row: Row) -> list[list[float]]:
    found = np.load(io.BytesIO(row.data))
    assert found.dtype == np.float32
    return found.tolist()


@pytest.mark.parametrize("slice_rows", [1, 2, 10])
def test_cases_of_a_ts_are_rows_with_their_classes_however_it_is_cut(tmp_path: Path, slice_rows):
    path = write(tmp_path, "Toy_TRAIN.ts", TS)
    slices, rows = rows_of(path, slice_rows=slice_rows)
    assert [row.id for row in rows] == [f"Toy_TRAIN.ts#{i}" for i in range(3)]
    assert [row.truth for row in rows] == ["up", "down", "up"]
    assert values(rows[1]) == [[3], [2], [1.5]]
    assert values(rows[2]) == [[-1], [0], [100]]
    assert len(slices) == -(-3 // slice_rows)
    assert not any(row.error for row in rows)


def test_dimensions_stand_side_by_side_and_missing_ends_are_cut_off(tmp_path: Path):
    text = HEADER + "@classLabel true a b\n@data\n1,2,?:4,5,?:a\n1:2:b\n?,2:3,?:a\n"
    _, rows = rows_of(write(tmp_path, "x.ts", text))
    assert values(rows[0]) == [[1, 4], [2, 5]]
    assert values(rows[1]) == [[1, 2]]
    third = np.load(io.BytesIO(rows[2].data))
    assert np.array_equal(third, [[np.nan, 3], [2, np.nan]], equal_nan=True)  # not cut: no ends


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,2,3", "no class at the end of the line"),
        ("1,2,3:", "no class at the end of the line"),
        ("1,2,3:sideways", "class 'sideways' is none of up, down"),
        ("1,x,3:up", "could not convert string to float: 'x'"),
        ("1,2,3:4,5:up", "dimensions of 2, 3 values"),
        ("1,2:up", "2 values, 3 were announced"),
    ],
)
def test_a_line_that_is_no_case_is_a_failed_row_and_the_others_are_read(tmp_path, line, said):
    header = TS.replace("@data", "@equalLength true\n@seriesLength 3\n@data")
    _, rows = rows_of(write(tmp_path, "x.ts", header + line + "\n7,8,9:down\n"))
    assert [bool(row.error) for row in rows] == [False, False, False, True, False]
    assert said in rows[3].error
    assert rows[4].truth == "down"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no @data in this file"),
        (HEADER, "no @data in this file"),
        (HEADER + "@data\n", "no case in this file"),
        ("1,2,3:up\n", "damaged header: '1,2,3:up' stands before @data"),
        (bytes(range(128, 256)) * 9, "damaged header"),
        (TS.replace("@timeStamps false", "@timeStamps true"), "time stamps"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_failed_row_and_the_others_are_read(tmp_path, text, said):
    write(tmp_path, "a.ts", text)
    write(tmp_path, "b.ts", TS)
    _, rows = rows_of(tmp_path)
    assert [row.id for row in rows] == ["a.ts#0", "b.ts#0", "b.ts#1", "b.ts#2"]
    assert said in rows[0].error
    assert not any(row.error for row in rows[1:])


def test_an_arff_is_read_as_scipy_reads_it_and_its_missing_values_too(tmp_path: Path):
    path = write(tmp_path, "x.arff", ARFF)
    _, rows = rows_of(path)
    assert [row.truth for row in rows] == ["-1", "1", "1"]
    table, _ = arff.loadarff(io.StringIO(ARFF))
    assert values(rows[0]) == [[table[name][0]] for name in ("att1", "att 2", "att3")]
    assert np.isnan(values(rows[1])[1][0])
    assert values(rows[2]) == [[4], [5]]


def test_a_class_is_an_attribute_by_name_or_none(tmp_path: Path):
    path = write(tmp_path, "x.arff", ARFF.replace("target", "kind"))
    assert [row.truth for row in rows_of(path)[1]] == ["-1", "1", "1"]  # the last, as it has names
    assert [row.truth for row in rows_of(path, label="none")[1]] == [None] * 3
    with pytest.raises(ValueError, match="no attribute 'colour'; there are"):
        rows_of(path, label="colour")


def test_what_an_arff_may_hold_beside_one_dimension_is_refused(tmp_path: Path):
    text = ARFF.replace("att1 numeric", "att1 relational")
    _, rows = rows_of(write(tmp_path, "x.arff", text))
    assert [row.error for row in rows] == [
        "attribute att1: relational is not read; several dimensions: .ts"
    ]
    (tmp_path / "x.arff").write_text(ARFF + "1,2,3\n")
    assert rows_of(tmp_path)[1][-1].error == "no case: 3 values, 4 were announced"


def test_a_ts_has_no_columns_to_take_classes_or_groups_from(tmp_path: Path):
    path = write(tmp_path, "x.ts", TS)
    with pytest.raises(ValueError, match="data.label: 'kind'; a .ts file has one class"):
        rows_of(path, label="kind")
    with pytest.raises(ValueError, match="data.group: 'patient'; rows of series have no columns"):
        rows_of(path, group="patient")
    assert [row.truth for row in rows_of(path, label="folder")[1]] == [tmp_path.name] * 3


def test_a_file_that_went_fails_as_many_rows_as_it_had(tmp_path: Path):
    path = write(tmp_path, "x.ts", TS)
    slices, _ = rows_of(path)
    path.unlink()
    origin = Origin(source=Source(uri=str(path)), storage=Storage())
    rows = list(read_slice(origin, slices[0]))
    assert [row.id for row in rows] == [f"x.ts#{i}" for i in range(3)]
    assert {row.error for row in rows} == {"gone: it was there when the run was planned"}


def test_a_case_is_found_again_by_its_id(tmp_path: Path):
    path = write(tmp_path, "x.ts", TS)
    slices, _ = rows_of(path, slice_rows=2)
    origin = Origin(source=Source(uri=str(path)), storage=Storage())
    assert [s.start for s in _holding(origin, slices, ["x.ts#2"])] == [2]


def test_series_on_s3_are_read_alike(tmp_path: Path, s3: StorageConfig, bucket: str):
    storage = Storage(s3)
    storage.put(f"{bucket}/a b/x.ts", TS.encode())
    origin = Origin(source=Source(uri=bucket), storage=storage)
    format, entries, _ = choose(origin, origin.find())
    rows = [r for piece in cut_slices(origin, format, entries) for r in read_slice(origin, piece)]
    here = rows_of(write(tmp_path, "x.ts", TS))[1]
    assert format == "series"
    assert [row.id for row in rows] == [f"a b/x.ts#{i}" for i in range(3)]
    assert [row.data for row in rows] == [row.data for row in here]


def test_the_archive_s_files_hold_what_their_pages_say(shared_data: Path):
    signals = shared_data / "signals"
    counts = {
        "gunpoint/GunPoint_TRAIN.ts": (50, 150, {"1", "2"}),
        "gunpoint/GunPoint_TEST.ts": (150, 150, {"1", "2"}),
        "ecg200/ECG200_TRAIN.arff": (100, 96, {"-1", "1"}),
        "ecg200/ECG200_TEST.arff": (100, 96, {"-1", "1"}),
    }
    for name, (num_cases, length, classes) in counts.items():
        _, rows = rows_of(signals / name)
        assert len(rows) == num_cases
        assert {row.truth for row in rows} == classes
        assert {len(values(row)) for row in rows} == {length}
    table, _ = arff.loadarff(io.StringIO((signals / "ecg200/ECG200_TEST.arff").read_text()))
    by_scipy = np.array([list(case)[:-1] for case in table.tolist()], np.float32)
    found = np.array([values(row) for row in rows_of(signals / "ecg200/ECG200_TEST.arff")[1]])
    assert np.array_equal(found[..., 0], by_scipy)
