"""How alike two faces are: a score from two embeddings, by a head that may have been trained.

A trained head is a small safetensors file of its own, with JSON under `argus_head` in its header:
its kind, the length of the embeddings, and the sha256 of the embedder whose embeddings it is for.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol, cast, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vision_ops.card import write_whole

HeadKind = Literal["cosine", "squared_l2", "weighted_l1", "chi_square"]
HEAD_KEY = "argus_head"
BLOCK_VALUES = 1 << 22
"""differences that are held at a time where every probe meets every face of a gallery"""
LEAST = 1e-8
"""what a chi-square term is divided by at least"""
MIDDLE = 6.0
"""logit of a new head of weights for equal embeddings; for random ones it is the negative"""


class SimilarityHead(Protocol):
    """What each head is: an nn.Module over embeddings, as `embed_faces` gives them: of length 1.

    Differentiable by the embeddings and by its own weights.
    """

    kind: HeadKind
    embedder: str
    """sha256 of the checkpoint whose embeddings it was trained on; "" where it was not"""

    def __call__(  # noqa: D102
        self, probes: Float[Tensor, "P E"], gallery: Float[Tensor, "G E"]
    ) -> Float[Tensor, "P G"]:
        """Scores of every probe with every face of the gallery; higher is more alike."""
        ...

    def paired(self, a: Float[Tensor, "N E"], b: Float[Tensor, "N E"]) -> Float[Tensor, " N"]:
        """Scores of the first with the first, the second with the second, and so on."""
        ...

    def logits(self, a: Float[Tensor, "N E"], b: Float[Tensor, "N E"]) -> Float[Tensor, " N"]:
        """Of the pairs of `paired`: their sigmoid is the probability that it is one person."""
        ...


class AffineHead(nn.Module):
    """Cosine, or squared L2 with its sign turned: a score without weights, a probability with two.

    cosine      a . b / (|a| |b|)   -1..1, 1 where they are the same
    squared_l2  -|a - b|^2          -4..0 of unit vectors, where it is 2 cosine - 2

    `scale` and `offset` make logits of scores and change no order.
    """

    def __init__(self, kind: HeadKind) -> None:
        super().__init__()
        self.kind: HeadKind = kind
        self.embedder = ""
        is_cosine = kind == "cosine"
        self.scale = nn.Parameter(torch.tensor(10.0 if is_cosine else 5.0))
        self.offset = nn.Parameter(torch.tensor(-5.0 if is_cosine else 5.0))

    def forward(
        self, probes: Float[Tensor, "P E"], gallery: Float[Tensor, "G E"]
    ) -> Float[Tensor, "P G"]:
        if self.kind == "cosine":
            return F.normalize(probes, dim=1) @ F.normalize(gallery, dim=1).mT
        squares = probes.square().sum(dim=1)[:, None] + gallery.square().sum(dim=1)
        return -(squares - 2 * probes @ gallery.mT).clamp(min=0)

    def paired(self, a: Float[Tensor, "N E"], b: Float[Tensor, "N E"]) -> Float[Tensor, " N"]:
        """See `SimilarityHead`."""
        return F.cosine_similarity(a, b) if self.kind == "cosine" else -(a - b).square().sum(dim=1)

    def logits(self, a: Float[Tensor, "N E"], b: Float[Tensor, "N E"]) -> Float[Tensor, " N"]:
        """See `SimilarityHead`."""
        return self.scale * self.paired(a, b) + self.offset


class WeightedHead(nn.Module):
    """A weight for each number of the embedding: sigmoid(sum w_i d_i + offset), 0..1.

    weighted_l1  d_i = |a_i - b_i|                          (Taigman et al. 2014, sec. 4.2)
    chi_square   d_i = (a_i - b_i)^2 / (|a_i| + |b_i|)      (Taigman et al. 2014, sec. 4.1)

    The paper's chi-square is of features that are never negative; amounts in the divisor make it
    one of any, and equal on those. Its weights come from a support vector machine there.
    """

    def __init__(self, kind: HeadKind, size: int) -> None:
        super().__init__()
        self.kind: HeadKind = kind
        self.embedder = ""
        # of random unit vectors, as components are normal: sum |a-b| is 2 sqrt(E / pi), and sum
        # (a-b)^2 / (|a|+|b|) is 0.994 sqrt(E); twice MIDDLE lies there
        usual = 2 / torch.pi**0.5 if kind == "weighted_l1" else 0.994
        self.weights = nn.Parameter(torch.full((size,), -2 * MIDDLE / (usual * size**0.5)))
        self.offset = nn.Parameter(torch.tensor(MIDDLE))

    def forward(
        self, probes: Float[Tensor, "P E"], gallery: Float[Tensor, "G E"]
    ) -> Float[Tensor, "P G"]:
        return in_blocks(self._logits, probes, gallery).sigmoid()

    def paired(self, a: Float[Tensor, "N E"], b: Float[Tensor, "N E"]) -> Float[Tensor, " N"]:
        """See `SimilarityHead`."""
        return self.logits(a, b).sigmoid()

    def logits(self, a: Float[Tensor, "N E"], b: Float[Tensor, "N E"]) -> Float[Tensor, " N"]:
        """See `SimilarityHead`."""
        return self._logits(a, b)

    def _logits(self, a: Float[Tensor, "*A E"], b: Float[Tensor, "*B E"]) -> Float[Tensor, "*N"]:
        apart = (a - b).abs()
        if self.kind == "chi_square":
            apart = apart.square() / (a.abs() + b.abs()).clamp(min=LEAST)
        return apart @ self.weights + self.offset


def in_blocks(
    each: Callable[[Tensor, Tensor], Tensor],
    probes: Float[Tensor, "P E"],
    gallery: Float[Tensor, "G E"],
) -> Float[Tensor, "P G"]:
    """`each` of (p, 1, E) and (1, g, E) put together; BLOCK_VALUES differences at a time."""
    size = max(1, probes.shape[1])
    columns = max(1, min(len(gallery), BLOCK_VALUES // size))
    rows = max(1, BLOCK_VALUES // (size * columns))
    whole = [
        torch.cat([each(some[:, None], few[None]) for few in gallery.split(columns)], dim=1)
        for some in probes.split(rows)
    ]
    return torch.cat(whole)


def make_head(kind: str, size: int) -> AffineHead | WeightedHead:
    """A head for embeddings of `size` numbers, untrained: always the same. Raises ValueError."""
    if kind not in get_args(HeadKind):
        raise ValueError(f"head {kind!r}: not one of {', '.join(get_args(HeadKind))}")
    if size < 1:
        raise ValueError(f"head of embeddings of {size} numbers: must be at least 1")
    known = cast(HeadKind, kind)
    weighted = known in ("weighted_l1", "chi_square")
    return WeightedHead(known, size) if weighted else AffineHead(known)


def save_head(path: str | Path, head: AffineHead | WeightedHead, size: int) -> None:
    """Write a head whole; the same head gives the same bytes."""
    state = {name: t.detach().cpu().contiguous().clone() for name, t in head.state_dict().items()}
    told = json.dumps({"kind": head.kind, "size": size, "embedder": head.embedder})
    write_whole(path, save(state, metadata={HEAD_KEY: told}))


def load_head(path: str | Path, device: torch.device | str = "cpu") -> AffineHead | WeightedHead:
    """A head as it was saved, on the device. Raises ValueError, naming the file, for what is none.

    Whoever uses it compares `embedder` with the embedder of the embeddings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})[HEAD_KEY])
        head = make_head(told["kind"], told["size"])
        head.embedder = told["embedder"]
        head.load_state_dict(load_file(path))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as wrong:
        raise ValueError(f"{path}: no similarity head: {wrong}") from wrong
    return head.to(device)
