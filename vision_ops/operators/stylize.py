"""Photographs as pictures in the manner of others: what is asked for, and the operator.

Light on purpose: drivers read it without torch. The methods are in `vision_ops.style`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from vision_ops.canvas import Canvas
from vision_ops.card import Card
from vision_ops.style import Follower, Stylised, Stylist
from vision_ops.style.colours import Colours, recoloured
from vision_ops.style.gatys_config import TILE_PX, GatysConfig
from vision_ops.style.layers import layers_of

Batch = dict[str, np.ndarray]
Picture = UInt8[np.ndarray, "_ _ 3"]
LEAST_TILE_PX = 64
LEAST_PX = 16
"""shorter side of a picture: below, the deeper layers of a network have nothing to look at"""
ENDING = re.compile(r"\.[A-Za-z]{3,4}$")
LOSSES = ("content", "style", "total", "total_at_start")
"""of one picture as the method made it, where it has them; columns end on _loss"""


@dataclass(frozen=True, kw_only=True)
class StylizeConfig:
    """In which manner pictures are made, and how."""

    weights: str = ""
    """checkpoint: of a network trained by train_style or train_translation, which makes a picture
    in one pass; or of any convolutional network, whose features judge pictures while they are
    optimised (Gatys et al.). Empty: what train_style left in runs/, or, where styles are files and
    it cannot take these, torchvision:vgg19"""
    styles: tuple[str, ...] = ()
    """pictures whose manner is taken (files, s3://…); of a network that learnt styles the names of
    these, not needed where it learnt one"""
    style_weights: tuple[float, ...] = ()
    """one for each style; none: all alike"""
    each: bool = False
    """a picture in each of the styles instead of one in their mixture"""
    longest_px: int = 512
    """pictures are reduced to this longer side first; time goes with its square"""
    colours: Colours = "style"
    """whose colours a picture has; content: only the brightness is taken from what was made;
    matched: what was made gets the mean and the covariance of the colours of the content. Losses
    are of what was made, before it got other colours: nothing lowers those of what comes then"""
    strength: float = 1.0
    """0..1, how much of the style. Any style of a trained network: features are mixed (Huang and
    Belongie 2017, eq. 14). What it learnt itself: pixels of the picture made and of the content.
    Pictures that are optimised: the style's weight is multiplied by it; 0 gives the content where
    gatys.start is that"""
    gatys: GatysConfig = field(default_factory=GatysConfig)
    """how pictures are optimised, where no trained network makes them"""
    smooth: bool = False
    """pictures of a folder are frames of a film, in the order of their names: each is optimised
    beginning with what became of the one before it in its slice, so that what stands still does
    not flicker; what moves is painted anew as ever"""
    tile_px: int = TILE_PX
    """pictures of more pixels than its square are worked on in tiles of about that side, or in
    bands: memory is bounded, and the result the same within rounding"""

    def __post_init__(self) -> None:
        self.canvas()
        if self.longest_px < LEAST_PX:
            raise ValueError(f"op.longest_px {self.longest_px}: must be at least {LEAST_PX}")
        if self.tile_px < LEAST_TILE_PX:
            raise ValueError(f"op.tile_px {self.tile_px}: must be at least {LEAST_TILE_PX}")
        if self.each and self.style_weights:
            raise ValueError("op.style_weights: nothing is mixed where op.each is asked for")
        names = [style_name(style) for style in self.styles]
        if self.each and len(set(names)) < len(names):
            raise ValueError(f"op.styles: two are called the same: {', '.join(sorted(names))}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"op.strength {self.strength}: must be 0..1")
        self.faded_gatys()
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

    @property
    def made(self) -> dict[str, tuple[float, ...]]:
        """Of each picture that is made of one: its name, and the shares of the styles in it.

        The name is empty where there is one; else it is that of its style.
        """
        if not self.each:
            return {"": self.shares}
        alone = np.eye(len(self.styles)).tolist()
        return {style_name(n): tuple(row) for n, row in zip(self.styles, alone, strict=True)}

    def faded_gatys(self) -> GatysConfig:
        """`gatys` with the style's weight multiplied by `strength`.

        Without any style there is nothing to carry from coarse to fine: one level.
        """
        if self.strength == 1:
            return self.gatys
        costs = self.gatys.costs
        costs = replace(costs, style_weight=self.strength * costs.beta)
        levels = self.gatys.levels if self.strength else 1
        return replace(self.gatys, costs=costs, levels=levels)

    def canvas(self) -> Canvas:
        """How whole pictures are decoded."""
        return Canvas(longest_px=self.longest_px)


class Stylizer:
    """Make a picture of each picture, or one in each of several styles.

    reads   pixels      uint8  (B, L, L, 3)  sRGB, 0..255: whole pictures on a `Canvas`
            extent      int32  (B, 2)        height and width of the originals, px
    adds    picture     list   (B,)          uint8 (H, W, 3), sRGB, of the size on the canvas
            height_px   int32  (B,)          of the picture
            width_px    int32  (B,)
            *_loss      list   (B,)          see LOSSES; None where the method has none
    drops   pixels, extent

    With `each`, pictures are a dict, by the names of their styles, and losses lists in its order;
    `styles` are these names.

    Bit for bit the same (CPU) whichever pictures come in one call. Safe in as many threads as there
    are sets of stylists, which have one for each name in `StylizeConfig.made`; others wait.
    """

    def __init__(self, config: StylizeConfig, stylists: Sequence[Mapping[str, Stylist]]) -> None:
        self.config = config
        # those that nobody is using
        self.stylists: SimpleQueue[Mapping[str, Stylist]] = SimpleQueue()
        for each in stylists:
            self.stylists.put(each)

    def __call__(self, batch: Batch) -> Batch:
        shown = Shown.of(batch, self.config.canvas())
        with self.borrowed() as stylists:
            made = {name: stylist(shown.contents) for name, stylist in stylists.items()}
        return self.columns(shown, made)

    @contextmanager
    def borrowed(self) -> Iterator[Mapping[str, Stylist]]:
        """Stylists that nobody else uses meanwhile."""
        stylists = self.stylists.get()
        try:
            yield stylists
        finally:
            self.stylists.put(stylists)

    def columns(self, shown: "Shown", made: Mapping[str, Sequence[Stylised]]) -> Batch:
        """What a batch gets, of what was made by name."""
        rows = [dict(zip(made, row, strict=True)) for row in zip(*made.values(), strict=True)]
        pictures = [
            {
                name: recoloured(self.config.colours, content, each.pixels)
                for name, each in row.items()
            }
            for content, row in zip(shown.contents, rows, strict=True)
        ]
        found: dict[str, list[Any]] = {"picture": pictures}
        for loss in LOSSES:
            found[f"{loss}_loss"] = [[each.losses.get(loss) for each in r.values()] for r in rows]
        if self.config.each:
            found["styles"] = [list(made)] * len(rows)
        else:
            found = {n: [next(iter(_values(each))) for each in c] for n, c in found.items()}
        sizes = {"height_px": shown.sizes[:, 0], "width_px": shown.sizes[:, 1]}
        return {name: _objects(column) for name, column in found.items()} | sizes


class Shown(NamedTuple):
    """Whole pictures of a batch."""

    contents: list[Picture]
    sizes: Int32[np.ndarray, "B 2"]
    """height and width, px"""

    @classmethod
    def of(cls, batch: Batch, canvas: Canvas) -> "Shown":
        """Those that lie on a canvas."""
        sizes = np.array([canvas.size_of(*each) for each in batch["extent"].tolist()], np.int32)
        pairs = zip(batch["pixels"], sizes, strict=True)
        return cls([pixels[:height, :width] for pixels, (height, width) in pairs], sizes)


class FilmStylizer:
    """The same of frames: each begins with what was made of the one before.

    reads   id          str    (B,)          whose folder is the film
    and all that `Stylizer` reads; it adds the same.

    A film begins anew with each slice, where a frame has another size, and with each folder. Frames
    that failed are passed over.
    """

    def __init__(self, stylizer: Stylizer) -> None:
        self.stylizer = stylizer

    def __call__(self, batch: Batch) -> Batch:
        (found,) = self.regrouped(iter([batch]))
        return found

    def regrouped(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Of each batch of a slice, in order."""
        film, before = None, dict[str, Picture]()
        for batch in batches:
            shown = Shown.of(batch, self.stylizer.config.canvas())
            with self.stylizer.borrowed() as stylists:
                made: dict[str, list[Stylised]] = {name: [] for name in stylists}
                for id, content in zip(batch["id"].tolist(), shown.contents, strict=True):
                    here = (id.rpartition("/")[0], content.shape)
                    film, before = here, before if here == film else {}
                    for name, stylist in stylists.items():
                        assert isinstance(stylist, Follower)
                        made[name].append(stylist.follow(content, before.get(name)))
                    before = {name: found[-1].pixels for name, found in made.items()}
            yield self.stylizer.columns(shown, made)


def style_name(style: str) -> str:
    """What a style is called: its name, or that of its file."""
    return ENDING.sub("", style.rpartition("/")[2])


def is_file_name(style: str) -> bool:
    """Whether a style is a picture's file, not the name of one that a network learnt."""
    return "/" in style or style_name(style) != style


def with_all_styles(config: StylizeConfig, card: Card) -> StylizeConfig:
    """A picture in each style that a network learnt, where it learnt several and none is named."""
    several = card.is_painter and (config.each or len(card.classes) > 1)
    if config.styles or not several:
        return config
    return replace(config, styles=card.classes, each=True)


def check_styles(config: StylizeConfig, card: Card, weights: str) -> bool:
    """Whether no pictures of styles are needed: the weights learnt styles, or to make pictures.

    Raises ValueError where the styles asked for are not to be had with them.
    """
    if config.smooth and (card.is_painter or card.is_translator):
        raise ValueError(
            f"op.smooth: {weights} paints each picture in one pass; only what is optimised can "
            "begin with the picture before"
        )
    if card.is_translator:
        if config.styles or config.each or config.gatys != GatysConfig():
            name = "styles" if config.styles else "each" if config.each else "gatys"
            raise ValueError(
                f"op.{name}: {weights} is a generator that makes pictures in the one way that it "
                "learnt from pairs; it has no styles, and nothing is optimised"
            )
        return True
    if card.paints_any_style or not card.is_painter:
        if not card.paints_any_style:
            named = config.gatys.features
            told = f"op.weights {weights}"
            layers_of(card, named.content_layers, named.style_layers, told, "op.gatys.features.")
        if not config.styles:
            raise ValueError(
                "op.styles: none is named; a picture in whose manner others are to be made"
            )
        if card.paints_any_style:
            sized = GatysConfig(style_longest_px=config.gatys.style_longest_px)
            _refuse_gatys(config.gatys, sized, weights, "style_longest_px alone is heeded")
        return False
    there = ", ".join(card.classes)
    if unknown := [style for style in config.styles if style not in card.classes]:
        raise ValueError(f"op.styles: {weights} did not learn {', '.join(unknown)}, but {there}")
    _refuse_gatys(config.gatys, GatysConfig(), weights, "nothing is optimised")
    return True


def _refuse_gatys(gatys: GatysConfig, possible: GatysConfig, weights: str, reason: str) -> None:
    if gatys != possible:
        raise ValueError(f"op.gatys: {weights} paints in one pass; {reason}")


def make_stylizer(
    styles: Sequence[Picture], config: StylizeConfig, callers: int = 1
) -> Stylizer | FilmStylizer:
    """The operator for decoded pictures of the styles, safe in so many threads."""
    from vision_ops.style.make import make_stylists  # torch: actors pay, not drivers

    stylizer = Stylizer(config, make_stylists(styles, config, callers))
    return FilmStylizer(stylizer) if config.smooth else stylizer


def _values(each: Any) -> Iterable[Any]:
    return each.values() if isinstance(each, dict) else each


def _objects(values: Sequence[Any]) -> np.ndarray:
    """A column of whatever they are."""
    column = np.empty(len(values), object)
    column[:] = values
    return column
