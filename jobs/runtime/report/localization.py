"""The page of an evaluation of boxes: how near they come, by class, and the worst pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.runtime.report import charts
from jobs.runtime.report.bulk import about, title_of
from jobs.runtime.report.causes import Causes
from jobs.runtime.report.page import Chart, Figure, Section, Table, Thumbnail, page
from jobs.runtime.run import Run

HIT = 0.5
NAMES = {
    "mean_iou": "mean IoU",
    "above_half": "IoU > 0.5",
    "accuracy": "right class",
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
        Section(title="How near", text=numbers["missing"], charts=[_histogram(numbers)]),
        *_classes(numbers["classes"]),
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
    hits = round(numbers["above_half"] * counts["evaluated"])
    note = f"{hits:,} of {counts['evaluated']:,}"
    yield Figure(name="IoU > 0.5", value=f"{numbers['above_half']:.2%}", note=note)
    if numbers["localisation_accuracy"] is not None:
        note = "wherever the box is"
        yield Figure(name="Right class", value=f"{numbers['accuracy']:.2%}", note=note)
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


def _histogram(numbers: Mapping[str, Any]) -> Chart:
    counts = numbers["histogram"]
    edges = [number / len(counts) for number in range(len(counts) + 1)]
    return Chart(
        title="Overlap",
        svg=charts.histogram(counts, edges, "IoU"),
        caption="Of the most confident box of each picture with the true one; 1 is the very same.",
    )


def _classes(rows: Sequence[Mapping[str, Any]]) -> Iterator[Section]:
    """A table of the classes that something is known of; no section where there is none."""
    columns = [key for key in NAMES if any(row[key] is not None for row in rows)]
    if not columns:
        return
    table = Table(
        columns=["class", *(NAMES[key] for key in columns)],
        rows=[
            [row["class"], *(NAN if row[key] is None else row[key] for key in columns)]
            for row in rows
        ],
        bars=frozenset(n for n, key in enumerate(columns, start=1) if key != "pictures"),
    )
    yield Section(title="Classes", tables=[table])


def _notes(counts: Mapping[str, int], causes: Causes) -> Iterator[Section]:
    if number := counts["of_another_class"]:
        text = (
            f"In {number:,} pictures what is to be found is of no class of the weights: they count "
            "for IoU alone."
        )
        yield Section(title="Other classes", text=text)
    if counts["failed"] or counts["unusable_truth"]:
        text = "These rows have no result, or a truth that does not fit their picture."
        yield Section(title="Left out", text=text, tables=[causes.table()])
