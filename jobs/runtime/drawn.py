"""Pictures that jobs make of rows: how they are called, where they are put, how they are read."""

import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from tempfile import SpooledTemporaryFile
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from jobs.runtime.run import Run
from jobs.runtime.sources import SHARD_SUFFIXES
from jobs.runtime.storage import Storage

IMAGE_URI, IMAGE_URIS = "image_uri", "image_uris"
"""columns: of the one picture of a row, of any number of them"""
STYLES = "styles"
"""column: what each picture of a row that has several is called"""
PUTS_IN_FLIGHT = 16
SPOOLED_BYTES = 64_000_000
"""of a tar that are held in memory; the rest goes to a file in the temporary folder"""
NAMED = {
    ending: re.compile(rf"(.+)\.{ending.replace('jpg', 'jpe?g')}", re.IGNORECASE | re.DOTALL)
    for ending in ("jpg", "png", "webp")
}
"""names of pictures of each format"""
ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
ESCAPE = re.compile("%(?=2[35E])")
"""what stands for something else in a picture's name, and is meant as it is"""
SHARD = re.compile(rf"^([^#]*(?:{'|'.join(map(re.escape, SHARD_SUFFIXES))}))#", re.IGNORECASE)
IN_TAR = re.compile(r"(.+\.tar)#(.+)", re.DOTALL)
"""the URI of a picture in a tar"""


class Made(NamedTuple):
    """A picture of a finished run."""

    id: str
    """of its row"""
    style: str
    """what it is called among those of its row; empty where it is the only one"""
    uri: str


class Pictures(Protocol):
    """Where the pictures of a slice go."""

    def put(self, named: Sequence[Mapping[str, bytes]]) -> list[list[str]]:
        """URIs of the pictures of each row, in order, which are given by names like ids."""
        ...

    def keep(self, uris: Sequence[str]) -> None:
        """Pictures of an earlier attempt at the slice stay; those that are gone are passed over."""
        ...

    def finish(self) -> None:
        """All of the slice have come; after it they are where their URIs say."""
        ...


class FilePictures:
    """Each picture a file of its own, put whole."""

    def __init__(self, run: Run, ending: str) -> None:
        self.run = run
        self.ending = ending

    def put(self, named: Sequence[Mapping[str, bytes]]) -> list[list[str]]:
        """See `Pictures`."""
        files: dict[str, bytes] = {}
        uris: list[list[str]] = []
        for row in named:
            own = {self.run.path(image_name(n, self.ending)): data for n, data in row.items()}
            uris.append(list(own))
            files |= own
        with ThreadPoolExecutor(PUTS_IN_FLIGHT) as pool:
            list(pool.map(lambda pair: self.run.storage.put(*pair), files.items()))
        return uris

    def keep(self, uris: Sequence[str]) -> None:
        """They lie where they lay."""

    def finish(self) -> None:
        """Nothing is left to do."""


