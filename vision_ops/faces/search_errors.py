"""How often a search finds somebody where it should find nobody, by size of the gallery.

FPIR(N) = 1 - (1 - FMR)^N holds where every probe meets galleries alike. Faces do not: some are
like many others ("wolves", Doddington et al. 1998), and their alarms come together, so that the
formula is wrong by several times. What does hold: given the probe, the people of a gallery are
drawn independently, hence

    FPIR(N, t) = mean over probes of 1 - (1 - S_p(t))^N,    S_p(t) = share of people at or above t.

S_p is estimated for each probe. While N is a fifth of the people or fewer, the mean over all
galleries of N of them is computed exactly, from the order statistics of each probe's scores.
Beyond, the upper tail of each probe is its own level (its 16th highest score), a scale that depends
linearly on the level, and one shape that all share: the excesses over their level in units of
their scale, pooled over all probes, with a generalised Pareto tail (Pickands 1975) where
they end. Scores of 0..1, which crowd below 1, are told by the logarithm of
their odds meanwhile. `python -m tests.benchmarks.calibration` prints what that gives on held-out
galleries.
"""

import numpy as np
from jaxtyping import Float, Float64
from scipy.special import expit, gammaln, logit

from vision_ops.metrics.scores import ScoreGrid

TAIL = 16
"""highest scores of a probe that tell its tail"""
EXACT_PART = 5
"""galleries of up to a fifth of the people: exact; above: by tails"""
REACH = 10
"""galleries up to so many times the people"""
LEAST_EVENTS = 10
"""people whose searches alarm, and comparisons that do: with fewer of either a rate is not told"""
PER_DECADE = 4
PARTS = (1, 0.7, 0.5, 0.3, 0.2, 0.15)
GRID_BITS = 14
PARETO_PART = 0.01
LEAST_PARETO = 200
LEAST_ODDS = 2.0**-24
RESOLUTION = 2.0**-22
"""of thresholds: a quarter of a step of the finest grid of cosines"""


