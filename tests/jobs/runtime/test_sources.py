import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.runtime.sources import cut_slices, read_slice, usual_rows, webdataset
from jobs.runtime.sources.origin import IMAGE_SUFFIXES, Origin, Source
from jobs.runtime.storage import Storage, StorageConfig
from tests.flaky_s3 import Request, flaky_s3
from tests.jobs.runtime.source_rows import read_from, rows_of, write_tar, write_tree
from vision_ops import decode


def test_the_suffixes_that_are_read_are_those_that_decode():
    assert set(IMAGE_SUFFIXES) == decode.IMAGE_SUFFIXES


def test_loose_files_are_rows_in_order_with_their_folder_as_label(tmp_path: Path):
    names = ["b/2 #.JPG", "a/1.png", "a/deep/3.webp", "notes.txt", ".hidden/x.jpg", "Thumbs.db"]
    write_tree(tmp_path, {name: name.encode() for name in names})

    slices, rows = rows_of(tmp_path, label="folder", slice_rows=2)

    assert [row.id for row in rows] == ["a/1.png", "a/deep/3.webp", "b/2 #.JPG", "notes.txt"]
    assert [row.truth for row in rows] == ["a", "deep", "b", None]
    assert [row.data for row in rows[:3]] == [row.id.encode() for row in rows[:3]]
    assert rows[3].error == "not an image type Argus reads: .txt"
    assert rows[0].uri == str(tmp_path / "a/1.png")
    assert [piece.rows for piece in slices] == [2, 2]


def test_one_file_and_a_glob_are_sources_too(tmp_path: Path):
    write_tree(tmp_path, {"a/1.png": b"1", "a/2.jpg": b"2", "3.png": b"3"})

    assert [row.data for row in rows_of(tmp_path / "a" / "1.png")[1]] == [b"1"]
    assert [row.id for row in rows_of(f"{tmp_path}/**/*.png")[1]] == ["3.png", "a/1.png"]


def test_a_file_that_is_gone_or_too_large_is_a_failed_row(tmp_path: Path):
    write_tree(tmp_path, {"a.png": b"1" * 3_000_000, "b.png": b"2", "c.png": b"3"})
    origin = Origin(source=Source(uri=str(tmp_path), max_image_mb=2), storage=Storage())
    (piece,) = cut_slices(origin, "files", origin.find())
    (tmp_path / "b.png").unlink()

    errors = [row.error for row in read_slice(origin, piece)]

    assert errors == [
        "3.0 MB, more than the 2 MB allowed",
        "gone: it was there when the run was planned",
        "",
    ]


