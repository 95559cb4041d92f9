"""Faces by RetinaFace: one pass over each picture at each size."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vision_ops.card import sha256_file
from vision_ops.checkpoint import load_checkpoint
from vision_ops.device import pick_device
from vision_ops.faces import Faces
from vision_ops.faces.choose import Found, choose, in_picture
from vision_ops.faces.detect import DetectorConfig
from vision_ops.faces.passes import (
    Normalised,
    Picture,
    Scaling,
    View,
    octaves,
    pass_size_on,
    passes,
)
from vision_ops.models.retinaface import MEAN_BGR, STRIDES, decode, fold_norms, priors
from vision_ops.precision.forward import open_forward

SCALING = Scaling(mean=MEAN_BGR, channels="BGR")
FACES_PX = (16, 192)
"""what the published weights find well; they learnt from pictures of 300 pixels"""


class RetinaFaceDetector:
    """A `Detector`; see `vision_ops.models.retinaface` for the network.

    A picture is filled up with what the network takes for grey to a multiple of 32; priors whose
    centre lies there are not asked.
    """

    def __init__(
        self, config: DetectorConfig, path: str | Path, callers: int = 1, pass_size: int = 0
    ) -> None:
        self.config = config
        self.device = pick_device()
        self.pass_size = pass_size or pass_size_on(self.device)
        network, _ = load_checkpoint(path, self.device)
        shape = (self.pass_size, STRIDES[-1], STRIDES[-1], 3)
        example = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        name = f"{sha256_file(path)[:16]}-{self.pass_size}"
        network = Normalised(fold_norms(network), SCALING)
        self.network = open_forward(network, name, example, any_size=True, callers=callers)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Picture]) -> list[Faces]:
        """The faces of each picture."""
        views = octaves(images, self.config.min_face_px, FACES_PX)
        found: list[list[Found]] = [[] for _ in images]
        for part, rows in passes(views, STRIDES[-1], self.pass_size, SCALING, self.device):
            at = _priors(rows.shape[1], rows.shape[2], self.device)
            answers = self.network(rows)
            for each, *answer in zip(part, *answers, strict=False):
                found[each.image].append(self._read(each, at, *answer))
        return [choose(each, self.config) for each in found]

    def _read(
        self,
        seen: View,
        at: Float[Tensor, "N 4"],
        confidence: Float[Tensor, "N"],
        offsets: Float[Tensor, "N 4"],
        points: Float[Tensor, "N 10"],
    ) -> Found:
        height, width = seen.pixels.shape[:2]
        sure = (confidence >= self.config.min_confidence) & (at[:, 0] < width) & (at[:, 1] < height)
        boxes, landmarks = decode(offsets[sure], points[sure], at[sure])
        return in_picture(seen, boxes, landmarks, confidence[sure])


@lru_cache(maxsize=64)
def _priors(height: int, width: int, device: torch.device) -> Float[Tensor, "N 4"]:
    return priors(height, width).to(device)
