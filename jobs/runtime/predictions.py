"""Rows of a finished classification beside their truth, as class indices, batch by batch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.runtime.labels import LabelTable
from jobs.runtime.report.causes import Causes

COLUMNS = (
    "id", "uri", "truth", "status", "stage", "error",
    "label", "confidence", "top_labels", "top_confidences",
)  # fmt: skip
NO_TRUTH, UNKNOWN = -1, -2
"""instead of a class index: the row has no truth; its truth is no class"""
NUM_NAMED = 20
"""failed rows and unknown names that are listed"""
MAX_UNKNOWN = 10_000


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Rows that have a label and a truth."""

    ids: pa.Array
    truth: np.ndarray
    """class index int64 (B,)"""
    ranked: np.ndarray
    """class indices int64 (B, M), best first"""
    probabilities: np.ndarray
    """of those classes, float32 (B, M), 0..1"""


class PredictionReader:
    """Sets rows without truth and failed ones aside, counted, and indexes the others.

    A truth is a class name or the decimal index of an output, in `labels` where given, else in the
    rows. Outputs that share a name (ImageNet has two cranes) are one class.
    """

    def __init__(self, outputs: Sequence[str], labels: LabelTable | None) -> None:
        self.outputs = list(outputs)
        self.classes = tuple(dict.fromkeys(outputs))
        self.labels = labels
        self.index = {name: k for k, name in enumerate(self.classes)}
        self.counts: Counter[str] = Counter(
            read=0, evaluated=0, failed=0, without_truth=0, unknown_truth=0
        )
        self.unknown: Counter[str] = Counter()
        self.causes = Causes()
        self.failed_ids: list[str] = []
        self.num_ranked = 0
        self.example = ""

    def read(self, batch: pa.RecordBatch) -> Judged:
        """Index rows with the columns of classify; counts all, returns those to be judged."""
        if "label" not in batch.schema.names or "confidence" not in batch.schema.names:
            raise ValueError(f"run: rows have {batch.schema.names}, wanted: label, confidence")
        failed = batch["status"].to_numpy(zero_copy_only=False) == "failed"
        self._add_failed(batch.filter(pa.array(failed)))
        good = batch.filter(pa.array(~failed))
        truth = self._truth(good)
        rows = good.filter(pa.array(truth >= 0))
        self.counts.update(
            read=batch.num_rows,
            without_truth=int((truth == NO_TRUTH).sum()),
            unknown_truth=int((truth == UNKNOWN).sum()),
            evaluated=rows.num_rows,
        )
        if batch.num_rows and not self.example:
            self.example = batch["id"][0].as_py()
        ranked, probabilities = self._ranking(rows)
        return Judged(
            ids=rows["id"], truth=truth[truth >= 0], ranked=ranked, probabilities=probabilities
        )

    def check(self) -> None:
        """ValueError, with the reason, where no row could be judged."""
        if self.counts["evaluated"]:
            return
        if self.labels is not None and not self.labels.seen.any():
            raise ValueError(
                f"labels: no id is a row of the run; the file has {self.labels.example!r}, "
                f"the run {self.example!r}"
            )
        if self.unknown:
            raise ValueError(
                f"truth: no row's truth is a class of the weights: {_some(list(self.unknown))}; "
                f"classes: {_some(self.classes)}"
            )
        raise ValueError(
            f"truth: none of {self.counts['read']:,} rows has one (failed: "
            f"{self.counts['failed']:,}); give --labels FILE with the columns id, label, or, where "
            "folders are the classes, make the run with --data.label folder"
        )

    def _add_failed(self, rows: pa.RecordBatch) -> None:
        self.counts["failed"] += rows.num_rows
        columns = [rows[name].to_pylist() for name in ("id", "uri", "stage", "error")]
        for row in zip(*columns, strict=True):
            self.causes.add(*row)
        self.failed_ids += columns[0][: NUM_NAMED - len(self.failed_ids)]

    def _truth(self, rows: pa.RecordBatch) -> np.ndarray:
        """Class index of each row's truth, or NO_TRUTH, or UNKNOWN."""
        if self.labels is not None:
            truth = self.labels.look_up(rows["id"])
        else:
            truth = rows["truth"].dictionary_encode()
        names = truth.dictionary.to_pylist()
        classes = np.array([*map(self._class_of, names), NO_TRUTH], np.int64)
        codes = truth.indices.fill_null(len(names)).to_numpy()
        found = classes[codes]
        for code, count in Counter(codes[found == UNKNOWN].tolist()).items():
            if names[code] in self.unknown or len(self.unknown) < MAX_UNKNOWN:
                self.unknown[names[code]] += count
        return found

    def _class_of(self, truth: str) -> int:
        if truth in self.index or not truth:
            return self.index.get(truth, NO_TRUTH)
        if truth.isascii() and truth.isdecimal() and int(truth) < len(self.outputs):
            return self.index[self.outputs[int(truth)]]
        return UNKNOWN

    def _ranking(self, rows: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
        """Class indices (B, M) of the M best labels, best first, and their probabilities."""
        if "top_labels" in rows.schema.names and "top_confidences" in rows.schema.names:
            labels, values = rows["top_labels"].flatten(), rows["top_confidences"].flatten()
        else:
            labels, values = rows["label"], rows["confidence"]
        num_ranked = len(labels) // rows.num_rows if rows.num_rows else self.num_ranked
        self.num_ranked = num_ranked
        encoded = labels.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        if strange := [name for name in names if name not in self.index]:
            raise ValueError(f"run: label {strange[0]!r} is not among the classes of its weights")
        indices = np.array([self.index[name] for name in names], np.int64)
        ranked = indices[encoded.indices.to_numpy()].reshape(rows.num_rows, num_ranked)
        probabilities = values.to_numpy(zero_copy_only=False).reshape(ranked.shape)
        if len(self.classes) < len(self.outputs) == num_ranked:
            return first_of_each(ranked, probabilities, len(self.classes))
        return ranked, probabilities


def first_of_each(
    ranked: np.ndarray, probabilities: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each class once a row: where outputs share a name, the more probable one stands for it."""
    order = np.argsort(ranked, axis=1, kind="stable")
    again = np.diff(np.take_along_axis(ranked, order, axis=1), axis=1, prepend=-1) == 0
    kept = np.empty_like(again)
    np.put_along_axis(kept, order, ~again, axis=1)
    return ranked[kept].reshape(-1, num_classes), probabilities[kept].reshape(-1, num_classes)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NUM_NAMED]) + (", …" if len(names) > NUM_NAMED else "")
