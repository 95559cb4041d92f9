"""A finished match_faces beside the truth: who was put together, or named, and rightly so."""

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from jobs.runtime.labels import LabelTable
from jobs.runtime.report.bulk import about, title_of
from jobs.runtime.report.causes import Causes
from jobs.runtime.report.page import Figure, Section, Table, page
from jobs.runtime.run import Run
from vision_ops.metrics.clustering import Agreement, ClusteringAccumulator, ClusteringResult

logger = logging.getLogger(__name__)

COLUMNS = ("id", "uri", "truth", "status", "stage", "error", "image", "face")
GROUPS = ("person", "match")
"""columns that say who a face is: by cluster, by the gallery"""
NUM_CELLS = 30
LEFT_OUT = ("failed", "faceless", "without_truth", "several_faces", "enrolled")


@dataclass(frozen=True, kw_only=True)
class GroupingEvaluation:
    """The numbers of an evaluation of match_faces."""

    groups: ClusteringResult
    named: Mapping[str, int] | None
    """of identify: faces named right, wrong, and unknown; None of cluster"""
    counts: Mapping[str, int]
    """rows: read, evaluated, failed, faceless, without_truth, enrolled; several_faces, whose
    truth is their image's and so nobody's in particular"""
    report: str
    """URI of the page"""


class Judge:
    """Holds rows of match_faces against their truth."""

    def __init__(self, column: str, several: Collection[str], labels: LabelTable | None) -> None:
        """`several`: ids of images of several faces."""
        self.column, self.several, self.labels = column, several, labels
        self.groups = ClusteringAccumulator()
        self.named: Counter[str] = Counter(right=0, wrong=0, unknown=0)
        self.counts: Counter[str] = Counter(read=0, evaluated=0, **dict.fromkeys(LEFT_OUT, 0))
        self.causes = Causes()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        truth = self.labels.look_up(batch["image"]) if self.labels else batch["truth"]
        self.counts["read"] += batch.num_rows
        rows = batch.to_pylist()
        for row, person in zip(rows, truth.to_pylist(), strict=True):
            if why := self._left_out(row, person):
                self.counts[why] += 1
                continue
            group = row[self.column]
            self.counts["evaluated"] += 1
            self.groups.update([person], [None if group is None else str(group)])
            kind = "right" if group == person else "wrong"
            self.named[kind if group else "unknown"] += 1

    def _left_out(self, row: Mapping[str, Any], person: str | None) -> str:
        """Why a row is in no number; empty where it is."""
        if row["status"] == "failed":
            self.causes.add(row["id"], row["uri"], row["stage"], row["error"])
            return "failed"
        if row["face"] is None:
            return "faceless"
        if not person:
            return "without_truth"
        if row["image"] in self.several:
            return "several_faces"
        return "enrolled" if row.get("enrolled") else ""


def evaluate(source: Run, run: Run, labels: LabelTable | None) -> GroupingEvaluation:
    """Judge a run of match_faces; writes metrics.json and the page into `run`."""
    column = _column(source)
    several = {
        row["image"]
        for batch in source.results(("image", "face"))
        for row in batch.to_pylist()
        if row["face"] == 1
    }
    judge = Judge(column, several, labels)
    columns = (*COLUMNS, column, *(("enrolled",) if column == "match" else ()))
    for batch in source.results(columns):
        judge.add(batch)
    if not judge.counts["evaluated"]:
        raise ValueError(
            f"run: {source.uri}: none of {judge.counts['read']:,} rows has a truth; give --labels, "
            "or embed a source with --data.label"
        )
    result = GroupingEvaluation(
        groups=judge.groups.result(),
        named=dict(judge.named) if column == "match" else None,
        counts=dict(judge.counts),
        report=run.path("report", "index.html"),
    )
    told = {"run": source.uri, "fingerprint": source.fingerprint} | as_numbers(result)
    run.put("metrics.json", json.dumps(told, indent=1, ensure_ascii=False).encode())
    run.put("report/index.html", _page(source, result, judge))
    say(result)
    return result


