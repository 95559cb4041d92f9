"""Faces: what is found in a picture, and how an embedder wants to see each of them.

Light on purpose, as `vision_ops.preprocess` is: cards are read without torch.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float32

from vision_ops.preprocess import Preprocess

Template = Literal["arcface"]
LANDMARKS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
"""in this order everywhere; left and right as one sees them in the picture"""
FACE_DETECTOR = "face_detector:"
"""begins the networks of cards that find faces: face_detector:mtcnn, face_detector:retinaface"""


@dataclass(frozen=True, kw_only=True)
class FacePreprocess(Preprocess):
    """How an embedder wants its faces: aligned crops of one size. A picture of a face is squashed.

    The defaults are those of ArcFace (Deng et al. 2019): 112 x 112, RGB, (x - 127.5) / 127.5.
    """

    height_px: int = 112
    width_px: int = 112
    resize_px: int = 0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    template: Template = "arcface"
    """where the five landmarks of an aligned face lie, see `vision_ops.faces.align`"""
    flip_sum: bool = False
    """the embedding is the sum of those of the crop and of its mirror image"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template not in get_args(Template):
            raise ValueError(f"template {self.template!r}: not one of {get_args(Template)}")
        if self.resize_px:
            raise ValueError(f"resize_px {self.resize_px}: faces are aligned, not cropped; 0")
        if self.height_px != self.width_px:
            raise ValueError(f"height_px {self.height_px}, width_px {self.width_px}: not square")

    def describe(self) -> dict[str, str]:
        """What a person is told of it."""
        flip = ", added to that of its mirror image" if self.flip_sum else ""
        return {**super().describe(), "faces": f"aligned to the template {self.template}{flip}"}


class Faces(NamedTuple):
    """What was found in one picture, the surest first."""

    boxes: Float32[np.ndarray, "N 4"]
    """x0, y0, x1, y1 in pixels of the picture that was given; may reach over its border"""
    landmarks: Float32[np.ndarray, "N 5 2"]
    """x, y of LANDMARKS, in the same pixels; not a number where the detector gives none"""
    confidence: Float32[np.ndarray, "N"]
    """0..1"""


def no_faces() -> Faces:
    """Of a picture in which nothing was found."""
    return Faces(
        np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32)
    )
