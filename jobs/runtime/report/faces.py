"""The page of a run that embedded faces: how many each image has, how good, and where none is."""

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.runtime.report import charts
from jobs.runtime.report.bulk import about, figures_of, title_of
from jobs.runtime.report.causes import Causes
from jobs.runtime.report.page import Chart, Figure, Section, Thumbnail, facts_of, page
from jobs.runtime.run import Run

logger = logging.getLogger(__name__)

COLUMNS = ("id", "uri", "status", "stage", "error", "faces")
NUM_BINS = 20
NUM_PICTURES = 12
MANY = 10
"""faces of an image from which on the chart has one bar"""
MANY_FACELESS = 0.5
"""part of the images without a face that is more than usual"""
Box = Sequence[float]
Draw = Callable[[Mapping[str, Sequence[Box]]], Mapping[str, bytes]]
"""ids and the boxes of their faces -> pictures with these drawn"""
Cut = Callable[[Sequence[tuple[str, Box]]], Sequence[bytes]]
"""ids and boxes of single faces -> pictures of these, empty where one cannot be had"""


class Summary:
    """What a page says of the rows of embed_faces; memory does not grow with them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(ok=0, failed=0, faces=0)
        self.per_image: Counter[int] = Counter()
        self.quality = np.zeros(NUM_BINS, np.int64)
        self.confidence = np.zeros(NUM_BINS, np.int64)
        self.most: list[tuple[int, str, Any]] = []
        self.poorest: list[tuple[float, str, Any]] = []
        self.faceless: list[str] = []
        self.causes = Causes()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows with COLUMNS."""
        failed = batch["status"].to_numpy(zero_copy_only=False) == "failed"
        bad, good = batch.filter(pa.array(failed)), batch.filter(pa.array(~failed))
        columns = [bad[name].to_pylist() for name in ("id", "uri", "stage", "error")]
        for row in zip(*columns, strict=True):
            self.causes.add(*row)
        counts = good["faces"].value_lengths().to_numpy(zero_copy_only=False)
        self.counts.update(ok=good.num_rows, failed=bad.num_rows, faces=int(counts.sum()))
        self.per_image.update(counts.tolist())
        faces = good["faces"].flatten()
        quality = faces.field("quality").to_numpy(zero_copy_only=False)
        self.quality += _binned(quality)
        self.confidence += _binned(faces.field("confidence").to_numpy(zero_copy_only=False))
        self._add_pictures(good, counts, quality)

    def _add_pictures(self, good: pa.RecordBatch, counts: np.ndarray, quality: np.ndarray) -> None:
        ids, ends = good["id"], np.cumsum(counts)
        empty = np.flatnonzero(counts == 0)[: NUM_PICTURES - len(self.faceless)]
        self.faceless += ids.take(pa.array(empty)).to_pylist()
        boxes = good["faces"].flatten().field("box")

        def boxes_of(row: int, first: int = 0, stop: int | None = None) -> list[list[float]]:
            start = int(ends[row] - counts[row])
            return boxes.slice(start, int(counts[row])).to_pylist()[first:stop]

        for row in np.argsort(-counts, kind="stable")[:NUM_PICTURES]:
            if counts[row] > 1:
                self.most.append((int(counts[row]), ids[int(row)].as_py(), boxes_of(row)))
        for face in np.argsort(quality, kind="stable")[:NUM_PICTURES]:
            row = int(np.searchsorted(ends, face, side="right"))
            place = int(face - (ends[row] - counts[row]))
            (one,) = boxes_of(row, place, place + 1)
            self.poorest.append((float(quality[face]), ids[row].as_py(), one))
        self.most = heapq.nsmallest(NUM_PICTURES, self.most, key=lambda one: (-one[0], one[1]))
        self.poorest = heapq.nsmallest(NUM_PICTURES, self.poorest, key=lambda one: one[:2])


def _binned(values: np.ndarray) -> np.ndarray:
    return np.histogram(values, NUM_BINS, range=(0, 1))[0]


