"""A finished localisation beside the truth: how near its boxes come, picture by picture."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.pictures.localization import REPORT_PX, draw, rows_of, shown
from jobs.runtime.objects import Marked, fitted, from_truth
from jobs.runtime.report import localization as report
from jobs.runtime.report.bulk import Extremes
from jobs.runtime.report.causes import Causes
from jobs.runtime.reread import read_images
from jobs.runtime.run import Run
from vision_ops.draw import FOUND, TRUE, Drawn
from vision_ops.metrics.boxes import BoxAccumulator, BoxResult, iou
from vision_ops.metrics.detection import PrecisionAccumulator, PrecisionResult

logger = logging.getLogger(__name__)

COLUMNS = (
    "id", "uri", "truth", "status", "stage", "error",
    "label", "confidence", "boxes", "height_px", "width_px",
)  # fmt: skip
BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class LocalizationEvaluation:
    """The numbers of an evaluation of boxes."""

    boxes: BoxResult
    """of the most confident box of each picture, against the true object it meets best"""
    classes: tuple[str, ...]
    """of the weights; truths of other classes count for IoU alone"""
    precision: PrecisionResult | None
    """over all objects of all pictures; None: one a picture, found and true, or `missing`"""
    counts: Mapping[str, int]
    """rows: read, evaluated, failed, without_truth, unusable_truth, of_another_class,
    nothing_found"""
    worst: tuple[tuple[float, str], ...]
    """IoU and id of the rows of lowest IoU"""
    missing: str
    """why there is no mean average precision; empty where there is, or where none is called for"""
    report: str
    """URI of the page"""


class Judge:
    """Holds rows of a localisation against their truth, and counts what cannot be."""

    def __init__(self, classes: Sequence[str], num_worst: int) -> None:
        self.classes = tuple(dict.fromkeys(classes))
        self.index = {name: k for k, name in enumerate(self.classes)}
        self.boxes = BoxAccumulator(len(self.classes))
        self.worst = Extremes(num_worst, sign=1, columns=("id",))
        self.counts: Counter[str] = Counter(
            read=0, evaluated=0, failed=0, without_truth=0, unusable_truth=0,
            of_another_class=0, nothing_found=0,
        )  # fmt: skip
        self.causes = Causes()
        self.several = False
        self.missing = ""
        self.precision: PrecisionAccumulator | None = None
        try:
            self.precision = PrecisionAccumulator()
        except ValueError as absent:
            self.missing = str(absent)
        self.extra: dict[str, int] = {}  # classes of truths that the weights do not have

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows with the columns of localize."""
        judged = list(self._judged(rows))
        if not judged:
            return
        truth, overlap, right, ids = (np.array(each) for each in zip(*judged, strict=True))
        self.boxes.update(truth, overlap, right)
        self.worst.add(overlap, pa.record_batch({"id": pa.array(ids.tolist(), pa.string())}))

    def _judged(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, float, bool, str]]:
        """True class, IoU, whether the class is right, and id of each row that can be judged."""
        self.counts["read"] += len(rows)
        for row in rows:
            if row["status"] == "failed":
                self._set_aside("failed", row, row["stage"], row["error"])
            elif not row["truth"]:
                self.counts["without_truth"] += 1
            else:
                try:
                    objects = true_objects(row)
                except ValueError as wrong:
                    self._set_aside("unusable_truth", row, "truth", str(wrong))
                    continue
                self._rank(row["boxes"], objects)
                if not objects:
                    self.counts["without_truth"] += 1
                    continue
                yield self._best(row, objects)

    def _set_aside(self, kind: str, row: Mapping[str, Any], stage: str, error: str) -> None:
        self.counts[kind] += 1
        self.causes.add(row["id"], row["uri"], stage, error)

    def _best(
        self, row: Mapping[str, Any], objects: Sequence[Marked]
    ) -> tuple[int, float, bool, str]:
        """Of several true objects the one that the box meets best (Russakovsky et al. 2015)."""
        self.counts["evaluated"] += 1
        overlap, nearest = 0.0, objects[0]
        if row["boxes"]:
            found = np.array(row["boxes"][0]["box"], np.float64)
            shares = iou(found, np.array([each.box for each in objects], np.float64))
            nearest, overlap = objects[int(shares.argmax())], float(shares.max())
        else:
            self.counts["nothing_found"] += 1
        truth = self.index.get(nearest.label, -1)
        self.counts["of_another_class"] += truth < 0
        return truth, overlap, row["label"] == nearest.label, row["id"]

    def _rank(self, found: Sequence[Mapping[str, Any]], objects: Sequence[Marked]) -> None:
        self.several |= len(objects) > 1 or len(found) > 1
        if self.precision is None:
            return
        self.precision.update(
            np.array([each["box"] for each in found], np.float64).reshape(-1, 4),
            np.array([each["confidence"] for each in found], np.float64),
            np.array([self._class(each["label"]) for each in found], np.int64),
            np.array([each.box for each in objects], np.float64).reshape(-1, 4),
            np.array([self._class(each.label) for each in objects], np.int64),
        )

    def _class(self, name: str) -> int:
        if name in self.index:
            return self.index[name]
        return self.extra.setdefault(name, len(self.index) + len(self.extra))

    def result(self, page: str) -> LocalizationEvaluation:
        """All numbers. ValueError where no row can be judged."""
        if not self.counts["evaluated"]:
            told = ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if count)
            raise ValueError(f"truth: no row has boxes ({told}); localize with --data.label boxes")
        missing = self.missing if self.several else ""
        if self.several and self.counts["of_another_class"] == self.counts["evaluated"]:
            missing = "no mean average precision: no true class is one of the weights'"
        ranked = self.several and not missing
        return LocalizationEvaluation(
            boxes=self.boxes.result(),
            classes=self.classes,
            precision=self.precision.result() if ranked and self.precision else None,
            counts=dict(self.counts),
            worst=tuple((overlap, id) for overlap, id in self.worst.rows()),
            missing=missing,
            report=page,
        )


