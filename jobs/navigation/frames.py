"""One frame of a film: what the agent sees, the map, what it thinks of doing, and how it stands."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PANEL_PX = 200
"""sides of what is seen and of the map, at the most"""
BARS_PX = 130
GAP_PX = 10
TOP_PX = 48
"""of the panels: above are the story and their names"""
WIDTH_PX = 2 * PANEL_PX + BARS_PX + 4 * GAP_PX
HEIGHT_PX = TOP_PX + PANEL_PX + GAP_PX
"""both even, as films want them"""
PAPER, PANEL, INK, SOFT = (245, 246, 248), (226, 229, 235), (22, 25, 31), (91, 100, 114)
BAR, CHOSEN, GOOD, BAD = (168, 178, 193), (47, 111, 222), (18, 128, 92), (194, 55, 46)
TRAIL = (140, 172, 236)
MOST_BARS = 7
"""actions shown; of more the likeliest"""
BAR_PX, STEP_PX = 6, 22
LEAST_BAR = 1e-3
DARK = 0.4
"""light of what speaks for nothing; the root of the rest, or what speaks for little would too"""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """An episode before one of its actions, or at its end."""

    view: np.ndarray
    """uint8 (H, W, 3): the newest picture that the agent sees"""
    map: np.ndarray | None
    """uint8 (h, w, 3): the world as it draws itself for people; None where it does not"""
    trail: Sequence[tuple[float, float]]
    """where the agent has been: (x, y), each 0..1 of the map; empty where the map shows it"""
    action: int
    """what is done next; -1 at the end"""
    chances: np.ndarray
    """float (K,): probability of each action; empty at the end"""
    value: float
    """V(state); not a number at the end, or where nothing tells it"""
    step: int
    """actions taken so far"""
    total: float
    """sum of the rewards so far"""
    attention: np.ndarray | None = None
    """float (H, W), 0..1: how much each pixel that is seen speaks for the action"""


@dataclass(frozen=True, kw_only=True)
class Story:
    """What every frame of a film tells."""

    seed: int
    actions: Sequence[str]
    """names"""
    told: str
    """how it ends, in a few words"""
    success: bool


def draw_frame(moment: Moment, story: Story) -> Image.Image:
    """The frame as RGB of HEIGHT_PX x WIDTH_PX."""
    frame = Image.new("RGB", (WIDTH_PX, HEIGHT_PX), PAPER)
    canvas = ImageDraw.Draw(frame)
    seed, told = f"seed {story.seed}", story.told
    canvas.text((GAP_PX, 6), seed, fill=INK, font=_font(14))
    colour = GOOD if story.success else BAD
    canvas.text((WIDTH_PX - GAP_PX, 6), told, fill=colour, font=_font(14), anchor="ra")
    lefts = [GAP_PX, 2 * GAP_PX + PANEL_PX, 3 * GAP_PX + 2 * PANEL_PX]
    for left, name in zip(lefts, ("what it sees", "the map", "what it does"), strict=True):
        canvas.text((left, 29), name, fill=SOFT, font=_font(12))
    view = moment.view if moment.attention is None else _lit(moment.view, moment.attention)
    _paste(frame, _enlarged(view), lefts[0])
    if moment.map is not None:
        _paste(frame, _with_trail(_fitted(moment.map), moment.trail), lefts[1])
    else:
        canvas.rectangle(_place(lefts[1], PANEL_PX), fill=PANEL)
        middle = lefts[1] + PANEL_PX // 2, TOP_PX + PANEL_PX // 2
        canvas.text(middle, "this world draws none", fill=SOFT, font=_font(12), anchor="mm")
    _bars(canvas, moment, story, lefts[2])
    return frame


def _bars(canvas: ImageDraw.ImageDraw, moment: Moment, story: Story, left: int) -> None:
    """Each action with its probability, the chosen one marked; value, steps and return below."""
    right, top = left + BARS_PX, TOP_PX - 2
    shown = list(range(len(story.actions)))
    if len(shown) > MOST_BARS and len(moment.chances):
        shown = sorted(np.argsort(-moment.chances, kind="stable")[:MOST_BARS].tolist())
    for number in shown if len(moment.chances) else ():
        is_chosen, chance = number == moment.action, float(moment.chances[number])
        ink, fill = (CHOSEN, CHOSEN) if is_chosen else (INK, BAR)
        canvas.text((left, top), story.actions[number][:14], fill=ink, font=_font(12))
        canvas.text((right, top), f"{chance:.0%}", fill=ink, font=_font(12), anchor="ra")
        canvas.rectangle([left, top + 14, right - 1, top + 13 + BAR_PX], fill=PANEL)
        if chance > LEAST_BAR:
            end = left + max(1, round(chance * BARS_PX)) - 1
            canvas.rectangle([left, top + 14, end, top + 13 + BAR_PX], fill=fill)
        top += STEP_PX
    if not len(moment.chances):
        told, colour = ("reached", GOOD) if story.success else ("not reached", BAD)
        canvas.text((left, top), f"the end: {told}", fill=colour, font=_font(12))
    bottom = TOP_PX + PANEL_PX
    known = moment.value == moment.value
    lines = [("return", f"{moment.total:.2f}"), ("step", f"{moment.step}")]
    lines += [("value", f"{moment.value:.2f}")] if known else []
    for number, (name, told) in enumerate(lines):
        line = bottom - 15 * number
        canvas.text((left, line), name, fill=SOFT, font=_font(12), anchor="ls")
        canvas.text((right, line), told, fill=INK, font=_font(12), anchor="rs")


def _enlarged(view: np.ndarray) -> Image.Image:
    """Each pixel as a square of whole pixels, as large as the panel allows; else made smaller."""
    factor = PANEL_PX // max(view.shape[:2])
    if factor < 1:
        return _fitted(view)
    return Image.fromarray(view.repeat(factor, axis=0).repeat(factor, axis=1))


def _fitted(picture: np.ndarray) -> Image.Image:
    """As large as the panel, its pixels sharp: enlarged by whole numbers first, then averaged."""
    scale = PANEL_PX / max(picture.shape[:2])
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    factor = int(np.ceil(scale)) + 1 if scale > 1 else 1
    large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return Image.fromarray(large).resize((width, height), Image.Resampling.BOX)


def _with_trail(picture: Image.Image, trail: Sequence[tuple[float, float]]) -> Image.Image:
    if len(trail) > 1:
        points = [(x * picture.width, y * picture.height) for x, y in trail]
        ImageDraw.Draw(picture).line(points, fill=TRAIL, width=2, joint="curve")
    return picture


def _lit(view: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """What is seen, dark where it speaks for nothing."""
    light = DARK + (1 - DARK) * np.sqrt(attention)[..., None]
    return (view * light).round().astype(np.uint8)


def _paste(frame: Image.Image, picture: Image.Image, left: int) -> None:
    """A picture in the middle of its panel."""
    side = (PANEL_PX - picture.width) // 2, (PANEL_PX - picture.height) // 2
    ImageDraw.Draw(frame).rectangle(_place(left, PANEL_PX), fill=PANEL)
    frame.paste(picture, (left + side[0], TOP_PX + side[1]))


def _place(left: int, width: int) -> list[int]:
    return [left, TOP_PX, left + width - 1, TOP_PX + PANEL_PX - 1]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