def test_a_pattern_finds_the_label_in_the_path_of_a_loose_file(tmp_path: Path):
    for name in ("ann/1.jpg/0.jpg", "ann/2.jpg/1.jpg", "bob/1.jpg/0.jpg", "0.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    _, rows = rows_of(tmp_path, label="^([^/]+)/")
    assert [row.truth for row in rows] == [None, "ann", "ann", "bob"]
    for bad in ("([", "(a)(b)"):
        with pytest.raises(ValueError, match="data.label: .*(no pattern|must have one)"):
            Source(uri="x", label=bad)


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_rows_with_labels_as_names(tmp_path: Path, struct: bool):
    images = [{"bytes": bytes([i]), "path": None} if struct else bytes([i]) for i in range(1, 10)]
    type = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    table = pa.table({"image": pa.array([*images, None], type), "label": [0, 1] * 5})
    feature = {"_type": "ClassLabel", "names": ["cat", "dog"]}
    described = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    path = tmp_path / "x.parquet"
    pq.write_table(table.replace_schema_metadata(described), path, row_group_size=3)

    slices, rows = rows_of(tmp_path, slice_rows=6)

    assert [piece.rows for piece in slices] == [6, 4]
    assert [row.id for row in rows] == [f"x.parquet#{i}" for i in range(10)]
    assert [row.data for row in rows] == [*(bytes([i]) for i in range(1, 10)), b""]
    assert [row.truth for row in rows] == ["cat", "dog"] * 5
    assert rows[-1].error == "no image in this row"


def test_labels_without_a_name_are_none_or_a_failed_row_never_a_class(tmp_path: Path):
    feature = {"_type": "ClassLabel", "names": ["cat", "dog"]}
    described = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    table = pa.table({"image": [b"1"] * 4, "label": [1, -1, 7, None]})
    pq.write_table(table.replace_schema_metadata(described), tmp_path / "x.parquet")

    _, rows = rows_of(tmp_path)

    assert [row.truth for row in rows] == ["dog", None, None, None]
    assert [bool(row.error) for row in rows] == [False, False, True, False]
    assert rows[2].error == "label 7: column 'label' has names of 2 classes"


@pytest.mark.parametrize(
    ("values", "truths"),
    [([1.0, float("nan")], ["1.0", None]), ([b"cat", b"\xff"], ["cat", "\\xff"])],
)
def test_labels_of_other_types_are_told_as_text(
    tmp_path: Path, values: list[object], truths: list[str | None]
):
    pq.write_table(pa.table({"image": [b"1"] * 2, "label": values}), tmp_path / "x.parquet")
    _, rows = rows_of(tmp_path, image="image")
    assert [row.truth for row in rows] == truths


def test_a_parquet_that_is_none_is_one_failed_row_and_the_others_are_read(tmp_path: Path):
    pq.write_table(pa.table({"image": [b"1"]}), tmp_path / "b.parquet")
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")

    _, rows = rows_of(tmp_path)

    assert [bool(row.error) for row in rows] == [True, False]
    assert "damaged Parquet" in rows[0].error


def test_a_damaged_page_fails_the_rows_it_held(tmp_path: Path):
    path = tmp_path / "x.parquet"
    table = pa.table({"image": [bytes([i]) * 5000 for i in range(40)]})
    pq.write_table(table, path, row_group_size=20, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[start + 30 : start + 90] = bytes(60)
    path.write_bytes(data)

    _, rows = rows_of(tmp_path, slice_rows=20)

    assert len(rows) == 40
    assert not any(row.error for row in rows[:20])
    assert all("damaged Parquet" in row.error for row in rows[20:])


def test_slices_are_small_where_images_are_few_and_large_where_they_are_many():
    assert [usual_rows(images, 64) for images in (0, 100, 6_400, 20_000, 10**8)] == [
        64, 64, 96, 288, 512,
    ]  # fmt: skip
    assert usual_rows(100, low=128) == 128


def test_keys_with_empty_parts_are_not_taken_for_others(s3: StorageConfig, bucket: str):
    storage = Storage(s3)
    storage.put(f"{bucket}/p/x.jpg", b"right")
    storage.fsspec(bucket).pipe_file(f"{bucket[5:]}/p//x.jpg", b"odd")

    rows = read_from(Source(uri=f"{bucket}/p"), storage)

    told = {row.id: (row.data, row.error[:27]) for row in rows}
    assert told.pop("x.jpg") == (b"right", "")
    assert told == {"/x.jpg": (b"", "not a name that can be read")}


@pytest.mark.parametrize("format", ["parquet", "uris"])
def test_a_shard_that_storage_broke_off_once_is_read_whole(
    s3: StorageConfig, s3_endpoint: str, bucket: str, format: str, tmp_path: Path
):
    images = [bytes([i]) * 2000 for i in range(1, 40)]
    write_tree(tmp_path, {f"{i}.jpg": data for i, data in enumerate(images)})
    table = {
        "parquet": pa.table({"image": images}),
        "uris": pa.table({"uri": [f"{tmp_path}/{i}.jpg" for i in range(len(images))]}),
    }[format]
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=10, compression="none")
    Storage(s3).put(f"{bucket}/x.parquet", sink.getvalue())
    left = [-1]

    def fails(request: Request) -> int:
        """Once: when so many answers more were given."""
        left[0] -= request.method == "GET"
        return 503 if left[0] == 0 and request.method == "GET" else 0

    with flaky_s3(s3_endpoint, fails) as flaky:
        storage = Storage(replace(s3, endpoint=flaky.endpoint, max_attempts=1))
        origin = Origin(source=Source(uri=f"{bucket}/x.parquet"), storage=storage)
        (piece,) = cut_slices(origin, format, origin.find())
        for count in (1, 2):  # at the footer, and at what it leads to
            left[0] = count
            rows = list(read_slice(origin, piece))
            assert left[0] < 0
            assert [row.error for row in rows] == [""] * len(images)
            assert [row.data for row in rows] == images


def test_objects_that_may_not_be_read_are_failed_rows_and_an_outage_is_none(
    s3: StorageConfig, s3_endpoint: str, bucket: str
):
    for name in "ab":
        Storage(s3).put(f"{bucket}/{name}.jpg", name.encode())
    wrong = {"/a.jpg": 403}
    with flaky_s3(s3_endpoint, lambda each: wrong.get(each.path[-6:], 0)) as flaky:
        storage = Storage(replace(s3, endpoint=flaky.endpoint, max_attempts=1))
        source = Source(uri=f"{bucket}/?.jpg")
        rows = read_from(source, storage)
        assert [row.data for row in rows] == [b"", b"b"]
        assert rows[0].error.startswith("not allowed to read it")
        wrong["/b.jpg"] = 500
        with pytest.raises(OSError, match="b.jpg"):
            read_from(source, storage)


@pytest.mark.parametrize("indexed_above", [0, webdataset.INDEXED_ABOVE])
@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_a_shard_that_may_not_be_read_is_a_failed_row_until_it_may(
    s3: StorageConfig, s3_endpoint: str, bucket: str, tmp_path: Path, ending: str,
    indexed_above: int, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """Also where it is opened to be cut: the attempt does not end there."""
    monkeypatch.setattr(webdataset, "INDEXED_ABOVE", indexed_above)
    path = tmp_path / f"closed.{ending}"
    if ending == "tar":
        write_tar(path, {"a.jpg": b"A", "b.jpg": b"B"})
    else:
        pq.write_table(pa.table({"image": [b"A", b"B"]}), path, row_group_size=1)
    for name in ("closed", "open"):
        Storage(s3).put(f"{bucket}/{name}.{ending}", path.read_bytes())
    wrong = {"closed": 403}

    def fails(request: Request) -> int:
        return wrong.get("closed", 0) if request.path.endswith(f"closed.{ending}") else 0

    with flaky_s3(s3_endpoint, fails) as flaky:
        storage = Storage(replace(s3, endpoint=flaky.endpoint, max_attempts=1))
        source = Source(uri=bucket, format="webdataset" if ending == "tar" else "parquet")
        origin = Origin(source=source, storage=storage)
        pieces = list(cut_slices(origin, source.format, origin.find()))
        told = [row for piece in pieces for row in read_slice(origin, piece)]
        assert [row.data for row in told if not row.error] == [b"A", b"B"]
        (closed,) = (row for row in told if row.error)
        assert closed.error.startswith("not allowed to read it")
        wrong["closed"] = 500
        with pytest.raises(OSError, match="closed"):
            [row for piece in pieces for row in read_slice(origin, piece)]
        del wrong["closed"]
        told = [row for piece in pieces for row in read_slice(origin, piece)]
        assert [(row.data, row.error) for row in told] == [(b"A", ""), (b"B", "")] * 2


def test_addresses_that_cannot_be_opened_are_failed_rows(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"A")
    there = f"file://{tmp_path}/a.jpg"
    bad = [f"{tmp_path}/a.jpg/b.jpg", f"{tmp_path}/{'n' * 300}.jpg", "s3://b/a//b.jpg", "a\0.jpg"]
    pq.write_table(pa.table({"uri": [there, *bad]}), tmp_path / "t.parquet")

    _, rows = rows_of(tmp_path / "t.parquet", format="uris")

    assert [row.data for row in rows] == [b"A", b"", b"", b"", b""]
    assert rows[0].uri == f"{tmp_path}/a.jpg"
    assert all("not a name that can be read" in row.error for row in rows[1:])


def test_a_table_of_addresses_reads_each_wherever_it_lies(tmp_path: Path):
    write_tree(tmp_path / "pictures", {"a.png": b"A", "b.png": b"B"})
    addresses = ["pictures/a.png", str(tmp_path / "pictures/b.png"), "ftp://x/c.png", None, "d.png"]
    table = pa.table({"uri": addresses, "label": ["x", "y", "x", "y", None]})
    pq.write_table(table, tmp_path / "list.parquet", row_group_size=2)

    slices, rows = rows_of(tmp_path / "list.parquet", slice_rows=3)

    assert [row.data for row in rows] == [b"A", b"B", b"", b"", b""]
    assert [row.truth for row in rows] == ["x", "y", "x", "y", None]
    assert "ftp:// is not read" in rows[2].error
    assert "empty" in rows[3].error
    assert rows[4].error.startswith("gone")
    assert [piece.rows for piece in slices] == [3, 2]


def test_a_table_of_addresses_that_breaks_or_goes_is_failed_rows(tmp_path: Path):
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"uri": [f"{n}.png" for n in range(9)]}), path, compression="none")
    origin = Origin(source=Source(uri=str(path), format="uris"), storage=Storage())
    (piece,) = cut_slices(origin, "uris", origin.find())
    whole = path.read_bytes()

    path.write_bytes(whole[:4] + bytes(60) + whole[64:])
    damaged = list(read_slice(origin, piece))
    path.unlink()
    gone = list(read_slice(origin, piece))

    assert [row.error[:16] for row in damaged] == ["damaged Parquet:"] * 9
    assert [row.error[:5] for row in gone] == ["gone:"] * 9
    assert [row.id for row in gone] == [f"list.parquet#{n}" for n in range(9)]


