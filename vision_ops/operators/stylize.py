"""Photographs as pictures in the manner of others: what is asked for, and the operator.

Light on purpose: drivers read it without torch. The methods are in `vision_ops.style`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from vision_ops.canvas import Canvas
from vision_ops.card import Card
from vision_ops.style import Stylist
from vision_ops.style.colours import with_colours_of
from vision_ops.style.gatys_config import GatysConfig

Batch = dict[str, np.ndarray]
Picture = UInt8[np.ndarray, "_ _ 3"]
LEAST_PX = 16
"""shorter side of a picture: below, the deeper layers of a network have nothing to look at"""
LOSSES = ("content", "style", "total", "total_at_start")
"""of one picture, where the method has them; columns end on _loss"""


@dataclass(frozen=True, kw_only=True)
class StylizeConfig:
    """In which manner pictures are made, and how."""

    weights: str = ""
    """checkpoint: of a network trained by train_style or train_translation, which makes a picture
    in one pass; or of any convolutional network, whose features judge pictures while they are
    optimised (Gatys et al.)"""
    styles: tuple[str, ...] = ()
    """pictures whose manner is taken (files, s3://…); of a trained network the names of styles that
    it learnt, not needed where it learnt one"""
    style_weights: tuple[float, ...] = ()
    """one for each style; none: all alike"""
    longest_px: int = 512
    """pictures are reduced to this longer side first; time goes with its square"""
    colours: Literal["style", "content"] = "style"
    """whose colours a picture has; content: only the brightness is taken from what was made"""
    gatys: GatysConfig = field(default_factory=GatysConfig)
    """how pictures are optimised, where no trained network makes them"""

    def __post_init__(self) -> None:
        self.canvas()
        if self.style_weights and len(self.style_weights) != len(self.styles):
            raise ValueError(
                f"op.style_weights: {len(self.style_weights)} for {len(self.styles)} styles"
            )
        if any(not weight >= 0 for weight in self.style_weights):
            raise ValueError(f"op.style_weights {self.style_weights}: none may be negative")
        if self.style_weights and not sum(self.style_weights):
            raise ValueError("op.style_weights: all are 0")

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each style; they sum to 1."""
        weights = self.style_weights or (1.0,) * len(self.styles)
        return tuple(weight / sum(weights) for weight in weights)

    def canvas(self) -> Canvas:
        """How whole pictures are decoded."""
        return Canvas(longest_px=self.longest_px)


class Stylizer:
    """Make a picture of each picture.

    reads   pixels      uint8  (B, L, L, 3)  sRGB, 0..255: whole pictures on a `Canvas`
            extent      int32  (B, 2)        height and width of the originals, px
    adds    picture     list   (B,)          uint8 (H, W, 3), sRGB, of the size on the canvas
            height_px   int32  (B,)          of the picture
            width_px    int32  (B,)
            *_loss      list   (B,)          see LOSSES; None where the method has none
    drops   pixels, extent

    Bit for bit the same (CPU) whichever pictures come in one call. Safe in as many threads as there
    are stylists; others wait.
    """

    def __init__(self, config: StylizeConfig, stylists: Sequence[Stylist]) -> None:
        self.config = config
        # those that nobody is using
        self.stylists: SimpleQueue[Stylist] = SimpleQueue()
        for stylist in stylists:
            self.stylists.put(stylist)

    def __call__(self, batch: Batch) -> Batch:
        canvas = self.config.canvas()
        sizes = np.array([canvas.size_of(*each) for each in batch["extent"].tolist()], np.int32)
        shown = zip(batch["pixels"], sizes, strict=True)
        contents = [pixels[:height, :width] for pixels, (height, width) in shown]
        stylist = self.stylists.get()
        try:
            made = stylist(contents)
        finally:
            self.stylists.put(stylist)
        pictures = np.empty(len(made), object)
        for place, (each, content) in enumerate(zip(made, contents, strict=True)):
            keeps = self.config.colours == "content"
            pictures[place] = with_colours_of(content, each.pixels) if keeps else each.pixels
        losses = {
            f"{name}_loss": np.array([each.losses.get(name) for each in made], object)
            for name in LOSSES
        }
        size = {"height_px": sizes[:, 0], "width_px": sizes[:, 1]}
        return {"picture": pictures} | size | losses


def check_styles(config: StylizeConfig, card: Card, weights: str) -> bool:
    """Whether the weights are of a network that learnt styles, or to make pictures of pictures;
    else they judge pictures.

    Raises ValueError where the styles asked for are not to be had with them.
    """
    if card.is_translator:
        if config.styles or config.gatys != GatysConfig():
            name = "styles" if config.styles else "gatys"
            raise ValueError(
                f"op.{name}: {weights} is a generator that makes pictures in the one way that it "
                "learnt from pairs; it has no styles, and nothing is optimised"
            )
        return True
    if not card.is_painter:
        if not config.styles:
            raise ValueError("op.styles: a picture in whose manner others are to be made")
        return False
    there = ", ".join(card.classes)
    if not config.styles and len(card.classes) > 1:
        raise ValueError(f"op.styles: which of {there}? {weights} learnt them all")
    if unknown := [style for style in config.styles if style not in card.classes]:
        raise ValueError(f"op.styles: {weights} did not learn {', '.join(unknown)}, but {there}")
    if config.gatys != GatysConfig():
        raise ValueError(f"op.gatys: {weights} paints in one pass; nothing is optimised")
    return True


def make_stylizer(styles: Sequence[Picture], config: StylizeConfig, callers: int = 1) -> Stylizer:
    """The operator for decoded pictures of the styles, safe in so many threads."""
    from vision_ops.style.make import make_stylists  # torch: actors pay, not drivers

    return Stylizer(config, make_stylists(styles, config, callers))
