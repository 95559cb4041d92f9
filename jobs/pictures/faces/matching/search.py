"""A gallery that can be searched: in this process, or shared out to actors."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jobs.runtime.resources import Resources, decide_engine
from jobs.runtime.storage import Storage
from vision_ops.faces.gallery import Gallery, Templates
from vision_ops.faces.search import COSINE, Scorer, merge_named, nearest

logger = logging.getLogger(__name__)

Search = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""probes float32 (P, E) -> scores float32 (P, k) and names (P, k), best first"""
PAIRS_PER_ROW = 100_000
"""comparisons that are as much work as an image is to `decide_engine`"""
HEADS = ("cosine", "squared_l2")


class Measure(NamedTuple):
    """Which similarity it is."""

    kind: str
    sha256: str = ""
    """of a trained head's file"""

    def __str__(self) -> str:
        return f"{self.kind} sha256:{self.sha256[:12]}…" if self.sha256 else self.kind


def open_scorer(head: str, embedder: str, size: int, storage: Storage) -> tuple[Scorer, Measure]:
    """A similarity by kind or by the file of a trained head, and which it is.

    embedder   sha256 of the embedder of the embeddings, of `size` numbers
    Raises ValueError for what is no head, and for one of another embedder.
    """
    if head == "cosine":
        return COSINE, Measure(head)
    from jobs.pictures.faces.heads import open_head  # torch, which cosine does without
    from vision_ops.faces.head_scorer import HeadScorer

    opened, sha256 = open_head(head, HEADS, embedder, size, storage)
    return HeadScorer(opened), Measure(opened.kind, sha256)


class Shard:
    """Some people of a gallery, or all of them."""

    def __init__(self, people: Templates, k: int, scorer: Scorer) -> None:
        self.people = people
        self.k = k
        self.scorer = scorer

    def __call__(self, probes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and names of the nearest to each probe, see `Search`."""
        found = nearest(probes, self.people.embeddings, self.k, self.scorer)
        return found.scores, self.people.names[found.places]


def make_shard(share: tuple[Gallery, Sequence[str], int, Scorer]) -> Shard:
    """A shard of some parts of a gallery, which it reads itself."""
    gallery, parts, k, scorer = share
    return Shard(gallery.templates(parts), k, scorer)


@contextmanager
def open_search(
    gallery: Gallery, k: int, scorer: Scorer, resources: Resources, num_probes: int
) -> Iterator[tuple[Search, int]]:
    """The search of a gallery by the engine that fits, and how many may ask at a time.

    The answers are those of any other engine and number of shards, ties included.
    """
    decided = decide_engine(resources, num_probes * gallery.num_people // PAIRS_PER_ROW)
    if decided.engine == "inline":
        yield make_shard((gallery, gallery.parts, k, scorer)), 1
        return
    from jobs.runtime.ray_shards import Shards, start_shards  # 2 s of imports

    def share_of(parts: Sequence[Any]) -> tuple[Gallery, Sequence[str], int, Scorer]:
        return gallery, parts, k, scorer

    shards: Shards[np.ndarray, tuple[np.ndarray, np.ndarray]] = start_shards(
        make_shard, gallery.parts, share_of, decided
    )
    logger.info("ray: %d shards of %s people", len(shards.actors), f"{gallery.num_people:,}")
    try:
        yield partial(_ask_all, shards, k), len(shards.actors) + 1
    finally:
        shards.close()


def _ask_all(
    shards: Callable[[np.ndarray], list[tuple[np.ndarray, np.ndarray]]], k: int, probes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    answers = shards(probes)
    return merge_named([scores for scores, _ in answers], [names for _, names in answers], k)
