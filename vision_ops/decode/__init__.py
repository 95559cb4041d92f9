"""Bytes of an image file -> upright 8-bit sRGB pixels, or the reason why not.

Light on purpose (PIL, numpy, simplejpeg): decoder processes import it and start without torch.

What is read: JPEG, PNG, APNG and GIF and WebP (first frame), BMP, TIFF (first page), AVIF. EXIF
orientation is applied, alpha is laid on white, 16-bit loses its low byte, CMYK becomes RGB, and
on request an embedded ICC profile is applied unless it is sRGB already or broken.

How: exact is bit for bit what PIL and torchvision give. Fast, the default, resizes nothing but what
the crop shows, and decodes a JPEG at 1/2, 1/4 or 1/8 where that leaves twice the size it is resized
to. (libjpeg-turbo's fast DCT and fast upsampling gain 3 % and are left alone.) Cuda is fast for all
but JPEGs, which `vision_ops.decode.gpu` takes.

What is refused, by both alike: a picture of which data is missing or invalid. JPEG is decoded by
libjpeg-turbo as by PIL, but with the library's warnings taken seriously: PIL and torchvision drop
them and fill what is lost with grey. Leftover bytes and junk between segments, which cameras and
scanners write and which cost no pixel, are tolerated; so is a missing end marker behind a complete
picture.
"""

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.ImageFile import ImageFile

from vision_ops.canvas import Canvas
from vision_ops.decode.colour import to_rgb, to_srgb, turn_of
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
from vision_ops.decode.jpeg import decode_jpeg, is_ended, reduction
from vision_ops.preprocess import MIRRORED, Preprocess, fit, fit_stored, least_side

