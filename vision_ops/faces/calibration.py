"""What a similarity means: thresholds for wanted error rates, and the probability of one person.

A calibration belongs to one embedder and one head of similarity. It holds thresholds of
verification (1:1) by FAR, those of identification (1:N) by FPIR, the size of the gallery and the
faces that its templates are of, and the probability of one person by score, fitted by isotonic
regression. What the data could not say is refused by the word "insufficient", never guessed.
Light: no torch.

Why the faces of a template matter: the mean of m embeddings p + e_i / sqrt(E), p of a person and
e_i of a picture, is as long as sqrt(|p|^2 + |e|^2 / m). Brought to length 1 again, templates of
more faces lie closer to their people, and a stranger's highest score among them grows by as much
as that of their own. The length depends on 1 / m: thresholds are linear in it between what is
known, and a gallery of people with few faces and with many counts as one of their harmonic mean.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from sklearn.isotonic import IsotonicRegression

from vision_ops.faces.search_errors import SearchErrors, rates
from vision_ops.metrics.scores import ScoreGrid, at_or_above, lowest_index

NUM_KNOTS = 200
NUM_LEVELS = 4096
"""steps of score that the isotonic regression sees"""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Thresholds by rate, for one kind of comparison."""

    rates: tuple[float, ...]
    """falling; below the last the data cannot say"""
    thresholds: tuple[float, ...]
    """rising"""

    def tells(self, rate: float) -> bool:
        """Whether the data can speak for a rate."""
        return rate >= self.rates[-1] * (1 - 1e-9)

    def at(self, rate: float) -> float:
        """Threshold of a rate, linear in its logarithm between those that are known."""
        known = np.log(self.rates[::-1])
        return float(np.interp(np.log(rate), known, self.thresholds[::-1]))