@pytest.mark.parametrize("options", [{"label": "clas"}, {"group": "patient"}, {"image": "photo"}])
def test_a_column_that_a_table_of_addresses_lacks_is_refused_before_it_is_read(
    tmp_path: Path, options: dict[str, str]
):
    pq.write_table(pa.table({"uri": ["a.png"], "label": ["x"]}), tmp_path / "t.parquet")
    origin = Origin(source=Source(uri=str(tmp_path), **options), storage=Storage())  # pyright: ignore
    with pytest.raises(ValueError, match=r"t\.parquet: .*there are|t\.parquet: .*text columns are"):
        list(cut_slices(origin, "uris", origin.find()))


@pytest.mark.parametrize("images", [[b"A", b"B"], ["a.png", "b.png"]])
def test_a_label_or_group_that_is_no_text_fails_its_row_alone(tmp_path: Path, images: list[object]):
    """Other tools write bytes of any encoding into columns of text."""
    write_tree(tmp_path, {"a.png": b"A", "b.png": b"B"})
    odd = pa.array([b"caf\xe9", b"tea"], pa.binary()).view(pa.string())
    plain = pa.array(["x", "y"])
    for label, group in ((odd, plain), (plain, odd)):
        table = pa.table({"image": images, "label": label, "patient": group})
        pq.write_table(table, tmp_path / "t.parquet")
        _, rows = rows_of(tmp_path / "t.parquet", group="patient")
        assert "holds bytes that are none" in rows[0].error
        assert (rows[1].data, rows[1].error) == (b"B", "")