__all__ = [
    "IMAGE_SUFFIXES",
    "Decode",
    "DecodeConfig",
    "DecodeWhole",
    "UnreadableImageError",
    "opened_jpeg",
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
    mode: Literal["fast", "exact", "cuda"] = "fast"
    """exact: bit for bit PIL's and torchvision's pixels; fast: within 1 level of them, for large
    JPEGs at a PSNR of 38 dB or more; cuda: JPEGs by nvJPEG, on the GPU of the actor"""

    def __post_init__(self) -> None:
        for name in ("max_megapixels", "max_megabytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)}: must be above 0")
        if self.mode not in ("fast", "exact", "cuda"):
            raise ValueError(f"mode {self.mode!r}: must be fast, exact or cuda")


class Decode:
    """Decoder of one kind of input: bytes in, pixels of the size that the network wants out.

    Picklable; one call at a time per array. Bad bytes never raise.
    """

    def __init__(self, config: DecodeConfig, preprocess: Preprocess) -> None:
        self.config = config
        self.preprocess = preprocess
        self.shape = preprocess.shape
        self.dtype = preprocess.dtype
        self.suffixes = tuple(sorted(IMAGE_SUFFIXES))
        self.extent: tuple[int, ...] = ()
        """height and width of the picture decoded last, upright"""

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        """Write uint8 sRGB pixels into out (H, W, 3); return "" or why they are not there.

        The ICC profile is applied to the fitted picture, not to the full one: 1 ms instead of
        290 ms for 12 megapixels.
        """
        config, preprocess = self.config, self.preprocess
        fast = config.mode != "exact"

        def fitted(stored: _Stored) -> Image.Image:
            if fast:
                return fit_stored(stored.image, preprocess, stored.extent, stored.turn)
            return fit(stored.upright(), preprocess)

        reason, self.extent = _decode(
            data, config, least_side(preprocess) if fast else 0, fitted, out
        )
        return reason


class DecodeWhole:
    """Decoder of whole pictures in their own proportions, see `Canvas`; picklable.

    Reduced ones are resized bilinearly, antialiased; those of which a side then has fewer than
    `least_px` pixels are refused. Bad bytes never raise.
    """

    def __init__(self, config: DecodeConfig, canvas: Canvas, least_px: int = 1) -> None:
        self.config = config
        self.canvas = canvas
        self.least_px = least_px
        self.shape = canvas.shape
        self.dtype = canvas.dtype
        self.suffixes = tuple(sorted(IMAGE_SUFFIXES))
        self.extent: tuple[int, ...] = ()
        """height and width of the picture decoded last, upright, before it was reduced"""

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        """Write uint8 sRGB pixels into the top left of out; return "" or why they are not there.

        What is beside them stays as it is.
        """

        def fitted(stored: _Stored) -> Image.Image:
            image = stored.upright()
            image = image if image.mode == "RGB" else image.convert("RGB")
            height, width = self.canvas.size_of(*stored.full_size)
            if min(height, width) < self.least_px:
                raise UnreadableImageError(
                    f"{width} x {height} px: each side must have {self.least_px} at least"
                )
            if image.size == (width, height):
                return image
            swapped, *mirrored = MIRRORED[stored.turn]
            (down, across), (from_end, from_right) = stored.extent, mirrored
            if swapped:
                (down, across), (from_end, from_right) = (across, down), (from_right, from_end)
            top = image.height - down if from_end else 0.0
            left = image.width - across if from_right else 0.0
            seen = (left, top, left + across, top + down)
            return image.resize((width, height), Image.Resampling.BILINEAR, box=seen)

        least_side_px = 2 * self.canvas.longest_px if self.config.mode != "exact" else 0
        reason, self.extent = _decode(data, self.config, least_side_px, fitted, out)
        return reason


def _decode(
    data: bytes,
    config: DecodeConfig,
    least_side_px: int,
    fitted: "Callable[[_Stored], Image.Image]",
    out: np.ndarray,
) -> tuple[str, tuple[int, ...]]:
    """Write what `fitted` makes into the top left of out; "" or the reason, and the full size."""
    try:
        if len(data) > config.max_megabytes * 1e6:
            raise UnreadableImageError(too_much(len(data), "megabytes", config.max_megabytes))
        stored = _read(data, config.max_megapixels, config.apply_icc, least_side_px)
        pixels = np.asarray(to_srgb(fitted(stored), stored.profile))
        out[: pixels.shape[0], : pixels.shape[1]] = pixels
    except UnreadableImageError as refusal:
        return str(refusal), ()
    except MemoryError:
        return "not enough memory for this picture", ()
    return "", stored.full_size


def read_rgb(data: bytes, max_megapixels: float = 100.0, apply_icc: bool = True) -> Image.Image:
    """Decode one image file to an upright RGB picture at full size; sRGB if apply_icc.

    Raises UnreadableImageError with the reason, before memory is taken where the header says
    that the picture is too large. Warnings of Pillow do not escape.
    """
    stored = _read(data, max_megapixels, apply_icc)
    return to_srgb(stored.upright(), stored.profile)


def opened_jpeg(data: bytes, config: DecodeConfig) -> ImageFile | None:
    """The header of a JPEG that may be decoded; None for any other file, with whatever is wrong."""
    try:
        if len(data) > config.max_megabytes * 1e6 or kind_of(data) != "JPEG":
            return None
        with _undisturbed():
            return _open("JPEG", data, config.max_megapixels)[1]
    except (MemoryError, *PILLOW_ERRORS):
        return None


def thumbnail(data: bytes, size_px: int = 96) -> bytes:
    """Small JPEG of an image file for a report, longer side at most size_px; never enlarged.

    Raises UnreadableImageError as read_rgb does.
    """
    stored = _read(data, DecodeConfig().max_megapixels, True, least_side_px=2 * size_px)
    image = stored.upright()
    image.thumbnail((size_px, size_px))
    target = BytesIO()
    to_srgb(image, stored.profile).save(target, "JPEG", quality=88, subsampling=0, comment=b"")
    return target.getvalue()


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A picture in RGB as it lies in its file."""

    image: Image.Image
    extent: tuple[float, float]
    """its height and width in pixels of `image`: less than that has, by parts of a pixel, where
    it was reduced"""
    turn: Image.Transpose | None
    """what makes it upright"""
    profile: bytes
    """what leads from its colours to sRGB; b"": nothing"""
    full_size: tuple[int, int]
    """height and width of the upright picture, not reduced"""

    def upright(self) -> Image.Image:
        return self.image if self.turn is None else self.image.transpose(self.turn)


def _read(data: bytes, max_megapixels: float, apply_icc: bool, least_side_px: int = 0) -> _Stored:
    """Decode to RGB, reduced if the shorter side keeps `least_side_px` pixels (0: not reduced)."""
    kind = kind_of(data)
    with _undisturbed():
        try:
            data, picture, profile = _open(kind, data, max_megapixels)
            full = picture.size  # draft() changes it
            image, extent = _load(kind, data, picture, least_side_px)
            profile = (profile or picture.info.get("icc_profile") or b"") if apply_icc else b""
            image, profile = to_rgb(image, profile)
            turn, (width, height) = turn_of(picture), full
            return _Stored(
                image=image,
                extent=extent,
                turn=turn,
                profile=profile,
                full_size=(width, height) if MIRRORED[turn][0] else (height, width),
            )
        except UnreadableImageError:
            raise
        except MemoryError as error:
            raise UnreadableImageError(f"not enough memory for this {kind}") from error
        except PILLOW_ERRORS as error:
            raise UnreadableImageError(_reason(kind, data, error)) from error


def _open(kind: str, data: bytes, max_megapixels: float) -> tuple[bytes, ImageFile, bytes]:
    """What of the file is read, opened; the ICC profile of a PNG (b"": none, or see its info)."""
    profile = b""
    if kind == "PNG":
        data, profile = essential_png(data)
    elif kind == "WebP":
        check_size(*webp_size(data), max_megapixels)  # its decoder takes memory when opened
    picture = OPENERS[kind](BytesIO(data))
    check_size(*picture.size, max_megapixels)
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        check_tiff_strips(picture, len(data))
    return data, picture, profile


def _load(
    kind: str, data: bytes, picture: ImageFile, least_side_px: int
) -> tuple[Image.Image, tuple[float, float]]:
    """The decoded picture in whatever mode, and its extent."""
    if kind != "JPEG":
        picture.load()
        return picture, (picture.height, picture.width)
    width, height = picture.size
    factor = reduction(picture.size, least_side_px)
    image = decode_jpeg(data, picture, factor)
    if image is None:
        if picture.draft(None, (width // factor, height // factor)) is None:
            factor = 1
        picture.load()
    return image or picture, (height / factor, width / factor)


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
