"""Boxes drawn on a picture, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import ImageDraw

from vision_ops.decode import read_rgb

TRUE = "#1a9850"
FOUND = "#d7191c"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One box to be drawn."""

    box: Sequence[float]
    """x0, y0, x1, y1 in pixels of the upright original"""
    colour: str = FOUND
    text: str = ""
    """written above it; below where there is no room"""


def draw_boxes(data: bytes, boxes: Sequence[Drawn], size_px: int) -> bytes:
    """An image file with boxes drawn on it as JPEG, longer side `size_px` at the most.

    A picture smaller than half of that is enlarged to it, so that lines do not hide what they
    surround. Raises UnreadableImageError for bytes that are no picture.
    """
    image = read_rgb(data)
    longer = max(image.size)
    scale = size_px / longer if longer > size_px or 2 * longer < size_px else 1.0
    full = image.size
    image = image.resize([max(1, round(side * scale)) for side in full])
    across, down = (new / old for new, old in zip(image.size, full, strict=True))
    canvas, width = ImageDraw.Draw(image), max(1, round(max(image.size) / 160))
    for each in boxes:
        x0, y0, x1, y1 = each.box
        place = [x0 * across, y0 * down, x1 * across - 1, y1 * down - 1]
        place[2:] = [max(place[0], place[2]), max(place[1], place[3])]
        canvas.rectangle(place, outline=each.colour, width=width)
        if each.text:
            tall = canvas.textbbox((0, 0), each.text)[3] + 1
            above = place[1] - tall
            corner = (place[0] + 1, above if above >= 0 else min(place[3], image.height - tall))
            back = canvas.textbbox(corner, each.text)
            canvas.rectangle(back, fill=each.colour)
            canvas.text(corner, each.text, fill="white")
    target = BytesIO()
    image.save(target, "JPEG", quality=88, subsampling=0)
    return target.getvalue()
