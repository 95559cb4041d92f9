"""The style pictures of a training: read, named, and of the size at which strokes are learnt."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from jobs.runtime.sources.origin import IMAGE_SUFFIXES
from jobs.runtime.storage import Storage, absolute
from vision_ops.decode import UnreadableImageError, read_rgb
from vision_ops.learners.style import StylePicture
from vision_ops.preprocess import resized_shape

MIN_SIDE_PX = 32
"""of a style picture: what feature networks need"""


def read_styles(storage: Storage, uris: Sequence[str], size_px: int) -> tuple[StylePicture, ...]:
    """A style for each picture, called by its file's name without the ending.

    `uris` are files, folders or globs. Pictures with a shorter side above `size_px` are reduced to
    it. Raises ValueError where there is none, one is no picture, or two have one name.
    """
    found = [
        entry.uri
        for uri in uris
        for entry in storage.find(absolute(uri))
        if PurePosixPath(entry.uri).suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise ValueError(
            f"styles {', '.join(uris) or '(none said)'}: no picture there; "
            "`python -m jobs.make_samples --kind styles` makes some"
        )
    names = [PurePosixPath(uri).stem for uri in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"styles: several pictures are called {', '.join(twice)}")
    return tuple(
        StylePicture(name=name, pixels=read_style(storage.read(uri), uri, size_px))
        for name, uri in zip(names, found, strict=True)
    )


def read_style(data: bytes, uri: str, size_px: int) -> np.ndarray:
    """Pixels of one, uint8 (H, W, 3), sRGB. Raises ValueError for what is no picture."""
    try:
        image = read_rgb(data)
    except UnreadableImageError as reason:
        raise ValueError(f"styles {uri}: {reason}") from reason
    if min(image.size) > size_px:
        height, width = resized_shape(image.height, image.width, size_px)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    if min(image.size) < MIN_SIDE_PX:
        raise ValueError(
            f"styles {uri}: {image.height} x {image.width} px; each side must have {MIN_SIDE_PX}"
        )
    return np.asarray(image)
