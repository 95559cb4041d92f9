"""Which formats are read, how a file of each is told, and what is checked before Pillow sees it."""

import re
import struct
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)
from PIL.ImageFile import ImageFile

OPENERS: Mapping[str, Callable[[BytesIO], ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "DIB": BmpImagePlugin.DibImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
} | ({"AVIF": AvifImagePlugin.AvifImageFile} if features.check("avif") else {})
"""Formats that are read. Classes, not Image.open: it guesses, warns and has limits of its own."""

IMAGE_SUFFIXES: frozenset[str] = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib")
    + (".tif", ".tiff")
    + ((".avif",) if "AVIF" in OPENERS else ())
)
"""File name endings of those formats, lower case"""

SIGNATURES: tuple[tuple[str, re.Pattern[bytes]], ...] = tuple(
    (kind, re.compile(pattern, re.DOTALL))
    for kind, pattern in (
        ("JPEG", rb"\xff\xd8\xff"),
        ("PNG", rb"\x89PNG\r\n\x1a\n"),
        ("WebP", rb"RIFF....WEBP"),
        ("GIF", rb"GIF8[79]a"),
        ("BMP", rb"BM"),
        ("TIFF", rb"II[*+]\0|MM\0[*+]"),
        ("AVIF", rb"....ftyp(?:....)*?avi[fs]"),
        ("HEIC", rb"....ftyp(?:....)*?(?:hei[cxms]|hev[cx]|mif1|msf1)"),
        ("MP4", rb"....ftyp"),
        ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
        ("JPEG XL", rb"\0\0\0\x0cJXL |\xff\x0a"),
        ("SVG", rb"\s*(?:<\?xml[^>]*>\s*)?<svg"),
        ("PDF", rb"%PDF"),
        ("Photoshop", rb"8BPS"),
        ("ICO", rb"\0\0\x01\0"),
        ("gzip", rb"\x1f\x8b"),
        ("ZIP", rb"PK\x03\x04"),
        ("DIB", rb"[\x28\x34\x38\x40\x6c\x7c]\0\0\0........\x01\0[\x01\x04\x08\x10\x18\x20]\0"),
    )
)
"""How files start: those that are read, and others that are worth naming"""

PILLOW_ERRORS = (  # what its parsers let out on bad bytes; every one was seen, or is in its source
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

MAX_PROFILE_BYTES = 8_000_000
"""ICC profiles over this are ignored (printers' have up to 3 MB)"""


class UnreadableImageError(ValueError):
    """Bytes that are no picture, or not all of one; the message is the reason, for a person."""


def kind_of(data: bytes) -> str:
    """Name of the format, by the first bytes; raises UnreadableImageError if it is not read."""
    if not data:
        raise UnreadableImageError("empty file")
    head = bytes(data[:64])
    kind = next((kind for kind, pattern in SIGNATURES if pattern.match(head)), "")
    if kind in OPENERS:
        return kind
    if kind:
        raise UnreadableImageError(f"{kind}, which is not read; {', '.join(OPENERS)} are")
    text = head[:16].decode("latin-1")
    shown = repr(text) if text.isascii() and text.strip().isprintable() else head[:8].hex(" ")
    raise UnreadableImageError(f"not an image: starts with {shown}")


def check_size(width: int, height: int, max_megapixels: float) -> None:
    if width < 1 or height < 1:
        raise UnreadableImageError(f"a picture of {width} x {height} pixels")
    if width * height > max_megapixels * 1e6:
        raise UnreadableImageError(too_much(width * height, "megapixels", max_megapixels))


def too_much(found: int, unit: str, allowed: float) -> str:
    return f"{found / 1e6:,.4g} {unit}, more than the {allowed:,.4g} allowed"


PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"))


def essential_png(data: bytes) -> tuple[bytes, bytes]:
    """A PNG reduced to its picture, and its ICC profile (b"": none).

    PIL refuses a picture for its texts (over 1 MB) and for odd animation chunks, and does not
    check the checksums of the pixels: here texts and animation are dropped, checksums checked.
    """
    kept, start, profile = [data[:8]], 8, b""
    while start + 8 <= len(data):
        size, name = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8]
        end = start + 8 + size
        critical = not name[0] & 0x20
        if not name.isalpha():
            raise ValueError("data between its chunks")
        if end > len(data) and name != b"IEND":
            raise EOFError(f"ends in its {name.decode()} chunk")
        stored = data[end : end + 4]
        sound = len(stored) < 4 or zlib.crc32(data[start + 4 : end]) == int.from_bytes(stored)
        if critical and not sound:
            raise ValueError(f"wrong checksum in its {name.decode()} chunk")
        if critical and name not in PNG_CHUNKS:
            raise ValueError(f"unknown critical chunk {name.decode()}")
        if name in PNG_CHUNKS and sound:
            kept.append(data[start : end + 4])
        elif name == b"iCCP" and sound:
            profile = _inflate_profile(data[start + 8 : end])
        if name == b"IEND":
            break
        start = end + 4
    return b"".join(kept), profile


def _inflate_profile(chunk: bytes) -> bytes:
    compressed = chunk.partition(b"\0")[2][1:]
    try:
        return zlib.decompressobj().decompress(compressed, MAX_PROFILE_BYTES)
    except zlib.error:
        return b""


def webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the canvas, from the header (RFC 9649)."""
    if len(data) < 30 or len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise EOFError(f"{len(data)} bytes, its header says more")
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError(f"unknown first chunk {chunk!r}")


def check_tiff_strips(picture: TiffImagePlugin.TiffImageFile, num_bytes: int) -> None:
    """Raise EOFError if a strip or tile reaches beyond the file.

    libtiff's JPEG and fax decoders fill what is missing with grey or white.
    """
    for starts, sizes in ((273, 279), (324, 325)):
        pairs = zip(picture.tag_v2.get(starts, ()), picture.tag_v2.get(sizes, ()), strict=False)
        if any(start + size > num_bytes for start, size in pairs):
            raise EOFError("ends before the last of its strips")
