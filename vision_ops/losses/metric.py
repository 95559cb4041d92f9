"""Losses that put pictures of one person near to each other and those of others apart.

Embeddings are of length 1 throughout, a batch is whole: P people with K pictures each. Triplets,
their miners and ArcFace are pytorch-metric-learning's (the extra `faces`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vision_ops.faces.heads import HeadKind, make_head

COLLAPSED = 1e-3
"""mean distance between embeddings of length 1 below which they say nothing of whom they are"""
AT_MARGIN, FAR_BELOW = 0.01, 0.1
"""of the margin: a loss so near to it is at it; distances below so much of it cannot lower it. Both
together, for a loss on its way down passes the margin too"""


@dataclass(frozen=True, kw_only=True)
class TripletConfig:
    """Triplets with a margin: max(0, d(anchor, positive) - d(anchor, negative) + margin).

    Schroff et al. (2015), eq. 2, with the distance itself instead of its square, as Hermans et al.
    (2017), sec. 3.2, found to collapse less.
    """

    mining: Literal["batch_hard", "semi_hard", "all"] = "batch_hard"
    """batch_hard: for each anchor its farthest positive and nearest negative (Hermans et al. 2017,
    eq. 5); semi_hard: all whose negative is farther than the positive, by less than the margin
    (Schroff et al. 2015); all: all that break the margin. The mean is over what was mined"""
    margin: float = 0.2
    """of distances 0..2 between embeddings of length 1"""
    pictures_per_person: int = 4
    """K: a batch has training.batch_size / K people"""

    def __post_init__(self) -> None:
        _check(self.margin, "margin", 2.0)
        _check_pictures(self.pictures_per_person)


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Siamese pairs: d^2 / 2 of genuine ones, max(0, margin - d)^2 / 2 of impostors.

    Hadsell et al. (2006), eq. 4, over all pairs of a batch: genuine ones and those impostors that
    are within the margin count half each, however many there are of either.
    """

    separation: float = 1.0
    """the margin, of distances 0..2: impostors farther apart are let alone"""
    pictures_per_person: int = 4
    """K: a batch has training.batch_size / K people"""

    def __post_init__(self) -> None:
        _check(self.separation, "separation", 2.0)
        _check_pictures(self.pictures_per_person)


@dataclass(frozen=True, kw_only=True)
class BinaryConfig:
    """Is it one person? Cross-entropy of a similarity head's answer, learnt with the embedding.

    Taigman et al. (2014), sec. 4.2. Over all pairs of a batch, genuine and impostor ones half each.
    The head is kept beside the checkpoint.
    """

    head: HeadKind = "weighted_l1"
    """see `vision_ops.faces.heads`"""
    pictures_per_person: int = 4
    """K: a batch has training.batch_size / K people"""

    def __post_init__(self) -> None:
        _check_pictures(self.pictures_per_person)


@dataclass(frozen=True, kw_only=True)
class ArcFaceConfig:
    """Whose picture is it? Softmax over all people learnt from, with a margin between angles.

    Deng et al. (2019), eq. 3. Batches are drawn from all pictures; what it has of each person is
    thrown away after the training.
    """

    margin_deg: float = 28.6
    """added to the angle between a picture and its person; 0.5 rad in the paper"""
    scale: float = 64.0
    """s: logits are this times cosines; smaller where people are few"""

    def __post_init__(self) -> None:
        _check(self.margin_deg, "margin_deg", 90.0)
        _check(self.scale, "scale", math.inf)


FaceLossConfig = TripletConfig | ContrastiveConfig | BinaryConfig | ArcFaceConfig
JUDGED_PICTURES = 4
"""of each person in a batch that a loss is judged on which draws none by person"""


def _check(value: float, name: str, below: float) -> None:
    if not 0 < value < below:
        raise ValueError(f"loss.{name} {value}: must be above 0 and below {below:g}")


def _check_pictures(pictures: int) -> None:
    if pictures < 2:
        raise ValueError(f"loss.pictures_per_person {pictures}: a genuine pair takes 2")


