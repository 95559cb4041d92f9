"""A finished run of embed_faces, its parts as arrays, and rows of single faces."""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.run import Run
from jobs.runtime.storage import Entry, Storage
from jobs.runtime.work import ROW_SCHEMA
from vision_ops.faces.people import matrix

PREFIX = "sha256:"
BOX = pa.list_(pa.float32(), 4)
FACE_SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        pa.field("image", pa.string(), nullable=False),
        ("face", pa.int32()),
        ("box", BOX),
        ("quality", pa.float32()),
    ]
)
"""of rows of single faces: `id` is `<row id>#face<k>`, `image` the row id and `face` is k; an image
that failed, or without a face, has one row, of its own id, with nulls"""


@dataclass(frozen=True, kw_only=True)
class FacesRun:
    """A finished run of embed_faces."""

    run: Run
    embedder: str
    """sha256 of the embedder's checkpoint, hexadecimal"""
    size: int
    """numbers of an embedding"""

    @property
    def about_embedder(self) -> dict[str, Any]:
        """What a gallery keeps of the embedder."""
        told = self.run.manifest["embedder"]
        kept = {name: told[name] for name in ("source", "licence") if name in told}
        return {"sha256": self.embedder, "embedding_size": self.size, **kept}

    @property
    def about(self) -> dict[str, Any]:
        """What a run over these faces notes of how they were made: networks and licences."""
        return {
            "embedder": self.about_embedder,
            "detector": self.run.manifest.get("detector") or {},
        }

    def digest(self) -> str:
        """Hash of what lies in it: fingerprint, names and sizes of parts."""
        parts = [f"{entry.uri.rpartition('/')[2]} {entry.size}" for entry in self.run.parts()]
        text = "\n".join([self.run.fingerprint, *parts])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class FacePart:
    """A part: R images, N faces."""

    rows: pa.Table
    """the columns of every job"""
    counts: np.ndarray
    """int64 (R,): faces of each image, 0 where it failed"""
    boxes: np.ndarray
    """float32 (N, 4): x0, y0, x1, y1 px of the upright original"""
    quality: np.ndarray
    """float32 (N,), 0..1"""
    embeddings: np.ndarray
    """float32 (N, E), unit L2"""


def open_faces(uri: str, storage: Storage) -> FacesRun:
    """The run at an address. ValueError names the command that makes or finishes it."""
    command = f"python -m jobs.embed_faces --out {shlex.quote(uri)}"
    try:
        run = Run.load(uri, storage)
    except ValueError as missing:
        raise ValueError(f"run: {missing}; this makes it: {command}") from missing
    manifest = run.manifest
    if manifest["job"] != "embed_faces":
        raise ValueError(f"run: {run.uri} is a run of {manifest['job']}; wanted: embed_faces")
    if (status := manifest.get("status", "begun")) != "done":
        raise ValueError(
            f"run: {run.uri} is not finished ({status}); the command that began it finishes it: "
            f"{command}"
        )
    told = manifest["embedder"]
    sha256 = str(told["sha256"]).removeprefix(PREFIX)
    return FacesRun(run=run, embedder=sha256, size=int(told["embedding_size"]))


def read_part(source: FacesRun, entry: Entry) -> FacePart:
    """One part of a run. ValueError where it is of another embedder, or not of embed_faces."""
    with source.run.storage.open_input(entry.uri) as file:
        table = pq.ParquetFile(file).read(columns=[*ROW_SCHEMA.names, "faces"])
    stated = (table.schema.metadata or {}).get(b"argus.embedder", b"").decode()
    if stated and stated.removeprefix(PREFIX) != source.embedder:
        raise ValueError(
            f"run: {entry.uri} is of the embedder {stated}, its run of {PREFIX}{source.embedder}"
        )
    table = table.combine_chunks()
    lists = table["faces"].combine_chunks()
    if not len(lists):
        lists = pa.array([], table.schema.field("faces").type)
    faces = lists.flatten()
    embeddings = matrix(faces.field("embedding"), source.size).astype(np.float32)
    if not np.isfinite(embeddings).all():
        raise ValueError(f"run: {entry.uri} holds embeddings that are not finite")
    return FacePart(
        rows=table.select(ROW_SCHEMA.names),
        counts=lists.value_lengths().fill_null(0).to_numpy().astype(np.int64),
        boxes=matrix(faces.field("box"), 4),
        quality=faces.field("quality").to_numpy(zero_copy_only=False),
        embeddings=embeddings,
    )


def ids_of(part: FacePart) -> list[str]:
    """`<row id>#face<k>` of every face, in order."""
    ids = part.rows["id"].to_pylist()
    pairs = zip(ids, part.counts.tolist(), strict=True)
    return [f"{id}#face{k}" for id, count in pairs for k in range(count)]


def face_rows(part: FacePart, columns: Mapping[str, pa.Array]) -> pa.Table:
    """Rows of single faces, FACE_SCHEMA and `columns`: those hold a value a face.

    Every image has a row: one that failed or holds no face has one with nulls.
    """
    images = np.repeat(np.arange(len(part.counts)), np.maximum(part.counts, 1))
    has_face = np.repeat(part.counts > 0, np.maximum(part.counts, 1))
    where = pa.array(np.cumsum(has_face) - 1, pa.int64(), mask=~has_face)
    places = [k for count in part.counts.tolist() for k in range(count)]
    rows = part.rows.take(pa.array(images))
    ids, image_ids = iter(ids_of(part)), rows["id"].to_pylist()
    own = [next(ids) if has else id for id, has in zip(image_ids, has_face, strict=True)]
    boxes = pa.FixedSizeListArray.from_arrays(pa.array(part.boxes.ravel(), pa.float32()), type=BOX)
    given = {
        "face": pa.array(places, pa.int32()),
        "box": boxes,
        "quality": pa.array(part.quality, pa.float32()),
        **columns,
    }
    table = rows.set_column(0, ROW_SCHEMA.field("id"), pa.array(own, pa.string()))
    table = table.append_column(FACE_SCHEMA.field("image"), rows["id"])
    for name, values in given.items():
        table = table.append_column(name, values.take(where))
    return table


def put_part(run: Run, name: str, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Write a part of face rows whole, with the counts of its images."""
    failed = sum(status == "failed" for status in table["status"].to_pylist())
    described = {
        **metadata,
        "ok": str(table.num_rows - failed),
        "failed": str(failed),
        "fingerprint": run.fingerprint,
    }
    schema = table.schema.with_metadata({f"argus.{k}": v for k, v in described.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(schema), sink, compression="zstd")
    run.put(f"results/{name}", sink.getvalue())


def part_names(parts: Sequence[Entry]) -> dict[str, Entry]:
    """Names of results by part of the source: of the same slice, and another where it changed."""
    return {
        f"{entry.uri.rpartition('/')[2].removesuffix('.parquet')}-{entry.size:x}.parquet": entry
        for entry in parts
    }
