"""Whatever a file holds -> upright RGB, and from its colours to sRGB."""

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin
from PIL.ImageFile import ImageFile

from vision_ops.decode.formats import MAX_PROFILE_BYTES, PILLOW_ERRORS

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright"""


def turn_of(source: ImageFile) -> Image.Transpose | None:
    """What makes a file's picture upright, by its EXIF orientation.

    None if that is absent or unreadable. (PIL turns TIFF itself, and forgets the tag.)
    """
    try:
        return TURNS.get(source.getexif().get(0x0112, 1))
    except PILLOW_ERRORS:
        return None


def to_rgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, bytes]:
    """RGB picture on white, and its ICC profile if that is still to be applied (b"": it is not).

    A profile for grey or CMYK works on those and is applied here; one for RGB can wait until the
    picture is small.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _grey_levels(image)
    if image.has_transparency_data:
        is_grey = image.mode in ("1", "L", "LA", "La")
        picture = image.convert("RGBA")
        image = Image.new("RGB", picture.size, "white")
        image.paste(picture, mask=picture.getchannel("A"))
        image = image.getchannel("R") if is_grey else image
    if image.mode in ("L", "CMYK"):
        image, profile = to_srgb(image, profile), b""
    return image if image.mode == "RGB" else image.convert("RGB"), profile  # it would copy


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Apply an ICC profile; the same picture if it is empty, broken, sRGB, or for another mode."""
    transform = _srgb_transform(profile, image.mode) if profile else None
    return image if transform is None else transform.apply(image)


def _grey_levels(image: Image.Image) -> Image.Image:
    """8-bit grey from 16-bit, 32-bit or float grey.

    16-bit: the high byte, as PIL does for 16-bit RGB. Others have no stated white: values of 0..1
    (float), 0..255 or 0..65535 are read as such; anything else is stretched from its least to its
    greatest value. Not a number is black.
    """
    values = np.asarray(image)
    if values.dtype.kind == "u":
        levels = (values >> 8).astype(np.uint8)
    else:
        values = np.nan_to_num(values.astype(np.float32), posinf=0.0, neginf=0.0)
        values = values.clip(-1e30, 1e30)
        low, high = float(values.min()), float(values.max())
        tops = ((1.0,) if image.mode == "F" else ()) + (255.0, 65_535.0)
        top = next((top for top in tops if low >= 0 and high <= top), None)
        low, top = (0.0, top) if top else (low, max(high - low, 1e-30))
        levels = ((values - np.float32(low)) * np.float32(255 / top) + 0.5).astype(np.uint8)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    levels = 255 - levels if tags.get(262) == 0 else levels  # white is zero
    if isinstance(hole := image.info.get("transparency"), int):
        levels = np.where(values == hole, np.uint8(255), levels)
    return Image.fromarray(levels)


@lru_cache(maxsize=16)
def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Transform from a profile to sRGB; None if it is broken, for other pictures, or sRGB itself.

    sRGB itself: it moves no colour of a 6 x 6 x 6 lattice by more than 2 levels.
    """
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()  # pyright: ignore[reportAttributeAccessIssue]
        if space != {"L": "GRAY"}.get(mode, mode):
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode != "RGB":
            return transform
        axis = np.arange(0, 256, 51, dtype=np.uint8)
        lattice = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(12, 18, 3)
        moved = np.asarray(transform.apply(Image.fromarray(lattice))).astype(np.int16) - lattice
    except (ImageCms.PyCMSError, *PILLOW_ERRORS):
        return None
    return transform if np.abs(moved).max() > 2 else None
