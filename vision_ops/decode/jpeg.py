"""JPEG by libjpeg-turbo's exact modes, with its warnings taken seriously."""

import re
from collections.abc import Mapping

import numpy as np
import simplejpeg
from PIL import Image
from PIL.ImageFile import ImageFile

SCAN, END = b"\xff\xda", b"\xff\xd9"
LEFTOVER = re.compile(r"extraneous bytes before marker 0xd[0-79]|unknown JFIF|Unknown Adobe")
"""Warnings of libjpeg that cost no pixel: each block of the picture was there, and more"""


def reduction(size: tuple[int, int], least_side_px: int) -> int:
    """Greatest factor of 8, 4, 2, 1 that leaves the shorter side that many pixels; 0: 1.

    Powers of two: libjpeg-turbo has no fast code for the scales between, and they gain nothing.
    """
    return next((k for k in (8, 4, 2) if least_side_px and min(size) // k >= least_side_px), 1)


def decode_jpeg(data: bytes, header: ImageFile, reduce_by: int = 1) -> Image.Image | None:
    """Decode by simplejpeg; None where that cannot and PIL must (CMYK, odd subsampling).

    Reduced, a picture of 2,001 x 1,001 has 1,001 x 501 pixels, the last ones half outside.
    """
    colours = {"L": "GRAY", "RGB": "RGBX", "CMYK": "CMYK"}[header.mode]
    width, height = header.size
    reduced = (-(-width // reduce_by), -(-height // reduce_by))
    scale = {}
    if reduce_by > 1:
        scale = {"min_width": reduced[0], "min_height": reduced[1], "min_factor": reduce_by}
    try:
        pixels = _jpeg_pixels(data, colours, scale)
    except ValueError as error:
        if "subsampling" in str(error) and SCAN in data:
            return None
        raise
    if colours == "CMYK":
        return None  # it was checked; its inks (inverted, Adobe's convention) PIL knows
    image = Image.fromarray(pixels[:, :, 0]) if colours == "GRAY" else _mapped(pixels)
    _check_size(data, header.size, reduced, image.size)
    return image


def _check_size(
    data: bytes, told: tuple[int, int], reduced: tuple[int, int], found: tuple[int, int]
) -> None:
    """Raise ValueError where PIL's and libjpeg's ideas of a picture's size differ.

    A reduced one may be of the right size by chance: simplejpeg reduces to the size it is given.
    """
    if reduced != told and found == reduced:
        height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
        reduced, found = told, (int(width), int(height))
    if found != reduced:
        raise ValueError(f"two sizes, {told} and {found}")


def _mapped(pixels: np.ndarray) -> Image.Image:
    """(H, W, 4) uint8 as an RGB picture, without a copy: PIL's own has four bytes a pixel too."""
    size = (pixels.shape[1], pixels.shape[0])
    # what Image.frombuffer does for "RGBX", a mode that PIL resizes a quarter slower than "RGB"
    return Image.new("RGB", (0, 0))._new(
        Image.core.map_buffer(pixels, size, "raw", 0, ("RGB", 0, 1))
    )


def is_ended(data: bytes) -> bool:
    """Whether an end marker follows the last scan; neither can occur inside a scan's data."""
    return data.rfind(END) > data.rfind(SCAN) >= 0


def _jpeg_pixels(data: bytes, colours: str, scale: Mapping[str, int]) -> np.ndarray:
    """(H, W, C) uint8; ValueError with libjpeg's first warning if a pixel was lost.

    All of the file is read at any scale, so any fault in it is seen.
    """
    exact = {"fastdct": False, "fastupsample": False, **scale}
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
