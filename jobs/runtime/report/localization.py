"""The page of an evaluation of boxes: how near they come, by class, and the worst pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.runtime.report.bulk import about, title_of
from jobs.runtime.report.causes import Causes
from jobs.runtime.report.page import Figure, Section, Table, Thumbnail, page
from jobs.runtime.run import Run

HIT = 0.5
NAMES = {
    "mean_iou": "mean IoU",
    "above_half": "IoU > 0.5",
    "localisation_accuracy": "localisation accuracy",
    "average_precision": "average precision",
    "pictures": "pictures",
}
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Worst:
    """A row of low IoU."""

    id: str
    iou: float
    image: bytes
    """JPEG with true boxes and those found; empty where it cannot be had"""
    found: str
    truth: str
    """names of what was found, and of what is there"""


def localization_page(
    run: Run, numbers: Mapping[str, Any], worst: Sequence[Worst], causes: Causes
) -> bytes:
    """The page as HTML, from the numbers of metrics.json and the worst rows."""
    told = "True boxes are green, those found red; the lowest IoU first."
    thumbnails = [
        Thumbnail(
            title=each.id,
            image=each.image,
            caption=f"IoU {each.iou:.3f}",
            detail=f"{each.found}, truth: {each.truth}",
            bad=each.iou <= HIT,
        )
        for each in worst
    ]
    sections = [
        Section(title="Classes", text=numbers["missing"], tables=[_classes(numbers["classes"])]),
        Section(title="Worst pictures", text=told, thumbnails=thumbnails),
        *_notes(numbers["counts"], causes),
        *about(run),
    ]
    return page(f"Evaluation of {title_of(run)}", run.uri, list(_figures(numbers)), sections)


def _figures(numbers: Mapping[str, Any]) -> Iterator[Figure]:
    counts = numbers["counts"]
    yield Figure(
        name="Mean IoU",
        value=f"{numbers['mean_iou']:.4f}",
        note=f"{counts['evaluated']:,} pictures",
    )
    yield Figure(name="IoU > 0.5", value=f"{numbers['above_half']:.2%}")
    if numbers["localisation_accuracy"] is not None:
        value = f"{numbers['localisation_accuracy']:.2%}"
        yield Figure(name="Localised", value=value, note="right class and IoU > 0.5")
    if ranked := numbers["mean_average_precision"]:
        value = NAN if ranked["average"] is None else ranked["average"]
        half = NAN if ranked["at_50"] is None else ranked["at_50"]
        yield Figure(name="mAP", value=f"{value:.4f}", note=f"at IoU 0.5: {half:.4f}")
    if told := left_out(counts):
        number = counts["read"] - counts["evaluated"]
        yield Figure(name="Left out", value=f"{number:,}", note=told, bad=True)


def left_out(counts: Mapping[str, int]) -> str:
    """The rows that are not in the numbers, in words; empty where all are."""
    named = ("failed", "without_truth", "unusable_truth")
    return ", ".join(f"{counts[n]:,} {n.replace('_', ' ')}" for n in named if counts[n])


def _classes(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = [key for key in NAMES if any(row[key] is not None for row in rows)]
    return Table(
        columns=["class", *(NAMES[key] for key in columns)],
        rows=[
            [row["class"], *(NAN if row[key] is None else row[key] for key in columns)]
            for row in rows
        ],
        note="" if rows else "No true object is of a class of the weights.",
        bars=frozenset(n for n, key in enumerate(columns, start=1) if key != "pictures"),
    )


def _notes(counts: Mapping[str, int], causes: Causes) -> Iterator[Section]:
    if number := counts["of_another_class"]:
        text = f"{number:,} true objects are of no class of the weights: they count for IoU alone."
        yield Section(title="Other classes", text=text)
    if counts["failed"] or counts["unusable_truth"]:
        text = "These rows have no result, or a truth that does not fit their picture."
        yield Section(title="Left out", text=text, tables=[causes.table()])
