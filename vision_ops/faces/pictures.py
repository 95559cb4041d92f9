"""Faces cut out of their pictures, for people to look at."""

from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from vision_ops.decode import read_rgb

MARGIN = 0.25
"""of the box's longer side, shown around it"""
GAP_PX = 4


def cut_face(
    data: bytes, box: Sequence[float], size_px: int, max_megapixels: float = 100.0
) -> Image.Image:
    """The face of an image file with what is around it, square, `size_px` wide.

    box   x0, y0, x1, y1 in pixels of the upright original; may reach over its border: black there
    Raises UnreadableImageError for bytes that are no picture, or a larger one.
    """
    image = read_rgb(data, max_megapixels)
    x0, y0, x1, y1 = box
    half = max(x1 - x0, y1 - y0, 1.0) * (0.5 + MARGIN)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    frame = (round(x - half), round(y - half), round(x + half), round(y + half))
    return image.crop(frame).resize((size_px, size_px), Image.Resampling.BICUBIC)


def side_by_side(left: Image.Image, right: Image.Image) -> bytes:
    """Two pictures of one height as JPEG."""
    both = Image.new("RGB", (left.width + GAP_PX + right.width, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP_PX, 0))
    target = BytesIO()
    both.save(target, "JPEG", quality=88)
    return target.getvalue()
