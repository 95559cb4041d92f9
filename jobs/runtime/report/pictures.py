"""The page of a run that made pictures: images beside what was made of them, and how near it is."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.runtime.report import charts
from jobs.runtime.report.bulk import about, figures_of, title_of
from jobs.runtime.report.causes import Causes
from jobs.runtime.report.page import Chart, Figure, Section, Thumbnail, page
from jobs.runtime.run import Run

COLUMNS = (
    *("id", "uri", "status", "stage", "error", "image_uri"),
    *("total_loss", "total_at_start_loss"),
)
NUM_PICTURES = 12
NUM_BINS = 20
Show = Callable[[Mapping[str, str]], Mapping[str, bytes]]
"""ids and the URIs of the pictures made -> what is shown of them; those gone are left out"""


class Summary:
    """What a page says of the rows; memory does not grow with them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(ok=0, failed=0)
        self.some: list[tuple[bytes, str, str, float]] = []
        self.worst: list[tuple[float, str, str]] = []
        self.bins = np.zeros(NUM_BINS, np.int64)
        self.causes = Causes()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows with COLUMNS."""
        failed = batch["status"].to_numpy(zero_copy_only=False) == "failed"
        bad, good = batch.filter(pa.array(failed)), batch.filter(pa.array(~failed))
        self.counts.update(ok=good.num_rows, failed=bad.num_rows)
        columns = [bad[name].to_pylist() for name in ("id", "uri", "stage", "error")]
        for row in zip(*columns, strict=True):
            self.causes.add(*row)
        ids, uris = good["id"].to_pylist(), good["image_uri"].to_pylist()
        left = _part_left(good)
        known = np.isfinite(left)
        self.bins += np.histogram(left[known].clip(0, 1), NUM_BINS, range=(0, 1))[0]
        told = list(zip(ids, uris, left.tolist(), strict=True))
        some = [(_order(id), id, uri, part) for id, uri, part in told]
        self.some = heapq.nsmallest(NUM_PICTURES, [*self.some, *some])
        worst = [
            (-part, id, uri)
            for (id, uri, part), is_known in zip(told, known, strict=True)
            if is_known
        ]
        self.worst = heapq.nsmallest(NUM_PICTURES, [*self.worst, *worst])


def _order(id: str) -> bytes:
    """Rows in an order that has nothing to do with their names: the first are a sample."""
    return hashlib.sha256(id.encode(errors="surrogatepass")).digest()


def _part_left(good: pa.RecordBatch) -> np.ndarray:
    """Of the loss that a picture began with, what is left; not a number where none is known."""
    last, first = (
        good[name].to_numpy(zero_copy_only=False).astype(np.float64)
        for name in ("total_loss", "total_at_start_loss")
    )
    return np.divide(last, first, out=np.full(len(last), np.nan), where=first > 0)


def write(run: Run, show: Show) -> str:
    """Put report/index.html of a run; returns its URI."""
    summary = Summary()
    for batch in run.results(COLUMNS):
        summary.add(batch)
    sections = [*_pictures(summary, show), *_losses(summary), *_failed(summary), *about(run)]
    counts = summary.counts
    figures: list[Figure] = list(figures_of(run, counts["ok"], counts["failed"]))
    return run.put("report/index.html", page(title_of(run), run.uri, figures, sections))


def _pictures(summary: Summary, show: Show) -> Iterator[Section]:
    rows: list[tuple[str, list[Any]]] = [
        (
            "Some of the pictures",
            [(id, uri, part) for _, id, uri, part in sorted(summary.some, key=lambda one: one[1])],
        )
    ]
    if len(summary.worst) == NUM_PICTURES and summary.counts["ok"] > NUM_PICTURES:
        rows.append(("Most loss left", [(id, uri, -part) for part, id, uri in summary.worst]))
    for title, pictures in rows:
        images = show({id: uri for id, uri, _ in pictures}) if pictures else {}
        thumbnails = [
            Thumbnail(
                title=id,
                image=images.get(id, b""),
                caption=f"{part:.1%} of the loss left" if np.isfinite(part) else "",
            )
            for id, _, part in pictures
        ]
        if thumbnails:
            text = "Below in each are the image that it was made of, and the styles."
            yield Section(title=title, text=text, thumbnails=thumbnails)


def _losses(summary: Summary) -> Iterator[Section]:
    if summary.bins.any():
        edges = np.linspace(0, 1, NUM_BINS + 1).tolist()
        svg = charts.histogram(summary.bins.tolist(), edges, "part of the loss left", "pictures")
        told = "Of the total loss that a picture began with."
        yield Section(title="Losses", charts=[Chart(title="Loss left", svg=svg, caption=told)])


def _failed(summary: Summary) -> Iterator[Section]:
    if summary.counts["failed"]:
        text = "Like errors make one line: … stands for names and N for numbers that differ."
        yield Section(title="Failed images", text=text, tables=[summary.causes.table()])
