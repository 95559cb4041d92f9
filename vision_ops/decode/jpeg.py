"""JPEG by libjpeg-turbo's exact modes, with its warnings taken seriously."""

import re

import numpy as np
import simplejpeg
from PIL import Image
from PIL.ImageFile import ImageFile

SCAN, END = b"\xff\xda", b"\xff\xd9"
LEFTOVER = re.compile(r"extraneous bytes before marker 0xd[0-79]|unknown JFIF|Unknown Adobe")
"""Warnings of libjpeg that cost no pixel: each block of the picture was there, and more"""


def decode_jpeg(data: bytes, header: ImageFile) -> Image.Image | None:
    """Decode by simplejpeg; None where that cannot and PIL must (CMYK, odd subsampling)."""
    colours = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[header.mode]
    try:
        pixels = _jpeg_pixels(data, colours)
    except ValueError as error:
        if "subsampling" in str(error) and SCAN in data:
            return None
        raise
    if colours == "CMYK":
        return None  # it was checked; its inks (inverted, Adobe's convention) PIL knows
    image = Image.fromarray(pixels[:, :, 0] if colours == "GRAY" else pixels)
    if image.size != header.size:
        raise ValueError(f"two sizes, {header.size} and {image.size}")
    return image


def is_ended(data: bytes) -> bool:
    """Whether an end marker follows the last scan; neither can occur inside a scan's data."""
    return data.rfind(END) > data.rfind(SCAN) >= 0


def _jpeg_pixels(data: bytes, colours: str) -> np.ndarray:
    """(H, W, C) uint8; ValueError with libjpeg's first warning if a pixel was lost."""
    exact = {"fastdct": False, "fastupsample": False}
    try:
        return simplejpeg.decode_jpeg(data, colours, strict=True, **exact)
    except ValueError as error:
        first = error
    data = _tidy_jpeg(data)
    try:
        return simplejpeg.decode_jpeg(data, colours, strict=True, **exact)
    except ValueError as error:
        if not (is_ended(data) and LEFTOVER.search(str(error))):
            raise first from None
    return simplejpeg.decode_jpeg(data, colours, strict=False, **exact)


def _tidy_jpeg(data: bytes) -> bytes:
    """The same picture without what libjpeg only warns of before its first scan.

    libjpeg reports no warning but the first: junk between segments and an odd JFIF version would
    hide that data is missing later. A missing end marker is added where nothing but the data can
    say whether the picture is complete: sequential, all components in one scan.
    """
    kept, start, sequential, components = [data[:2]], 2, False, 0
    while (start := data.find(b"\xff", start)) >= 0 and start + 4 <= len(data):
        marker, size = data[start + 1], int.from_bytes(data[start + 2 : start + 4])
        if marker in (0x00, 0xFF):
            start += 1
            continue
        if marker == 0xDA:
            if sequential and data[start + 4] == components and END not in data[start:]:
                return b"".join((*kept, data[start:], END))
            return b"".join((*kept, data[start:]))
        segment = data[start : start + 2 + size]
        if marker == 0xE0 and segment[4:9] == b"JFIF\0":
            segment = segment[:9] + b"\1\1" + segment[11:]
        if marker in (0xC0, 0xC1) and len(segment) > 9:
            sequential, components = True, segment[9]
        kept.append(segment)
        start += 2 + size
    return data
