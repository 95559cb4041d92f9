"""How well embeddings tell whether two pictures are of one person, over all of their pairs.

What a training watches; `jobs.evaluate` judges a finished run, with folds and confidence.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64

NUM_BINS = 1 << 14
"""of cosines from -1 to 1: a threshold is true to 1.2e-4"""
BLOCK_ROWS = 512
FAR = 0.01
"""at which the share of genuine pairs accepted is given"""


def verification(
    embeddings: Float32[np.ndarray, "N E"], targets: Int64[np.ndarray, " N"]
) -> dict[str, float]:
    """Figures of all N (N - 1) / 2 pairs of unit vectors by their cosine; targets name the person.

    accuracy  mean of the shares of genuine and of impostor pairs that are judged rightly, the
              threshold chosen on the pairs of one half of the people and used on the other's, both
              ways; 0.5 is chance. NaN where a half has no pair of either kind
    eer       the error rate at which as many genuine as impostor pairs are misjudged
    tar       share of genuine pairs accepted where at most 1 % of the impostor pairs are

    All are NaN without a pair of each kind. Memory is that of a block, whatever N is.
    """
    people = np.unique(targets, return_inverse=True)[1].reshape(-1)
    counts = _counts(embeddings, people)
    genuine, impostor = counts[:, 1], counts[:, 0]
    accept, mistaken = _shares(genuine.sum(axis=0)), _shares(impostor.sum(axis=0))
    found = {"accuracy": _split_accuracy(genuine, impostor), "eer": np.nan, "tar": np.nan}
    if not np.isnan(accept + mistaken).any():
        nearest = np.abs(1 - accept - mistaken).argmin()
        found["eer"] = float((1 - accept[nearest] + mistaken[nearest]) / 2)
        found["tar"] = float(accept[mistaken <= FAR].max())
    return found


def _counts(
    embeddings: Float32[np.ndarray, "N E"], people: Int64[np.ndarray, " N"]
) -> Int64[np.ndarray, "3 2 bins"]:
    """Pairs by half of the people (2: one of each), by whether they are genuine, by cosine."""
    total = np.zeros(3 * 2 * NUM_BINS, np.int64)
    half = people % 2
    for first in range(0, len(embeddings), BLOCK_ROWS):
        rows = np.arange(first, min(first + BLOCK_ROWS, len(embeddings)))
        scores = embeddings[rows] @ embeddings[first:].T
        bins = ((scores + 1) * (NUM_BINS / 2)).astype(np.int64).clip(0, NUM_BINS - 1)
        same = people[rows, None] == people[first:]
        side = np.where(half[rows, None] == half[first:], half[rows, None], 2)
        later = rows[:, None] < np.arange(first, len(embeddings))
        code = (side * 2 + same) * NUM_BINS + bins
        total += np.bincount(code[later], minlength=len(total))
    return total.reshape(3, 2, NUM_BINS)


def _shares(counts: Int64[np.ndarray, " bins"]) -> Float64[np.ndarray, " thresholds"]:
    """Share of pairs at or above the lower edge of each bin, and above all; NaN without pairs."""
    above = np.append(counts[::-1].cumsum()[::-1], 0)
    return above / above[0] if above[0] else np.full(len(above), np.nan)


def _split_accuracy(
    genuine: Int64[np.ndarray, "3 bins"], impostor: Int64[np.ndarray, "3 bins"]
) -> float:
    balanced = [(_shares(genuine[k]) + 1 - _shares(impostor[k])) / 2 for k in (0, 1)]
    if any(np.isnan(each).any() for each in balanced):
        return float("nan")
    chosen = [_middle_of_best(each) for each in balanced]
    return float((balanced[0][chosen[1]] + balanced[1][chosen[0]]) / 2)


def _middle_of_best(values: Float64[np.ndarray, " thresholds"]) -> int:
    best = np.flatnonzero(values == values.max())
    return int(best[len(best) // 2])
