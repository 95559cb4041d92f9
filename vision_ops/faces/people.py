"""People of a gallery as rows: who, the template that stands for them, the faces it is made of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float32

LEAST_WEIGHT = 0.01
"""of a face in its template, however bad its quality"""
LEAST_NORM = 1e-3
"""of a weighted mean of embeddings: below, they contradict each other, and the best stands alone"""
SAME_PICTURE = 0.9999
"""cosine of two faces of a person from which on they are one picture, embedded twice"""


@dataclass(frozen=True, kw_only=True)
class EnrolledFace:
    """One face of a person."""

    id: str
    """`<row id>#face<k>` of the run it was found in"""
    run: str
    """fingerprint of that run: ids are unique within it"""
    quality: float
    """0..1, its weight in the template"""
    embedding: Float32[np.ndarray, "E"]
    """unit L2"""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from every other face."""
        return self.run, self.id

    @property
    def picture(self) -> tuple[str, str]:
        """The picture that it was found in, of its run."""
        return self.run, self.id.rpartition("#face")[0] or self.id


def still_there(
    before: Sequence[EnrolledFace], fresh: Sequence[EnrolledFace]
) -> list[EnrolledFace]:
    """Faces of a person that others of the same person do not take the place of.

    A person is in a picture once: another face of the same picture was chosen instead. And a
    picture counts once: one that another run embedded anew has the same embedding, as long as its
    face was found in the same place, and takes the place of the older one.
    """
    pictures = {face.picture for face in fresh}
    kept = [face for face in before if face.picture not in pictures]
    if not kept or not fresh:
        return kept
    alike = np.stack([f.embedding for f in kept]) @ np.stack([f.embedding for f in fresh]).T
    runs = np.array([face.run for face in kept], object)[:, None]
    elsewhere = runs != np.array([face.run for face in fresh], object)
    again = ((alike >= SAME_PICTURE) & elsewhere).any(axis=1)
    return [face for face, gone in zip(kept, again, strict=True) if not gone]


def template(faces: Sequence[EnrolledFace]) -> Float32[np.ndarray, "E"]:
    """The embedding that stands for a person, unit L2: see `pooled`, in the order of the keys."""
    ranked = sorted(faces, key=lambda face: face.key)
    quality = np.array([face.quality for face in ranked], np.float64)
    return pooled(np.stack([face.embedding for face in ranked]), quality)


def pooled(
    embeddings: Float32[np.ndarray, "F E"], quality: Float[np.ndarray, "F"]
) -> Float32[np.ndarray, "E"]:
    """One embedding for several of a person, unit L2.

        t = sum_i w_i f_i / |sum_i w_i f_i|,    w_i = max(quality_i, 0.01)

    The quality-weighted mean of the embeddings, back on the sphere (quality pooling; Ranjan et
    al. 2019, section 3.3, where the weights are a softmax of the detector's logit; here the score
    that is stored already lies in 0..1 and is the weight itself). Summed in float64 in the order
    given: the same faces in one order give the same bits. One face is its own template, bit for
    bit. Where the sum all but vanishes, the face of best quality is. What it does to scores of
    strangers, and so to thresholds: see `vision_ops.faces.calibration`.
    """
    if len(embeddings) == 1:
        return embeddings[0]
    weights = np.maximum(quality.astype(np.float64), LEAST_WEIGHT)
    total = (weights[:, None] * embeddings.astype(np.float64)).sum(axis=0)
    norm = float(np.sqrt((total * total).sum()))
    if norm < LEAST_NORM * weights.sum():
        return embeddings[int(weights.argmax())]
    return (total / norm).astype(np.float32)


def schema(size: int) -> pa.Schema:
    """Columns of a part: a row is a person."""
    vector = pa.list_(pa.float32(), size)
    face = pa.struct(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("run", pa.string(), nullable=False),
            pa.field("quality", pa.float32(), nullable=False),
            pa.field("embedding", vector, nullable=False),
        ]
    )
    fields = [("person", pa.string()), ("template", vector), ("faces", pa.list_(face))]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])


def to_table(rows: Mapping[str, Sequence[EnrolledFace]], size: int) -> pa.Table:
    """People with their faces, sorted by key, as a part has them."""
    people = {person: sorted(own, key=lambda f: f.key) for person, own in sorted(rows.items())}
    every = [face for own in people.values() for face in own]
    kind = schema(size)
    columns = [
        pa.array([face.id for face in every], pa.string()),
        pa.array([face.run for face in every], pa.string()),
        pa.array([face.quality for face in every], pa.float32()),
        _vectors([face.embedding for face in every], size),
    ]
    structs = pa.StructArray.from_arrays(columns, fields=list(kind.field("faces").type.value_type))
    ends = np.cumsum([0, *map(len, people.values())]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(ends), structs, type=kind.field("faces").type)
    templates = _vectors([template(own) for own in people.values()], size)
    return pa.table([pa.array(list(people), pa.string()), templates, lists], schema=kind)


def _vectors(vectors: Sequence[np.ndarray], size: int) -> pa.FixedSizeListArray:
    flat = np.concatenate([np.zeros(0, np.float32), *vectors])
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), size)


def matrix(column: pa.Array | pa.ChunkedArray, size: int) -> Float32[np.ndarray, "N E"]:
    """A column of fixed-size lists as an array of rows."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)


def from_table(table: pa.Table, size: int) -> Iterator[tuple[str, list[EnrolledFace]]]:
    """People of a part with their faces; reads the columns person and faces."""
    table = table.combine_chunks()
    lists = table["faces"].combine_chunks()
    faces = lists.flatten()
    ids, runs, qualities = (faces.field(name).to_pylist() for name in ("id", "run", "quality"))
    vectors = matrix(faces.field("embedding"), size)
    every = [
        EnrolledFace(id=id, run=run, quality=quality, embedding=vector)
        for id, run, quality, vector in zip(ids, runs, qualities, vectors, strict=True)
    ]
    ends = np.cumsum(lists.value_lengths().to_numpy())
    for person, start, end in zip(table["person"].to_pylist(), [0, *ends[:-1]], ends, strict=True):
        yield person, every[start:end]
