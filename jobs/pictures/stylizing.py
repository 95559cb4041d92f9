"""Making pictures as the engine's work: the styles, the operator, the columns it adds."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from jobs.runtime.drawn import IMAGE_URI, IMAGE_URIS, STYLES
from jobs.runtime.resources import Resources
from jobs.runtime.storage import Storage, absolute
from jobs.runtime.work import Work
from vision_ops.card import sha256_file
from vision_ops.decode import DecodeConfig, DecodeWhole, UnreadableImageError, read_rgb
from vision_ops.decoders import picture_decoder
from vision_ops.operators.stylize import LEAST_PX, LOSSES, StylizeConfig, make_stylizer
from vision_ops.weights import Resolved

logger = logging.getLogger(__name__)

Format = Literal["jpg", "png", "webp"]
PICTURES_PER_CALL = 4
BORDER_PX = 3
INSETS = 4
"""times that a small picture goes into the height of that in which it stands"""


class StyleFiles:
    """Pictures of styles: their bytes' sha256, and their pixels as they are wanted."""

    def __init__(self, styles: Sequence[str], storage: Storage) -> None:
        self.styles = styles
        self.paths = [self._fetched(style, storage) for style in styles]

    def _fetched(self, style: str, storage: Storage) -> Path:
        try:
            return storage.fetch(absolute(style))
        except OSError as absent:
            raise ValueError(f"op.styles {style}: cannot be read ({absent})") from absent

    @property
    def sha256(self) -> tuple[str, ...]:
        """Of each file: what tells one style from another."""
        return tuple(sha256_file(path) for path in self.paths)

    def read(self) -> list[bytes]:
        """Their files' bytes."""
        return [path.read_bytes() for path in self.paths]

    def pictures(self, longest_px: int, max_megapixels: float) -> list[np.ndarray]:
        """Upright sRGB pixels, uint8 (H, W, 3), the longer side `longest_px` at the most.

        Raises ValueError for a file that is no picture.
        """
        return [
            np.asarray(self._opened(style, path, longest_px, max_megapixels))
            for style, path in zip(self.styles, self.paths, strict=True)
        ]

    def _opened(self, style: str, path: Path, longest_px: int, limit: float) -> Image.Image:
        try:
            image = read_rgb(path.read_bytes(), limit)
        except UnreadableImageError as refusal:
            raise ValueError(f"op.styles {style}: {refusal}") from refusal
        image.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
        return image


def make_work(
    op: StylizeConfig,
    styles: Sequence[np.ndarray],
    decode: DecodeConfig,
    resources: Resources,
    weights: Resolved,
    *,
    format: Format,
    quality: int,
    archives: bool,
) -> Work:
    """The work of a run."""
    pixels, loss = pa.int32(), pa.list_(pa.float32()) if op.each else pa.float32()
    uri = (IMAGE_URIS, pa.list_(pa.string())) if op.each else (IMAGE_URI, pa.string())
    fields = [
        uri,
        *([(STYLES, pa.list_(pa.string()))] if op.each else []),
        ("height_px", pixels),
        ("width_px", pixels),
        *((f"{name}_loss", loss) for name in LOSSES),
    ]
    write = partial(encoded, format=format, quality=quality)
    return Work(
        decoder=picture_decoder(DecodeWhole(decode, op.canvas(), LEAST_PX)),
        operator=partial(make_stylizer, styles),
        config=op,
        columns=pa.schema(fields),
        files={"weights": str(weights.path)},
        metadata={
            "weights": f"{weights.source} sha256:{weights.sha256}",
            "licence": weights.card.licence,
            "styles": " ".join(op.styles),
            **_costs(op, weights),
        },
        batch_size=resources.batch_size or PICTURES_PER_CALL,
        draw=None if op.each else partial(_only, write),
        draw_each=partial(_by_style, write) if op.each else None,
        image_ending=format,
        archives=archives,
    )


def _costs(op: StylizeConfig, weights: Resolved) -> dict[str, str]:
    """What the losses of rows mean; nothing where pictures are not optimised."""
    if weights.card.is_painter or weights.card.is_translator:
        return {}
    costs = op.faded_gatys().costs
    told = {
        "content": costs.content_weight, "style": costs.beta, "variation": costs.variation_weight,
    }  # fmt: skip
    weighed = ", ".join(f"{name} {weight:g}" for name, weight in told.items())
    return {"convention": costs.convention, "cost_weights": weighed}


def _only(write: Callable[[np.ndarray], bytes], data: bytes, row: Mapping[str, Any]) -> bytes:
    return write(row["picture"])


def _by_style(
    write: Callable[[np.ndarray], bytes], id: str, row: Mapping[str, Any]
) -> Mapping[str, bytes]:
    """<style>/<id> of each."""
    return {f"{style}/{id}": write(pixels) for style, pixels in row["picture"].items()}


def encoded(pixels: np.ndarray, *, format: Format, quality: int) -> bytes:
    """A picture, uint8 (H, W, 3), as a file: sRGB, upright."""
    target = BytesIO()
    image = Image.fromarray(pixels)
    if format == "png":
        image.save(target, "PNG")
    elif format == "webp":
        image.save(target, "WEBP", quality=quality)
    else:
        image.save(target, "JPEG", quality=quality, subsampling=0)
    return target.getvalue()


def with_insets(made: bytes, insets: Sequence[bytes], size_px: int, max_megapixels: float) -> bytes:
    """The file of a picture as a JPEG, longer side `size_px`; others small along its lower edge."""
    whole = _of_size(made, size_px, max_megapixels)
    side, left = whole.height // INSETS, BORDER_PX
    for data in insets:
        small = read_rgb(data, max_megapixels)
        small.thumbnail((side, side))
        framed = ImageOps.expand(small, BORDER_PX, "white")
        whole.paste(framed, (left, whole.height - framed.height - BORDER_PX))
        left += framed.width + BORDER_PX
    return _jpeg(whole)


def side_by_side(pictures: Sequence[bytes], size_px: int, max_megapixels: float) -> bytes:
    """Files of pictures as one JPEG: all `size_px` high, from left to right."""
    images = [read_rgb(data, max_megapixels) for data in pictures]
    widths = [max(1, round(size_px * image.width / image.height)) for image in images]
    strip = Image.new("RGB", (sum(widths) + BORDER_PX * (len(images) - 1), size_px), "white")
    left = 0
    for image, width in zip(images, widths, strict=True):
        strip.paste(image.resize((width, size_px)), (left, 0))
        left += width + BORDER_PX
    return _jpeg(strip)


def _of_size(data: bytes, size_px: int, max_megapixels: float) -> Image.Image:
    whole = read_rgb(data, max_megapixels)
    scale = size_px / max(whole.size)
    return whole.resize([max(1, round(side * scale)) for side in whole.size])


def _jpeg(image: Image.Image) -> bytes:
    target = BytesIO()
    image.save(target, "JPEG", quality=88)
    return target.getvalue()