class SearchErrors:
    """Gathers searches by people who are not in the gallery; memory does not grow with its size.

    Every person weighs the same however many faces were searched for.
    """

    def __init__(self, grid: ScoreGrid, num_gallery: int) -> None:
        """`num_gallery`: people whom each probe is held against, without its own person."""
        self.grid = grid.coarser(min(grid.step_bits, GRID_BITS))
        self.num_gallery = num_gallery
        self.exact = sizes(max(1, num_gallery // EXACT_PART)) if num_gallery else []
        self.counts: Float64[np.ndarray, "N V"] = np.zeros((len(self.exact), self.grid.size))
        self._chances = [chance_of_maximum(num_gallery, size) for size in self.exact]
        self._tops: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []
        self.num_people = 0.0

    def update(self, scores: Float[np.ndarray, "P M"], weights: Float[np.ndarray, " P"]) -> None:
        """Add probes.

        scores   (P, M)  of each probe against each person of the gallery, its own left out
        weights  (P,)    1 / number of probes of its person
        """
        if scores.shape[1] != self.num_gallery:
            raise ValueError(f"scores: {scores.shape}, the gallery has {self.num_gallery} people")
        falling = -np.sort(-scores, axis=1)
        places = self.grid.index(falling)
        for counts, chances in zip(self.counts, self._chances, strict=True):
            used = places[:, : len(chances)]
            shares = weights[:, None] * chances
            counts += np.bincount(used.ravel(), shares.ravel(), minlength=len(counts))
        self._tops.append(falling[:, : TAIL + 1].astype(np.float32))
        self._weights.append(np.asarray(weights, np.float64))
        self.num_people += float(np.sum(weights))

    def tables(self) -> dict[int, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Rates, falling, and their thresholds, rising, by gallery size.

        A rate is told where 10 people would alarm at it, and where 10 of all comparisons would;
        galleries of more than ten times the people are not. Empty for fewer than 20 people.
        """
        found: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {}
        if not self.num_gallery or not self.num_people:
            return found
        before: list[float] = []
        tails = self._tails()
        reached = sizes(self.num_gallery * REACH if tails else self.exact[-1])
        for size in sorted({*reached, self.num_gallery} if tails else reached):
            # alarms of so many people, and at so many of all comparisons
            least = LEAST_EVENTS / self.num_people * max(1.0, size / self.num_gallery)
            if not (wanted := rates(least)):
                break
            if size in self.exact:
                thresholds = self._exact_thresholds(self.exact.index(size), wanted)
            else:
                assert tails is not None
                thresholds = self._bounded(tails.thresholds(size, wanted))
            if before:  # more people, more alarms
                thresholds = [max(pair) for pair in zip(thresholds, before, strict=False)]
            before = np.maximum.accumulate(thresholds).tolist()
            found[size] = (tuple(wanted), tuple(before))
        return found

    def _exact_thresholds(self, place: int, wanted: list[float]) -> list[float]:
        above = np.cumsum(self.counts[place][::-1])[::-1] / self.num_people
        # sums of shares: a rate is reached within their rounding
        indices = [np.searchsorted(-above, -rate - 1e-9) for rate in wanted]
        return [float(self.grid.threshold(max(1, int(index)))) for index in indices]

    def _tails(self) -> "Tails | None":
        """None where there are not enough people for a tail."""
        if self.num_gallery <= TAIL * 2:
            return None
        tops, weights = np.concatenate(self._tops), np.concatenate(self._weights)
        tops = tops.astype(np.float64)
        return Tails(_log_odds(tops) if self.has_odds else tops, weights, self.num_gallery)

    @property
    def has_odds(self) -> bool:
        """Whether scores are of 0..1, as probabilities are."""
        return (self.grid.low, self.grid.high) == (0.0, 1.0)

    def _bounded(self, thresholds: list[float]) -> list[float]:
        return expit(thresholds).tolist() if self.has_odds else thresholds


def _log_odds(scores: Float64[np.ndarray, "P K"]) -> Float64[np.ndarray, "P K"]:
    """Of scores 0..1, which stay as far from both as float32 can tell."""
    return logit(scores.clip(LEAST_ODDS, 1 - LEAST_ODDS))


class Tails:
    """The upper tails of all probes: a level and a scale for each, one shape for all."""

    def __init__(
        self,
        tops: Float64[np.ndarray, "P K"],
        weights: Float64[np.ndarray, " P"],
        num_gallery: int,
    ) -> None:
        """tops (P, TAIL + 1): highest scores of each probe among `num_gallery` people, falling."""
        order = np.argsort(tops[:, TAIL], kind="stable")  # neighbours look up what is near
        tops, weights = tops[order], weights[order]
        self.weights = weights / weights.sum()
        self.share = TAIL / num_gallery
        self.level = tops[:, TAIL]
        excess = tops[:, :TAIL] - self.level[:, None]
        mean = excess.mean(axis=1)
        whole = float(self.weights @ mean)
        self.scale = np.full(len(tops), max(whole, 1e-9))
        spread = self.level - self.weights @ self.level
        if (variance := float(self.weights @ spread**2)) > 1e-12:
            slope = float(self.weights @ (spread * mean)) / variance
            self.scale = np.maximum(whole + slope * spread, max(0.2 * whole, 1e-9))
        self.shape = _Shape((excess / self.scale[:, None]).ravel(), np.repeat(self.weights, TAIL))

    def rate(self, size: int, threshold: float) -> float:
        """Share of probes that alarm in a gallery of `size` people, in the mean over galleries."""
        places = (threshold - self.level) / self.scale
        # a probe whose level is above the threshold alarms in nearly every gallery this large
        below = np.exp(np.minimum(-places, 50.0))
        share = self.share * np.where(places >= 0, self.shape.above(places), below)
        with np.errstate(divide="ignore"):
            missed = np.exp(size * np.log1p(-np.minimum(share, 1.0)))
        return float(self.weights @ (1 - missed))

    def thresholds(self, size: int, wanted: list[float]) -> list[float]:
        """Threshold of each rate, rates falling, by bisection to RESOLUTION."""
        low, found = float(self.level.min()), []
        top = float((self.level + self.scale * 200).max())
        for rate in wanted:
            high = top
            while high - low > RESOLUTION:
                middle = (low + high) / 2
                low, high = (middle, high) if self.rate(size, middle) > rate else (low, middle)
            found.append(high)
        return found


class _Shape:
    """Survival function of excesses: of those seen, and a generalised Pareto tail of the last."""

    def __init__(self, excess: Float64[np.ndarray, " E"], weights: Float64[np.ndarray, " E"]):
        order = np.argsort(excess)
        self.seen = excess[order]
        self.rest = np.cumsum(weights[order][::-1])[::-1] / weights.sum()
        self.at_least = np.append(self.rest, 0.0)
        effective = weights.sum() ** 2 / (weights**2).sum()  # Kish's size of a weighted sample
        part = min(max(LEAST_PARETO / effective, PARETO_PART), 0.5)
        last = int(np.searchsorted(-self.rest, -part))
        self.start, self.share = float(self.seen[last]), float(self.rest[last])
        over, shares = self.seen[last:] - self.start, weights[order][last:]
        mean = float(np.average(over, weights=shares))
        variance = float(np.average((over - mean) ** 2, weights=shares))
        # by moments (Hosking & Wallis 1987); similarities are bounded: the tail never is heavy
        self.bend = 0.5 * (1 - mean**2 / variance) if variance > 0 else 0.0
        self.bend = min(max(self.bend, -0.5), 0.0)
        self.width = max(mean * (1 - self.bend), 1e-9)

    def above(self, excess: Float64[np.ndarray, " P"]) -> Float64[np.ndarray, " P"]:
        """Share of excesses at or above each value."""
        seen = self.at_least[np.searchsorted(self.seen, excess)]
        over = np.maximum(excess - self.start, 0) / self.width
        if self.bend == 0:
            tail = np.exp(-over)
        else:
            tail = np.maximum(1 + self.bend * over, 0) ** (-1 / self.bend)
        return np.where(excess > self.start, self.share * tail, seen)


def chance_of_maximum(num: int, size: int) -> Float64[np.ndarray, " J"]:
    """Chance that the j-th highest of `num` scores (j from 1) is the highest of `size` of them.

    C(num - j, size - 1) / C(num, size), over all choices without repetition; ends where what is
    left is below 1e-9.
    """
    j = np.arange(1, num - size + 2)
    logs = gammaln(num - j + 1) - gammaln(size) - gammaln(num - j - size + 2)
    logs -= gammaln(num + 1) - gammaln(size + 1) - gammaln(num - size + 1)
    chances = np.exp(logs)
    return chances[: int(np.searchsorted(np.cumsum(chances), 1 - 1e-9)) + 1]


def sizes(most: int) -> list[int]:
    """Gallery sizes from 1 to `most`, four a decade."""
    steps = int(np.floor(PER_DECADE * np.log10(most) + 1e-9)) + 1
    return sorted({round(10 ** (k / PER_DECADE)) for k in range(steps)} | {most})


def rates(least: float) -> list[float]:
    """Rates from 0.5 down to `least`: 1, 0.7, 0.5, 0.3, 0.2 and 0.15 of each power of ten."""
    decades = range(int(np.ceil(-np.log10(least) + 1e-9)) + 1)
    found = [float(f"{part}e-{decade}") for decade in decades for part in PARTS]
    return [rate for rate in found if least * (1 - 1e-9) <= rate <= 0.5]
