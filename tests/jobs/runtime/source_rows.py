"""Sources made on local disk, and their rows as a run would see them."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from jobs.runtime.slices import Row, Slice
from jobs.runtime.sources import choose, cut_slices, read_slice
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage


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
