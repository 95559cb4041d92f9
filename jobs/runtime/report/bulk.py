"""The page of a bulk run, from its rows streamed once: memory does not grow with their number."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.runtime.progress import BOUND_FROM_S, clock, rate_text
from jobs.runtime.report import charts
from jobs.runtime.report.causes import Causes
from jobs.runtime.report.page import Chart, Figure, Section, Thumbnail, facts_of, page
from jobs.runtime.run import Run

Thumbnails = Callable[[Sequence[str]], Mapping[str, bytes]]
"""small pictures (PNG, JPEG, GIF, WebP) by row id; those that cannot be had are left out"""

COLUMNS = ("id", "uri", "status", "stage", "error", "label", "confidence")
NUM_CLASSES = 30
NUM_BINS = 20
NUM_PICTURES = 12
MAX_LABELS = 100_000
"""distinct labels counted by name; more are counted as others"""


def no_thumbnails(ids: Sequence[str]) -> Mapping[str, bytes]:
    """For sources whose pictures cannot be read again."""
    return {}


def write(run: Run, thumbnails: Thumbnails = no_thumbnails) -> str:
    """Put report/index.html of a run; returns its URI."""
    return run.put("report/index.html", bulk_page(run, thumbnails))


def bulk_page(run: Run, thumbnails: Thumbnails = no_thumbnails) -> bytes:
    """The page as HTML. Jobs without the columns label and confidence get the sections they can."""
    summary = Summary()
    summary.add_all(run.results(COLUMNS))
    shown = [*summary.most.rows(), *summary.least.rows()]
    images = thumbnails(list(dict.fromkeys(id for _, id, _ in shown))) if shown else {}
    sections = [*_labelled(summary, images), *_failed(summary), *about(run)]
    return page(title_of(run), run.uri, _figures(run, summary), sections)


class Summary:
    """What a page says of a run's rows."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(ok=0, failed=0)
        self.labels: Counter[str] = Counter()
        self.other_labels = 0
        self.bins = np.zeros(NUM_BINS, np.int64)
        self.most = Extremes(NUM_PICTURES, sign=-1)
        self.least = Extremes(NUM_PICTURES, sign=1)
        self.causes = Causes()

    def add_all(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Add rows."""
        for batch in batches:
            self.add(batch)

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows with the columns id, uri, status, stage, error; label, confidence where made."""
        failed = batch["status"].to_numpy(zero_copy_only=False) == "failed"
        bad, good = batch.filter(pa.array(failed)), batch.filter(pa.array(~failed))
        self.counts.update(ok=good.num_rows, failed=bad.num_rows)
        columns = [bad[name].to_pylist() for name in ("id", "uri", "stage", "error")]
        for row in zip(*columns, strict=True):
            self.causes.add(*row)
        if "label" in batch.schema.names:
            self._add_labels(good["label"])
        if "confidence" in batch.schema.names and good.num_rows:
            self._add_confidence(good)

    def _add_labels(self, labels: pa.Array) -> None:
        for found in labels.drop_null().value_counts().to_pylist():
            if found["values"] in self.labels or len(self.labels) < MAX_LABELS:
                self.labels[found["values"]] += found["counts"]
            else:
                self.other_labels += found["counts"]

    def _add_confidence(self, good: pa.RecordBatch) -> None:
        values = good["confidence"].to_numpy(zero_copy_only=False).astype(np.float64)
        self.bins += np.histogram(values[np.isfinite(values)], NUM_BINS, range=(0, 1))[0]
        self.most.add(values, good)
        self.least.add(values, good)


class Extremes:
    """The rows of highest (sign -1) or lowest (sign 1) confidence; ties go by `columns`."""

    def __init__(self, size: int, sign: int, columns: Sequence[str] = ("id", "label")) -> None:
        self.size, self.sign, self.columns = size, sign, columns
        self._rows: list[tuple[Any, ...]] = []

    def add(self, confidence: np.ndarray, rows: pa.RecordBatch) -> None:
        """Add rows; a column that they do not have counts as empty text."""
        order = self.sign * confidence
        bound = np.partition(order, self.size)[self.size] if len(order) > self.size else np.inf
        if len(self._rows) == self.size:
            bound = min(bound, self._rows[-1][0])
        near = np.flatnonzero(order <= bound)
        columns = [
            rows[name].take(pa.array(near)).to_pylist()
            if name in rows.schema.names
            else [""] * len(near)
            for name in self.columns
        ]
        fresh = zip(order[near].tolist(), *columns, strict=True)
        self._rows = heapq.nsmallest(self.size, [*self._rows, *fresh])

    def rows(self) -> list[Any]:
        """Confidence and the columns, the most extreme first."""
        return [(self.sign * order, *values) for order, *values in self._rows]


def title_of(run: Run) -> str:
    """What a page is called."""
    job, name = run.manifest["job"], run.uri.rstrip("/").rpartition("/")[2]
    return job if name == job else f"{job} · {name}"


def about(run: Run, **config: Any) -> list[Section]:
    """How the run was made: weights and their licence, request, versions."""
    manifest = run.manifest
    weights = dict(manifest.get("weights") or {})
    if classes := weights.get("classes"):
        weights["classes"] = f"{len(classes):,}: {', '.join(classes[:8])}"
        weights["classes"] += ", …" if len(classes) > 8 else ""
    named = ("fingerprint", "created", "finished", "attempts")
    facts = {name: str(manifest[name]) for name in named if name in manifest}
    sections = [
        Section(title="Weights", facts=facts_of(weights)),
        Section(
            title="Request",
            facts=facts | facts_of(config or manifest.get("config", {})),
            folded=True,
        ),
        Section(title="Versions", facts=facts_of(manifest.get("versions", {})), folded=True),
    ]
    return [section for section in sections if section.facts]


def _figures(run: Run, summary: Summary) -> list[Figure]:
    figures = list(figures_of(run, summary.counts["ok"], summary.counts["failed"]))
    if summary.labels:
        figures.insert(3, Figure(name="Different labels", value=f"{len(summary.labels):,}"))
    return figures


def figures_of(run: Run, ok: int, failed: int) -> Iterator[Figure]:
    """What every bulk run's page begins with: its rows, how long it took, what bound it."""
    read, manifest = ok + failed, run.manifest
    share = f"{failed / read:.2%} of all" if failed else "every image has its row"
    yield Figure(name="Images read", value=f"{read:,}")
    yield Figure(name="Ok", value=f"{ok:,}")
    yield Figure(name="Failed", value=f"{failed:,}", note=share, bad=failed > 0)
    wall = (manifest.get("seconds") or {}).get("wall", 0)
    if wall:
        attempts = manifest.get("attempts", 1)
        note = "the last attempt" if attempts > 1 else ""
        yield Figure(name="Time", value=clock(wall), note=note)
        rate = manifest.get("rows_of_attempt", read) / wall
        yield Figure(name="Rate", value=f"{rate_text(rate)}/s", note="images, start included")
    if (bound := manifest.get("bound")) and wall >= BOUND_FROM_S:
        stage, _, share = bound.partition(", ")
        yield Figure(name="Bound by", value=stage, note=share)


def _labelled(summary: Summary, images: Mapping[str, bytes]) -> list[Section]:
    drawn = []
    if summary.labels:
        drawn.append(_class_chart(summary))
    if summary.bins.any():
        edges = np.linspace(0, 1, NUM_BINS + 1).tolist()
        svg = charts.histogram(summary.bins.tolist(), edges, "confidence")
        told = "Softmax probability of the label; 1 is certain."
        drawn.append(Chart(title="Confidence", svg=svg, caption=told))
    sections = [Section(title="Results", charts=drawn)] if drawn else []
    for title, extremes in (("Most confident", summary.most), ("Least confident", summary.least)):
        if rows := extremes.rows():
            sections.append(
                Section(title=title, thumbnails=[_thumbnail(row, images) for row in rows])
            )
    return sections


def _class_chart(summary: Summary) -> Chart:
    ranked = sorted(summary.labels.items(), key=lambda item: (-item[1], item[0]))
    names = [name for name, _ in ranked[:NUM_CLASSES]]
    values = [count for _, count in ranked[:NUM_CLASSES]]
    rest, num_rest = sum(c for _, c in ranked[NUM_CLASSES:]), len(ranked) - NUM_CLASSES
    others = f"{num_rest:,} other labels"
    if num_rest > 0 or summary.other_labels:
        names.append(others)
        values.append(rest + summary.other_labels)
    svg = charts.bars(names, values, muted=[others])
    return Chart(title="Images by label", svg=svg, caption="The most frequent labels first.")


def _thumbnail(row: tuple[float, str, str], images: Mapping[str, bytes]) -> Thumbnail:
    confidence, id, label = row
    percent = f"{confidence:.1%}" if confidence < 0.9995 else f"{confidence:.3%}"
    return Thumbnail(title=id, image=images.get(id, b""), caption=label, detail=percent)


def _failed(summary: Summary) -> list[Section]:
    if not summary.counts["failed"]:
        return []
    text = "Like errors make one line: … stands for names and N for numbers that differ."
    return [Section(title="Failed images", text=text, tables=[summary.causes.table()])]
