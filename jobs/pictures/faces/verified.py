"""A finished embed_faces beside the truth: who is told from whom, and what a score means."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jobs.pictures.faces.judged import (
    Gallery,
    JudgedPairs,
    JudgedSearches,
    discarding,
    judge_all,
    judge_list,
    judge_searches,
)
from jobs.pictures.faces.labelled import Choice, LabelledFaces, read_faces
from jobs.pictures.faces.pairs import PairList, read_pairs
from jobs.pictures.faces.similarity import GRIDS, Similarity, open_similarity
from jobs.runtime.labels import LabelTable
from jobs.runtime.report import verification as report
from jobs.runtime.reread import read_images
from jobs.runtime.run import Run
from jobs.runtime.storage import absolute
from vision_ops.decode import UnreadableImageError
from vision_ops.faces.calibration import Calibration, calibrate
from vision_ops.faces.comparisons import Hardest
from vision_ops.faces.pictures import cut_face, side_by_side
from vision_ops.metrics.discard import DiscardCurve
from vision_ops.metrics.folds import FoldResult
from vision_ops.metrics.identification import IdentificationResult
from vision_ops.metrics.verification import OperatingPoint, VerificationResult

logger = logging.getLogger(__name__)

DISCARD_FARS = (1e-3, 1e-2, 1e-1)
"""the first that the data can speak for is that of error against discard"""
NUM_BARS = 80
FACE_PX = 112
RANKS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class FaceProtocol:
    """How faces are held against each other."""

    pairs: str = ""
    """list of pairs to verify: LFW's pairs.txt, or a CSV with the columns a, b, same and perhaps
    fold, where a and b are row ids or face ids; empty: all pairs of faces whose people are known"""
    head: str = "cosine"
    """similarity: cosine, squared_l2, weighted_l1, chi_square, or the file of a trained head"""
    face: Choice = "largest"
    """which face stands for an image of several"""
    gallery: Gallery = "first"
    """which picture of a person stands in the gallery: of the first id, or of the best quality"""

    def identity(self) -> dict[str, str]:
        """What of it can change a result."""
        head = self.head if self.head in GRIDS else absolute(self.head)
        pairs = absolute(self.pairs) if self.pairs else ""
        return {"pairs": pairs, "head": head, "face": self.face, "gallery": self.gallery}


@dataclass(frozen=True, kw_only=True)
class VerificationEvaluation:
    """The numbers of an evaluation of faces."""

    pairs: VerificationResult
    """of pairs whose faces were found"""
    pairs_whole: VerificationResult
    """with those of which an image shows no face: missed, if genuine; refused, if not"""
    folds: FoldResult | None
    folds_whole: FoldResult | None
    searches: JudgedSearches | None
    """None where nobody can be searched for"""
    discard: DiscardCurve
    discard_far: float
    calibration: Calibration
    counts: Mapping[str, int]
    """rows: read, failed, faceless, several_faces, without_truth, labels_without_row; people,
    people_without_face; pairs: genuine_without_face, impostor_without_face, absent"""
    notes: tuple[str, ...]
    """what the numbers leave out"""
    fold_note: str
    """how the folds were made, or why there are none"""
    report: str
    """URI of the page"""


def evaluate(
    source: Run, run: Run, protocol: FaceProtocol, labels: LabelTable | None, num_hardest: int
) -> VerificationEvaluation:
    """Judge a run of embed_faces; writes metrics.json, calibration.json and the page into `run`."""
    listed = read_pairs(protocol.pairs, source.storage) if protocol.pairs else None
    wanted = [name for name in (*listed.a, *listed.b) if "#face" in name] if listed else []
    faces = read_faces(source, protocol.face, labels, wanted)
    embedder = source.manifest["embedder"]["sha256"]
    similarity = open_similarity(protocol.head, embedder, faces.embeddings.shape[1], source.storage)
    known = faces.known()
    if listed is None and len(known.names) < 2:
        raise ValueError(
            f"run: {source.uri} has {len(faces.ids):,} faces of {len(known.names)} known people; "
            "give --labels, --pairs, or embed a source with --data.label"
        )
    judged = _judged(faces, known, listed, similarity, num_hardest)
    searches = judge_searches(known, similarity, protocol.gallery) if known.names else None
    calibration = _calibrated(known, listed, judged, searches, similarity, embedder)
    subject = known if listed is None else faces
    result = _result(subject, listed, judged, searches, similarity, calibration, run)
    numbers = as_numbers(result, similarity)
    told = {"run": source.uri, "fingerprint": source.fingerprint} | numbers
    told["hardest"] = {
        "genuine": _named(judged.lowest, subject), "impostor": _named(judged.highest, subject)
    }  # fmt: skip
    run.put("calibration.json", calibration.to_json())
    run.put("metrics.json", json.dumps(told, indent=1, ensure_ascii=False).encode())
    pictured = [_pictured(source, each, subject) for each in (judged.highest, judged.lowest)]
    shown = report.Shown(
        genuine=_bars(judged.pairs.genuine), impostor=_bars(judged.pairs.impostor),
        edges=(similarity.grid.low, similarity.grid.high), hardest_impostor=pictured[0],
        hardest_genuine=pictured[1], faceless=faces.faceless_ids, causes=faces.causes,
    )  # fmt: skip
    run.put("report/index.html", report.verification_page(source, told, shown))
    say(result)
    return result


def _judged(
    faces: LabelledFaces,
    known: LabelledFaces,
    listed: PairList | None,
    similarity: Similarity,
    num_hardest: int,
) -> JudgedPairs:
    if listed is None:
        return judge_all(known, similarity, num_hardest)
    return judge_list(faces, listed, similarity, num_hardest)


def _calibrated(
    known: LabelledFaces,
    listed: PairList | None,
    judged: JudgedPairs,
    searches: JudgedSearches | None,
    similarity: Similarity,
    embedder: str,
) -> Calibration:
    """From all pairs of known people, which are many more than those of a list."""
    counted = judged.pairs
    if listed is not None and searches is not None:
        counted = judge_all(known, similarity, 1).pairs
    return calibrate(
        similarity.grid,
        counted.genuine,
        counted.impostor,
        searches.errors if searches else {},
        embedder=f"sha256:{embedder}",
        num_people=len(known.names),
        head=similarity.kind,
        head_sha256=similarity.sha256,
    )


def _result(
    faces: LabelledFaces,
    listed: PairList | None,
    judged: JudgedPairs,
    searches: JudgedSearches | None,
    similarity: Similarity,
    calibration: Calibration,
    run: Run,
) -> VerificationEvaluation:
    pairs = judged.pairs.result()
    point = _discard_point(pairs.points)
    gone = set(faces.without_face.values()) - set(faces.names) - {""}
    genuine, impostor = judged.pairs.num_failed
    counts = dict(faces.counts) | {
        "people": len(faces.names),
        "people_without_face": len(gone),
        "genuine_without_face": genuine,
        "impostor_without_face": impostor,
        "absent": judged.absent,
    }
    folds = judged.folds
    return VerificationEvaluation(
        pairs=pairs,
        pairs_whole=judged.pairs.result(with_failures=True),
        folds=folds.result() if folds else None,
        folds_whole=folds.result(with_failures=True) if folds else None,
        searches=searches,
        discard=discarding(faces, listed, similarity, point.threshold).result(),
        discard_far=point.target_far,
        calibration=calibration,
        counts=counts,
        notes=tuple(_notes(judged, searches)),
        fold_note=judged.fold_note,
        report=run.path("report", "index.html"),
    )


def _discard_point(points: Sequence[OperatingPoint]) -> OperatingPoint:
    by_far = {point.target_far: point for point in points}
    enough = [by_far[far] for far in DISCARD_FARS if not by_far[far].insufficient]
    return (enough or [by_far[DISCARD_FARS[-1]]])[0]


def _notes(judged: JudgedPairs, searches: JudgedSearches | None) -> list[str]:
    notes = []
    if judged.part < 1:
        notes.append(f"{judged.part:.2%} of all impostor pairs were compared.")
    if judged.absent:
        notes.append(f"{judged.absent:,} listed pairs name images that the run does not have.")
    if searches is None:
        notes.append("No identification: nobody has two pictures, or there is one person.")
    elif searches.num_searched < searches.num_probes:
        told = f"{searches.num_searched:,} of {searches.num_probes:,} probes"
        notes.append(f"Identification is of {told}.")
    return notes


def as_numbers(result: VerificationEvaluation, similarity: Similarity) -> dict[str, Any]:
    """Every number as JSON has it; null where there is none."""
    pairs, whole, curve = result.pairs, result.pairs_whole, result.discard
    fars = pairs.curve.false_positive_rate
    searches = result.searches
    return {
        "similarity": {"head": similarity.kind, "sha256": similarity.sha256},
        "counts": dict(result.counts),
        "notes": [*filter(None, [result.fold_note]), *result.notes],
        "verification": {
            "num_genuine": pairs.num_genuine,
            "num_impostor": pairs.num_impostor,
            "auc": pairs.auc,
            "auc_error": pairs.auc_error,
            "eer": pairs.eer,
            "eer_threshold": pairs.eer_threshold,
            "points": [
                asdict(point) | {"tar_whole": all_of.tar}
                for point, all_of in zip(pairs.points, whole.points, strict=True)
            ],
            "curve": {"far": fars.tolist(), "tar": pairs.curve.true_positive_rate.tolist()},
        },
        "folds": _folds(result.folds, result.folds_whole),
        "identification": {
            "num_people": searches.num_people,
            "num_probes": searches.num_probes,
            "num_searched": searches.num_searched,
            "found": _identified(searches.found),
            "whole": _identified(searches.whole),
        }
        if searches
        else None,
        "discard": {
            "far": result.discard_far,
            "discarded": curve.discarded.tolist(),
            "fnmr": curve.fnmr.tolist(),
            "quality": curve.quality.tolist(),
        },
        "calibration": {
            "can_tell": result.calibration.told(),
            "faces_per_person": [each.faces_per_person for each in result.calibration.searches],
        },
    }


def _folds(folds: FoldResult | None, whole: FoldResult | None) -> dict[str, Any] | None:
    if folds is None or whole is None:
        return None
    return asdict(folds) | {"mean_whole": whole.mean, "standard_error_whole": whole.standard_error}


def _identified(result: IdentificationResult) -> dict[str, Any]:
    return {
        "num_known": result.num_known,
        "num_unknown": result.num_unknown,
        **{f"rank_{k}": result.rank(k) for k in RANKS},
        "cmc": result.cmc.tolist(),
        "points": [asdict(point) for point in result.points],
    }


def _bars(counts: np.ndarray) -> list[float]:
    """Share of the pairs in each of NUM_BARS equal parts of the grid."""
    starts = np.linspace(1, len(counts) - 1, NUM_BARS, endpoint=False).astype(int)
    summed = np.add.reduceat(counts, starts)
    return (summed / max(1, summed.sum())).tolist()


def _named(hardest: Hardest, faces: LabelledFaces) -> list[dict[str, Any]]:
    return [
        {"score": score, "a": faces.ids[a], "b": faces.ids[b]} for score, a, b in hardest.rows()
    ]


def _pictured(source: Run, hardest: Hardest, faces: LabelledFaces) -> list[report.Pair]:
    """The hardest pairs, each with both faces side by side where their pictures can be had."""
    rows = hardest.rows()
    ids = {faces.ids[k].split("#face")[0] for _, *pair in rows for k in pair}
    images = read_images(source, sorted(ids)) if "suffixes" in source.manifest else {}
    limit = source.manifest["config"]["decode"]["max_megapixels"]
    told = []
    for score, a, b in rows:
        picture = b""
        try:
            cut = [
                cut_face(images[faces.ids[k].split("#face")[0]], faces.boxes[k], FACE_PX, limit)
                for k in (a, b)
            ]
            picture = side_by_side(*cut)
        except KeyError:
            pass  # out of reach: said once by read_images
        except UnreadableImageError as refusal:
            logger.warning("no picture of %s in the report: %s", faces.ids[a], refusal)
        names = [faces.names[faces.people[k]] if faces.people[k] >= 0 else "" for k in (a, b)]
        told.append(
            report.Pair(score=score, a=faces.ids[a], b=faces.ids[b], names=names, image=picture)
        )
    return told


def say(result: VerificationEvaluation) -> None:
    """The summary as log lines."""
    pairs = result.pairs
    logger.info(
        "AUC %.4f, EER %.4f, %s genuine and %s impostor pairs",
        pairs.auc, pairs.eer, f"{pairs.num_genuine:,}", f"{pairs.num_impostor:,}",
    )  # fmt: skip
    if result.folds is None:
        logger.warning("%s", result.fold_note)
    else:
        logger.info(
            "accuracy over folds %.4f +- %.4f", result.folds.mean, result.folds.standard_error
        )
    for point in pairs.points:
        if not point.insufficient:
            logger.info("TAR %.4f at FAR %g", point.tar, point.target_far)
    if searches := result.searches:
        logger.info("rank 1: %.4f among %s people", searches.found.rank(1), searches.num_people)
    for note in (*result.notes, report.left_out(result.counts)):
        if note:
            logger.warning("%s", note)
