"""Of all that a detector answers for a picture, the faces."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import nms

from vision_ops.faces import Faces
from vision_ops.faces.detect import DetectorConfig

Found = tuple[Float[Tensor, "N 4"], Float[Tensor, "N 5 2"], Float[Tensor, "N"]]
"""boxes, landmarks and confidence of one picture, in its pixels"""


def choose(found: Sequence[Found], config: DetectorConfig) -> Faces:
    """The surest faces of one picture, each once (greedy non-maximum suppression).

    `found` is what was answered at several scales, in any order. What is no number is no face.
    """
    if not found:
        found = [(torch.zeros(0, 4), torch.zeros(0, 5, 2), torch.zeros(0))]
    boxes, landmarks, confidence = (torch.cat(parts).float().cpu() for parts in zip(*found))
    longer = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
    good = (confidence >= config.min_confidence) & (longer >= config.min_face_px)
    good &= boxes.isfinite().all(dim=1)
    boxes, landmarks, confidence = boxes[good], landmarks[good], confidence[good]
    kept = nms(boxes, confidence, config.iou)[: config.max_faces]
    return Faces(boxes[kept].numpy(), landmarks[kept].numpy(), confidence[kept].clamp(0, 1).numpy())


def in_picture(
    boxes: Tensor, landmarks: Tensor, across: float, down: float
) -> tuple[Tensor, Tensor]:
    """Boxes and points of a view in pixels of its picture; across and down as `View` has them."""
    return (
        boxes / boxes.new_tensor([across, down, across, down]),
        landmarks / landmarks.new_tensor([across, down]),
    )
