"""Any classifier's encoder with two heads: what is in a picture, and one box around it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.models.feature_map import MapEncoder

HIDDEN = 128
REACH = 0.5
"""how far from its own cell a cell may say that the centre is, in parts of the picture"""


class Localizer(nn.Module):
    """Class logits and a box, both by the votes of the cells of the encoder's last map.

    images  float  (B, 3, H, W), normalised as the card says
    logits  float  (B, K), before the softmax
    boxes   float  (B, 4), x0, y0, x1, y1 in parts of what the network sees: a centre and a size
            of 0..1 each, so that a box may reach beyond the picture

    An average over all positions is the same wherever a thing is, so no box can be told from it
    (Sermanet et al. 2014, sec. 4). Each cell says with the same weights how sure it is, where the
    centre lies as seen from it (REACH * tanh) and how large the thing is; the votes are averaged by
    a softmax of sureness over the cells. Unlike a dense layer over the map laid out flat, this
    learns from a thing at one place what it looks like at any other. What the class head sees is
    averaged by the same sureness (Ilse et al. 2018, eq. 7): of a small thing in a large picture
    there is little in a plain average.
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
        votes = self.box_head(features)
        embedding = (features * sureness(votes)).sum(dim=(2, 3))
        return self.class_head(embedding), elect(votes)

    def logits_and_embeddings(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B C"]]:
        """The class alone, and what its head sees: a localizer classifies too."""
        features = self.encoder(images)
        embedding = (features * sureness(self.box_head(features))).sum(dim=(2, 3))
        return self.class_head(embedding), embedding

    def class_maps(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K h w"]:
        """What each cell adds to the logit of each class, which is the mean of its map."""
        features = self.encoder(images)
        shares = sureness(self.box_head(features)) * features[0, 0].numel()
        each = F.linear(features.movedim(1, 3), self.class_head.weight, self.class_head.bias)
        return each.movedim(3, 1) * shares


def sureness(votes: Float[Tensor, "B 5 h w"]) -> Float[Tensor, "B 1 h w"]:
    """How much each cell counts, 0..1; all cells of a picture together are 1."""
    return votes[:, :1].flatten(2).softmax(dim=2).unflatten(2, votes.shape[2:])


def elect(votes: Float[Tensor, "B 5 h w"]) -> Float[Tensor, "B 4"]:
    """The box that cells vote for: sureness, centre x and y from the cell, width and height.

    Cells stand at the middle of their part of the picture. Both sizes are averaged before their
    sigmoid. In float32: bfloat16 would know places to a 256th of the picture only.
    """
    votes = votes.float()
    height, width = votes.shape[2:]
    y, x = (
        (torch.arange(count, device=votes.device, dtype=votes.dtype) + 0.5) / count
        for count in (height, width)
    )
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])  # (2, h, w)
    weights = sureness(votes)
    centre = (weights * (places + REACH * votes[:, 1:3].tanh())).sum(dim=(2, 3))  # (B, 2)
    half = (weights * votes[:, 3:]).sum(dim=(2, 3)).sigmoid() / 2
    return torch.cat([centre - half, centre + half], dim=1)
