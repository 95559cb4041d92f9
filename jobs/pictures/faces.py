"""Embedding faces as the engine's work: the decoder, the operator, the columns it adds."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import pyarrow as pa
from PIL import Image

from jobs.runtime.resources import Resources
from jobs.runtime.work import IMAGE_URIS, Work
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.inputs import Inputs
from vision_ops.operators.embed_faces import FacesConfig, make_face_embedder
from vision_ops.precision import PASS_SIZE
from vision_ops.weights import Resolved

PICTURES_PER_CALL = 8
"""of whole pictures, each of some megabytes; their faces are regrouped"""
JPEG_QUALITY = 95


def face_type(embedding_size: int) -> pa.DataType:
    """One face of a row."""
    return pa.struct(
        [
            ("box", pa.list_(pa.float32(), 4)),
            ("landmarks", pa.list_(pa.float32(), 10)),
            ("confidence", pa.float32()),
            ("quality", pa.float32()),
            ("embedding", pa.list_(pa.float32(), embedding_size)),
        ]
    )


def make_work(
    op: FacesConfig,
    decode: DecodeConfig,
    resources: Resources,
    embedder: Resolved,
    detector: Resolved | None,
) -> Work:
    """The work of a run."""
    card = embedder.card
    fields = [
        ("faces", pa.list_(face_type(card.embedding_size))),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
    ]
    if op.crops:
        fields.append((IMAGE_URIS, pa.list_(pa.string())))
    files, found_by = {"weights": str(embedder.path)}, op.finding
    if detector:
        files["detector"] = str(detector.path)
        found_by = f"{detector.source} sha256:{detector.sha256}, licence {detector.card.licence}"
    return Work(
        decoder=make_decoder(decode, inputs_of(op, card.preprocess)),
        operator=make_face_embedder,
        config=op,
        columns=pa.schema(fields),
        files=files,
        metadata={
            "embedder": f"sha256:{embedder.sha256}",
            "weights": f"{embedder.source} sha256:{embedder.sha256}",
            "licence": card.licence,
            "preprocess": str(card.preprocess),
            "detector": found_by,
        },
        batch_size=resources.batch_size
        or (PASS_SIZE if op.finding == "none" else PICTURES_PER_CALL),
        draw_each=crops_of if op.crops else None,
    )


def inputs_of(op: FacesConfig, face: Inputs) -> Inputs:
    """What is decoded: whole pictures, or each as the one face that it is."""
    return face if op.finding == "none" else op.canvas()


def crops_of(row: Mapping[str, Any]) -> Sequence[bytes]:
    """The aligned faces of a row as JPEGs."""
    return [_jpeg(crop) for crop in row["crops"]]


def _jpeg(pixels: Any) -> bytes:
    target = BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return target.getvalue()
