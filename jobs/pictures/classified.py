"""A finished classification beside the truth: metrics, plots and its worst mistakes."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from jobs.pictures.located import finite
from jobs.runtime.labels import LabelTable
from jobs.runtime.predictions import COLUMNS, NUM_NAMED, Judged, PredictionReader
from jobs.runtime.report import charts
from jobs.runtime.report.bulk import Extremes, about, title_of
from jobs.runtime.report.causes import Causes
from jobs.runtime.report.classification import class_table, confusion_chart, pair_table, roc_chart
from jobs.runtime.report.intervals import interval
from jobs.runtime.report.page import Chart, Figure, Section, Table, Thumbnail, page
from jobs.runtime.reread import read_thumbnails
from jobs.runtime.run import Run
from vision_ops.metrics.classification import ClassificationAccumulator, ClassificationResult
from vision_ops.thumbnails import THUMBNAILS

logger = logging.getLogger(__name__)

BATCH_ROWS = 4096
CURVE_POINTS = 200
THUMBNAIL_PX = 128


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One row whose label is not the truth."""

    id: str
    truth: str
    label: str
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The numbers of an evaluation."""

    metrics: ClassificationResult
    classes: tuple[str, ...]
    """names by class index; a name that stands for several outputs of the network comes once"""
    counts: Mapping[str, int]
    """rows: read, evaluated, failed, without_truth, unknown_truth; labels_without_row"""
    unknown_truth: Mapping[str, int]
    """rows by a truth that is no class, most first"""
    failed_ids: tuple[str, ...]
    """the first failed rows"""
    mistakes: tuple[Mistake, ...]
    """wrong rows, the most confident first"""
    missing: str
    """why there are no ROC curves and no log loss; empty where there are"""
    report: str
    """URI of the page"""


def evaluate(
    source: Run, run: Run, classes: Sequence[str], labels: LabelTable | None, num_mistakes: int
) -> Evaluation:
    """Judge a run of classify; writes metrics.json and the page into `run`."""
    reader = PredictionReader(classes, labels)
    result = judge(source, reader, num_mistakes, run.path("report", "index.html"))
    run.put("metrics.json", to_json(result, source))
    run.put("report/index.html", report(result, source, reader.causes))
    say(result)
    return result


def judge(source: Run, reader: PredictionReader, num_mistakes: int, report: str) -> Evaluation:
    """Stream the rows of a run through the metrics. ValueError where no row can be judged."""
    metrics = ClassificationAccumulator(len(reader.classes))
    worst = Extremes(num_mistakes, sign=-1, columns=("id", "truth", "label"))
    for batch in source.results(COLUMNS):
        for start in range(0, batch.num_rows, BATCH_ROWS):
            rows = reader.read(batch.slice(start, BATCH_ROWS))
            metrics.update(rows.truth, rows.ranked, rows.probabilities)
            if len(rows.truth):
                wrong = np.flatnonzero(rows.ranked[:, 0] != rows.truth)
                worst.add(rows.probabilities[wrong, 0], _named(rows, wrong, reader.classes))
    reader.check()
    found = metrics.result(CURVE_POINTS)
    num_outputs = len(reader.outputs)
    missing = f"Rows hold {reader.num_ranked:,} of {num_outputs:,} classes; for ROC curves and "
    missing += f"log loss run {source.manifest['job']} with --op.top-k {num_outputs}."
    return Evaluation(
        metrics=found,
        classes=reader.classes,
        counts={
            **reader.counts,
            "labels_without_row": reader.labels.num_unused if reader.labels else 0,
        },
        unknown_truth=dict(reader.unknown.most_common()),
        failed_ids=tuple(reader.failed_ids),
        mistakes=tuple(
            Mistake(id=id, truth=truth, label=label, confidence=confidence)
            for confidence, id, truth, label in worst.rows()
        ),
        missing="" if found.roc else missing,
        report=report,
    )


def _named(rows: Judged, wrong: np.ndarray, classes: Sequence[str]) -> pa.RecordBatch:
    columns = {
        "id": rows.ids.take(pa.array(wrong)),
        "truth": pa.array([classes[k] for k in rows.truth[wrong]], pa.string()),
        "label": pa.array([classes[k] for k in rows.ranked[wrong, 0]], pa.string()),
    }
    return pa.record_batch(columns)


def to_json(result: Evaluation, run: Run) -> bytes:
    """metrics.json: every number but the points of the curves; null where there is none."""
    metrics, names = result.metrics, result.classes
    columns = _class_columns(result)
    numbers = {
        "run": run.uri,
        "fingerprint": run.fingerprint,
        "counts": result.counts,
        "unknown_truth": result.unknown_truth,
        "failed": result.failed_ids,
        "accuracy": metrics.accuracy,
        "top_k": {"k": min(5, len(names)), "accuracy": metrics.top_k_accuracy},
        "averages": {name: asdict(average) for name, average in metrics.averages.items()},
        "expected_calibration_error": metrics.calibration.error,
        "log_loss": metrics.log_loss,
        "macro_auc": metrics.roc.macro_auc if metrics.roc else None,
        "auc_exact": metrics.roc.exact if metrics.roc else None,
        "missing": result.missing,
        "classes": [
            {"class": name, **{key: column[k].item() for key, column in columns.items()}}
            for k, name in enumerate(names)
        ],
        "confusion": [
            {"truth": names[i], "label": names[k], "images": int(metrics.confusion[i, k])}
            for i, k in zip(*np.nonzero(metrics.confusion), strict=True)
        ],
        "mistakes": [asdict(mistake) for mistake in result.mistakes],
    }
    return json.dumps(finite(numbers), indent=1, ensure_ascii=False, allow_nan=False).encode()


def _class_columns(result: Evaluation) -> dict[str, np.ndarray]:
    """Numbers by class: four or three shares, then counts."""
    metrics = result.metrics
    shares = {
        "precision": metrics.per_class.precision,
        "recall": metrics.per_class.recall,
        "F1": metrics.per_class.f1,
    }
    if metrics.roc:
        shares["AUC"] = metrics.roc.auc
    return shares | {
        "images": metrics.per_class.support,
        "labels given": metrics.per_class.predicted,
    }


def report(result: Evaluation, run: Run, causes: Causes) -> bytes:
    """The page."""
    matrix, names = result.metrics.confusion, result.classes
    columns = _class_columns(result)
    tables = [class_table(names, columns, bars=len(columns) - 2)]
    if result.metrics.accuracy < 1:
        tables.insert(0, pair_table(matrix, names))
    sections = [
        Section(title="Curves", text=result.missing or _rounded(result), charts=_curves(result)),
        Section(title="Confusion", charts=[confusion_chart(matrix, names)], tables=tables[:-1]),
        Section(title="Classes", tables=tables[-1:]),
        *_notes(result, causes),
        *about(run),
    ]
    if result.mistakes:
        told = "The most confident wrong labels first."
        worst = _worst(result, run)
        sections.insert(2, Section(title="Worst mistakes", text=told, thumbnails=worst))
    return page(f"Evaluation of {title_of(run)}", run.uri, _figures(result), sections)


def _figures(result: Evaluation) -> list[Figure]:
    metrics, counts = result.metrics, result.counts
    right = int(np.trace(metrics.confusion))
    low, high = interval(metrics.accuracy, metrics.num_rows)
    of_all = f"{right:,} of {metrics.num_rows:,} right; 95 % sure: {low:.1%} to {high:.1%}"
    figures = [Figure(name="Accuracy", value=f"{metrics.accuracy:.2%}", note=of_all)]
    if metrics.top_k_accuracy is not None and len(result.classes) > 5:
        figures.append(Figure(name="Top-5 accuracy", value=f"{metrics.top_k_accuracy:.2%}"))
    occur = int((metrics.per_class.support > 0).sum())
    note = f"mean of the {occur:,} classes that occur" if occur < len(result.classes) else ""
    figures.append(Figure(name="Macro F1", value=f"{metrics.averages['macro'].f1:.4f}", note=note))
    if metrics.roc:
        figures.append(Figure(name="Macro AUC", value=f"{metrics.roc.macro_auc:.4f}"))
    error = Figure(name="Calibration error", value=f"{metrics.calibration.error:.4f}")
    figures.append(error)
    if metrics.log_loss is not None:
        figures.append(Figure(name="Log loss", value=f"{metrics.log_loss:.4f}", note="nats"))
    if left_out := counts["read"] - counts["evaluated"]:
        note = _left_out(counts)
        figures.append(Figure(name="Left out", value=f"{left_out:,}", note=note, bad=True))
    return figures


def _left_out(counts: Mapping[str, int]) -> str:
    named = ("failed", "without_truth", "unknown_truth")
    return ", ".join(f"{counts[n]:,} {n.replace('_', ' ')}" for n in named if counts[n])


def _notes(result: Evaluation, causes: Causes) -> Iterator[Section]:
    if result.unknown_truth:
        rows = list(result.unknown_truth.items())
        text = "Truth that is no class of the weights; these rows are not in the numbers."
        note = f"The first {NUM_NAMED} of {len(rows):,}." if len(rows) > NUM_NAMED else ""
        table = Table(columns=("name", "images"), rows=rows[:NUM_NAMED], note=note)
        yield Section(title="Unknown truth", text=text, tables=[table])
    if num_failed := result.counts["failed"]:
        text = "These rows have no label and are not in the numbers."
        yield Section(title="Failed images", text=text, tables=[causes.table()])
        note = f"The first of {num_failed:,}." if num_failed > len(result.failed_ids) else ""
        table = Table(columns=("id",), rows=[(id,) for id in result.failed_ids], note=note)
        yield Section(title="Failed images by id", tables=[table], folded=True)


def _curves(result: Evaluation) -> list[Chart]:
    metrics, drawn = result.metrics, []
    if metrics.roc:
        curves = [
            (curve.false_positive_rate, curve.true_positive_rate) if curve else None
            for curve in metrics.roc.curves
        ]
        drawn.append(roc_chart(result.classes, curves, metrics.roc.auc))
    bins = metrics.calibration
    svg = charts.reliability(
        bins.edges.tolist(), bins.counts.tolist(), bins.confidence.tolist(), bins.accuracy
    )
    told = (
        "Blue reaches the lower of accuracy and mean confidence. Red on top: confidence is too "
        "high by that much; green on top: too low."
    )
    return [*drawn, Chart(title="Reliability", svg=svg, caption=told)]


def _rounded(result: Evaluation) -> str:
    roc = result.metrics.roc
    if roc is None or roc.exact:
        return ""
    return (
        "Scores were rounded to save memory; the areas under the ROC curves are right to "
        f"{roc.auc_error.max():.1g}."
    )


def _worst(result: Evaluation, run: Run) -> list[Thumbnail]:
    kind = run.manifest["weights"].get("kind", "picture")  # older runs are all of pictures
    make = partial(THUMBNAILS[kind], size_px=THUMBNAIL_PX)
    images = read_thumbnails(run, make, [mistake.id for mistake in result.mistakes])
    return [
        Thumbnail(
            title=mistake.id,
            image=images.get(mistake.id, b""),
            caption=mistake.label,
            detail=f"{mistake.confidence:.1%}, truth: {mistake.truth}",
            bad=True,
        )
        for mistake in result.mistakes
    ]


def say(result: Evaluation) -> None:
    """The summary as log lines."""
    metrics, counts = result.metrics, result.counts
    logger.info(
        "accuracy %.4f (%s of %s images), macro F1 %.4f, calibration error %.4f",
        metrics.accuracy, f"{np.trace(metrics.confusion):,}", f"{metrics.num_rows:,}",
        metrics.averages["macro"].f1, metrics.calibration.error,
    )  # fmt: skip
    if metrics.roc:
        logger.info("macro AUC %.4f, log loss %.4f", metrics.roc.macro_auc, metrics.log_loss)
    if left_out := _left_out(counts):
        logger.warning("left out: %s", left_out)