def write(run: Run, draw: Draw, cut: Cut) -> str:
    """Put report/index.html of a run; returns its URI."""
    summary = Summary()
    for batch in run.results(COLUMNS):
        summary.add(batch)
    usual_norm = run.manifest.get("config", {}).get("op", {}).get("usual_norm", 0.0)
    sections = [*_charts(summary, usual_norm), *_pictures(summary, draw, cut), *_failed(summary)]
    if detector := run.manifest.get("detector"):
        sections.append(Section(title="Detector", facts=facts_of(detector)))
    sections += about(run)
    data = page(title_of(run), run.uri, list(_figures(run, summary)), sections)
    ok, none = summary.counts["ok"], summary.per_image[0]
    told = logger.warning if none > MANY_FACELESS * ok else logger.info
    told(
        "%s faces; %s of %s images have none",
        f"{summary.counts['faces']:,}",
        f"{none:,}",
        f"{ok:,}",
    )
    return run.put("report/index.html", data)


def _figures(run: Run, summary: Summary) -> Iterator[Figure]:
    ok, none = summary.counts["ok"], summary.per_image[0]
    yield from figures_of(run, ok, summary.counts["failed"])
    each = f"{summary.counts['faces'] / ok:.2f} an image" if ok else ""
    yield Figure(name="Faces", value=f"{summary.counts['faces']:,}", note=each)
    if none:
        yield Figure(
            name="Without a face",
            value=f"{none:,}",
            note=f"{none / ok:.1%} of all read",
            bad=none > MANY_FACELESS * ok,
        )


def _charts(summary: Summary, usual_norm: float) -> Iterator[Section]:
    if not summary.counts["ok"]:
        return
    counts = [summary.per_image[k] for k in range(MANY)]
    counts.append(sum(n for k, n in summary.per_image.items() if k >= MANY))
    last = max(k for k, count in enumerate(counts) if count) + 1
    names = [*(str(k) for k in range(MANY)), f"{MANY} or more"][:last]
    drawn = [Chart(title="Faces in an image", svg=charts.bars(names, counts[:last]))]
    if summary.counts["faces"]:
        edges = np.linspace(0, 1, NUM_BINS + 1).tolist()
        parts = "confidence, size, sharpness, frontality"
        told = f"Of {parts} and what lies in the picture, not of the norm (--op.usual-norm 0)"
        if usual_norm:
            told = f"Of {parts}, what lies in the picture and norm (of {usual_norm:g})"
        told += "; what is not known of a face does not count. Low ones identify badly."
        for title, bins, caption in (
            ("Quality", summary.quality, told),
            ("Confidence", summary.confidence, "Of the detector that it is a face at all."),
        ):
            svg = charts.histogram(bins.tolist(), edges, title.lower(), "faces")
            drawn.append(Chart(title=title, svg=svg, caption=caption))
    yield Section(title="Faces", charts=drawn)


def _pictures(summary: Summary, draw: Draw, cut: Cut) -> Iterator[Section]:
    shown = [(id, f"{count:,} faces", boxes) for count, id, boxes in summary.most]
    without = [(id, "", []) for id in summary.faceless]
    for title, rows in (("Most faces", shown), ("Without a face", without)):
        images = draw({id: boxes for id, _, boxes in rows}) if rows else {}
        thumbnails = [
            Thumbnail(title=id, image=images.get(id, b""), caption=told) for id, told, _ in rows
        ]
        if thumbnails:
            yield Section(title=title, thumbnails=thumbnails)
    if summary.poorest:
        faces = cut([(id, box) for _, id, box in summary.poorest])
        thumbnails = [
            Thumbnail(title=id, image=face, caption=f"quality {quality:.2f}")
            for (quality, id, _), face in zip(summary.poorest, faces, strict=True)
        ]
        yield Section(title="Lowest quality", thumbnails=thumbnails)


def _failed(summary: Summary) -> list[Section]:
    if not summary.counts["failed"]:
        return []
    text = "Like errors make one line: … stands for names and N for numbers that differ."
    return [Section(title="Failed images", text=text, tables=[summary.causes.table()])]
