"""What of a view speaks for an action: each part covered in turn, and the policy asked again."""

from collections.abc import Callable

import numpy as np

from jobs.navigation.playing import AT_ONCE, Mind

PARTS = 13
"""of each side of what is seen, at the most"""
LEAST = 1e-9
"""probability below which one is as good as another"""
Attention = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""of uint8 (F, H, W, 3), what is remembered and an action: float (H, W), 0..1"""


def attention_of(mind: tuple[Mind, int]) -> Attention:
    """How much less likely an action is without each part of what is seen, the most being 1.

    Occlusion (Zeiler and Fergus 2014, sec. 4.2): log pi(action | state) less that of the state with
    the part, in all its pictures, in the mean colour of the whole; where it grows, 0. Unlike
    Grad-CAM it needs no network of convolutions that ends in an average over places, and counts
    what a memory adds. All 1 where nothing counts.
    """
    think, _ = mind

    def attend(seen: np.ndarray, memory: np.ndarray, action: int) -> np.ndarray:
        covered, shape = cover(seen)
        logs = []
        for start in range(0, len(covered), AT_ONCE):
            views = covered[start : start + AT_ONCE]
            thought = think(views, np.tile(memory, (len(views), 1)))
            logs.append(np.log(np.maximum(thought.probabilities[:, action], LEAST)))
        whole, *parts = np.concatenate(logs).tolist()
        counts = np.maximum(whole - np.array(parts), 0).reshape(shape)
        counts = counts / counts.max() if counts.max() > LEAST else np.ones(shape)
        height, width = seen.shape[1:3]
        side = side_of(height, width)
        return counts.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]

    return attend


def cover(seen: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """What is seen, uint8 (F, H, W, 3), as it is, then with each of h x w parts covered: uint8
    (1 + h w, F, H, W, 3), rows of parts from the top, each from the left; and (h, w)."""
    height, width = seen.shape[1:3]
    side = side_of(height, width)
    rows, columns = -(-height // side), -(-width // side)
    colour = seen.mean(axis=(0, 1, 2)).round().astype(np.uint8)
    views = np.repeat(seen[None], 1 + rows * columns, axis=0)
    for number, view in enumerate(views[1:]):
        top, left = (side * place for place in divmod(number, columns))
        view[:, top : top + side, left : left + side] = colour
    return views, (rows, columns)


def side_of(height: int, width: int) -> int:
    """Pixels of a part's side."""
    return -(-max(height, width) // PARTS)
