"""Exact search: the nearest of a gallery to each probe, and all neighbours within a set.

Scores are first had by blocked float32 matrix products, which round by an amount that depends on
the shapes, the library and the machine. That error has a bound; whatever the bound leaves in doubt
is scored again in float64. So the answers do not depend on blocks, threads or shards, and equal
those of a plain loop, ties included: equal scores go by place, the first one first.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int64
from scipy.sparse import csr_matrix

PROBE_ROWS, GALLERY_ROWS = 256, 4096
"""rows of one matrix product: 4 MB of scores"""
PAIRS_AT_ONCE = 4096
"""scored again in float64 at a time: 16 MB of each side at 512 numbers"""
HALF_ULP = 2.0**-24
"""of float32 between 0.5 and 1: what rounding a score in 0..1 moves it at most"""


@runtime_checkable
class Scorer(Protocol):
    """How alike two embeddings are; higher is more alike."""

    def block(
        self, probes: Float[np.ndarray, "P E"], gallery: Float[np.ndarray, "G E"]
    ) -> Float[np.ndarray, "P G"]:
        """Score of every probe with everyone, in the precision of what is given."""
        ...

    def pairs(
        self, first: Float[np.ndarray, "N E"], second: Float[np.ndarray, "N E"]
    ) -> Float[np.ndarray, "N"]:
        """Score of each row with the row beside it, computed in float64."""
        ...

    def margin(self, size: int) -> float:
        """How far `block` of float32 may be from `pairs` rounded to float32, at the most."""
        ...


class Cosine:
    """The cosine of two embeddings of norm 1: their dot product, -1..1."""

    def block(
        self, probes: Float[np.ndarray, "P E"], gallery: Float[np.ndarray, "G E"]
    ) -> Float[np.ndarray, "P G"]:
        """Dot products."""
        return probes @ gallery.T

    def pairs(
        self, first: Float[np.ndarray, "N E"], second: Float[np.ndarray, "N E"]
    ) -> Float[np.ndarray, "N"]:
        """Dot products of rows; two equal rows score 1 at the most."""
        dots = np.einsum("ne,ne->n", first.astype(np.float64), second.astype(np.float64))
        return np.clip(dots, -1.0, 1.0)

    def margin(self, size: int) -> float:
        """A sum of `size` rounded products, whatever its order, errs by size / 2^24 at the most.

        Higham 2002, section 3.1, for vectors of norm 1; a thousandth more for norms near 1.
        """
        return 1.001 * size * HALF_ULP + 2 * HALF_ULP


COSINE = Cosine()


class Nearest(NamedTuple):
    """The best of a gallery for each probe, best first."""

    scores: Float32[np.ndarray, "P k"]
    places: Int64[np.ndarray, "P k"]
    """row of the gallery"""


def nearest(
    probes: Float32[np.ndarray, "P E"],
    gallery: Float32[np.ndarray, "G E"],
    k: int,
    scorer: Scorer = COSINE,
) -> Nearest:
    """The k of highest score for each probe; of equal scores, rounded to float32, the first rows.

    k is cut to the size of the gallery. Memory: one block of scores, and what is in doubt of it.
    Raises ValueError for k below 1.
    """
    if k < 1:
        raise ValueError(f"k: {k}, must be at least 1")
    k = min(k, len(gallery))
    if not len(probes) or not k:
        return Nearest(np.zeros((len(probes), k), np.float32), np.zeros((len(probes), k), np.int64))
    starts = range(0, len(probes), PROBE_ROWS)
    found = [_nearest(probes[i : i + PROBE_ROWS], gallery, k, scorer) for i in starts]
    return Nearest(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _nearest(probes: np.ndarray, gallery: np.ndarray, k: int, scorer: Scorer) -> Nearest:
    margin = scorer.margin(probes.shape[1])
    best = Nearest(
        np.full((len(probes), k), -np.inf, np.float32), np.full((len(probes), k), -1, np.int64)
    )
    for start in range(0, len(gallery), GALLERY_ROWS):
        block = gallery[start : start + GALLERY_ROWS]
        rough = scorer.block(probes, block)
        bound = best.scores[:, -1] - margin
        if start == 0 and len(block) > k:
            bound = np.partition(rough, len(block) - k, axis=1)[:, len(block) - k] - 2 * margin
        # flat: twice as fast as np.nonzero of two axes
        row, column = np.divmod(
            np.flatnonzero(rough >= bound[:, None].astype(np.float32)), len(block)
        )
        if len(row):
            exact = score_pairs(probes, block, row, column, scorer)
            best = _merged(best, row, column + start, exact)
    return best


def score_pairs(
    first: Float32[np.ndarray, "N E"],
    second: Float32[np.ndarray, "M E"],
    rows: Int64[np.ndarray, "n"],
    columns: Int64[np.ndarray, "n"],
    scorer: Scorer = COSINE,
) -> Float32[np.ndarray, "n"]:
    """Scores of chosen pairs, computed in float64, whatever else is asked beside them."""
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        scores[some] = scorer.pairs(first[rows[some]], second[columns[some]])
    return scores


def _merged(best: Nearest, row: np.ndarray, index: np.ndarray, scores: np.ndarray) -> Nearest:
    """The best of what was best and of candidates that come behind it in the gallery."""
    num, k = best.scores.shape
    rows = np.concatenate([np.repeat(np.arange(num), k), row])
    all_scores = np.concatenate([best.scores.ravel(), scores])
    all_places = np.concatenate([best.places.ravel(), index])
    order = np.lexsort((all_places, -all_scores, rows))
    first = np.searchsorted(rows[order], np.arange(num))
    kept = order[first[:, None] + np.arange(k)]
    return Nearest(all_scores[kept], all_places[kept])


def merge_named(
    scores: Sequence[np.ndarray], names: Sequence[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best of several shards' answers, each (P, its k): float32 scores and str names.

    Equal scores go by name, so it does not matter which shard held whom, nor how many there were.
    Returns scores float32 and names (object), both (P, min(k, all columns)).
    """
    all_scores = np.concatenate(list(scores), axis=1)
    all_names = np.concatenate([each.astype(object) for each in names], axis=1)
    num, width = all_scores.shape
    _, ranks = np.unique(all_names.ravel(), return_inverse=True)
    rows = np.repeat(np.arange(num), width)
    order = np.lexsort((ranks, -all_scores.ravel(), rows))
    kept = order.reshape(num, width)[:, :k]
    return all_scores.ravel()[kept], all_names.ravel()[kept]


