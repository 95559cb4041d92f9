"""Costs of style transfer (Gatys et al. 2016): a number a picture, none depends on another's.

Three conventions, for the commonest question is which weight means what. F is (C, H*W) at a layer
of the result, P that of the content, g and a are the Gram matrices of result and style, divided by
C*H*W as `gram_matrix` gives them:

    convention   content                     style of a layer                  total variation
    paper        sum (F - P)^2 / 2           sum (g - a)^2 / 4                 sum of squares
    mean         sum (F - P)^2 / (C*H*W)     sum (g - a)^2 / C^2               the same / (3*H*W)
    relative     sum (F - P)^2 / sum P^2     sum (g - a)^2 / sum a^2           the same / (3*H*W)

`paper` is the paper's eq. 1 and 4: with undivided Gram matrices G and A of N = C filters over
M = H*W positions its 1 / (4 N^2 M^2) sum (G - A)^2 (the tutorial's 1 / (2 H W C)^2) is a quarter of
sum (g - a)^2. Gram matrices of two sizes are each divided by their own, where the paper has one M.
`mean` is what most codes compute. `relative` is ours: 1 for features that are all zero, whatever
the network, its layers and the picture's size; so one pair of weights serves them all.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vision_ops.losses import StyleConvention


def gram_sum(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C C"]:
    """Products of every pair of channels, added up over all positions (Gatys et al. 2016, eq. 3).

    Those of tiles that hold each position once add up to that of the whole map.
    """
    flat = features.flatten(start_dim=2)  # (B, C, HW)
    return flat @ flat.mT


def gram_matrix(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C C"]:
    """Correlation of every pair of channels over all positions, divided by C*H*W.

    Blind to where a pattern is, hence a description of style (Gatys et al. 2016, eq. 3).
    The paper divides in the loss; dividing here lets one style weight serve layers of any size.
    """
    return gram_sum(features) / features[0].numel()


def content_loss(
    features: Float[Tensor, "B C H W"],
    target: Float[Tensor, "#B C H W"],
    convention: StyleConvention,
) -> Float[Tensor, " B"]:
    """How far features of a layer are from those of the content, see the table of this module.

    `paper` is J = 1/2 ||a_C - a_G||^2: it grows with the picture, as the style's does not.
    """
    return squared_distance(features, target) / content_divisor(target, convention)


def squared_distance(
    features: Float[Tensor, "B C H W"], target: Float[Tensor, "#B C H W"]
) -> Float[Tensor, " B"]:
    """Sum of the squared differences of features; those of tiles add up to that of a whole map."""
    return _squares(features - target)


def content_divisor(
    target: Float[Tensor, "B C H W"], convention: StyleConvention
) -> Float[Tensor, " B"]:
    """What `content_loss` divides the squared distance from a whole target by."""
    if convention == "relative":
        return _energy(target)
    return target.new_full((len(target),), 2 if convention == "paper" else target[0].numel())


def style_loss(
    gram: Float[Tensor, "B C C"],
    target: Float[Tensor, "#B C C"],
    convention: StyleConvention,
) -> Float[Tensor, " B"]:
    """How far Gram matrices of a layer, as `gram_matrix` divides them, are from those of a style.

    E_l of Gatys et al. (2016, eq. 4), see the table of this module. Weigh it by lambda_l and add.
    """
    distance = _squares(gram - target)
    if convention == "paper":
        return distance / 4
    return distance / (gram[0].numel() if convention == "mean" else _energy(target))


def total_variation(
    images: Float[Tensor, "B C H W"], convention: StyleConvention
) -> Float[Tensor, " B"]:
    """Squared differences of neighbours, down and across (Mahendran and Vedaldi 2015, beta = 2).

    `paper` adds them up, the others divide that by C*H*W. Small for smooth pictures.
    """
    summed = _squares(images.diff(dim=2)) + _squares(images.diff(dim=3))
    return summed if convention == "paper" else summed / images[0].numel()


def _squares(values: Tensor) -> Tensor:
    """(B,) sums of squares."""
    return values.square().flatten(start_dim=1).sum(dim=1)


def _energy(target: Tensor) -> Tensor:
    """(B,) sums of squares, above zero where everything is dark."""
    return _squares(target).clamp_min(torch.finfo(target.dtype).tiny)
