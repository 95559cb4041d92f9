"""What is said of all pictures that were measured, from their rows streamed once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.pictures.measuring import Judge
from jobs.pictures.stylizing import side_by_side
from jobs.runtime.drawn import read_pictures
from jobs.runtime.report import measures as report
from jobs.runtime.report.bulk import Extremes
from jobs.runtime.report.causes import Causes
from jobs.runtime.reread import read_images
from jobs.runtime.run import Run
from vision_ops.decode import UnreadableImageError
from vision_ops.metrics.frechet import SpreadAccumulator

GONE = ("content", "picture")
"""stages of rows that cannot be measured, beside those of the run itself"""
REPORT_PX = 192
"""height of pictures on the page"""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One measure over all pictures that have it."""

    mean: float
    standard_error: float
    """of the mean; NaN for a single picture"""
    least: float
    most: float
    num_pictures: int
    """with a finite figure: PSNR has none for a picture that is its target"""


class Totals:
    """What is said of all rows; memory does not grow with them."""

    def __init__(self, num_shown: int) -> None:
        self.counts: Counter[str] = Counter(
            read=0, measured=0, failed=0, without_content=0, without_picture=0, without_target=0
        )
        self.sums = {name: np.zeros(3) for name in report.MEASURES}  # rows, sum, sum of squares
        self.ranges = {name: (np.inf, -np.inf) for name in report.MEASURES}
        self.least = {n: Extremes(num_shown, 1, ("id", "image_uri")) for n in report.MEASURES}
        self.most = {n: Extremes(num_shown, -1, ("id", "image_uri")) for n in report.MEASURES}
        self.made: SpreadAccumulator | None = None
        self.reference: SpreadAccumulator | None = None
        self.causes = Causes()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows of SCHEMA."""
        failed = batch["status"].to_numpy(zero_copy_only=False) == "failed"
        bad, good = batch.filter(pa.array(failed)), batch.filter(pa.array(~failed))
        self.counts.update(read=batch.num_rows, measured=good.num_rows)
        columns = [bad[name].to_pylist() for name in ("id", "uri", "stage", "error")]
        for row in zip(*columns, strict=True):
            self.counts[f"without_{row[2]}" if row[2] in GONE else "failed"] += 1
            self.causes.add(*row)
        for name in report.MEASURES:
            self._add_measure(name, good)
        self.counts["without_target"] += good["target_ssim"].null_count
        self.made = _spread(self.made, good["embedding"])
        self.reference = _spread(self.reference, good["reference_embedding"])

    def _add_measure(self, name: str, rows: pa.RecordBatch) -> None:
        values = rows[name].to_numpy(zero_copy_only=False).astype(np.float64)
        known = np.isfinite(values)
        rows, values = rows.filter(pa.array(known)), values[known]
        if not len(values):
            return
        self.sums[name] += (len(values), values.sum(), np.square(values).sum())
        low, high = self.ranges[name]
        self.ranges[name] = (min(low, values.min().item()), max(high, values.max().item()))
        self.least[name].add(values, rows)
        self.most[name].add(values, rows)

    def summaries(self) -> dict[str, Summary]:
        """Of each measure that a row has."""
        found = {}
        for name, (count, total, squares) in self.sums.items():
            if not count:
                continue
            mean = total / count
            variance = max(squares - count * mean**2, 0.0) / (count - 1) if count > 1 else np.nan
            least, most = self.ranges[name]
            found[name] = Summary(
                mean=float(mean), standard_error=float(np.sqrt(variance / count)),
                least=least, most=most, num_pictures=int(count),
            )  # fmt: skip
        return found

    def histograms(self, run: Run) -> dict[str, tuple[list[int], list[float]]]:
        """Rows by each measure, and the edges: a second look at what was written."""
        names = [name for name, (low, high) in self.ranges.items() if low < high]
        counts = {name: np.zeros(report.NUM_BINS, np.int64) for name in names}
        edges = {n: np.linspace(*self.ranges[n], report.NUM_BINS + 1) for n in names}
        for batch in run.results(names):
            for name in names:
                values = batch[name].to_numpy(zero_copy_only=False).astype(np.float64)
                counts[name] += np.histogram(values[np.isfinite(values)], edges[name])[0]
        return {name: (counts[name].tolist(), edges[name].tolist()) for name in names}

    def shown(
        self, source: Run, judge: Judge
    ) -> dict[str, tuple[list[report.Shown], list[report.Shown]]]:
        """The pictures at each measure's ends, the worst and the best, beside their contents."""
        ends = {n: (self.least[n].rows(), self.most[n].rows()) for n in self.summaries()}
        pictures = {uri: id for both in ends.values() for end in both for _, id, uri in end}
        images = beside(source, pictures, judge)
        told = {
            name: tuple(
                [
                    report.Shown(id=id, value=value, image=images.get(uri, b""))
                    for value, id, uri in end
                ]
                for end in both
            )
            for name, both in ends.items()
        }
        return {
            name: (least, most) if report.MEASURES[name].lower_is_worse else (most, least)
            for name, (least, most) in told.items()
        }


def beside(source: Run, pictures: Mapping[str, str], judge: Judge) -> dict[str, bytes]:
    """By the URI of a picture of a row, a JPEG of content, picture and target side by side.

    Those gone since are left out.
    """
    if not pictures:
        return {}
    contents = read_images(source, sorted(set(pictures.values())))
    made, found = read_pictures(source.storage, list(pictures)), dict[str, bytes]()
    for uri, id in pictures.items():
        if uri in made and id in contents:
            target = judge.measuring.targets.read(id) if judge.measuring.targets else None
            files = [contents[id], made[uri]] + ([target] if target else [])
            try:
                found[uri] = side_by_side(files, REPORT_PX, judge.measuring.max_megapixels)
            except UnreadableImageError:
                continue
    return found


def _spread(known: SpreadAccumulator | None, column: pa.Array) -> SpreadAccumulator | None:
    """The sums with a column of embeddings added; None as long as there is none."""
    there = column.drop_null()
    if not len(there):
        return known
    rows = there.flatten().to_numpy().reshape(len(there), -1)
    known = known or SpreadAccumulator(rows.shape[1])
    known.update(rows)
    return known
