"""The page of a run that made pictures: images beside what was made of them, and how near it is."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from jobs.runtime.drawn import Made, by_picture
from jobs.runtime.report import charts
from jobs.runtime.report.bulk import about, figures_of, title_of
from jobs.runtime.report.causes import Causes
from jobs.runtime.report.page import Chart, Figure, Section, Thumbnail, page
from jobs.runtime.run import Run

NUM_PICTURES = 12
NUM_BINS = 20
Show = Callable[[Sequence[Made]], Mapping[str, bytes]]
"""what is shown of pictures, by their URIs; those gone are left out"""


class Summary:
    """What a page says of the rows; memory does not grow with them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(ok=0, failed=0)
        self.pictures = 0
        self.some: list[tuple[bytes, Made, float]] = []
        self.worst: list[tuple[float, Made]] = []
        self.bins = np.zeros(NUM_BINS, np.int64)
        self.causes = Causes()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows of a run that made pictures."""
        failed = batch["status"].to_numpy(zero_copy_only=False) == "failed"
        bad, good = batch.filter(pa.array(failed)), batch.filter(pa.array(~failed))
        self.counts.update(ok=good.num_rows, failed=bad.num_rows)
        columns = [bad[name].to_pylist() for name in ("id", "uri", "stage", "error")]
        for row in zip(*columns, strict=True):
            self.causes.add(*row)
        pictures = by_picture(good)
        self.pictures += pictures.num_rows
        left = _part_left(pictures)
        known = np.isfinite(left)
        self.bins += np.histogram(left[known].clip(0, 1), NUM_BINS, range=(0, 1))[0]
        columns = [pictures[name].to_pylist() for name in ("id", "style", "image_uri")]
        made = [Made(*each) for each in zip(*columns, strict=True)]
        some = [(_order(one.id), one, part) for one, part in zip(made, left.tolist(), strict=True)]
        self.some = heapq.nsmallest(NUM_PICTURES, [*self.some, *some])
        worst = [(-part, one) for _, one, part in some if np.isfinite(part)]
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


def write(run: Run, show: Show, text: str, beside: int = 1) -> str:
    """Put report/index.html of a run, `text` above its pictures; returns its URI.

    What is shown of a picture holds `beside` of them, side by side.
    """
    summary = Summary()
    for batch in run.results():
        summary.add(batch)
    made = _pictures(summary, show, text, beside)
    sections = [*made, *_losses(summary), *_failed(summary), *about(run)]
    counts = summary.counts
    figures: list[Figure] = list(figures_of(run, counts["ok"], counts["failed"]))
    return run.put("report/index.html", page(title_of(run), run.uri, figures, sections))


def _pictures(summary: Summary, show: Show, text: str, beside: int) -> Iterator[Section]:
    some = sorted((one, part) for _, one, part in summary.some)
    rows = [("Some of the pictures", some)]
    if len(summary.worst) == NUM_PICTURES and summary.pictures > NUM_PICTURES:
        rows.append(("Most loss left", [(one, -part) for part, one in summary.worst]))
    for title, pictures in rows:
        images = show([one for one, _ in pictures]) if pictures else {}
        thumbnails = [
            Thumbnail(title=one.id, image=images.get(one.uri, b""), caption=_told(one, part))
            for one, part in pictures
        ]
        if thumbnails:
            yield Section(title=title, text=text, thumbnails=thumbnails, beside=beside)


def _told(one: Made, part: float) -> str:
    left = f"{part:.1%} of the loss left" if np.isfinite(part) else ""
    return ": ".join(filter(None, (one.style, left)))


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