def neighbours(
    embeddings: Float32[np.ndarray, "N E"], threshold: float, scorer: Scorer = COSINE
) -> csr_matrix:
    """All pairs of a set that score `threshold` and more, as a symmetric sparse matrix of scores.

    Float32 (N, N) without its diagonal; memory grows with the number of such pairs.
    """
    margin = scorer.margin(embeddings.shape[1])
    pairs = [*_above(embeddings, np.float32(threshold - margin), scorer)]
    rows = np.concatenate([np.zeros(0, np.int64), *(row for row, _ in pairs)])
    columns = np.concatenate([np.zeros(0, np.int64), *(column for _, column in pairs)])
    scores = score_pairs(embeddings, embeddings, rows, columns, scorer)
    kept = scores >= np.float32(threshold)
    rows, columns, scores = rows[kept], columns[kept], scores[kept]
    both = np.concatenate([rows, columns]), np.concatenate([columns, rows])
    shape = (len(embeddings), len(embeddings))
    return csr_matrix((np.concatenate([scores, scores]), both), shape=shape)


def _above(
    embeddings: np.ndarray, bound: np.float32, scorer: Scorer
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places (row, column), row below column, whose rough score reaches the bound."""
    count = len(embeddings)
    for top in range(0, count, PROBE_ROWS):
        some = embeddings[top : top + PROBE_ROWS]
        for left in range(top - top % GALLERY_ROWS, count, GALLERY_ROWS):
            rough = scorer.block(some, embeddings[left : left + GALLERY_ROWS])
            row, column = np.nonzero(rough >= bound)
            row, column = row + top, column + left
            yield row[row < column], column[row < column]
