"""WebDataset tars: every image is a row, and where one breaks off it is said."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.jobs.runtime.source_rows import rows_of, write_tar

MEMBERS = {
    "a.jpg": b"A", "a.cls": b"3", "b/b.x.png": b"B", "b/b.x.json": b'{"label": "dog"}',
    "c.txt": b"caption", "._d.jpg": b"mac", "e.webp": b"E", "f.left.jpg": b"L", "f.right.jpg": b"R",
    "f.cls": b"7",
}  # fmt: skip


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