@dataclass(frozen=True, kw_only=True)
class SearchThresholds:
    """Thresholds of identification in galleries whose templates are of so many faces."""

    faces_per_person: float
    """harmonic mean over the people of the gallery"""
    gallery_sizes: tuple[int, ...]
    """rising"""
    thresholds: tuple[Thresholds, ...]
    """by gallery size"""

    def least(self, gallery_size: int) -> float:
        """The least FPIR that can be told for a gallery of so many people; 1: none."""
        bound = int(np.searchsorted(self.gallery_sizes, gallery_size))
        return self.thresholds[bound].rates[-1] if bound < len(self.thresholds) else 1.0

    def tells(self, fpir: float, gallery_size: int) -> bool:
        """Whether the data can speak for a rate at a size."""
        bound = int(np.searchsorted(self.gallery_sizes, gallery_size))
        return bound < len(self.thresholds) and self.thresholds[bound].tells(fpir)

    def at(self, fpir: float, gallery_size: int) -> float:
        """Threshold of a rate that can be told, linear in the logarithm of the size."""
        bound = int(np.searchsorted(self.gallery_sizes, gallery_size))
        around = range(max(bound - 1, 0), bound + 1)
        known = np.log([self.gallery_sizes[k] for k in around])
        found = [self.thresholds[k].at(fpir) for k in around]
        return float(np.interp(np.log(gallery_size), known, found))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds and probabilities of one embedder's similarities."""

    embedder: str
    """sha256:… of the embedder's checkpoint, as the results of embed_faces name it"""
    head: str = "cosine"
    """kind of similarity"""
    head_sha256: str = ""
    """of the head's file; empty for a head without weights"""
    num_people: int
    num_genuine: int
    num_impostor: int
    """comparisons that it was made from"""
    num_searched: int
    """people whose faces were looked for in a gallery without them"""
    far: Thresholds
    searches: tuple[SearchThresholds, ...]
    """by faces of a template, rising from 1 on; empty where too few people were searched"""
    scores: tuple[float, ...]
    """knots of the probability, rising"""
    probabilities: tuple[float, ...]
    """that a pair shows one person, if half of all pairs do; linear between the knots"""

    def threshold_for_far(self, far: float) -> float:
        """Lowest similarity that is accepted, so that `far` of all impostor pairs are.

        Raises ValueError for a rate outside 0..1 and where there were fewer than 1 / far pairs.
        """
        if not 0 < far < 1:
            raise ValueError(f"far {far}: must be between 0 and 1")
        if not self.far.tells(far):
            raise ValueError(
                f"far {far:g}: insufficient: calibrated on {self.num_impostor:,} impostor pairs, "
                f"of which it takes {round(1 / far):,}"
            )
        return self.far.at(far)

    def threshold_for_fpir(
        self, fpir: float, gallery_size: int, faces_per_person: float = 1.0
    ) -> float:
        """Lowest similarity that is a match in a gallery of so many people.

        With it, somebody is found for `fpir` of the probes whose person is not in the gallery, in
        the mean over galleries of that size whose templates are of `faces_per_person` faces (the
        harmonic mean over people). Beyond `most_faces` the line of the last two is drawn on.
        Raises ValueError for impossible values, and where the data cannot say: too few people for
        that rate, or for that gallery.
        """
        if not 0 < fpir < 1 or gallery_size < 1 or not faces_per_person >= 1:
            raise ValueError(
                f"fpir {fpir}: not between 0 and 1, or gallery_size {gallery_size} or "
                f"faces_per_person {faces_per_person}: below 1"
            )
        telling = [each for each in self.searches if each.tells(fpir, gallery_size)]
        if not telling or telling[0] is not self.searches[0]:
            raise ValueError(
                f"fpir {fpir:g} in a gallery of {gallery_size:,}: insufficient: calibrated on "
                f"searches by {self.num_searched:,} people in a gallery of {self.num_people:,}; "
                f"that can tell {self.told()}"
            )
        parts = [1 / each.faces_per_person for each in telling]
        found = [each.at(fpir, gallery_size) for each in telling]
        part = 1 / faces_per_person
        if part >= parts[-1] or len(parts) == 1:
            return float(np.interp(part, parts[::-1], found[::-1]))
        slope = (found[-1] - found[-2]) / (parts[-2] - parts[-1])
        return found[-1] + max(slope, 0.0) * (parts[-1] - part)

    @property
    def most_faces(self) -> float:
        """Of a template that was calibrated; 1 where templates of several never were."""
        return self.searches[-1].faces_per_person if self.searches else 1.0

    def least_fpir(self, gallery_size: int) -> float:
        """The least FPIR that can be told for a gallery of so many people; 1: none."""
        return self.searches[0].least(gallery_size) if self.searches else 1.0

    def told(self) -> str:
        """The least FPIR that can be told by size of gallery, in words."""
        if not self.searches:
            return "none"
        one = self.searches[0]
        least = [f"{each.rates[-1]:.2g}" for each in one.thresholds]
        last = {rate: size for rate, size in zip(least, one.gallery_sizes, strict=True)}
        return ", ".join(f"{rate} up to {size:,} people" for rate, size in last.items())

    def probability(self, score: Float[np.ndarray, "*B"]) -> Float[np.ndarray, "*B"]:
        """That a pair of this similarity shows one person, 0..1, if half of all pairs do."""
        return np.interp(score, self.scores, self.probabilities)

    def to_json(self) -> bytes:
        """calibration.json."""
        return json.dumps(asdict(self), indent=1, allow_nan=False).encode()

    @classmethod
    def from_json(cls, data: bytes, name: str = "calibration") -> "Calibration":
        """From the bytes of calibration.json. ValueError names the file for what is none."""
        try:
            values = json.loads(data)
            kept: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
            }
            kept["far"] = _thresholds(values["far"])
            kept["searches"] = tuple(_searches(each) for each in values["searches"])
            return cls(**kept)
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            raise ValueError(
                f"calibration: {name}: no calibration.json of jobs.evaluate: {wrong}"
            ) from wrong


def save(calibration: Calibration, path: str | Path) -> None:
    """Write calibration.json."""
    Path(path).write_bytes(calibration.to_json())


def load(path: str | Path) -> Calibration:
    """Read calibration.json. ValueError for what is none, FileNotFoundError where none is."""
    return Calibration.from_json(Path(path).read_bytes(), str(path))


