"""Made by hand: a finished run of embed_faces with known embeddings, and a calibration."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from jobs.runtime.plan import make_plan
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage
from jobs.runtime.work import ROW_SCHEMA
from vision_ops.faces.calibration import Calibration, SearchThresholds, Thresholds

EMBEDDER = "e1" * 32
"""sha256 of the embedder's checkpoint, unless a test says another"""
HEIGHT_PX, WIDTH_PX = 96, 128


@dataclass(frozen=True, kw_only=True)
class MadeFace:
    """One face of an image."""

    embedding: np.ndarray
    """float32 (E,), unit L2"""
    box: tuple[float, float, float, float] = (20.0, 10.0, 60.0, 60.0)
    confidence: float = 0.99
    quality: float = 0.8


@dataclass(frozen=True, kw_only=True)
class MadeImage:
    """One row: faces, or none, or why it failed."""

    id: str
    truth: str | None = None
    """the person's name"""
    faces: Sequence[MadeFace] = ()
    error: str = ""
    """not empty: a failed row"""


@dataclass(frozen=True, kw_only=True)
class MadeFacesConfig:
    """The part of the job's config that readers of a run look at."""

    data: Source
    out: str
    decode: dict[str, float] = field(default_factory=lambda: {"max_megapixels": 100.0})


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of L2 norm 1, float32."""
    vectors = np.asarray(vectors, np.float64)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def make_people(
    num_people: int, images_per_person: int, size: int = 32, noise: float = 0.4, seed: int = 0
) -> list[MadeImage]:
    """Images of one face each. `noise` is the norm of what differs between two of one person.

    Person k is called `person_00k`, the images `person_00k/00j.png`; qualities lie in 0.3..1.
    """
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(num_people, size)))
    images = []
    for person, centre in enumerate(centres):
        name = f"person_{person:03d}"
        for number in range(images_per_person):
            differs = noise * unit(rng.normal(size=size))
            quality = float(np.float32(rng.uniform(0.3, 1.0)))
            face = MadeFace(embedding=unit(centre + differs), quality=quality)
            images.append(MadeImage(id=f"{name}/{number:03d}.png", truth=name, faces=[face]))
    return images


def failed(image: MadeImage, error: str = "truncated PNG: no end") -> MadeImage:
    """The image as one that could not be decoded."""
    return replace(image, faces=(), error=error)


def faceless(image: MadeImage) -> MadeImage:
    """The image as one in which no face was found."""
    return replace(image, faces=())


def schema_of(size: int, embedder: str) -> pa.Schema:
    """Columns and metadata of the parts of embed_faces."""
    face = pa.struct(
        [
            ("box", pa.list_(pa.float32(), 4)),
            ("landmarks", pa.list_(pa.float32(), 10)),
            ("confidence", pa.float32()),
            ("quality", pa.float32()),
            ("embedding", pa.list_(pa.float32(), size)),
        ]
    )
    columns = [("faces", pa.list_(face)), ("height_px", pa.int32()), ("width_px", pa.int32())]
    schema = pa.schema([*ROW_SCHEMA, *columns])
    return schema.with_metadata({"argus.embedder": f"sha256:{embedder}"})


def to_row(image: MadeImage) -> dict[str, Any]:
    """The row that embed_faces would write."""
    bad = bool(image.error)
    row = {"id": image.id, "uri": f"/pictures/{image.id}", "truth": image.truth}
    row |= {"status": "failed" if bad else "ok", "stage": "decode" if bad else ""}
    row |= {"error": image.error, "faces": None, "height_px": None, "width_px": None}
    if bad:
        return row
    faces = [
        {
            "box": face.box,
            "landmarks": _landmarks(face.box),
            "confidence": face.confidence,
            "quality": face.quality,
            "embedding": face.embedding,
        }
        for face in image.faces
    ]
    return row | {"faces": faces, "height_px": HEIGHT_PX, "width_px": WIDTH_PX}


def _landmarks(box: Sequence[float]) -> list[float]:
    """Five points at places in the box where a face has them."""
    x0, y0, x1, y1 = box
    places = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))
    return [c for x, y in places for c in (x0 + x * (x1 - x0), y0 + y * (y1 - y0))]


def draw_faces(folder: Path, images: Sequence[MadeImage]) -> None:
    """A PNG for each image, with an ellipse in each box: for reports that show faces."""
    for number, image in enumerate(images):
        picture = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), (40, 60, 80))
        for face in image.faces:
            colour = (90 + 40 * number % 160, 160, 120 + 7 * number % 100)
            ImageDraw.Draw(picture).ellipse([round(side) for side in face.box], fill=colour)
        target = folder / image.id
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target)


def make_faces_run(
    out: str | Path,
    images: Sequence[MadeImage],
    *,
    pictures: Path | None = None,
    source_uri: str = "/pictures",
    embedder: str = EMBEDDER,
    size: int = 0,
    num_parts: int = 3,
    finished: bool = True,
    storage: Storage | None = None,
) -> Run:
    """A run directory of embed_faces that holds these images, dealt out to parts by turns.

    `pictures`: folder with the image files (see `draw_faces`); without, the run has no plan and
    its pictures are out of reach. `source_uri`: where they are said to be; runs of two sources
    have two fingerprints. `size`: of the embeddings, where no image has a face.
    """
    size = size or next(len(face.embedding) for image in images for face in image.faces)
    storage = storage or Storage()
    source = Source(uri=str(pictures or source_uri), label="folder")
    config = MadeFacesConfig(data=source, out=str(out))
    identity = {"data": source, "embedder": embedder}
    opened = Run.open(
        str(out), job="embed_faces", config=config, identity=identity, storage=storage
    )
    with opened as run:
        if pictures:
            make_plan(Origin(source=source, storage=storage, suffixes=(".png",)), run)
        known = {"source": "made.safetensors", "licence": "MIT", "embedding_size": size}
        run.note(
            status="running",
            suffixes=[".png"],
            embedder={"sha256": embedder, **known},
            weights={"source": "made.safetensors", "licence": "MIT", "kind": "face"},
        )
        for number in range(num_parts):
            rows = [to_row(image) for image in images[number::num_parts]]
            bad = sum(row["status"] == "failed" for row in rows)
            counts = {"argus.ok": str(len(rows) - bad), "argus.failed": str(bad)}
            schema = schema_of(size, embedder)
            schema = schema.with_metadata(dict(schema.metadata or {}) | counts)
            buffer = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(rows, schema), buffer, compression="zstd")
            run.put(f"results/part-{number:04d}.parquet", buffer.getvalue())
        bad = sum(bool(image.error) for image in images)
        counts = {"read": len(images), "ok": len(images) - bad, "failed": bad}
        if finished:
            run.finish(counts=counts, seconds={"wall": 12.5})
    return run


def searches(threshold: float, faces_per_person: float = 1.0) -> SearchThresholds:
    """Thresholds of FPIR 0.1 and 0.01 in galleries of one and of a thousand people."""
    return SearchThresholds(
        faces_per_person=faces_per_person,
        gallery_sizes=(1, 1000),
        thresholds=(
            Thresholds(rates=(0.1, 0.01), thresholds=(threshold - 0.1, threshold)),
            Thresholds(rates=(0.1, 0.01), thresholds=(threshold, threshold + 0.3)),
        ),
    )


def calibration(embedder: str = EMBEDDER, threshold: float = 0.42) -> Calibration:
    """One that says a threshold, rising with the gallery, and a probability of (score + 1) / 2."""
    return Calibration(
        embedder=f"sha256:{embedder}", num_people=100, num_genuine=1000, num_impostor=10_000,
        num_searched=100, far=Thresholds(rates=(0.1, 0.001), thresholds=(0.1, 0.3)),
        searches=(searches(threshold),),
        scores=(-1.0, 1.0), probabilities=(0.0, 1.0),
    )  # fmt: skip
