"""Boxes between the pixels of a picture and those that a network sees.

A box is (x0, y0, x1, y1) in pixels, edges half-open: the first pixel of a picture is 0..1, and a
box over a whole picture is (0, 0, W, H). Light on purpose (numpy alone).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from vision_ops.preprocess import Preprocess, placement

Boxes = Float64[np.ndarray, "N 4"]
Extents = Sequence[Sequence[int]] | np.ndarray
"""height and width (px) of the upright picture of each row"""


def to_network(boxes: Boxes, extents: Extents, preprocess: Preprocess) -> Boxes:
    """Boxes in pixels of the originals -> in pixels of what the network sees, not clipped.

    A box that a centre crop cuts away lies outside 0..W, 0..H then: see `clip` and `area`.
    """
    scale, start = _maps(extents, preprocess)
    return boxes * scale - start


def to_original(boxes: Boxes, extents: Extents, preprocess: Preprocess) -> Boxes:
    """The inverse of `to_network`, not clipped."""
    scale, start = _maps(extents, preprocess)
    return (boxes + start) / scale


def clip(boxes: Boxes, extents: Extents) -> Boxes:
    """The part of each box that lies inside its picture; of no area where none does."""
    sizes = np.asarray(extents, np.float64).reshape(-1, 2)[:, [1, 0, 1, 0]]
    return np.clip(boxes, 0.0, sizes)


def area(boxes: Boxes) -> Float64[np.ndarray, " N"]:
    """Of each box, in square pixels; 0 where its edges are in the wrong order."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(min=0.0)
    return sides[:, 0] * sides[:, 1]


def _maps(extents: Extents, preprocess: Preprocess) -> tuple[Boxes, Boxes]:
    """Scale and start, (N, 4) each, by which x' = x * scale - start."""
    places = [placement(height, width, preprocess) for height, width in np.asarray(extents)]
    scale = np.array([(p.scale_x, p.scale_y) * 2 for p in places], np.float64).reshape(-1, 4)
    start = np.array([(p.left, p.top) * 2 for p in places], np.float64).reshape(-1, 4)
    return scale, start
