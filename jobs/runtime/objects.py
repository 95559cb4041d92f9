"""The objects of a picture as the truth of a row: JSON, and what it means.

    [{"label": "raccoon", "box": [80.0, 87.0, 522.0, 408.0], "size": [417, 650]}]

A box is x0, y0, x1, y1 in pixels of the upright original, edges half-open: the first pixel is 0..1.
`size`, height and width of the picture that the box was drawn on, is there where a source says it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

TOLERANCE_PX = 1.0
"""how far an edge may lie outside its picture: tools count from 0 or from 1"""


@dataclass(frozen=True, kw_only=True)
class Marked:
    """One object that is marked in a picture."""

    label: str
    box: tuple[float, float, float, float]
    size: tuple[int, int] | None = None
    """height and width of the picture as the source says"""


def make_marked(label: object, edges: Sequence[object], size: tuple[int, int] | None) -> Marked:
    """An object, checked. Raises ValueError for no label, no four numbers, or an empty box."""
    if not isinstance(label, str) or not label:
        raise ValueError(f"label {label!r}: an object needs a name")
    if len(edges) != 4 or not all(
        isinstance(edge, int | float) and not isinstance(edge, bool) and math.isfinite(edge)
        for edge in edges
    ):
        raise ValueError(f"box {list(edges)!r} of {label}: not four finite numbers")
    x0, y0, x1, y1 = (float(edge) for edge in edges if isinstance(edge, int | float))
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"box {[x0, y0, x1, y1]} of {label}: empty")
    return Marked(label=label, box=(x0, y0, x1, y1), size=size)


def to_truth(objects: Sequence[Marked]) -> str:
    """The truth of a row; `[]` where nothing is marked."""
    rows = [
        {"label": each.label, "box": list(each.box)}
        | ({"size": list(each.size)} if each.size else {})
        for each in objects
    ]
    return json.dumps(rows, ensure_ascii=False)


def from_truth(truth: str) -> list[Marked]:
    """The objects that a truth tells. Raises ValueError where it tells none of the kind."""
    try:
        rows = json.loads(truth)
        return [make_marked(r["label"], r["box"], _size(r.get("size"))) for r in rows]
    except (json.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as wrong:
        raise ValueError(
            f"truth {truth[:80]!r}: no list of objects; boxes are read with --data.label boxes"
        ) from wrong


def _size(value: Sequence[int] | None) -> tuple[int, int] | None:
    return (int(value[0]), int(value[1])) if value else None


def fitted(objects: Sequence[Marked], height: int, width: int) -> list[Marked]:
    """The objects of a picture of this size, cut off at its edges.

    Raises ValueError where the boxes were drawn on a picture of another size, or one lies outside
    by more than a pixel: they are of another picture, or of one that was turned or resized since.
    """
    cut = []
    for each in objects:
        if each.size and each.size != (height, width):
            raise ValueError(
                f"boxes were drawn on {each.size[0]} x {each.size[1]} pixels (height x width), "
                f"the picture has {height} x {width}"
            )
        x0, y0, x1, y1 = each.box
        if min(x0, y0) < -TOLERANCE_PX or x1 > width + TOLERANCE_PX or y1 > height + TOLERANCE_PX:
            raise ValueError(
                f"box {list(each.box)} of {each.label} lies outside {height} x {width} pixels"
            )
        box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        cut.append(make_marked(each.label, box, each.size))
    return cut
