"""The gallery: people by name, each with a template and the faces that it was made of.

    <gallery>/manifest.json                   embedder, size of embeddings, the parts that count
              people/people-<hash>.parquet    one row per person: person, template, faces
              calibration.json                optional: thresholds, see vision_ops.faces.calibration

A change writes new parts, then the manifest (the moment at which the change happens), then deletes
the parts that no longer count. Killed anywhere, it leaves the old gallery or the new one, and maybe
files that do not count: the next change deletes them first. A person's name, embeddings and ids
stand in one row of one part and nowhere else, so that removing the person leaves nothing.
A bucket with versioning keeps what is deleted there: let its lifecycle rules expire old versions.
One command at a time may change a gallery; any number may read it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from vision_ops.faces.people import EnrolledFace, from_table, matrix, schema, still_there, to_table

MANIFEST, CALIBRATION, FOLDER = "manifest.json", "calibration.json", "people"
FORMAT = "argus gallery 1"
PART_PEOPLE = 8192
"""people of a part at the most; a change writes anew the parts of whom it touches"""
Compression = Literal["zstd", "none"]


class Stored(Protocol):
    """An object that a store lists."""

    @property
    def uri(self) -> str:
        """Its address."""
        ...


class Store(Protocol):
    """Where galleries lie: a disk or a bucket. `put` shows the old object or the new one."""

    def read(self, uri: str) -> bytes:
        """All bytes. Raises FileNotFoundError."""
        ...

    def put(self, uri: str, data: bytes | pa.Buffer) -> None:
        """Write an object whole."""
        ...

    def delete(self, uri: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def find(self, uri: str) -> Sequence[Stored]:
        """All objects below a folder or prefix, sorted by address."""
        ...


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a change of a gallery did."""

    added: int = 0
    """faces that were not there before"""
    unchanged: int = 0
    """faces that were there, under the same name"""
    moved: int = 0
    """faces that were there under another name, and now are under the one given"""
    replaced: int = 0
    """faces that gave way to others of the same picture, which are counted as added"""
    removed: int = 0
    """faces that are there no more"""
    people_added: tuple[str, ...] = ()
    people_removed: tuple[str, ...] = ()
    """those of whom the last face went, or moved"""


class GalleryChangedError(Exception):
    """Another command changed the gallery meanwhile; nothing was changed by this one."""


@dataclass(frozen=True, kw_only=True)
class Templates:
    """People, sorted by name, and what stands for each."""

    names: np.ndarray
    """str objects (G,)"""
    embeddings: Float32[np.ndarray, "G E"]
    """unit L2"""


