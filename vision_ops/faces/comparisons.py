"""Comparisons of many faces with many, a block at a time: scores never stand in memory at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from vision_ops.metrics.identification import search

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`scores(a, b)`: float32 (P, E), (G, E) -> float32 (P, G), higher is more alike"""

ROWS, COLUMNS = 1024, 2048
SEARCH_CELLS = 2_000_000


def cosine(
    a: Float32[np.ndarray, "P E"], b: Float32[np.ndarray, "G E"]
) -> Float32[np.ndarray, "P G"]:
    """Cosine similarity of embeddings of unit L2 norm; 1 is the same."""
    return a @ b.T


class Compared(NamedTuple):
    """Pairs of faces and how alike they are; each pair of two faces comes once in all."""

    a: Int64[np.ndarray, " B"]
    b: Int64[np.ndarray, " B"]
    scores: Float32[np.ndarray, " B"]


def genuine_pairs(
    embeddings: Float32[np.ndarray, "F E"], people: Int[np.ndarray, " F"], scores: Scorer
) -> Iterator[Compared]:
    """All pairs of faces of one person."""
    order = np.argsort(people, kind="stable")
    starts = np.flatnonzero(np.diff(people[order], prepend=-1))
    for members in np.split(order, starts[1:]):
        if len(members) > 1:
            yield from _pairs(embeddings, members, len(members), scores, lambda a, b: None)


def impostor_pairs(
    embeddings: Float32[np.ndarray, "F E"],
    people: Int[np.ndarray, " F"],
    scores: Scorer,
    max_pairs: int,
) -> Iterator[Compared]:
    """All pairs of faces of two people; beyond about `max_pairs`, those of every face with a
    part of the others, drawn once and always the same.
    """
    order = np.random.default_rng(0).permutation(len(people))
    columns = num_columns(len(people), max_pairs)
    if columns == len(people):
        order = np.arange(len(people))
    yield from _pairs(
        embeddings, order, columns, scores, lambda a, b: people[a][:, None] != people[b][None]
    )


def num_columns(num_faces: int, max_pairs: int) -> int:
    """How many faces all others are held against: all of them, or what `max_pairs` allows."""
    if num_faces * (num_faces - 1) // 2 <= max_pairs:
        return num_faces
    return max(1, min(num_faces, max_pairs // num_faces))


def _pairs(
    embeddings: np.ndarray,
    order: np.ndarray,
    columns: int,
    scores: Scorer,
    wanted: Callable[[np.ndarray, np.ndarray], Bool[np.ndarray, "R C"] | None],
) -> Iterator[Compared]:
    """Pairs (a, b) of `order`, b before a and among the first `columns`, where `wanted`."""
    for start in range(0, len(order), ROWS):
        a = order[start : start + ROWS]
        for left in range(0, min(start + len(a), columns), COLUMNS):
            b = order[left : min(left + COLUMNS, columns, start + len(a))]
            found = scores(embeddings[a], embeddings[b])
            mask = wanted(a, b)
            if left + len(b) > start:  # the diagonal
                later = np.arange(start, start + len(a))[:, None] > np.arange(left, left + len(b))
                mask = later if mask is None else mask & later
            if mask is None:
                mask = np.ones(found.shape, bool)
            rows, places = np.nonzero(mask)
            yield Compared(a[rows], b[places], found[mask])


class Searched(NamedTuple):
    """Probes held against a gallery of one face a person."""

    probes: Int64[np.ndarray, " P"]
    own: Float32[np.ndarray, " P"]
    """score of the probe's own person; NEVER where the gallery's face is the probe itself"""
    rank: Int64[np.ndarray, " P"]
    """of its own person, from 1; meaningless where `own` is NEVER"""
    others: Float32[np.ndarray, "P M"]
    """scores of all other people of the gallery"""


def searches(
    embeddings: Float32[np.ndarray, "F E"],
    people: Int[np.ndarray, " F"],
    gallery: Int[np.ndarray, " N"],
    probes: Int[np.ndarray, " Q"],
    scores: Scorer,
) -> Iterator[Searched]:
    """Hold probes against a gallery, each with and without its own person.

    gallery  int (N,)  the face of person k at place k
    probes   int (Q,)  faces
    """
    num_rows = max(1, SEARCH_CELLS // max(len(gallery), 1))
    for start in range(0, len(probes), num_rows):
        block = probes[start : start + num_rows]
        found = scores(embeddings[block], embeddings[gallery])
        own = people[block]
        mine, rank, _ = search(found, own)
        itself = gallery[own] == block
        mine = np.where(itself, np.float32(-np.inf), mine)
        yield Searched(block, mine, rank, _of_others(found, own))


def strangers(
    embeddings: Float32[np.ndarray, "F E"],
    people: Int[np.ndarray, " F"],
    templates: Float32[np.ndarray, "N E"],
    probes: Int[np.ndarray, " Q"],
    scores: Scorer,
) -> Iterator[tuple[Int64[np.ndarray, " P"], Float32[np.ndarray, "P M"]]]:
    """Probes, and their scores with all other people of a gallery.

    templates  (N, E)    what stands for person k at place k
    probes     int (Q,)  faces
    """
    num_rows = max(1, SEARCH_CELLS // max(len(templates), 1))
    for start in range(0, len(probes), num_rows):
        block = probes[start : start + num_rows]
        yield block, _of_others(scores(embeddings[block], templates), people[block])


def _of_others(
    scores: Float32[np.ndarray, "P N"], own: Int[np.ndarray, " P"]
) -> Float32[np.ndarray, "P M"]:
    """Without the column of each probe's own person."""
    return scores[np.arange(scores.shape[1]) != own[:, None]].reshape(len(scores), -1)


class Hardest:
    """The pairs of highest (sign 1) or lowest (sign -1) score, each face at most once."""

    def __init__(self, num: int, sign: int) -> None:
        self.num, self.sign = num, sign
        self.kept: list[tuple[float, int, int]] = []
        self.bound = -np.inf

    def update(self, pairs: Compared) -> None:
        """Add pairs."""
        many = self.num * 16  # one picture may be in many of them
        order = self.sign * pairs.scores
        near = np.flatnonzero(order > self.bound)
        if len(near) > many:
            near = near[np.argpartition(-order[near], many)[:many]]
        fresh = zip(order[near], pairs.a[near], pairs.b[near], strict=True)
        self.kept += [(float(score), int(a), int(b)) for score, a, b in fresh]
        self.kept.sort(key=lambda pair: (-pair[0], pair[1:]))
        if len(self.kept) >= many:
            del self.kept[many:]
            self.bound = self.kept[-1][0]

    def rows(self) -> Sequence[tuple[float, int, int]]:
        """Score and the two faces, the most extreme first."""
        seen: set[int] = set()
        rows = []
        for score, a, b in self.kept:
            if not {a, b} & seen and len(rows) < self.num:
                seen |= {a, b}
                rows.append((self.sign * score, a, b))
        return rows