def _column(source: Run) -> str:
    for batch in source.results():
        if there := [name for name in GROUPS if name in batch.schema.names]:
            return there[0]
        break
    raise ValueError(
        f"run: {source.uri} says of no face who it is (columns {', '.join(GROUPS)}); "
        "accepted: match_faces cluster and identify"
    )


def as_numbers(result: GroupingEvaluation) -> dict[str, Any]:
    """Every number as JSON has it."""
    groups = asdict(result.groups)
    for name, each in _agreements(result):
        groups[name]["f1"] = each.f1
    return {"counts": dict(result.counts), "groups": groups, "named": result.named}


def _agreements(result: GroupingEvaluation) -> Iterator[tuple[str, Agreement]]:
    yield "pairwise", result.groups.pairwise
    yield "bcubed", result.groups.bcubed


def _page(source: Run, result: GroupingEvaluation, judge: Judge) -> bytes:
    groups, counts = result.groups, result.counts
    figures = [
        Figure(name="Pairwise F1", value=f"{groups.pairwise.f1:.4f}"),
        Figure(name="BCubed F1", value=f"{groups.bcubed.f1:.4f}"),
        Figure(name="People", value=f"{groups.num_people:,}", note=f"{groups.num_faces:,} faces"),
        Figure(
            name="Groups",
            value=f"{groups.num_clusters:,}",
            note=f"{groups.num_alone:,} of one face",
        ),
    ]
    if named := result.named:
        told = f"{named['wrong']:,} wrong, {named['unknown']:,} unknown"
        figures.insert(0, Figure(name="Named right", value=f"{named['right']:,}", note=told))
    if out := counts["read"] - counts["evaluated"]:
        note = _left_out(counts)
        figures.append(Figure(name="Left out", value=f"{out:,}", note=note, bad=True))
    rows = [(name, each.precision, each.recall, each.f1) for name, each in _agreements(result)]
    table = Table(
        columns=("", "precision", "recall", "F1"),
        rows=rows,
        note="Pairwise: of pairs of faces. BCubed: mean over faces (Bagga & Baldwin 1998).",
        bars=frozenset({1, 2, 3}),
    )
    mixed = _mixed(judge)
    sections = [Section(title="Agreement", tables=[table])]
    if mixed.rows:
        sections.append(Section(title="Groups of several people", tables=[mixed]))
    if counts["failed"]:
        sections.append(Section(title="Failed images", tables=[judge.causes.table()]))
    sections += about(source)
    return page(f"Evaluation of {title_of(source)}", source.uri, figures, sections)


def _mixed(judge: Judge) -> Table:
    """The groups that hold several people, the largest first."""
    groups: dict[str, Counter[str]] = {}
    for (person, group), count in judge.groups.cells.items():
        groups.setdefault(group, Counter())[person] += count
    several = [(name, people) for name, people in groups.items() if len(people) > 1]
    several.sort(key=lambda item: (-item[1].total(), item[0]))
    rows = [
        (name, people.total(), [f"{who}: {n:,}" for who, n in people.most_common(8)])
        for name, people in several[:NUM_CELLS]
    ]
    note = f"The first {NUM_CELLS} of {len(several):,}." if len(several) > NUM_CELLS else ""
    return Table(columns=("group", "faces", "people"), rows=rows, note=note)


def say(result: GroupingEvaluation) -> None:
    """The summary as log lines."""
    groups = result.groups
    logger.info(
        "pairwise F1 %.4f, BCubed F1 %.4f, %s faces of %s people in %s groups",
        groups.pairwise.f1, groups.bcubed.f1,
        f"{groups.num_faces:,}", f"{groups.num_people:,}", f"{groups.num_clusters:,}",
    )  # fmt: skip
    if named := result.named:
        logger.info("named: %s", ", ".join(f"{count:,} {kind}" for kind, count in named.items()))
    if told := _left_out(result.counts):
        logger.warning("left out: %s", told)


def _left_out(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[n]:,} {n.replace('_', ' ')}" for n in LEFT_OUT if counts[n])
