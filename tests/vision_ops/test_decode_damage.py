"""Bytes that are no picture, or not all of one, or one with faults that cost no pixel."""

import re
import struct
import warnings
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision_ops.decode import (
    IMAGE_SUFFIXES,
    Decode,
    DecodeConfig,
    UnreadableImageError,
    read_rgb,
    thumbnail,
)
from vision_ops.decode.gpu import DecodeOnGpu
from vision_ops.preprocess import Preprocess


def scene(height: int = 60, width: int = 80) -> Image.Image:
    """A picture of which no part is grey or like another: colours by place, some noise."""
    y, x = np.mgrid[0:height, 0:width]
    colours = np.stack([255 * x / width, 255 * y / height, 200 - 150 * x / width], axis=-1)
    noise = np.random.default_rng(0).integers(-9, 10, colours.shape)
    return Image.fromarray((colours + noise).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    target = BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def decode(data: bytes, config: DecodeConfig | None = None) -> tuple[np.ndarray, str]:
    """By the exact mode; the fast one says the same, at full size and where it reduces."""
    exact = replace(config or DecodeConfig(), mode="exact")
    out, reason = decode_to(32, data, exact)
    for size_px in (32, 8):
        fast, found = decode_to(size_px, data, replace(exact, mode="fast"))
        assert found == reason
        assert not reason or (fast == 7).all()
    for found, there in by_gpu(data, exact):  # of damage inside a scan only libjpeg-turbo tells
        assert found == reason or (not found and reason.startswith("corrupt JPEG"))
        assert not found or (there == 7).all()
    return out, reason


def by_gpu(data: bytes, config: DecodeConfig) -> list[tuple[str, np.ndarray]]:
    """The road of JPEGs to a GPU, two together, here without one."""
    usual = Decode(replace(config, mode="cuda"), Preprocess(height_px=32, width_px=32))
    out = np.full((2, 32, 32, 3), 7, np.uint8)
    extents = DecodeOnGpu(usual, "cpu").many([data, data], out)
    return [
        ("" if extent else usual(data, there), there)
        for extent, there in zip(extents, out, strict=True)
    ]


def decode_to(size_px: int, data: bytes, config: DecodeConfig) -> tuple[np.ndarray, str]:
    preprocess = Preprocess(height_px=size_px, width_px=size_px, resize_px=size_px + 4)
    out = np.full((size_px, size_px, 3), 7, np.uint8)
    return out, Decode(config, preprocess)(data, out)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(read_rgb(data)).astype(int)


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html><body>404", "not an image: starts with '<html><body>404'"),
        (b"\0" * 100, "not an image: starts with 00 00 00 00 00 00 00 00"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, which is not read; JPEG, PNG, WebP"),
        (b"%PDF-1.7", "PDF, which is not read"),
        (b"  <?xml version='1.0'?>\n<svg>", "SVG, which is not read"),
        (b"\xff\xd8\xff", "truncated JPEG: "),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "truncated JPEG: "),
        (b"\x89PNG\r\n\x1a\n", "corrupt PNG: "),
        (b"GIF89a", "corrupt GIF: "),
        (b"RIFF\x99\0\0\0WEBPVP8 ", "truncated WebP: 16 bytes, its header says more"),
    ],
)
def test_bytes_that_are_no_picture_are_refused_in_words(data, reason):
    out, found = decode(data)
    assert found.startswith(reason)
    assert (out == 7).all()
    with pytest.raises(UnreadableImageError, match=re.escape(reason)):
        read_rgb(data)
    with pytest.raises(UnreadableImageError, match=re.escape(reason)):
        thumbnail(data)


