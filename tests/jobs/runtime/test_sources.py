import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.runtime.slices import Row, Slice
from jobs.runtime.sources import choose, cut_slices, read_slice, usual_rows
from jobs.runtime.sources.origin import IMAGE_SUFFIXES, Origin, Source
from jobs.runtime.storage import Storage, StorageConfig
from tests.flaky_s3 import Request, flaky_s3
from vision_ops import decode


def rows_of(uri: str | Path, **options: object) -> tuple[list[Slice], list[Row]]:
    """Slices and rows of a source on local disk, as a run would see them."""
    origin = Origin(source=Source(uri=str(uri), **options), storage=Storage())  # pyright: ignore
    format, entries, _ = choose(origin, origin.find())
    slices = list(cut_slices(origin, format, entries))
    rows = [row for piece in slices for row in read_slice(origin, piece)]
    for piece in slices:
        assert piece.rows in (-1, len(list(read_slice(origin, piece))))
    assert len({row.id for row in rows}) == len(rows)
    assert len({piece.slice_id for piece in slices}) == len(slices)
    return slices, rows


def read_from(source: Source, storage: Storage) -> list[Row]:
    """All rows of a source, read once."""
    origin = Origin(source=source, storage=storage)
    format, entries, _ = choose(origin, origin.find())
    return [
        row for piece in cut_slices(origin, format, entries) for row in read_slice(origin, piece)
    ]


