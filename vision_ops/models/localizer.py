"""Any classifier's encoder with two heads: what is in a picture, and one box around it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.models.feature_map import MapEncoder

HIDDEN = 128
REACH = 0.5
"""how far from its own cell a cell may say that the centre is, in parts of the picture"""


class Localizer(nn.Module):
    """Class logits from the averaged map, and a box that the cells of the map vote for.

    images  float  (B, 3, H, W), normalised as the card says
    logits  float  (B, K), before the softmax
    boxes   float  (B, 4), x0, y0, x1, y1 in parts of what the network sees: a centre and a size
            of 0..1 each, so that a box may reach beyond the picture

    An average over all positions is the same wherever a thing is: the class head takes it, the box
    head must not (Sermanet et al. 2014, sec. 4). Each cell says with the same weights how sure it
    is, where the centre lies as seen from it (REACH * tanh) and how large the thing is; the votes
    are averaged by a softmax of sureness over the cells. Unlike a dense layer over the map laid
    out flat, this learns from a thing at one place what it looks like at any other.
    """

    def __init__(self, encoder: MapEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.box_head = nn.Sequential(
            nn.GroupNorm(1, encoder.channels),  # of one picture: published features differ in size
            nn.Conv2d(encoder.channels, HIDDEN, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(HIDDEN, 5, kernel_size=1),
        )
        self.class_head = nn.Linear(encoder.channels, num_classes)  # last: see `models.head_of`

    def forward(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B 4"]]:
        features = self.encoder(images)  # (B, C, h, w)
        logits = self.class_head(features.mean(dim=(2, 3)))
        return logits, elect(self.box_head(features))

    def logits_and_embeddings(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B C"]]:
        """The class head alone: a localizer classifies too."""
        embedding = self.encoder(images).mean(dim=(2, 3))
        return self.class_head(embedding), embedding


def elect(votes: Float[Tensor, "B 5 h w"]) -> Float[Tensor, "B 4"]:
    """The box that cells vote for: sureness, centre x and y from the cell, width and height.

    Cells stand at the middle of their part of the picture. Both sizes are averaged before their
    sigmoid.
    """
    height, width = votes.shape[2:]
    y, x = (
        (torch.arange(count, device=votes.device, dtype=votes.dtype) + 0.5) / count
        for count in (height, width)
    )
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])  # (2, h, w)
    weights = votes[:, :1].flatten(2).softmax(dim=2)  # (B, 1, hw)
    centres = (places + REACH * votes[:, 1:3].tanh()).flatten(2)
    centre = (weights * centres).sum(dim=2)  # (B, 2)
    half = (weights * votes[:, 3:].flatten(2)).sum(dim=2).sigmoid() / 2
    return torch.cat([centre - half, centre + half], dim=1)