class Gallery:
    """One gallery as its manifest says it is; every change reads it first and leaves a new one."""

    def __init__(self, uri: str, store: Store, manifest: Mapping[str, Any]) -> None:
        self.uri = uri
        self.store = store
        self.manifest = manifest
        self.compression: Compression = "zstd"
        """of the parts that are written"""

    @classmethod
    def load(cls, uri: str, store: Store) -> "Gallery":
        """The gallery at an address. ValueError where there is none."""
        manifest = _read_manifest(uri, store)
        if manifest is None:
            raise ValueError(
                f"gallery {uri}: there is none (it has no {MANIFEST}); enrolling makes one"
            )
        return cls(uri, store, manifest)

    @classmethod
    def open(cls, uri: str, store: Store, embedder: Mapping[str, Any]) -> "Gallery":
        """The gallery at an address, or a new one, of which nothing is written yet.

        `embedder` holds sha256 (of its checkpoint) and embedding_size, and what else is to be known
        of it. ValueError where the gallery is of another embedder.
        """
        manifest = _read_manifest(uri, store)
        if manifest is None:
            return cls(uri, store, {"format": FORMAT, "embedder": dict(embedder), "parts": []})
        gallery = cls(uri, store, manifest)
        gallery.check_embedder(str(embedder["sha256"]), "these faces")
        return gallery

    @property
    def embedder(self) -> str:
        """sha256 of the checkpoint that made the embeddings."""
        return self.manifest["embedder"]["sha256"]

    @property
    def size(self) -> int:
        """Numbers of an embedding."""
        return self.manifest["embedder"]["embedding_size"]

    @property
    def num_people(self) -> int:
        """People enrolled."""
        return sum(part["people"] for part in self.manifest["parts"])

    @property
    def num_faces(self) -> int:
        """Faces enrolled."""
        return sum(part["faces"] for part in self.manifest["parts"])

    def faces_per_person(self) -> float:
        """Harmonic mean over people, by which a calibration knows templates; reads all parts."""
        counts = np.array([count for _, count in self.people()], np.float64)
        return float(1 / np.mean(1 / counts)) if len(counts) else 1.0

    @property
    def parts(self) -> list[str]:
        """Names of the parts that count."""
        return [part["name"] for part in self.manifest["parts"]]

    @property
    def digest(self) -> str:
        """Hash of who is in it: parts are named by their contents."""
        text = "\n".join([self.embedder, *sorted(self.parts)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def path(self, *names: str) -> str:
        """Address of something in the gallery."""
        return "/".join([self.uri, *names])

    def check_embedder(self, sha256: str, of: str) -> None:
        """ValueError, naming both, where embeddings of another embedder are to be compared."""
        if sha256 != self.embedder:
            raise ValueError(
                f"embedder: gallery {self.uri} holds embeddings of sha256:{self.embedder}, {of} "
                f"are of sha256:{sha256}; embeddings of two networks cannot be compared"
            )

    def templates(self, parts: Sequence[str] | None = None) -> Templates:
        """Everyone, or those of some parts."""
        wanted = self.parts if parts is None else parts
        tables = [self._table(name, ["person", "template"]) for name in wanted]
        table = pa.concat_tables([schema(self.size).empty_table().select([0, 1]), *tables])
        table = table.sort_by("person").combine_chunks()
        names = np.array(table["person"].to_pylist(), object)
        return Templates(names=names, embeddings=matrix(table["template"], self.size))

    def people(self) -> Iterator[tuple[str, int]]:
        """Names, and the number of faces of each, part by part."""
        for name in self.parts:
            table = self._table(name, ["person", "faces.list.element.id"])
            counts = table["faces"].combine_chunks().value_lengths().to_pylist()
            yield from zip(table["person"].to_pylist(), counts, strict=True)

    def faces(self) -> Iterator[tuple[str, tuple[str, str], str]]:
        """Person, key and part of every face."""
        for name in self.parts:
            columns = ["person", "faces.list.element.id", "faces.list.element.run"]
            for row in self._table(name, columns).to_pylist():
                for face in row["faces"]:
                    yield row["person"], (face["run"], face["id"]), name

    def enrol(self, faces: Iterable[tuple[str, EnrolledFace]]) -> Change:
        """Add faces under their people's names, and commit.

        A face that is there under that name changes nothing; one that is there under another name
        moves; one of a picture that the person is there with takes the older face's place, see
        `still_there`. Raises ValueError for a face that does not fit, GalleryChangedError.
        """
        enrolled = list(self.faces())
        known = {key: (person, part) for person, key, part in enrolled}
        fresh: dict[tuple[str, str], tuple[str, EnrolledFace]] = {}
        unchanged, moved, touched = 0, 0, set[str]()
        for person, face in faces:
            self._check(person, face)
            before = known.get(face.key)
            if before and before[0] == person:
                unchanged += 1
                continue
            if before:
                moved += 1
                touched.add(before[1])
            fresh[face.key] = person, face
        if not fresh:
            self.clean()
            return Change(unchanged=unchanged)
        coming: dict[str, list[EnrolledFace]] = {}
        for person, face in fresh.values():
            coming.setdefault(person, []).append(face)
        touched |= {part for person, _, part in enrolled if person in coming}
        replaced = 0

        def edit(rows: dict[str, list[EnrolledFace]]) -> None:
            nonlocal replaced
            for person, own in rows.items():
                rows[person] = [face for face in own if face.key not in fresh]
            for person, faces in coming.items():
                before = rows.get(person, [])
                kept = still_there(before, faces)
                replaced += len(before) - len(kept)
                rows[person] = [*kept, *faces]

        added, gone = self._change(touched, edit)
        return Change(
            added=len(fresh) - moved,
            unchanged=unchanged,
            moved=moved,
            replaced=replaced,
            people_added=added,
            people_removed=gone,
        )

    def remove(self, people: Sequence[str] = (), ids: Sequence[str] = ()) -> Change:
        """Remove people, and faces by id or by the id of their image, and commit.

        Finishes what an interrupted command left undone, first. Raises ValueError where nobody of
        that name, or no face of that id, is or was about to be removed; GalleryChangedError.
        """
        wanted, images = set(people), tuple(f"{each}#face" for each in ids)

        def goes(person: str, id: str) -> bool:
            return person in wanted or id in ids or id.startswith(images)

        hit = [(person, key, part) for person, key, part in self.faces() if goes(person, key[1])]
        left = [(person, id) for person, id in self.leftovers() if goes(person, id)]
        self._check_removal(people, ids, [(p, key[1]) for p, key, _ in hit] + left)
        if not hit:
            self.clean()
            return Change()

        def edit(rows: dict[str, list[EnrolledFace]]) -> None:
            for person, own in rows.items():
                rows[person] = [face for face in own if not goes(person, face.id)]

        _, gone = self._change({part for _, _, part in hit}, edit)
        return Change(removed=len(hit), people_removed=gone)

    def _check_removal(
        self, people: Sequence[str], ids: Sequence[str], found: Sequence[tuple[str, str]]
    ) -> None:
        names, faces = {person for person, _ in found}, {id for _, id in found}
        for person in people:
            if person not in names:
                raise ValueError(f"person {person!r}: nobody of that name is in {self.uri}")
        for id in ids:
            if id not in faces and not any(face.startswith(f"{id}#face") for face in faces):
                raise ValueError(f"id {id!r}: no face of that id is in {self.uri}")

    def _check(self, person: str, face: EnrolledFace) -> None:
        norm = float(np.linalg.norm(face.embedding.astype(np.float64)))
        if not person:
            raise ValueError(f"person: the name of face {face.id} is empty")
        if face.embedding.shape != (self.size,) or not abs(norm - 1) < 1e-3:
            raise ValueError(
                f"face {face.id}: an embedding of {face.embedding.size} numbers and norm "
                f"{norm:g}; gallery {self.uri} holds {self.size} of norm 1"
            )

    def _change(
        self, touched: set[str], edit: Callable[[dict[str, list[EnrolledFace]]], None]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Write the touched parts anew, with small ones, and commit; people who came and went."""
        self._check_unchanged()
        self.clean()
        small = {p["name"] for p in self.manifest["parts"] if p["people"] < PART_PEOPLE // 2}
        taken = touched | small
        rows: dict[str, list[EnrolledFace]] = {}
        for name in taken:
            rows |= from_table(self._table(name, ["person", "faces"]), self.size)
        before = set(rows)
        edit(rows)
        after = sorted(person for person, own in rows.items() if own)
        written = []
        for start in range(0, len(after), PART_PEOPLE):
            some = after[start : start + PART_PEOPLE]
            written.append(self._write({person: rows[person] for person in some}))
        kept = [part for part in self.manifest["parts"] if part["name"] not in taken]
        self._commit([*kept, *written])
        return tuple(p for p in after if p not in before), tuple(sorted(before - set(after)))

    def _write(self, rows: Mapping[str, Sequence[EnrolledFace]]) -> dict[str, Any]:
        """Put one part, named by its contents; its entry in the manifest."""
        table = to_table(rows, self.size)
        buffer = pa.BufferOutputStream()
        # plain values: what is not there any more is in no dictionary and no statistics either
        pq.write_table(table, buffer, compression=self.compression, use_dictionary=False)
        data = buffer.getvalue()
        name = f"people-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
        self.store.put(self.path(FOLDER, name), data)
        return {"name": name, "people": len(rows), "faces": sum(map(len, rows.values()))}

    def _commit(self, parts: list[dict[str, Any]]) -> None:
        self._check_unchanged()
        self.manifest = {**self.manifest, "parts": sorted(parts, key=lambda part: part["name"])}
        data = json.dumps(self.manifest, indent=1, ensure_ascii=False).encode()
        self.store.put(self.path(MANIFEST), data)
        self.clean()

    def _check_unchanged(self) -> None:
        if (_read_manifest(self.uri, self.store) or {}).get("parts", []) != self.manifest["parts"]:
            raise GalleryChangedError(f"gallery {self.uri}: changed meanwhile; run this again")

    def clean(self) -> int:
        """Delete what interrupted changes left; returns the number of files."""
        strays = self._strays()
        for uri in strays:
            self.store.delete(uri)
        return len(strays)

    def leftovers(self) -> Iterator[tuple[str, str]]:
        """Person and face id of what lies in files that do not count, as far as they are whole."""
        for uri in self._strays():
            if uri.endswith(".parquet"):
                table = pq.ParquetFile(pa.BufferReader(self.store.read(uri))).read()
                for row in table.select(["person", "faces"]).to_pylist():
                    yield from ((row["person"], face["id"]) for face in row["faces"])

    def _strays(self) -> list[str]:
        """Parts that do not count, and halves of files that were being put."""
        known = (_read_manifest(self.uri, self.store) or {}).get("parts", [])
        counted = {self.path(FOLDER, part["name"]) for part in known}
        found = []
        for entry in self.store.find(self.uri):
            folder, _, name = entry.uri.rpartition("/")
            half = name.startswith(".") and name.endswith(".partial")
            inside = folder == self.path(FOLDER) and entry.uri not in counted
            if (inside and (half or name.startswith("people-"))) or (half and folder == self.uri):
                found.append(entry.uri)
        return found

    def _table(self, name: str, columns: Sequence[str]) -> pa.Table:
        try:
            data = self.store.read(self.path(FOLDER, name))
        except FileNotFoundError as gone:
            self._check_unchanged()
            raise ValueError(f"gallery {self.uri}: its part {name} is gone") from gone
        return pq.ParquetFile(pa.BufferReader(data)).read(columns=list(columns))


def _read_manifest(uri: str, store: Store) -> dict[str, Any] | None:
    try:
        manifest = json.loads(store.read(f"{uri}/{MANIFEST}"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError as broken:
        raise ValueError(f"gallery {uri}/{MANIFEST}: not a manifest: {broken}") from broken
    if manifest.get("format") != FORMAT:
        raise ValueError(f"gallery {uri}: its {MANIFEST} is not that of a gallery ({FORMAT})")
    return manifest