def png_header(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_pixel_limit_is_checked_in_the_header_of_each_format():
    jpeg, tiff = encode(scene(), "JPEG"), encode(scene(8, 4_000), "TIFF")
    frame = jpeg.index(b"\xff\xc0")
    webp = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0"
    bombs = {
        "PNG": png_header(20_000, 10_200),
        "JPEG": jpeg[: frame + 5] + b"\xff\xff\xff\xff" + jpeg[frame + 9 :],
        "GIF": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;",
        "BMP": b"BM"
        + struct.pack("<IIIIiiHHIIIIII", 0, 0, 54, 40, 30_000, 30_000, 1, 24, *[0] * 6),
        "WebP": webp,
    }
    for kind, data in bombs.items():
        assert "megapixels, more than the 100 allowed" in decode(data)[1], kind
    assert decode(bombs["PNG"])[1] == "204 megapixels, more than the 100 allowed"
    small = DecodeConfig(max_megapixels=0.03)
    assert decode(tiff, small)[1] == "0.032 megapixels, more than the 0.03 allowed"


def test_limit_of_pillow_neither_refuses_nor_warns_nor_is_lost(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        assert decode(encode(scene(), kind))[1] == ""
    assert Image.MAX_IMAGE_PIXELS == 2_000
    with pytest.warns(UserWarning, match="as before"):
        warnings.warn("as before", stacklevel=1)


def test_byte_limit_names_both_numbers():
    reason = decode(encode(scene(), "BMP"), DecodeConfig(max_megabytes=0.01))[1]
    assert reason == "0.01445 megabytes, more than the 0.01 allowed"


@pytest.mark.parametrize("field", ["max_megapixels", "max_megabytes"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_decode_config_refuses_the_impossible(field, value):
    with pytest.raises(ValueError, match=field):
        DecodeConfig(**{field: value})


def test_decode_config_refuses_an_unknown_mode():
    with pytest.raises(ValueError, match="mode 'quick': must be fast, exact or cuda"):
        DecodeConfig(mode="quick")  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------- damage


def test_jpeg_with_harmless_faults_is_read_to_the_last_pixel():
    clean = encode(scene(), "JPEG")
    tables, end = clean.index(b"\xff\xdb"), len(clean) - 2
    assert clean[6:11] == b"JFIF\0"
    faults = {
        "version of JFIF": clean[:11] + b"\0\0" + clean[13:],
        "junk between segments": clean[:tables] + b"junk" + clean[tables:],
        "padding before the end": clean[:end] + b"\0" * 300 + clean[end:],
        "no end": clean[:end],
        "half an end": clean[:-1],
        "more behind the end": clean + b"more" * 100,
        "another picture behind the end": clean + encode(scene(9, 9), "JPEG")[:-50],
        "unreadable EXIF": encode(scene(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    }
    for name, data in faults.items():
        assert np.array_equal(pixels(data), by_pillow(clean)), name


def test_jpeg_with_harmless_faults_is_refused_if_truncated_as_well():
    clean = encode(scene(), "JPEG")
    tables = clean.index(b"\xff\xdb")
    for data in (
        clean[:11] + b"\0\0" + clean[13:],
        clean[:tables] + b"junk" + clean[tables:],
        encode(scene(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    ):
        assert decode(data[:-200])[1].startswith("truncated JPEG")
        broken = data[:-300] + b"\xff\xd9"
        assert decode(broken)[1].startswith("corrupt JPEG")


def test_png_is_read_whatever_its_texts_and_animation_chunks_are():
    png = encode(scene(), "PNG")
    huge = zlib.compress(b"text " * 1_000_000)
    for extra in (
        chunk(b"zTXt", b"Comment\0\0" + huge),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + huge),
        chunk(b"acTL", b"\0\0\0\0\0\0\0\0") * 2,
        chunk(b"fcTL", b"too short"),
        chunk(b"eXIf", b"\xff" * 50),
        chunk(b"iCCP", b"icc\0\0" + huge),
        chunk(b"tEXt", b"a\0b")[:-1] + b"?",  # a wrong checksum costs the text only
    ):
        assert (pixels(with_chunks(png, extra)) == np.asarray(scene())).all(), extra[4:8]


def test_png_with_wrong_or_unknown_critical_chunks_is_refused():
    png = encode(scene(), "PNG")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 1
    assert decode(bytes(flipped))[1] == "corrupt PNG: wrong checksum in its IDAT chunk"
    apple = with_chunks(png, chunk(b"CgBI", b"\x50\0\x20\2"))
    assert decode(apple)[1] == "corrupt PNG: unknown critical chunk CgBI"
    unfilled = png[:33] + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    assert decode(unfilled)[1].startswith("truncated PNG")


ENCODED = {
    "jpeg": encode(scene(), "JPEG"),
    "progressive": encode(scene(), "JPEG", progressive=True),
    "grey jpeg": encode(scene().convert("L"), "JPEG"),
    "cmyk jpeg": encode(scene().convert("CMYK"), "JPEG"),
    "png": encode(scene(), "PNG"),
    "palette png": encode(scene().quantize(32), "PNG"),
    "webp": encode(scene(), "WEBP"),
    "lossless webp": encode(scene(), "WEBP", lossless=True),
    "gif": encode(scene(), "GIF"),
    "bmp": encode(scene(), "BMP"),
    "tiff": encode(scene(), "TIFF"),
    "lzw tiff": encode(scene(), "TIFF", compression="tiff_lzw"),
    "jpeg tiff": encode(scene(), "TIFF", compression="jpeg"),
    "fax tiff": encode(scene().convert("1"), "TIFF", compression="group4"),
} | ({"avif": encode(scene(), "AVIF")} if ".avif" in IMAGE_SUFFIXES else {})
WHOLE = {name: decode(data) for name, data in ENCODED.items()}


@settings(max_examples=400)
@given(name=st.sampled_from(sorted(ENCODED)), part=st.floats(0, 1), from_end=st.booleans())
def test_truncated_file_is_refused_or_else_whole(name, part, from_end):
    data = ENCODED[name]
    kept = len(data) - 1 - int(part * 30) if from_end else int(part * (len(data) - 1))
    out, reason = decode(data[: max(kept, 0)])
    whole, _ = WHOLE[name]
    assert reason or np.array_equal(out, whole)  # what is cut off was no pixel
    if ("jpeg" in name or "png" in name or name == "progressive") and "tiff" not in name:
        assert reason or kept >= len(data) - 16  # an end marker, a checksum and an IEND chunk


@settings(max_examples=600)
@given(
    name=st.sampled_from(sorted(ENCODED)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12),
    near_start=st.booleans(),
)
def test_corrupted_file_never_raises(name, changes, near_start):
    data = bytearray(ENCODED[name])
    reach = min(len(data) - 1, 700) if near_start else len(data) - 1
    for place, value in changes:
        data[int(place * reach)] = value
    _, reason = decode(bytes(data), DecodeConfig(max_megapixels=4))
    assert "\n" not in reason
    assert len(reason) < 300


@settings(max_examples=200)
@given(
    start=st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0"]
        + [b"RIFF\4\0\0\0WEBPVP8X", b"\0\0\0\x1cftypavif", b"\x28\0\0\0", b"<svg"]
    ),
    rest=st.binary(max_size=300),
)
def test_random_bytes_never_raise(start, rest):
    decode(start + rest, DecodeConfig(max_megapixels=4))
