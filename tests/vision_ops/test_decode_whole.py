"""Whole pictures on a canvas: in their own proportions, upright, reduced only where too large."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision_ops.canvas import Canvas
from vision_ops.decode import DecodeConfig, DecodeWhole, read_rgb


def encoded(width: int, height: int, orientation: int = 1, format: str = "JPEG") -> bytes:
    """A picture that is smooth, and another at each of its corners."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / height, 127 + 0 * x], axis=-1)
    image, target = Image.fromarray(pixels.astype(np.uint8)), BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(target, format, exif=exif, quality=95)
    return target.getvalue()


def decoded(data: bytes, longest_px: int, mode: str = "fast") -> tuple[np.ndarray, tuple[int, ...]]:
    """What lies on the canvas, and the extent."""
    canvas = Canvas(longest_px=longest_px)
    decode = DecodeWhole(DecodeConfig(mode=mode), canvas)  # pyright: ignore[reportArgumentType]
    out = np.full(canvas.shape, 77, np.uint8)
    assert decode(data, out) == ""
    height, width = canvas.size_of(*decode.extent)
    assert (out[height:] == 77).all()
    assert (out[:, width:] == 77).all()
    return out[:height, :width], decode.extent


@given(width=st.integers(1, 90), height=st.integers(1, 90), orientation=st.integers(1, 8))
@settings(max_examples=40)
def test_a_picture_that_fits_keeps_every_pixel(width: int, height: int, orientation: int):
    data = encoded(width, height, orientation, "PNG")
    pixels, extent = decoded(data, 96)
    upright = np.asarray(read_rgb(data))
    assert extent == upright.shape[:2]
    assert (pixels == upright).all()


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_larger_picture_is_reduced_as_pillow_does(mode: str, orientation: int):
    data = encoded(801, 601, orientation)
    pixels, extent = decoded(data, 100, mode)
    upright = read_rgb(data)
    assert extent == (upright.height, upright.width)
    size = (100, 75) if upright.width > upright.height else (75, 100)
    wanted = np.asarray(upright.resize(size, Image.Resampling.BILINEAR), int)
    assert np.abs(pixels.astype(int) - wanted).max() <= (0 if mode == "exact" else 2)


def test_a_strip_keeps_a_pixel_of_its_shorter_side():
    pixels, extent = decoded(encoded(4000, 2), 64)
    assert extent == (2, 4000)
    assert pixels.shape == (1, 64, 3)


def test_no_picture_is_enlarged():
    assert Canvas(longest_px=1024).size_of(1, 1) == (1, 1)
    assert Canvas(longest_px=1024).size_of(2048, 512) == (1024, 256)


def test_what_is_no_picture_has_a_reason():
    canvas = Canvas(longest_px=32)
    decode = DecodeWhole(DecodeConfig(max_megapixels=0.001), canvas)
    out = np.zeros(canvas.shape, np.uint8)
    assert decode(b"nothing", out)
    assert "megapixels" in decode(encoded(64, 64), out)
    assert decode.extent == ()


def test_a_canvas_of_no_size_is_refused():
    with pytest.raises(ValueError, match="longest_px 0"):
        Canvas(longest_px=0)