def calibrate(
    grid: ScoreGrid,
    genuine: Int64[np.ndarray, " V"],
    impostor: Int64[np.ndarray, " V"],
    searches: Mapping[float, SearchErrors],
    *,
    embedder: str,
    num_people: int,
    head: str = "cosine",
    head_sha256: str = "",
) -> Calibration:
    """A calibration from counts of scores, those of `vision_ops.metrics.verification`.

    genuine, impostor   int64 (V,)  pairs by index of `grid`; pairs that failed are left aside
    searches            of people in galleries without them, by faces of a template, rising from
                        1 on; empty: 1:1 alone
    """
    genuine, impostor = (np.concatenate([[0], counts[1:]]) for counts in (genuine, impostor))
    if not genuine.any() or not impostor.any():
        raise ValueError(
            f"calibrate: {genuine.sum():,} genuine and {impostor.sum():,} impostor pairs; both"
        )
    scores, probabilities = isotonic(grid, genuine, impostor)
    tables = {faces: errors.tables() for faces, errors in searches.items()}
    return Calibration(
        embedder=embedder,
        head=head,
        head_sha256=head_sha256,
        num_people=num_people,
        num_genuine=int(genuine.sum()),
        num_impostor=int(impostor.sum()),
        num_searched=round(next(iter(searches.values())).num_people) if searches else 0,
        far=far_thresholds(grid, impostor),
        searches=tuple(
            SearchThresholds(
                faces_per_person=faces,
                gallery_sizes=tuple(table),
                thresholds=tuple(Thresholds(rates=r, thresholds=t) for r, t in table.values()),
            )
            for faces, table in tables.items()
            if table
        ),
        scores=scores,
        probabilities=probabilities,
    )


def far_thresholds(grid: ScoreGrid, impostor: Int64[np.ndarray, " V"]) -> Thresholds:
    """Smallest thresholds whose FAR is at most each rate, down to 1 / pairs."""
    above = at_or_above(impostor)
    wanted = rates(1 / int(above[0])) or [1 / int(above[0])]
    found = [float(grid.threshold(lowest_index(above, rate))) for rate in wanted]
    return Thresholds(rates=tuple(wanted), thresholds=tuple(found))


def isotonic(
    grid: ScoreGrid, genuine: Int64[np.ndarray, " V"], impostor: Int64[np.ndarray, " V"]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots of a rising probability of one person (Zadrozny & Elkan 2002).

    Genuine and impostor pairs weigh alike in sum. No probability is nearer to 0 or 1 than half a
    pair more would have let it be.
    """
    low, high = _occupied(genuine + impostor)
    edges = np.unique(np.linspace(low, high + 1, NUM_LEVELS + 1).astype(np.int64))
    same = np.add.reduceat(genuine[: high + 1], edges[:-1]) / genuine.sum()
    other = np.add.reduceat(impostor[: high + 1], edges[:-1]) / impostor.sum()
    there = (same + other) > 0
    weights = (same + other)[there]
    middle = (grid.threshold(edges[:-1]) + grid.threshold(edges[1:]))[there] / 2
    fitted = IsotonicRegression(y_min=0, y_max=1)
    fitted.fit(middle, same[there] / weights, sample_weight=weights)
    scores, values = fitted.X_thresholds_, fitted.y_thresholds_
    if len(scores) > NUM_KNOTS:
        kept = np.unique(np.linspace(0, len(scores) - 1, NUM_KNOTS).round().astype(int))
        scores, values = scores[kept], values[kept]
    least, most = 0.5 / (genuine.sum() + 1), 1 - 0.5 / (impostor.sum() + 1)
    return tuple(scores.tolist()), tuple(values.clip(least, most).tolist())


def _occupied(counts: Int64[np.ndarray, " V"]) -> Sequence[int]:
    there = np.flatnonzero(counts)
    return int(there[0]), int(there[-1])


def _thresholds(values: dict[str, list[float]]) -> Thresholds:
    return Thresholds(rates=tuple(values["rates"]), thresholds=tuple(values["thresholds"]))


def _searches(values: dict[str, Any]) -> SearchThresholds:
    return SearchThresholds(
        faces_per_person=float(values["faces_per_person"]),
        gallery_sizes=tuple(values["gallery_sizes"]),
        thresholds=tuple(_thresholds(each) for each in values["thresholds"]),
    )
