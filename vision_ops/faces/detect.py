"""Finding faces in pictures: what is asked for, and by which kind of network.

Light on purpose: drivers read it without torch. The detectors themselves are in `mtcnn`,
`retinaface`, `yunet` and `onnx_detector`; which of them is used follows from the card.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

from jaxtyping import UInt8
from numpy import ndarray

from vision_ops.canvas import Canvas
from vision_ops.card import Card, read_card
from vision_ops.faces import FACE_DETECTOR, Faces

DetectorKind = Literal["mtcnn", "retinaface", "yunet", "onnx"]


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """What of the faces that a detector finds is kept."""

    min_confidence: float = 0.9
    """faces below are left out, 0..1; what it is a probability of differs between detectors"""
    min_face_px: float = 20.0
    """faces whose box has a longer side below are not searched for, in pixels of the picture as the
    detector sees it: reduced to longest_px where it is larger; half of it is four times the
    work (but for ONNX files of one size)"""
    max_faces: int = 1000
    """the most confident faces of a picture that are kept"""
    iou: float = 0.4
    """of two boxes whose intersection over union is above, the less confident is left out, 0..1"""

    def __post_init__(self) -> None:
        if not 0 < self.min_confidence < 1:
            raise ValueError(f"min_confidence {self.min_confidence}: must be between 0 and 1")
        if not 1 <= self.min_face_px < 1e5:
            raise ValueError(f"min_face_px {self.min_face_px}: must be at least 1")
        if self.max_faces < 1:
            raise ValueError(f"max_faces {self.max_faces}: must be at least 1")
        if not 0 < self.iou < 1:
            raise ValueError(f"iou {self.iou}: must be between 0 and 1")


@runtime_checkable
class Detector(Protocol):
    """What each of them is. May be called by several threads."""

    def __call__(self, images: Sequence[UInt8[ndarray, "_ _ 3"]]) -> list[Faces]:
        """The faces of each picture, in its own pixels.

        Pictures are sRGB 0..255, of any sizes, each with a pixel at least; they are not written to.
        Bit for bit the same whichever pictures come in one call.
        """
        ...


def kind_of_detector(card: Card, weights: str | Path) -> DetectorKind:
    """Which detector a card is of. Raises ValueError where it is of none."""
    kinds: dict[str, DetectorKind] = {f"{FACE_DETECTOR}{k}": k for k in get_args(DetectorKind)}
    if card.network not in kinds:
        raise ValueError(f"weights {weights}: {card.network} finds no faces; {', '.join(kinds)} do")
    if not isinstance(card.preprocess, Canvas):
        raise ValueError(f"weights {weights}: a detector's card says canvas, not pictures")
    return kinds[card.network]


def make_detector(config: DetectorConfig, path: str | Path, callers: int = 1) -> Detector:
    """The detector of a checkpoint on this machine, for so many threads that call it at a time.

    Raises ValueError for a file that is none, damaged, or needs an extra that is not installed.
    """
    kind = kind_of_detector(read_card(path), path)
    # each import is its own library: who finds by YuNet needs no ONNX Runtime
    if kind == "mtcnn":
        from vision_ops.faces.mtcnn import MtcnnDetector

        return MtcnnDetector(config, path, callers)
    if kind == "retinaface":
        from vision_ops.faces.retinaface import RetinaFaceDetector

        return RetinaFaceDetector(config, path, callers)
    if kind == "yunet":
        from vision_ops.faces.yunet import YuNetDetector

        return YuNetDetector(config, path, callers)
    from vision_ops.faces.onnx_detector import OnnxDetector

    return OnnxDetector(config, path)
