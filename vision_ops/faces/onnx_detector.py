"""Faces by any ONNX file that answers with boxes, run by ONNX Runtime on the CPU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from vision_ops.faces import Faces
from vision_ops.faces.choose import Found, choose, in_picture
from vision_ops.faces.detect import DetectorConfig
from vision_ops.faces.onnx_format import FORMAT_KEY, OnnxFormat, format_from_json
from vision_ops.faces.passes import Picture, Scaling, View, normalised, octaves, passes, view
from vision_ops.models.onnx_file import open_session, read_metadata

CPU = torch.device("cpu")
MULTIPLE = 32
"""of both sides of what goes through a file that takes any size"""
FACES_PX = (16, 256)
"""that such a file finds well"""


class OnnxDetector:
    """A `Detector`; `OnnxFormat` in the file says what its outputs mean.

    Where the file takes one size a picture is looked at once, as large as it fits; else at sizes
    that halve. Landmarks are not numbers where it gives none.
    """

    def __init__(self, config: DetectorConfig, path: str | Path) -> None:
        text = read_metadata(Path(path)).get(FORMAT_KEY)
        if text is None:
            raise ValueError(f"{path}: does not say what its outputs mean; import it anew")
        self.config = config
        self.format = format_from_json(text)
        self.session = open_session(Path(path))
        self.size = self._check(str(path))

    def __call__(self, images: Sequence[Picture]) -> list[Faces]:
        """The faces of each picture."""
        views = self._views(images)
        told = self.format
        scaling = Scaling(
            mean=(told.mean, told.mean, told.mean), std=told.std, channels=told.channels
        )
        found: list[list[Found]] = [[] for _ in images]
        for (seen,), rows in passes(views, self.size or MULTIPLE, 1, scaling, CPU):
            answers = self.ask(normalised(rows, scaling).contiguous().numpy())
            found[seen.image].append(self._read(seen, rows.shape[1:3], *answers))
        return [choose(each, self.config) for each in found]

    def ask(self, rows: Float32[np.ndarray, "1 3 H W"]) -> list[np.ndarray]:
        """The outputs that the format names: scores, boxes and, where there are, landmarks."""
        return [np.asarray(x) for x in self.session.run(self.outputs, {self.input: rows})]

    def _views(self, images: Sequence[Picture]) -> list[View]:
        if not self.size:
            return octaves(images, self.config.min_face_px, FACES_PX)
        scales = [min(self.size[0] / p.shape[0], self.size[1] / p.shape[1]) for p in images]
        return [view(k, p, s) for k, (p, s) in enumerate(zip(images, scales, strict=True))]

    def _read(
        self, seen: View, size: Sequence[int], scores: np.ndarray, *maps: np.ndarray
    ) -> Found:
        told = self.format
        column = scores[0] if scores.ndim == 2 else scores[0, :, told.score_column]
        confidence = torch.from_numpy(np.ascontiguousarray(column))
        kept = confidence >= self.config.min_confidence
        boxes, *points = (torch.from_numpy(each[0])[kept] for each in maps)
        landmarks = torch.full((len(boxes), 5, 2), torch.nan)
        if points:
            landmarks = points[0].reshape(-1, 5, 2)
        if told.unit == "part":
            sides = torch.tensor([size[1], size[0]], dtype=torch.float32)
            boxes, landmarks = boxes * sides.repeat(2), landmarks * sides
        return in_picture(seen, as_corners(boxes, told), landmarks, confidence[kept])

    def _check(self, path: str) -> tuple[int, int] | None:
        """Find input and outputs; the size (H, W) that it takes, None: any. Raises ValueError."""
        inputs, told = self.session.get_inputs(), self.format
        there = [output.name for output in self.session.get_outputs()]
        self.outputs = [name for name in (told.scores, told.boxes, told.landmarks) if name]
        if missing := [name for name in self.outputs if name not in there]:
            raise ValueError(f"{path}: has no output {', '.join(missing)}; it has {there}")
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] not in (3, None):
            raise ValueError(f"{path}: takes {[(i.name, i.shape) for i in inputs]}; (1, 3, H, W)")
        self.input = inputs[0].name
        sides = inputs[0].shape[2:]
        whole = [side for side in sides if isinstance(side, int) and side > 0]
        if len(whole) == 1:
            raise ValueError(f"{path}: takes {inputs[0].shape}; one size, or any")
        return (whole[0], whole[1]) if whole else None


def as_corners(boxes: Float[Tensor, "N 4"], told: OnnxFormat) -> Float[Tensor, "N 4"]:
    """Boxes of the file's kind as x0, y0, x1, y1."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if told.corners == "corners":
        return boxes
    if told.corners == "centre":
        first = first - second / 2
    return torch.cat([first, first + second], dim=1)
