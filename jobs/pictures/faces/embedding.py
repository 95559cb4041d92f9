"""Embedding faces as the engine's work: the decoder, the operator, the columns it adds."""

import logging
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, TypeVar

import pyarrow as pa
from PIL import Image

from jobs.runtime.drawn import IMAGE_URIS
from jobs.runtime.reread import read_images
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.trial import Choice
from jobs.runtime.work import Work
from vision_ops.decode import DecodeConfig, UnreadableImageError
from vision_ops.decoders import make_decoder
from vision_ops.faces.pictures import cut_face
from vision_ops.inputs import Inputs
from vision_ops.operators.embed_faces import FacesConfig, make_face_embedder
from vision_ops.precision import PASS_SIZE
from vision_ops.precision.verdicts import Request, Verdict
from vision_ops.weights import Resolved, cache_folder

logger = logging.getLogger(__name__)

Key = TypeVar("Key")
FACE_PX = 112
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
    choice: Choice | None,
) -> Work:
    """The work of a run whose embedder was settled; without a choice torch runs it in fp32."""
    card = embedder.card
    fields = [
        ("faces", pa.list_(face_type(card.embedding_size))),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
    ]
    if op.crops:
        fields.append((IMAGE_URIS, pa.list_(pa.string())))
    told, path = "chosen when it starts", embedder.path
    if choice:
        verdict, path = Verdict(**choice.verdict), choice.path
        told = f"{verdict.precision} on {verdict.back_end} sha256:{verdict.sha256}"
    files, found_by = {"weights": str(path)}, op.finding
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
            "network": told,
        },
        batch_size=resources.batch_size
        or (PASS_SIZE if op.finding == "none" else PICTURES_PER_CALL),
        draw_each=crops_of if op.crops else None,
    )


def request_of(embedder: Resolved) -> Request:
    """How the embedder may be run: in fp32, by what is fastest. No label tells how true less is."""
    return Request(
        weights=str(embedder.path),
        sha256=embedder.sha256,
        precision="fp32",
        embeddings=True,
        folder=str(cache_folder()),
    )


def inputs_of(op: FacesConfig, face: Inputs) -> Inputs:
    """What is decoded: whole pictures, or each as the one face that it is."""
    return face if op.finding == "none" else op.canvas()


def cut_out(
    run: Run, faces: Mapping[Key, tuple[str, Sequence[float]]], size_px: int = FACE_PX
) -> dict[Key, bytes]:
    """JPEGs of single faces (image id and box) of a run of embed_faces, for people to look at.

    Those that cannot be had now are left out.
    """
    originals = read_images(run, sorted({image for image, _ in faces.values()}))
    limit = run.manifest["config"].get("decode", {}).get("max_megapixels", 100.0)
    found = {}
    for key, (image, box) in faces.items():
        if image in originals:
            try:
                cut = cut_face(originals[image], box, size_px, limit)
            except UnreadableImageError as changed:
                logger.warning("no picture of %s in the report: %s", image, changed)
                continue
            target = BytesIO()
            cut.save(target, "JPEG", quality=88)
            found[key] = target.getvalue()
    return found


def crops_of(id: str, row: Mapping[str, Any]) -> Mapping[str, bytes]:
    """The aligned faces of a row as JPEGs: <id>/0, <id>/1, …"""
    return {f"{id}/{k}": _jpeg(crop) for k, crop in enumerate(row["crops"])}


def _jpeg(pixels: Any) -> bytes:
    target = BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return target.getvalue()
