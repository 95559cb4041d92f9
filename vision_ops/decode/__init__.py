"""Bytes of an image file -> upright 8-bit sRGB pixels, or the reason why not.

Light on purpose (PIL, numpy, simplejpeg): decoder processes import it and start without torch.

What is read: JPEG, PNG, APNG and GIF and WebP (first frame), BMP, TIFF (first page), AVIF. EXIF
orientation is applied, alpha is laid on white, 16-bit loses its low byte, CMYK becomes RGB, and
on request an embedded ICC profile is applied unless it is sRGB already or broken.

What is refused: a picture of which data is missing or invalid. JPEG is decoded by libjpeg-turbo in
its exact modes, bit for bit what PIL gives, but with the library's warnings taken seriously: PIL
and torchvision drop them and fill what is lost with grey. Leftover bytes and junk between segments,
which cameras and scanners write and which cost no pixel, are tolerated; so is a missing end marker
behind a complete picture.
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.ImageFile import ImageFile

from vision_ops.decode.colour import to_rgb, to_srgb, upright
from vision_ops.decode.formats import (
    IMAGE_SUFFIXES,
    OPENERS,
    PILLOW_ERRORS,
    UnreadableImageError,
    check_size,
    check_tiff_strips,
    essential_png,
    kind_of,
    too_much,
    webp_size,
)
from vision_ops.decode.jpeg import decode_jpeg, is_ended
from vision_ops.preprocess import Preprocess, fit

__all__ = [
    "IMAGE_SUFFIXES",
    "Decode",
    "DecodeConfig",
    "UnreadableImageError",
    "read_rgb",
    "thumbnail",
]


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """What is accepted as a picture, and in which colours."""

    max_megapixels: float = 100.0
    """pictures of more megapixels fail; checked in the header, before memory is taken"""
    max_megabytes: float = 512.0
    """files of more megabytes fail"""
    apply_icc: bool = False
    """convert colours by the file's ICC profile to sRGB; off, because published networks learnt
    from pixels as they are stored, which is what PIL and torchvision give"""

    def __post_init__(self) -> None:
        for name in ("max_megapixels", "max_megabytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)}: must be above 0")


class Decode:
    """Decoder of one kind of input: bytes in, pixels of the size that the network wants out.

    Picklable; one call at a time per array. Bad bytes never raise.
    """

    def __init__(self, config: DecodeConfig, preprocess: Preprocess) -> None:
        self.config = config
        self.preprocess = preprocess
        self.shape: tuple[int, ...] = (preprocess.height_px, preprocess.width_px, 3)

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        """Write uint8 sRGB pixels into out (H, W, 3); return "" or why they are not there.

        The ICC profile is applied to the fitted picture, not to the full one: 1 ms instead of
        290 ms for 12 megapixels.
        """
        config = self.config
        try:
            if len(data) > config.max_megabytes * 1e6:
                raise UnreadableImageError(too_much(len(data), "megabytes", config.max_megabytes))
            image, profile = _read(data, config.max_megapixels, config.apply_icc)
            out[...] = np.asarray(to_srgb(fit(image, self.preprocess), profile))
        except UnreadableImageError as refusal:
            return str(refusal)
        except MemoryError:
            return "not enough memory for this picture"
        return ""


def read_rgb(data: bytes, max_megapixels: float = 100.0, apply_icc: bool = True) -> Image.Image:
    """Decode one image file to an upright RGB picture at full size; sRGB if apply_icc.

    Raises UnreadableImageError with the reason, before memory is taken where the header says
    that the picture is too large. Warnings of Pillow do not escape.
    """
    return to_srgb(*_read(data, max_megapixels, apply_icc))


def thumbnail(data: bytes, size_px: int = 96) -> bytes:
    """Small JPEG of an image file for a report, longer side at most size_px; never enlarged.

    Raises UnreadableImageError as read_rgb does.
    """
    image, profile = _read(data, DecodeConfig().max_megapixels, apply_icc=True)
    image.thumbnail((size_px, size_px))
    target = BytesIO()
    to_srgb(image, profile).save(target, "JPEG", quality=88, subsampling=0, comment=b"")
    return target.getvalue()


def _read(data: bytes, max_megapixels: float, apply_icc: bool) -> tuple[Image.Image, bytes]:
    """Upright RGB picture, and the profile that leads from its colours to sRGB (b"": none)."""
    kind = kind_of(data)
    with _undisturbed():
        try:
            picture, image, profile = _open(kind, data, max_megapixels)
            image, profile = to_rgb(image, profile if apply_icc else b"")
            return upright(image, picture), profile
        except UnreadableImageError:
            raise
        except MemoryError as error:
            raise UnreadableImageError(f"not enough memory for this {kind}") from error
        except PILLOW_ERRORS as error:
            raise UnreadableImageError(_reason(kind, data, error)) from error


def _open(kind: str, data: bytes, max_megapixels: float) -> tuple[ImageFile, Image.Image, bytes]:
    """The opened file, its decoded picture in whatever mode, its ICC profile (b"": none)."""
    profile = b""
    if kind == "PNG":
        data, profile = essential_png(data)
    elif kind == "WebP":
        check_size(*webp_size(data), max_megapixels)  # its decoder takes memory when opened
    picture = OPENERS[kind](BytesIO(data))
    check_size(*picture.size, max_megapixels)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        check_tiff_strips(picture, len(data))
    image = decode_jpeg(data, picture) if kind == "JPEG" else None
    if image is None:
        picture.load()
    return picture, image or picture, profile or picture.info.get("icc_profile") or b""


def _reason(kind: str, data: bytes, error: BaseException) -> str:
    """One line for a person: which format, truncated or corrupt, and what the library said."""
    text = " ".join(str(error).split())[:200] or type(error).__name__
    words = ("truncat", "not enough", "unexpected end")
    early = isinstance(error, EOFError) or any(word in text.lower() for word in words)
    early = early or (kind == "JPEG" and not is_ended(data))
    return f"{'truncated' if early else 'corrupt'} {kind}: {text}"


TIFF_LOGGER = logging.getLogger(TiffImagePlugin.__name__)
"""The one of Pillow that writes above DEBUG"""
_pillow_lock = threading.Lock()
_pillow_users: list[ExitStack] = []


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No warnings and log lines of Pillow, and no pixel limit but ours.

    All are switches of the whole process: whichever thread is first in turns them off, whichever
    is last out turns them back on.
    """
    with _pillow_lock:
        if not _pillow_users:
            state = ExitStack()
            state.enter_context(warnings.catch_warnings(action="ignore"))
            state.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            Image.MAX_IMAGE_PIXELS = None
            state.callback(setattr, TIFF_LOGGER, "disabled", TIFF_LOGGER.disabled)
            TIFF_LOGGER.disabled = True
        else:
            state = _pillow_users[-1]
        _pillow_users.append(state)
    try:
        yield
    finally:
        with _pillow_lock:
            state = _pillow_users.pop()
            if not _pillow_users:
                state.close()
