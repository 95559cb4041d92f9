"""Of all that a detector answers for a picture, the faces."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import nms

from vision_ops.faces import Faces
from vision_ops.faces.detect import DetectorConfig
from vision_ops.faces.passes import View

Found = tuple[Float[Tensor, "_ 4"], Float[Tensor, "_ 5 2"], Float[Tensor, "_"]]
"""boxes, landmarks and confidence of one picture, in its pixels"""


def choose(found: Sequence[Found], config: DetectorConfig) -> Faces:
    """The surest faces of one picture, each once (greedy non-maximum suppression).

    `found` is what was answered at several scales, in any order. What is no number is no face.
    """
    if not found:
        found = [(torch.zeros(0, 4), torch.zeros(0, 5, 2), torch.zeros(0))]
    boxes, landmarks, confidence = (
        torch.cat(parts).float().cpu() for parts in zip(*found, strict=True)
    )
    longer = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
    good = (confidence >= config.min_confidence) & (longer >= config.min_face_px)
    good &= boxes.isfinite().all(dim=1)
    boxes, landmarks, confidence = boxes[good], landmarks[good], confidence[good]
    kept = nms(boxes, confidence, config.iou)[: config.max_faces]
    return Faces(boxes[kept].numpy(), landmarks[kept].numpy(), confidence[kept].clamp(0, 1).numpy())


def in_picture(
    seen: View, boxes: Float[Tensor, "N 4"], points: Float[Tensor, "N 5 2"], confidence: Tensor
) -> Found:
    """What was found in a view, in pixels of its picture, less what is too large to be trusted."""
    kept = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1) <= seen.largest_px
    ratio = boxes.new_tensor([seen.across, seen.down])
    return boxes[kept] / ratio.repeat(2), points[kept] / ratio, confidence[kept]
