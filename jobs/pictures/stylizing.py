"""Making pictures as the engine's work: the styles, the operator, the columns it adds."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from jobs.runtime.drawn import IMAGE_URI
from jobs.runtime.resources import Resources
from jobs.runtime.storage import Storage, absolute
from jobs.runtime.work import Work
from vision_ops.card import sha256_file
from vision_ops.decode import DecodeConfig, DecodeWhole, UnreadableImageError, read_rgb
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
) -> Work:
    """The work of a run."""
    fields = [
        (IMAGE_URI, pa.string()),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
        *((f"{name}_loss", pa.float32()) for name in LOSSES),
    ]
    return Work(
        decoder=DecodeWhole(decode, op.canvas(), LEAST_PX),
        operator=partial(make_stylizer, styles),
        config=op,
        columns=pa.schema(fields),
        files={"weights": str(weights.path)},
        metadata={
            "weights": f"{weights.source} sha256:{weights.sha256}",
            "licence": weights.card.licence,
            "styles": " ".join(op.styles),
        },
        batch_size=resources.batch_size or PICTURES_PER_CALL,
        draw=partial(encoded, format=format, quality=quality),
        image_ending=format,
    )


def encoded(data: bytes, row: Mapping[str, Any], *, format: Format, quality: int) -> bytes:
    """The picture of a row as a file: sRGB, upright."""
    target = BytesIO()
    image = Image.fromarray(row["picture"])
    if format == "png":
        image.save(target, "PNG")
    elif format == "webp":
        image.save(target, "WEBP", quality=quality)
    else:
        image.save(target, "JPEG", quality=quality, subsampling=0)
    return target.getvalue()


def with_insets(made: bytes, insets: Sequence[bytes], size_px: int, max_megapixels: float) -> bytes:
    """The file of a picture as a JPEG, longer side `size_px`; others small along its lower edge."""
    whole = read_rgb(made, max_megapixels)
    scale = size_px / max(whole.size)
    whole = whole.resize([max(1, round(side * scale)) for side in whole.size])
    side, left = whole.height // INSETS, BORDER_PX
    for data in insets:
        small = read_rgb(data, max_megapixels)
        small.thumbnail((side, side))
        framed = ImageOps.expand(small, BORDER_PX, "white")
        whole.paste(framed, (left, whole.height - framed.height - BORDER_PX))
        left += framed.width + BORDER_PX
    target = BytesIO()
    whole.save(target, "JPEG", quality=88)
    return target.getvalue()
