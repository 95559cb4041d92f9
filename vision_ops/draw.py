"""Boxes drawn on a picture, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import ImageDraw, ImageFont

from vision_ops.decode import read_rgb

TRUE = "#1a9850"
FOUND = "#d7191c"
LINE, TEXT = 160, 32
"""parts of the longer side: width of lines, height of letters"""
LEAST_TEXT_PX = 11
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One box to be drawn."""

    box: Sequence[float]
    """x0, y0, x1, y1 in pixels of the upright original"""
    colour: str = FOUND
    text: str = ""
    """written above it; below where there is no room"""


def draw_boxes(
    data: bytes, boxes: Sequence[Drawn], size_px: int, max_megapixels: float = 100.0
) -> bytes:
    """An image file with boxes drawn on it as JPEG, longer side `size_px` at the most.

    A picture smaller than half of that is enlarged to it, so that lines do not hide what they
    surround. Raises UnreadableImageError for bytes that are no picture, or a larger one.
    """
    image = read_rgb(data, max_megapixels)
    longer = max(image.size)
    scale = size_px / longer if longer > size_px or 2 * longer < size_px else 1.0
    full = image.size
    image = image.resize([max(1, round(side * scale)) for side in full])
    across, down = (new / old for new, old in zip(image.size, full, strict=True))
    canvas, width = ImageDraw.Draw(image), max(1, round(max(image.size) / LINE))
    font = ImageFont.load_default(max(LEAST_TEXT_PX, max(image.size) / TEXT))
    for each in boxes:
        x0, y0, x1, y1 = each.box
        place = [x0 * across, y0 * down, x1 * across - 1, y1 * down - 1]
        place[2:] = [max(place[0], place[2]), max(place[1], place[3])]
        canvas.rectangle(place, outline=each.colour, width=width)
        if each.text:
            _write(canvas, each, place, font)
    target = BytesIO()
    image.save(target, "JPEG", quality=88, subsampling=0)
    return target.getvalue()


def _write(canvas: ImageDraw.ImageDraw, drawn: Drawn, place: Sequence[float], font: Font) -> None:
    """The text of a box at `place`, on its colour, within the picture where it fits at all."""
    _, _, wide, tall = canvas.textbbox((2, 1), drawn.text, font)
    wide, tall = wide + 2, tall + 1
    width, height = canvas.im.size
    x = max(0.0, min(place[0], width - wide))
    y = place[1] - tall
    if y < 0:
        y = max(0.0, min(place[3] + 1, height - tall))
    canvas.rectangle([x, y, x + wide, y + tall], fill=drawn.colour)
    canvas.text((x + 2, y + 1), drawn.text, fill="white", font=font)