def write_tree(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


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


MEMBERS = {
    "a.jpg": b"A", "a.cls": b"3", "b/b.x.png": b"B", "b/b.x.json": b'{"label": "dog"}',
    "c.txt": b"caption", "._d.jpg": b"mac", "e.webp": b"E", "f.left.jpg": b"L", "f.right.jpg": b"R",
    "f.cls": b"7",
}  # fmt: skip


def test_slices_are_small_where_images_are_few_and_large_where_they_are_many():
    assert [usual_rows(images, 64) for images in (0, 100, 6_400, 20_000, 10**8)] == [
        64, 64, 96, 288, 512,
    ]  # fmt: skip
    assert usual_rows(100, low=128) == 128


@pytest.mark.parametrize("slice_rows", [1, 2, 100])
def test_tar_samples_are_rows_with_their_labels(tmp_path: Path, slice_rows: int):
    write_tar(tmp_path / "x.tar", MEMBERS)

    slices, rows = rows_of(tmp_path, slice_rows=slice_rows)

    told = {row.id: (row.data, row.truth, row.error) for row in rows}
    assert told == {
        "x.tar#a.jpg": (b"A", "3", ""),
        "x.tar#b/b.x.png": (b"B", "dog", ""),
        "x.tar#c": (b"", None, "a sample without an image"),
        "x.tar#e.webp": (b"E", None, ""),
        "x.tar#f.left.jpg": (b"L", "7", ""),
        "x.tar#f.right.jpg": (b"R", "7", ""),
    }
    assert len(slices) == {1: 5, 2: 3, 100: 1}[slice_rows]


def test_a_tar_made_of_the_folder_it_was_made_in_reads_the_same(tmp_path: Path):
    """`tar -C folder -cf x.tar .`: every name begins with `./`, which is no hidden file."""
    write_tar(tmp_path / "x.tar", {f"./{name}": data for name, data in MEMBERS.items()})

    _, rows = rows_of(tmp_path)

    assert [row.data for row in rows] == [b"A", b"B", b"", b"E", b"L", b"R"]
    assert [row.truth for row in rows] == ["3", "dog", None, None, "7", "7"]


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


def test_addresses_that_cannot_be_opened_are_failed_rows(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"A")
    there = f"file://{tmp_path}/a.jpg"
    bad = [f"{tmp_path}/a.jpg/b.jpg", f"{tmp_path}/{'n' * 300}.jpg", "s3://b/a//b.jpg", "a\0.jpg"]
    pq.write_table(pa.table({"uri": [there, *bad]}), tmp_path / "t.parquet")

    _, rows = rows_of(tmp_path / "t.parquet", format="uris")

    assert [row.data for row in rows] == [b"A", b"", b"", b"", b""]
    assert rows[0].uri == f"{tmp_path}/a.jpg"
    assert all("not a name that can be read" in row.error for row in rows[1:])


def test_a_compressed_tar_reads_the_same(tmp_path: Path):
    plain = write_tar(tmp_path / "x.tar", MEMBERS)
    (tmp_path / "z").mkdir()
    packed = tmp_path / "z" / "x.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))

    one, two = rows_of(plain)[1], rows_of(packed)[1]

    assert [row.data for row in one] == [row.data for row in two]


@pytest.mark.parametrize("cut", [700, 1100, 3000, 4608, 4708])
def test_a_truncated_tar_gives_what_it_holds_and_one_failed_row(tmp_path: Path, cut: int):
    members = {f"{i}.jpg": bytes([i]) * 1000 for i in range(1, 6)}
    path = write_tar(tmp_path / "x.tar", members)
    path.write_bytes(path.read_bytes()[:cut])

    _, rows = rows_of(tmp_path)

    whole = [row for row in rows if not row.error]
    assert [row.data for row in whole] == [bytes([i]) * 1000 for i in range(1, len(whole) + 1)]
    assert len(whole) == (cut - 512 - 1000) // 1536 + 1 if cut >= 1512 else not whole
    assert [row.error[:26] for row in rows if row.error] == ["the archive breaks off her"]


def damaged_header(tar: bytes) -> bytes:
    """A tar of members of 1,000 bytes with a flipped byte in the header of the sixth."""
    place = 5 * 1536 + 20
    return tar[:place] + bytes([tar[place] ^ 255]) + tar[place + 1 :]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize(
    "damage", [damaged_header, lambda tar: tar[: 5 * 1536 + 20], lambda tar: tar[: 5 * 1536]]
)
def test_a_tar_that_is_damaged_in_the_middle_says_so_in_a_failed_row(
    tmp_path: Path, ending: str, damage: Callable[[bytes], bytes]
):
    members = {f"{i}.jpg": bytes([i]) * 1000 for i in range(10)}
    tar = damage(write_tar(tmp_path / "x.tar", members).read_bytes())
    (tmp_path / "x.tar").unlink()
    packed = gzip.compress(tar) if ending == "tar.gz" else tar
    (tmp_path / f"x.{ending}").write_bytes(packed)

    slices, rows = rows_of(tmp_path)

    assert [row.data for row in rows] == [*(bytes([i]) * 1000 for i in range(5)), b""]
    assert rows[-1].error.startswith("the archive breaks off here")
    assert [piece.rows for piece in slices] == [-1]


def test_a_compressed_tar_that_is_cut_off_or_damaged_says_so(tmp_path: Path):
    random = np.random.default_rng(0)
    members = {f"{i}.jpg": random.bytes(20_000) for i in range(10)}
    packed = gzip.compress(write_tar(tmp_path / "x.tar", members).read_bytes())
    (tmp_path / "x.tar").unlink()
    for broken in (packed[: len(packed) // 2], packed[:-1], packed[:-8] + bytes(8), packed + b"?"):
        (tmp_path / "x.tar.gz").write_bytes(broken)
        _, rows = rows_of(tmp_path)
        assert rows[-1].error[:27] == "the archive breaks off here"
        whole = [row.data for row in rows[:-1]]
        assert whole == list(members.values())[: len(whole)]
        assert len(whole) == 10 if len(broken) > len(packed) // 2 else 0 < len(whole) < 10


@pytest.mark.parametrize("slice_rows", [3, 100])
def test_tars_written_behind_one_another_are_read_whole(tmp_path: Path, slice_rows: int):
    """As `cat` leaves them, and of gzip also members that hold a part of an archive each."""
    whole = {f"{i}.jpg": bytes([i]) * 1000 for i in range(12)}
    halves = [dict(list(whole.items())[:6]), dict(list(whole.items())[6:])]
    one, two = (write_tar(tmp_path / "x.tar", each).read_bytes() for each in halves)
    tar = write_tar(tmp_path / "x.tar", whole).read_bytes()
    for name, data in {
        "x.tar": one + two,
        "x.tar.gz": gzip.compress(one) + gzip.compress(two),
        "x.tgz": gzip.compress(tar[:4000]) + gzip.compress(tar[4000:]),
    }.items():
        folder = tmp_path / name[1:]
        folder.mkdir()
        (folder / name).write_bytes(data)
        _, rows = rows_of(folder, slice_rows=slice_rows)
        assert [(row.id, row.data, row.error) for row in rows] == [
            (f"{name}#{member}", data, "") for member, data in whole.items()
        ]


def test_tars_with_a_global_header_each_are_read_whole_behind_one_another(tmp_path: Path):
    """As `git archive` writes them; what is planned begins behind that header."""
    parts = []
    for half in range(2):
        sink = io.BytesIO()
        told = {"comment": "0" * 40}
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT, pax_headers=told) as t:
            for number in range(3 * half, 3 * half + 3):
                header = tarfile.TarInfo(f"{number}.jpg")
                header.size = 4
                t.addfile(header, io.BytesIO(b"data"))
        parts.append(sink.getvalue())
    (tmp_path / "x.tar").write_bytes(b"".join(parts))
    for slice_rows in (2, 3, 100):
        _, rows = rows_of(tmp_path, slice_rows=slice_rows)
        assert [(row.id, row.error) for row in rows] == [(f"x.tar#{n}.jpg", "") for n in range(6)]


def test_a_tar_that_may_not_be_read_is_a_failed_row_and_an_outage_is_none(
    s3: StorageConfig, s3_endpoint: str, bucket: str, tmp_path: Path
):
    data = write_tar(tmp_path / "x.tar", {"a.jpg": b"A"}).read_bytes()
    Storage(s3).put(f"{bucket}/x.tar", data)
    wrong = 403
    with flaky_s3(s3_endpoint, lambda each: wrong if each.path.endswith(".tar") else 0) as flaky:
        storage = Storage(replace(s3, endpoint=flaky.endpoint, max_attempts=1))
        (row,) = read_from(Source(uri=bucket), storage)
        assert row.error.startswith("not allowed to read it")
        wrong = 500
        with pytest.raises(OSError, match="x.tar"):
            read_from(Source(uri=bucket), storage)


def test_samples_are_cut_alike_where_labels_are_read_and_where_not(tmp_path: Path):
    members = {}
    for i in range(400):
        stem = f"img.{i:05}"
        members |= {f"{stem}.cls": str(i).encode(), f"{stem}.jpg": b"1", f"{stem}.txt": b"t"}
    write_tar(tmp_path / "x.tar", members)

    slices, rows = rows_of(tmp_path, slice_rows=100)

    assert [row.truth for row in rows] == [str(i) for i in range(400)]
    assert len(slices) > 1


def test_names_with_one_key_and_many_stems_do_not_become_one_sample(tmp_path: Path):
    members = {}
    for i in range(700):
        members |= {f"img.{i:04}.jpg": b"1", f"img.{i:04}.cls": str(i).encode()}
    write_tar(tmp_path / "x.tar", members)

    slices, rows = rows_of(tmp_path, slice_rows=100)

    assert [row.truth for row in rows] == [str(i) for i in range(700)]
    assert len(slices) > 1


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


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    slice_rows=st.integers(1, 12),
)
def test_however_a_tar_is_cut_its_rows_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], slice_rows: int
):
    folder = tmp_path_factory.mktemp("tar")
    members = {}
    for i, images in enumerate(sizes):
        members[f"{i:03}.txt"] = b"caption"
        members |= {f"{i:03}.{view}.jpg": bytes([i, view]) * 300 for view in range(images)}
    write_tar(folder / "x.tar", members)

    _, cut = rows_of(folder, slice_rows=slice_rows)
    _, whole = rows_of(folder, slice_rows=10_000)

    assert cut == whole
    assert len(cut) == sum(max(1, images) for images in sizes)