@pytest.mark.parametrize(
    ("files", "options", "said"),
    [
        ({}, {}, "the folder .* is empty"),
        ({".hidden": b""}, {}, "holds but files that data.ignore leaves out"),
        (
            {"a.npy": b"", "b.npy": b"", "c": b""},
            {},
            r"2 \.npy, 1 \(none\).*accepted: files \(.*jpg",
        ),
        ({"a.jpg": b"", "b.tar": b""}, {}, "auto cannot tell"),
        ({"a.jpg": b""}, {"format": "webdataset"}, "no such file"),
    ],
)
def test_a_source_that_cannot_be_told_is_refused(
    tmp_path: Path, files: dict[str, bytes], options: dict[str, str], said: str
):
    write_tree(tmp_path, files)
    with pytest.raises(ValueError, match=said):
        rows_of(tmp_path, **options)


def test_nothing_is_told_from_an_empty_folder(tmp_path: Path):
    with pytest.raises(ValueError, match="nothing at .*absent: no such file or folder"):
        rows_of(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"no file matches .*\*\.png"):
        rows_of(tmp_path / "*.png")


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"a": [b"1"], "b": [b"1"]}, {}, "name the column"),
        ({"image": [b"1"]}, {"image": "photo"}, "name the column of addresses"),
        ({"image": [b"1"]}, {"label": "class"}, "no column 'class'"),
    ],
)
def test_a_column_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, columns: dict[str, list[bytes]], options: dict[str, str], said: str
):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=said):
        rows_of(tmp_path, **options)
