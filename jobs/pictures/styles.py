"""The style pictures of a training, of the size at which strokes are learnt; what came of them."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps

from jobs.runtime.checkpoints import BEST
from jobs.runtime.examples import Pictures
from jobs.runtime.learner import Training
from jobs.runtime.report.page import Section, Thumbnail
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import IMAGE_SUFFIXES
from jobs.runtime.storage import Storage, absolute
from vision_ops.checkpoint import load_checkpoint
from vision_ops.decode import UnreadableImageError, read_rgb
from vision_ops.learners.style import StylePicture, as_images
from vision_ops.models.adain import Adain
from vision_ops.preprocess import resized_shape

MIN_SIDE_PX = 32
"""of a style picture: what feature networks need"""
SHOWN_PICTURES, SHOWN_STYLES = 4, 8
"""of a report, at the most"""


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


@torch.no_grad()
def painted(
    run: Run,
    config: object,
    training: Training,
    *,
    styles: Sequence[StylePicture],
    unseen: Sequence[StylePicture],
) -> list[Section]:
    """Some of the pictures kept back beside what the best network makes of them.

    One that paints in any style is shown in those of `unseen` too, and the styles with it.
    """
    network, card = load_checkpoint(run.storage.fetch(run.path(BEST)), "cpu")
    chosen = np.arange(min(SHOWN_PICTURES, len(training.validate)))
    ids = training.validate.ids[chosen].tolist()
    pixels = torch.from_numpy(Pictures(training.validate).take(chosen))
    images = as_images(pixels)
    if not isinstance(network, Adain):
        shares = torch.eye(len(card.classes))
        shown: list[Thumbnail] = []
        for name, share in list(zip(card.classes, shares, strict=True))[:SHOWN_STYLES]:
            found = network(images, share.expand(len(images), -1))
            shown += _beside(ids, [pixels, _as_pixels(found)], name)
        text = "Images kept back, and the same painted in each style by the best network."
        return [Section(title="Painted", text=text, thumbnails=shown, beside=2)]
    sections: list[Section] = []
    for title, those in (("Painted in styles not learnt from", unseen), ("Painted", styles)):
        shown = []
        for style in those[:SHOWN_STYLES]:
            found = network(images, as_images(torch.from_numpy(style.pixels.copy())[None]))
            small = _within(style.pixels, *pixels.shape[1:3]).expand_as(pixels)
            shown += _beside(ids, [pixels, small, _as_pixels(found)], style.name)
        text = "Images kept back, a style, and what the best network paints of both."
        if shown:
            sections.append(Section(title=title, text=text, thumbnails=shown, beside=3))
    return sections


def _as_pixels(images: torch.Tensor) -> torch.Tensor:
    """0..1, channels first -> uint8, channels last."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def _beside(ids: Sequence[str], pixels: Sequence[torch.Tensor], name: str) -> list[Thumbnail]:
    """Pictures of one number, uint8 (B, H, W, 3), next to each other, under a style's name."""
    sides = torch.cat(list(pixels), dim=2).numpy()
    return [
        Thumbnail(title=id, image=_png(each), caption=name)
        for id, each in zip(ids, sides, strict=True)
    ]


def _within(pixels: np.ndarray, height: int, width: int) -> torch.Tensor:
    """A picture as large as it can be on white of this size, uint8 (height, width, 3)."""
    image = Image.fromarray(pixels)
    return torch.from_numpy(np.asarray(ImageOps.pad(image, (width, height), color="white")).copy())


def _png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
