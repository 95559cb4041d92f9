"""Faces that a source tells in a column beside its images."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.runtime.known_faces import KnownFace, faces_of
from jobs.runtime.plan import make_plan
from jobs.runtime.run import Run
from jobs.runtime.sources import read_slice
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage

BOX = [1.0, 2.0, 30.0, 40.0]
POINTS = [float(n) for n in range(10)]
TOLD: list[Any] = [
    [{"box": BOX, "landmarks": POINTS, "confidence": 0.5}],
    [],
    None,
    [{"box": [5.0, 5.0, 5.0, 9.0], "landmarks": None, "confidence": None}],
]


def rows_of(folder: Path, **source: Any) -> list[Any]:
    storage = Storage()
    origin = Origin(source=Source(uri=str(folder), **source), storage=storage)
    identity = {"data": origin.source}
    out = str(folder.parent / "out")
    with Run.open(out, job="toy", config=origin.source, identity=identity, storage=storage) as run:
        plan = make_plan(origin, run, write=False)
    return [row for piece in plan.slices for row in read_slice(origin, piece)]


def write(path: Path, column: str, values: list[Any]) -> Path:
    face = pa.struct(
        [
            ("box", pa.list_(pa.float32())),
            ("landmarks", pa.list_(pa.float32(), 10)),
            ("confidence", pa.float32()),
        ]
    )
    path.parent.mkdir(parents=True)
    table = pa.table({column: pa.array(values), "found": pa.array(TOLD, pa.list_(face))})
    pq.write_table(table, path)
    return path.parent


def check(rows: list[Any]) -> None:
    assert rows[0].faces == (KnownFace(tuple(BOX), tuple(POINTS), 0.5),)
    assert (rows[1].faces, rows[1].error) == ((), "")
    assert [bool(row.error) for row in rows] == [False, False, True, True]
    assert "none are told" in rows[2].error
    assert "empty" in rows[3].error
    assert [len(row.data) for row in rows] == [3, 3, 0, 0]


def test_a_column_of_faces_comes_with_the_images_of_a_shard(tmp_path: Path):
    folder = write(tmp_path / "in" / "a.parquet", "image", [b"abc"] * 4)
    check(rows_of(folder, faces="found"))
    assert all(not row.faces and not row.error for row in rows_of(folder))


def test_a_column_of_faces_comes_with_addresses(tmp_path: Path):
    names = [f"{k}.jpg" for k in range(4)]
    folder = write(tmp_path / "in" / "a.parquet", "uri", names)
    for name in names:
        (folder / name).write_bytes(b"abc")
    check(rows_of(folder, faces="found", format="uris"))


def test_a_column_that_is_not_there_is_named(tmp_path: Path):
    folder = write(tmp_path / "in" / "a.parquet", "image", [b"abc"] * 4)
    with pytest.raises(ValueError, match=r"data.faces: no column 'boxes'; there are"):
        rows_of(folder, faces="boxes")


def test_loose_files_have_no_column(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"data.faces: 'found'; rows of files have no columns"):
        rows_of(tmp_path / "in", faces="found")


def test_landmarks_may_be_pairs_or_be_missing():
    pairs = [{"box": BOX, "landmarks": [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]}, {"box": BOX}]
    (first, second), problem = faces_of(pairs)
    assert problem == ""
    assert (first.landmarks, first.confidence) == (tuple(POINTS), 1.0)
    assert all(map(math.isnan, second.landmarks))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("text", "no list of faces"),
        ([{"landmarks": POINTS}], "no 'box'"),
        ([{"box": [1, 2, 3]}], "not 4 finite numbers"),
        ([{"box": [1, 2, 3, math.inf]}], "not 4 finite numbers"),
        ([{"box": BOX, "landmarks": [1, 2]}], "not 10 finite numbers"),
        ([{"box": BOX, "confidence": math.nan}], "not 1 finite numbers"),
        ([3], "not subscriptable"),
    ],
)
def test_what_is_no_face_is_said(value: Any, words: str):
    faces, problem = faces_of(value)
    assert faces == ()
    assert words in problem