class FaceLoss(Protocol):
    """What each of them is: an nn.Module, which may have weights of its own."""

    def __call__(
        self, embeddings: Float[Tensor, "B E"], targets: Int64[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """What a step lowers; targets name people."""
        ...

    def judge(
        self, embeddings: Float[Tensor, "B E"], targets: Int64[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """Of a batch of people who may be others than those learnt from."""
        ...

    def chance(self, people: int) -> float:
        """`judge` of one who finds all pictures equally alike, in a batch of so many people."""
        ...


class TripletLoss(nn.Module):
    """See `TripletConfig`. Judged by its hardest triplets, however it learns: mean over anchors."""

    def __init__(self, config: TripletConfig) -> None:
        super().__init__()
        distances, losses, miners, reducers = _library()
        distance = distances.LpDistance(normalize_embeddings=False)
        self.margin = config.margin
        self.hardest = miners.BatchHardMiner(distance=distance)
        self.miner = self.hardest
        if config.mining != "batch_hard":
            kind = {"semi_hard": "semihard", "all": "all"}[config.mining]
            self.miner = miners.TripletMarginMiner(
                margin=config.margin, type_of_triplets=kind, distance=distance
            )
        self.loss = losses.TripletMarginLoss(
            margin=config.margin, distance=distance, reducer=reducers.MeanReducer()
        )

    def forward(
        self, embeddings: Float[Tensor, "B E"], targets: Int64[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        return self._of(self.miner, embeddings, targets)

    def judge(
        self, embeddings: Float[Tensor, "B E"], targets: Int64[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """See `FaceLoss`."""
        return self._of(self.hardest, embeddings, targets)

    def _of(self, miner: nn.Module, embeddings: Tensor, targets: Tensor) -> Tensor:
        return self.loss(embeddings, targets, miner(embeddings, targets)).reshape(())

    def chance(self, people: int) -> float:
        """The margin."""
        return self.margin


class ContrastiveLoss(nn.Module):
    """See `ContrastiveConfig`."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.separation = config.separation

    def forward(
        self, embeddings: Float[Tensor, "B E"], targets: Int64[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        first, second, same = pairs_of(targets)
        # as nn.PairwiseDistance: the root has a gradient where two embeddings are equal
        distance = F.pairwise_distance(embeddings[first], embeddings[second])
        short = (self.separation - distance).clamp(min=0)
        near, far = distance.square() / 2, short.square() / 2
        return (_mean(near[same]) + _mean(far[~same & (short > 0)])) / 2

    def judge(
        self, embeddings: Float[Tensor, "B E"], targets: Int64[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """See `FaceLoss`."""
        return self(embeddings, targets)

    def chance(self, people: int) -> float:
        """Of all pairs half the margin apart, the best of distances that are all the same."""
        return self.separation**2 / 8


class BinaryLoss(nn.Module):
    """See `BinaryConfig`; `head` is what answers."""

    def __init__(self, config: BinaryConfig, embedding_size: int) -> None:
        super().__init__()
        self.head = make_head(config.head, embedding_size)

    def forward(
        self, embeddings: Float[Tensor, "B E"], targets: Int64[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        first, second, same = pairs_of(targets)
        logits = self.head.logits(embeddings[first], embeddings[second])
        losses = F.binary_cross_entropy_with_logits(logits, same.float(), reduction="none")
        return (_mean(losses[same]) + _mean(losses[~same])) / 2

    def judge(
        self, embeddings: Float[Tensor, "B E"], targets: Int64[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """See `FaceLoss`."""
        return self(embeddings, targets)

    def chance(self, people: int) -> float:
        """The entropy of a coin."""
        return math.log(2)


class ArcFaceLoss(nn.Module):
    """See `ArcFaceConfig`.

    Others than those learnt from are judged by the cross-entropy, without a margin, of naming each
    picture's person by the mean of that person's other pictures.
    """

    def __init__(self, config: ArcFaceConfig, people: int, embedding_size: int) -> None:
        super().__init__()
        _, losses, _, _ = _library()
        self.scale = config.scale
        self.loss = losses.ArcFaceLoss(
            people, embedding_size, margin=config.margin_deg, scale=config.scale
        )
        # the arc cosine has no slope at 1, which a well-learnt picture reaches in float32
        limit = 1 - 1e-6
        self.loss.get_angles = lambda cosine: cosine.clamp(-limit, limit).acos()

    def forward(
        self, embeddings: Float[Tensor, "B E"], targets: Int64[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        return self.loss(embeddings, targets)

    def judge(
        self, embeddings: Float[Tensor, "B E"], targets: Int64[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """See `FaceLoss`."""
        people, index = targets.unique(return_inverse=True)
        belongs = F.one_hot(index, len(people)).to(embeddings.dtype)  # (B, P)
        sums = belongs.mT @ embeddings  # (P, E)
        cosines = embeddings @ F.normalize(sums, dim=1).mT
        others = F.normalize(sums[index] - embeddings, dim=1)
        own = (embeddings * others).sum(dim=1, keepdim=True)
        logits = self.scale * torch.where(belongs > 0, own, cosines)
        return F.cross_entropy(logits, index)

    def chance(self, people: int) -> float:
        """The entropy of a die with as many faces as there are people."""
        return math.log(people)


def make_loss(config: FaceLossConfig, people: int, embedding_size: int) -> nn.Module:
    """The loss for so many people to learn from; with first weights from torch's own generator."""
    if isinstance(config, TripletConfig):
        return TripletLoss(config)
    if isinstance(config, ContrastiveConfig):
        return ContrastiveLoss(config)
    if isinstance(config, BinaryConfig):
        return BinaryLoss(config, embedding_size)
    return ArcFaceLoss(config, people, embedding_size)


def pairs_of(
    targets: Int64[Tensor, " B"],
) -> tuple[Int64[Tensor, " N"], Int64[Tensor, " N"], Bool[Tensor, " N"]]:
    """All pairs of a batch: index of one and of the other, and whether they are of one person."""
    first, second = torch.triu_indices(len(targets), len(targets), 1, device=targets.device)
    return first, second, targets[first] == targets[second]


def mean_distance(embeddings: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
    """Root of the mean squared distance of all pairs, true also where they are nearly the same."""
    from_mean = (embeddings - embeddings.mean(dim=0)).square().sum(dim=1)
    return (2 * from_mean.sum() / max(1, len(embeddings) - 1)).sqrt()


def collapse(scalars: Mapping[str, float], config: FaceLossConfig) -> str:
    """What a person is told where all embeddings are one, or all but; else empty.

    scalars: `objective` (the loss) and `distance` (see `mean_distance`), means over some steps.
    Told by a distance below COLLAPSED, and of triplets by a loss at the margin, see AT_MARGIN.
    """
    distance, loss = scalars.get("distance", math.inf), scalars.get("objective", math.nan)
    margin = config.margin if isinstance(config, TripletConfig) else math.nan
    at_margin = abs(loss - margin) <= AT_MARGIN * margin and distance < FAR_BELOW * margin
    if not (distance < COLLAPSED or at_margin):
        return ""
    stands, advice = "", "a lower --optim.learning-rate, a longer --optim.warmup"
    if isinstance(config, TripletConfig):
        stands = f", the margin is {margin:g}"
        if config.mining == "batch_hard":
            advice += ", --loss.mining semi_hard or all for the first epochs"
    bound = f"{COLLAPSED:g}" if distance < COLLAPSED else f"{FAR_BELOW:g} of the margin"
    return (
        f"the embeddings have collapsed: any two are {distance:.1e} apart, less than "
        f"{bound}, and the loss stays at {loss:.4f}{stands}. They seldom recover: stop, and "
        f"begin anew (another --out) with {advice}, a larger --training.batch-size (more people to "
        "tell apart), or --model.weights of an embedder; see too that the labels are right"
    )


def _mean(values: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """0 of nothing, with gradients of 0."""
    return values.sum() / max(1, len(values))


def _library():  # noqa: ANN202
    try:
        from pytorch_metric_learning import distances, losses, miners, reducers
    except ImportError as missing:
        raise ValueError(
            "losses of faces need pytorch-metric-learning: pip install -e '.[faces]'"
        ) from missing
    return distances, losses, miners, reducers
