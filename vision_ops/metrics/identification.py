"""How well probes find their person in a gallery: identification, 1:N, closed and open set.

Closed set: every probe's person is in the gallery; CMC(k) is the share of probes whose person is
among the k most alike. Open set (Grother & Phillips 2004, "Models of large population recognition
performance"): some probes' people are not there. FPIR (false positive identification rate) is the
share of those for whom anybody reaches the threshold, TPIR (also DIR, detection and
identification rate) the share of the others whose own person is the most alike and reaches it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from vision_ops.metrics.scores import (
    COSINE,
    NEVER,
    ScoreGrid,
    at_or_above,
    count_into,
    lowest_index,
)

FALSE_POSITIVE_RATES = (1e-1, 3e-2, 1e-2, 1e-3)
MAX_RANK = 50


@dataclass(frozen=True, kw_only=True)
class OpenSetPoint:
    """What a threshold does that was chosen for a false positive identification rate."""

    target_fpir: float
    threshold: float
    """the smallest on the grid whose FPIR is at most the target"""
    fpir: float
    """achieved, on these probes"""
    tpir: float
    num_unknown: int
    """searches by people who are not in the gallery"""
    insufficient: bool
    """fewer than 1 / target such searches: the data cannot say"""


@dataclass(frozen=True, kw_only=True)
class IdentificationResult:
    """The numbers of a set of searches."""

    num_known: int
    """searches by people who are in the gallery"""
    num_unknown: int
    cmc: Float64[np.ndarray, " K"]
    """share of known probes found among the 1, 2, … most alike people"""
    points: tuple[OpenSetPoint, ...]
    """empty where there is no unknown probe"""

    def rank(self, k: int) -> float:
        """Share of known probes whose person is among the k most alike."""
        return float(self.cmc[min(k, len(self.cmc)) - 1])


class IdentificationAccumulator:
    """Counts searches; `update` in any pieces gives one result."""

    def __init__(self, grid: ScoreGrid = COSINE, max_rank: int = MAX_RANK) -> None:
        self.grid = grid
        self.ranks: Int64[np.ndarray, " R"] = np.zeros(max_rank + 2, np.int64)
        """searches by rank; the last is of all beyond, those without a face among them"""
        self.first: Int64[np.ndarray, " V"] = np.zeros(grid.size, np.int64)
        """own scores of known probes that are at rank 1, by score"""
        self.unknown: Int64[np.ndarray, " V"] = np.zeros(grid.size, np.int64)
        """highest scores of unknown probes"""

    def add_known(self, own: Float[np.ndarray, " P"], rank: Int[np.ndarray, " P"]) -> None:
        """Searches by people of the gallery: the score of their own, and its rank from 1 on."""
        if len(rank) and rank.min() < 1:
            raise ValueError(f"rank {rank.min()}: the most alike is at rank 1")
        count_into(self.ranks, rank.clip(max=len(self.ranks) - 1).astype(np.int64))
        count_into(self.first, self.grid.index(own[rank == 1]))

    def add_unknown(self, highest: Float[np.ndarray, " P"]) -> None:
        """Searches by people who are not in the gallery: the score of the most alike of it."""
        count_into(self.unknown, self.grid.index(highest))

    def add_failed(self, num_known: int, num_unknown: int) -> None:
        """Searches that could not be made: no face was found. They find and alarm nobody."""
        self.ranks[-1] += num_known
        self.unknown[0] += num_unknown

    def result(self, rates: Sequence[float] = FALSE_POSITIVE_RATES) -> IdentificationResult:
        """The numbers. ValueError where no probe's person is in the gallery."""
        num_known, num_unknown = int(self.ranks.sum()), int(self.unknown.sum())
        if not num_known:
            raise ValueError("identification: no probe is of a person of the gallery")
        return IdentificationResult(
            num_known=num_known,
            num_unknown=num_unknown,
            cmc=np.cumsum(self.ranks[1:-1]) / num_known,
            points=tuple(self._points(rates, num_known)) if num_unknown else (),
        )

    def _points(self, rates: Sequence[float], num_known: int) -> Iterator[OpenSetPoint]:
        alarms, hits = at_or_above(self.unknown), at_or_above(self.first)
        for rate in rates:
            index = lowest_index(alarms, rate)
            inside = index < self.grid.size
            yield OpenSetPoint(
                target_fpir=rate,
                threshold=float(self.grid.threshold(index)),
                fpir=float(alarms[index] / alarms[0]) if inside else 0.0,
                tpir=float(hits[index] / num_known) if inside else 0.0,
                num_unknown=int(alarms[0]),
                insufficient=bool(alarms[0] * rate * (1 + 1e-12) < 1),
            )


def search(
    scores: Float[np.ndarray, "P G"], own: Int[np.ndarray, " P"]
) -> tuple[Float[np.ndarray, " P"], Int64[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Score of each probe's own person, its rank, and the highest score of anybody else.

    scores  (P, G)  how alike probe and each person of the gallery are; one column a person
    own     (P,)    column of the probe's person; -1: not in the gallery
    Where own is -1, the first is NEVER and the rank G + 1. Ties count against the probe: its person
    stands behind all who score the same.
    """
    rows, there = np.arange(len(scores)), own >= 0
    mine = np.where(there, scores[rows, own], NEVER).astype(scores.dtype)
    others = scores.copy()
    others[rows[there], own[there]] = NEVER
    ahead = (others >= mine[:, None]).sum(axis=1)
    rank = np.where(there, ahead + 1, scores.shape[1] + 1)
    return mine, rank, others.max(axis=1, initial=NEVER)
