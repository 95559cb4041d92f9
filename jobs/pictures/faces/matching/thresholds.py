"""From which similarity on two faces are of one person: as asked for, or as calibrated."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jobs.pictures.faces.matching.requests import Similarity
from jobs.pictures.faces.matching.search import Measure
from jobs.pictures.faces.similarity import GRIDS
from jobs.runtime.storage import Storage, absolute
from vision_ops.faces.calibration import Calibration
from vision_ops.faces.gallery import CALIBRATION, Gallery
from vision_ops.metrics.scores import ScoreGrid

logger = logging.getLogger(__name__)

EVALUATED = "runs/evaluate_faces/calibration.json"
USUAL_FPIR = 0.01
FACES_BEYOND = 1.25
"""times the faces that were calibrated, from which on a threshold is said to be drawn on"""
MAKES_ONE = "python -m jobs.evaluate --run RUN --out runs/evaluate_faces"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a score means."""

    threshold: float | None
    """lowest score of one person; None: nobody asked, nobody is named"""
    calibration: Calibration | None
    """for the probability"""
    digest: str
    """of the calibration's file; empty without one"""
    told: str
    """where the threshold comes from, in words"""
    grid: ScoreGrid
    """which scores there are, of this similarity"""

    def same(self, scores: np.ndarray) -> np.ndarray:
        """Bool, like the scores: whether they reach the threshold. False without one."""
        if self.threshold is None:
            return np.zeros(scores.shape, bool)
        return scores >= np.float32(self.threshold)

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Float32, like the scores, 0..1; NaN without a calibration."""
        if self.calibration is None:
            return np.full(scores.shape, np.nan, np.float32)
        return self.calibration.probability(scores.astype(np.float64)).astype(np.float32)


def decide(
    asked: Similarity,
    measure: Measure,
    embedder: str,
    storage: Storage,
    *,
    rate: float,
    gallery: Gallery | None = None,
    similarity_only: bool = False,
) -> Decision:
    """The threshold of a request, and the calibration that gives probabilities.

    measure       which similarity it is
    embedder      sha256 of the embedder of the embeddings
    rate          wanted FPIR in `gallery` (0: the usual one, or the least that can be told), or,
                  where there is none, wanted FAR
    gallery       what is searched, which may hold a calibration

    Raises ValueError where nothing says what a match is, for a calibration of another embedder or
    similarity, and where its data cannot tell the rate.
    """
    places = [gallery.path(CALIBRATION)] if gallery else []
    if asked.threshold is None and not similarity_only:
        places.append(absolute(EVALUATED))
    places = [absolute(asked.calibration)] if asked.calibration else places
    found, uri, digest = _first(places, storage)
    if asked.calibration and found is None:
        raise ValueError(f"calibration: {uri or places[0]}: not there; {MAKES_ONE} makes one")
    if found:
        check_calibration(found, uri, embedder, measure)
    grid = GRIDS[measure.kind]
    if similarity_only:
        told = "similarity only: nobody is named"
        return Decision(threshold=None, calibration=found, digest=digest, told=told, grid=grid)
    if asked.threshold is not None:
        if not grid.low <= asked.threshold <= grid.high:
            raise ValueError(
                f"threshold {asked.threshold:g}: {measure.kind} is of {grid.low:g} to {grid.high:g}"
            )
        told = "as asked for"
        return Decision(
            threshold=asked.threshold, calibration=found, digest=digest, told=told, grid=grid
        )
    if found is None:
        only = ", or --similarity-only names nobody" if gallery else ""
        raise ValueError(
            f"threshold: none given, and no calibration at {' or '.join(places)}: what similarity "
            f"is a match differs from embedder to embedder. Give --threshold X, or --calibration "
            f"FILE ({MAKES_ONE} writes calibration.json){only}"
        )
    threshold, told = _calibrated(found, rate, gallery)
    told = f"{told}, by {uri}"
    logger.info("threshold %.4f: %s", threshold, told)
    return Decision(threshold=threshold, calibration=found, digest=digest, told=told, grid=grid)


def _calibrated(
    calibration: Calibration, rate: float, gallery: Gallery | None
) -> tuple[float, str]:
    """The threshold of a rate, and which rate it is in words; see `decide`."""
    if gallery is None:
        return calibration.threshold_for_far(rate), f"FAR {rate:g}"
    people, faces = gallery.num_people, gallery.faces_per_person()
    rate = rate or _usual_fpir(calibration, people)
    _warn_of_templates(calibration, faces)
    threshold = calibration.threshold_for_fpir(rate, people, faces)
    return threshold, f"FPIR {rate:g} among {people:,} people, {faces:.3g} faces each"


def _usual_fpir(calibration: Calibration, gallery_size: int) -> float:
    """USUAL_FPIR, or the least that can be told, where that is more and less than 1."""
    least = calibration.least_fpir(gallery_size)
    if USUAL_FPIR < least < 1:
        logger.warning(
            "fpir: %g cannot be told in a gallery of %s by a calibration on %s people; it is %g",
            USUAL_FPIR, f"{gallery_size:,}", f"{calibration.num_searched:,}", least,
        )  # fmt: skip
        return least
    return USUAL_FPIR


def _warn_of_templates(calibration: Calibration, faces: float) -> None:
    """Say it where templates are of more faces than any that were calibrated."""
    if faces <= calibration.most_faces * FACES_BEYOND:
        return
    what = "its threshold is drawn on from those of fewer"
    if calibration.most_faces == 1:
        what = "its threshold is that of one, and more strangers are named than wanted"
    logger.warning(
        "calibration: templates of this gallery are of %.3g faces (harmonic mean), calibrated were "
        "up to %.3g: %s; evaluate a run of more pictures a person, or enrol --per-person %d",
        faces, calibration.most_faces, what, max(1, int(calibration.most_faces)),
    )  # fmt: skip


def _first(places: Sequence[str], storage: Storage) -> tuple[Calibration | None, str, str]:
    """The first calibration that is there, where it is, and the hash of its file."""
    for uri in places:
        try:
            data = storage.read(uri)
        except FileNotFoundError:
            continue
        digest = hashlib.sha256(data).hexdigest()[:16]
        return Calibration.from_json(data, uri), uri, digest
    return None, "", ""


def measure_of(calibration: Calibration) -> Measure:
    """Which similarity was calibrated."""
    return Measure(calibration.head, calibration.head_sha256.removeprefix("sha256:"))


def check_calibration(calibration: Calibration, uri: str, embedder: str, measure: Measure) -> None:
    """ValueError where scores of another embedder or similarity were calibrated."""
    if calibration.embedder.removeprefix("sha256:") != embedder:
        raise ValueError(
            f"calibration: {uri} is of the embedder {calibration.embedder}, these embeddings are "
            f"of sha256:{embedder}; give --calibration FILE of that one, or --threshold X"
        )
    known = measure_of(calibration)
    if known != measure:
        raise ValueError(f"calibration: {uri} is of the similarity {known}, asked for is {measure}")