class TarPictures:
    """All pictures of a slice in images/part-<slice_id>.tar, a WebDataset shard, put whole.

    A picture is a sample; its key is the name without its ending, in which dots became %2E, for
    those who read such tars take what follows the first one for the ending. The same pictures give
    the same bytes.
    """

    def __init__(self, run: Run, slice_id: str, ending: str) -> None:
        self.run = run
        self.uri = run.path("images", f"part-{slice_id}.tar")
        self.ending = ending
        self.file = SpooledTemporaryFile(SPOOLED_BYTES)  # noqa: SIM115  (open until finish)
        self.tar = tarfile.open(fileobj=self.file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def put(self, named: Sequence[Mapping[str, bytes]]) -> list[list[str]]:
        """See `Pictures`."""
        uris: list[list[str]] = []
        for row in named:
            uris.append([])
            for name, data in row.items():
                uris[-1].append(self._add(f"{self._key(name)}.{self.ending}", data))
        return uris

    def _add(self, name: str, data: bytes) -> str:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self.tar.addfile(member, io.BytesIO(data))
        return f"{self.uri}#{name}"

    def keep(self, uris: Sequence[str]) -> None:
        """They are copied, for the tar is put anew; one that was drawn anew is there already."""
        held = filter(None, map(IN_TAR.fullmatch, uris))
        names = {each[2] for each in held} - set(self.tar.getnames())
        # here, wherever the run directory lay when they were drawn
        kept = read_pictures(self.run.storage, [f"{self.uri}#{name}" for name in names])
        for uri, data in kept.items():
            self._add(uri.removeprefix(f"{self.uri}#"), data)

    def _key(self, name: str) -> str:
        stem = image_name(name, self.ending).removeprefix("images/")
        return stem.removesuffix(f".{self.ending}").replace(".", "%2E")

    def finish(self) -> None:
        """Put the tar; none where nothing was drawn."""
        filled = bool(self.tar.getmembers())
        self.tar.close()
        self.file.seek(0)
        if filled:
            self.run.storage.put(self.uri, self.file.read())
        self.file.close()


class NoPictures:
    """Nowhere: for a dry run."""

    def put(self, named: Sequence[Mapping[str, bytes]]) -> list[list[str]]:
        """The names."""
        return [list(row) for row in named]

    def keep(self, uris: Sequence[str]) -> None:
        """They lie where they lay."""

    def finish(self) -> None:
        """Nothing is left to do."""


class PictureReader:
    """Pictures by the URIs that `Pictures` gave; the last tar that was read stays in memory."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.tar, self.members = "", dict[str, bytes]()

    def read(self, uri: str) -> bytes:
        """The file of one. Raises FileNotFoundError where it is gone."""
        held = IN_TAR.fullmatch(uri)
        if not held:
            return self.storage.read(uri)
        if held[1] != self.tar:
            data = io.BytesIO(self.storage.read(held[1]))
            with tarfile.open(fileobj=data) as tar:
                files = ((member.name, tar.extractfile(member)) for member in tar)
                self.tar, self.members = held[1], {n: file.read() for n, file in files if file}
        try:
            return self.members[held[2]]
        except KeyError:
            raise FileNotFoundError(uri) from None


def read_pictures(storage: Storage, uris: Sequence[str]) -> dict[str, bytes]:
    """Files by the URIs that `Pictures` gave; those that are gone are left out."""
    reader, found = PictureReader(storage), dict[str, bytes]()
    for uri in sorted(uris):
        try:
            found[uri] = reader.read(uri)
        except FileNotFoundError:
            continue
    return found


def uris_of(rows: pa.Table) -> list[str]:
    """Of all pictures of these rows."""
    if IMAGE_URIS in rows.schema.names:
        return [uri for uris in rows[IMAGE_URIS].to_pylist() for uri in uris or ()]
    return rows[IMAGE_URI].drop_null().to_pylist() if IMAGE_URI in rows.schema.names else []


def by_picture(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows that may have several pictures as one row for each, with `image_uri` and `style`.

    Other columns that are lists as long as IMAGE_URIS are taken apart with it; rows without a
    picture are left out.
    """
    if IMAGE_URIS not in rows.schema.names:
        named = rows.append_column("style", pa.array([""] * rows.num_rows, pa.string()))
        return named.filter(pc.field(IMAGE_URI).is_valid())
    parents = _lists(rows[IMAGE_URIS]).value_parent_indices()
    names = {IMAGE_URIS: IMAGE_URI, STYLES: "style"}
    columns = {
        names.get(name, name): _lists(column).flatten()
        if pa.types.is_list(column.type)
        else column.take(parents)
        for name, column in zip(rows.schema.names, rows.columns, strict=True)
    }
    return pa.RecordBatch.from_pydict(columns)


def _lists(column: pa.Array) -> pa.ListArray:
    assert isinstance(column, pa.ListArray)
    return column


def image_name(id: str, ending: str = "jpg") -> str:
    """Where in a run directory the picture of a row lies: another name for each id, without #.

    A shard is a folder, and a picture of the format `ending` (jpg, png, webp) keeps its name: of
    JPEGs `a.tar#b.jpg` is a.tar/b.jpg, `x.png` x.png.jpg. One that might be taken for another's
    gets the ending twice: `x.png.jpg` is x.png.jpg.jpg. Ids hold names out of archives that
    strangers made: none of them leads out of the folder.
    """
    named = NAMED[ending].fullmatch(id)
    name = id if named and not ENDING.search(named[1]) else f"{id}.{ending}"
    name = ESCAPE.sub("%25", SHARD.sub(r"\1/", name, count=1)).replace("#", "%23")
    parts = [p.replace(".", "%2E") if p in (".", "..") else p for p in name.split("/")]
    return f"images/{'/'.join(parts)}"
