"""The similarity by which faces are judged: cosine, or a head, with the grid of its scores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.runtime.storage import Storage
from vision_ops.faces.comparisons import Scorer, cosine
from vision_ops.metrics.scores import COSINE, ScoreGrid

GRIDS = {
    "cosine": COSINE,
    "squared_l2": ScoreGrid(low=-4.0, high=0.0, step_bits=19),
    "weighted_l1": ScoreGrid(low=0.0, high=1.0, step_bits=21),
    "chi_square": ScoreGrid(low=0.0, high=1.0, step_bits=21),
}
MAX_PAIRS = 1_000_000_000
"""impostor pairs that are compared; of more, every face with a part of the others"""
MAX_WEIGHED_PAIRS = 20_000_000
"""the same for heads that weigh every number of an embedding: a hundred times the work"""


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """How alike two faces are."""

    kind: str
    sha256: str
    """of the head's file; empty without one"""
    scores: Scorer
    paired: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """float32 (B, E) twice -> float32 (B,): the first with the first, and so on"""
    grid: ScoreGrid
    max_pairs: int


def open_similarity(head: str, embedder: str, size: int, storage: Storage) -> Similarity:
    """By kind, or by the file of a trained head.

    embedder   sha256 of the embedder whose embeddings, of `size` numbers, will be compared
    Raises ValueError for what is no head, and for one of another embedder.
    """
    if head == "cosine":
        return Similarity(
            kind="cosine", sha256="", scores=cosine, paired=_paired_cosine,
            grid=COSINE, max_pairs=MAX_PAIRS,
        )  # fmt: skip
    import torch  # only heads need it

    from jobs.pictures.faces.heads import open_head

    opened, sha256 = open_head(head, GRIDS, embedder, size, storage)

    def scores(call: Callable[..., Any]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return call(torch.from_numpy(a), torch.from_numpy(b)).numpy()

        return compare

    weighs = opened.kind in ("weighted_l1", "chi_square")
    return Similarity(
        kind=opened.kind, sha256=sha256, scores=scores(opened), paired=scores(opened.paired),
        grid=GRIDS[opened.kind], max_pairs=MAX_WEIGHED_PAIRS if weighs else MAX_PAIRS,
    )  # fmt: skip


def _paired_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("be,be->b", a, b)
