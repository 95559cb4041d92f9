"""How far a found box is from the true one."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

SMOOTH_BELOW = 0.05
"""distance, in parts of the picture, below which smooth L1 is a parabola"""
L1_WEIGHT = 5.0
GIOU_WEIGHT = 2.0
"""both of Carion et al. 2020 (DETR, appendix A.4), whose L1 is a sum over the edges, here the mean:
GIoU counts four times as much beside it"""


def smooth_l1(found: Float[Tensor, "B 4"], truth: Float[Tensor, "B 4"]) -> Float[Tensor, " B"]:
    """Mean over the four edges of Huber's loss divided by its width (Girshick 2015, eq. 3).

    d^2 / (2 s) where the distance d is below s = 0.05, else d - s / 2. Edges are in parts of the
    picture, so Fast R-CNN's s of 1 would make all of it a parabola.
    """
    return F.smooth_l1_loss(found, truth, beta=SMOOTH_BELOW, reduction="none").mean(dim=1)


def giou_loss(found: Float[Tensor, "B 4"], truth: Float[Tensor, "B 4"]) -> Float[Tensor, " B"]:
    """1 - GIoU, 0..2 (Rezatofighi et al. 2019, algorithm 1): it pulls boxes apart together too."""
    return generalized_box_iou_loss(found, truth, reduction="none")


def box_loss(found: Float[Tensor, "B 4"], truth: Float[Tensor, "B 4"]) -> Float[Tensor, " B"]:
    """5 * smooth L1 + 2 * (1 - GIoU) of each pair of boxes (x0, y0, x1, y1), 0..1 of the picture.

    0 where they are equal. Found boxes may reach beyond the picture.
    """
    return L1_WEIGHT * smooth_l1(found, truth) + GIOU_WEIGHT * giou_loss(found, truth)