def true_objects(row: Mapping[str, Any]) -> list[Marked]:
    """What is marked in a row's picture. Raises ValueError for a truth that does not fit it."""
    return fitted(from_truth(row["truth"]), row["height_px"], row["width_px"])


def evaluate(
    source: Run, run: Run, classes: Sequence[str], num_worst: int
) -> LocalizationEvaluation:
    """Judge a run of localize; writes metrics.json and the page into `run`."""
    judge = Judge(classes, num_worst)
    for batch in source.results(COLUMNS):
        for start in range(0, batch.num_rows, BATCH_ROWS):
            judge.add(batch.slice(start, BATCH_ROWS).to_pylist())
    result = judge.result(run.path("report", "index.html"))
    numbers = as_numbers(result)
    told = {"run": source.uri, "fingerprint": source.fingerprint} | numbers
    run.put("metrics.json", json.dumps(told, indent=1, ensure_ascii=False).encode())
    worst = pictured(source, result.worst)
    run.put("report/index.html", report.localization_page(source, numbers, worst, judge.causes))
    say(result)
    return result


def as_numbers(result: LocalizationEvaluation) -> dict[str, Any]:
    """Every number as JSON has it; null where there is none."""
    boxes, ranked = result.boxes, result.precision
    each = ranked.per_class if ranked else {}
    columns = {
        "pictures": boxes.support,
        "mean_iou": boxes.class_iou,
        "above_half": boxes.class_above_half,
        "localisation_accuracy": boxes.class_accuracy,
        "accuracy": boxes.class_recall,
        "average_precision": np.array([each.get(k, np.nan) for k in range(len(result.classes))]),
    }
    numbers = {
        "counts": dict(result.counts),
        "mean_iou": boxes.mean_iou,
        "above_half": boxes.above_half,
        "localisation_accuracy": boxes.localisation_accuracy,
        "accuracy": boxes.accuracy,
        "histogram": boxes.histogram.tolist(),
        "mean_average_precision": asdict(ranked) | {"per_class": None} if ranked else None,
        "missing": result.missing,
        "classes": [
            {"class": name} | {key: column[k].item() for key, column in columns.items()}
            for k, name in enumerate(result.classes)
            if boxes.support[k] or np.isfinite(each.get(k, np.nan))  # else only wrongly named so
        ],
        "worst": [{"id": id, "iou": overlap} for overlap, id in result.worst],
    }
    if ranked:
        del numbers["mean_average_precision"]["per_class"]
    return finite(numbers)


def finite(value: object) -> Any:
    """Nested numbers as JSON has them: None for what is not finite."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def pictured(source: Run, worst: Sequence[tuple[float, str]]) -> list[report.Worst]:
    """The worst rows with their pictures, on them true boxes (green) and those found (red)."""
    ids = [id for _, id in worst]
    rows, images = rows_of(source, ids, COLUMNS), read_images(source, ids)
    max_megapixels = source.manifest["config"]["decode"]["max_megapixels"]
    told = []
    for overlap, id in worst:
        row = rows[id]
        objects, found = true_objects(row), shown(row["boxes"])
        boxes = [Drawn(box=each.box, colour=TRUE) for each in objects]
        boxes += [Drawn(box=each["box"], colour=FOUND) for each in found]
        image = b""
        if id in images:
            image = draw(images[id], boxes, REPORT_PX, max_megapixels)
        names = [dict.fromkeys(each["label"] for each in found)]
        names.append(dict.fromkeys(each.label for each in objects))
        said, true = (", ".join(each) or "nothing" for each in names)
        told.append(report.Worst(id=id, iou=overlap, image=image, found=said, truth=true))
    return told


def say(result: LocalizationEvaluation) -> None:
    """The summary as log lines."""
    boxes, counts = result.boxes, result.counts
    shares = {"IoU > 0.5": (boxes.above_half, boxes.num_rows)}
    if known := int(boxes.support.sum()):  # images whose truth is a class of the weights
        shares["right class"] = (boxes.accuracy, known)
        shares["both"] = (boxes.localisation_accuracy, known)
    told = ", ".join(f"{n} {s:.4f} ({round(s * c):,} of {c:,})" for n, (s, c) in shares.items())
    logger.info("mean IoU %.4f, %s", boxes.mean_iou, told)
    if ranked := result.precision:
        logger.info("mAP %.4f, at IoU 0.5 %.4f", ranked.average, ranked.at_50)
    if result.missing:
        logger.warning("%s", result.missing)
    if left_out := report.left_out(counts):
        logger.warning("left out: %s", left_out)
