"""The page of an evaluation of faces: scores, errors at thresholds, and the hardest pairs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.runtime.report import charts
from jobs.runtime.report.bulk import about, title_of
from jobs.runtime.report.causes import Causes
from jobs.runtime.report.charts import Series
from jobs.runtime.report.page import Chart, Figure, Section, Table, Thumbnail, facts_of, page
from jobs.runtime.run import Run

LEAST_FAR = 1e-6
FLOORS = (0.99, 0.95, 0.9, 0.8, 0.5, 0.0)
"""where an axis of shares may begin"""
NUM_RANKS = 20
Numbers = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two faces that are hard to tell."""

    score: float
    a: str
    b: str
    names: Sequence[str]
    """who they show; empty: not known"""
    image: bytes
    """JPEG of both side by side; empty where they cannot be had"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page shows beside the numbers."""

    genuine: Sequence[float]
    """share of the pairs by equal steps of score between `edges`"""
    impostor: Sequence[float]
    edges: tuple[float, float]
    hardest_impostor: Sequence[Pair]
    hardest_genuine: Sequence[Pair]
    faceless: Sequence[str]
    """the first row ids without a face"""
    causes: Causes


def verification_page(run: Run, numbers: Numbers, shown: Shown) -> bytes:
    """The page as HTML, from the numbers of metrics.json."""
    judged = numbers["verification"]
    drawn = [_distributions(judged, shown), _roc(judged)]
    if len(numbers["discard"]["fnmr"]) > 1:  # faces of one quality have nothing to discard by
        drawn.append(_discard(numbers["discard"]))
    sections = [
        Section(
            title="Verification, 1:1",
            text=" ".join(numbers["notes"]),
            charts=drawn,
            tables=[_rates(judged)],
        ),
        *_identification(numbers),
        Section(
            title="Hardest impostor pairs",
            text="Two people who look alike to the embedder, or a wrong label. The highest first.",
            thumbnails=[_thumbnail(pair) for pair in shown.hardest_impostor],
            beside=2,
        ),
        Section(
            title="Hardest genuine pairs",
            text="One person who looks like two, or a wrong label. The lowest first.",
            thumbnails=[_thumbnail(pair) for pair in shown.hardest_genuine],
            beside=2,
        ),
        Section(
            title="Calibration",
            text="calibration.json holds thresholds for match_faces. FPIR that it can tell: "
            + numbers["calibration"]["can_tell"]
            + _templates(numbers["calibration"]["faces_per_person"]),
        ),
        *_left_out(numbers["counts"], shown),
        Section(title="Embedder", facts=facts_of(run.manifest["embedder"])),
        *_detector(run),
        *about(run),
    ]
    return page(f"Evaluation of {title_of(run)}", run.uri, list(_figures(numbers)), sections)


def _detector(run: Run) -> list[Section]:
    detector = run.manifest.get("detector")
    return [Section(title="Detector", facts=facts_of(detector))] if detector else []


def _templates(faces_per_person: Sequence[float]) -> str:
    """What sizes of templates are calibrated, the end of a sentence."""
    told = ", ".join(f"{faces:.3g}" for faces in faces_per_person)
    return f"; for templates of {told} faces a person, and between." if told else "."


def _figures(numbers: Numbers) -> Iterator[Figure]:
    judged, folds, found = (numbers[name] for name in ("verification", "folds", "identification"))
    if folds:
        error = f"± {folds['standard_error']:.4f}, {len(folds['accuracies'])} folds"
        yield Figure(name="Accuracy", value=f"{folds['mean']:.2%}", note=error)
    yield Figure(
        name="AUC",
        value=f"{judged['auc']:.4f}",
        note=f"{judged['num_genuine']:,} genuine, {judged['num_impostor']:,} impostor pairs",
    )
    at = f"at {judged['eer_threshold']:.4f}"
    yield Figure(name="Equal error rate", value=f"{judged['eer']:.2%}", note=at)
    enough = [point for point in judged["points"] if not point["insufficient"]]
    if enough:
        point = min(enough, key=lambda each: abs(math.log10(each["target_far"]) + 3))
        name = f"TAR at FAR {point['target_far']:g}"
        yield Figure(name=name, value=f"{point['tar']:.2%}", note=f"at {point['threshold']:.4f}")
    if found:
        note = f"{found['num_people']:,} people, one picture each"
        yield Figure(name="Rank 1", value=f"{found['found']['rank_1']:.2%}", note=note)
    counts = numbers["counts"]
    if told := left_out(counts):
        number = counts["failed"] + counts["faceless"]
        yield Figure(name="Without a face", value=f"{number:,}", note=told, bad=True)


def left_out(counts: Mapping[str, int]) -> str:
    """The images that show no face, in words; empty where all do."""
    named = {"failed": "failed", "faceless": "faceless"}
    return ", ".join(f"{counts[name]:,} {word}" for name, word in named.items() if counts[name])


def _distributions(judged: Numbers, shown: Shown) -> Chart:
    edges = np.linspace(*shown.edges, len(shown.genuine) + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    there = np.flatnonzero(np.array(shown.genuine) + np.array(shown.impostor))
    kept = slice(max(there[0] - 1, 0), there[-1] + 2)
    shares = np.array([shown.genuine, shown.impostor])[:, kept] * 100
    top = _nice(float(shares.max()))
    series = [
        Series(name="genuine pairs", x=middles[kept], y=shares[0]),
        Series(name="impostor pairs", x=middles[kept], y=shares[1]),
    ]
    marks = {f"FAR {p['target_far']:g}": p["threshold"] for p in _sufficient(judged)}
    marks = {"equal error": judged["eer_threshold"]} | marks
    for name, threshold in marks.items():
        line = (threshold, threshold)
        series.append(Series(name=f"{name}: {threshold:.4f}", x=line, y=(0, top)))
    ends = middles[kept][[0, -1]]
    low, high = min(ends[0], *marks.values()), max(ends[1], *marks.values())
    low, high = math.floor(low * 10) / 10, math.ceil(high * 10) / 10
    svg = charts.lines(
        series, "similarity", "% of the pairs", x_range=(low, high), y_range=(0.0, top)
    )
    told = "Upright lines: a pair is accepted on the right of its threshold."
    return Chart(title="Scores", svg=svg, caption=told)


def _sufficient(judged: Numbers) -> list[Numbers]:
    return [point for point in judged["points"] if not point["insufficient"]]


def _roc(judged: Numbers) -> Chart:
    curve, least = judged["curve"], max(LEAST_FAR, 1 / judged["num_impostor"])
    decades = math.ceil(-math.log10(least) - 1e-9)
    far = np.array(curve["far"])
    tar = np.array(curve["tar"])
    kept = far >= 10.0**-decades
    # a step: before the first false accept everything up to its TAR is had for nothing
    x = np.concatenate([[-decades], np.log10(far[kept])])
    y = np.concatenate([[tar[~kept].max(initial=0.0)], tar[kept]])
    floor = _floor(float(y[1:].min(initial=1.0)))
    ticks = [(-float(k), f"1e-{k}" if k else "1") for k in range(decades, -1, -1)]
    svg = charts.lines(
        [Series(name=f"area {judged['auc']:.4f}", x=x, y=y.clip(min=floor), kind="strong")],
        "false accept rate",
        "true accept rate",
        x_range=(-float(decades), 0.0),
        y_range=(floor, 1.0),
        x_ticks=ticks,
    )
    return Chart(title="ROC", svg=svg, caption="FAR on a logarithmic axis.")


def _discard(found: Numbers) -> Chart:
    x, y = np.array(found["discarded"]), np.array(found["fnmr"])
    kept = x <= 0.5
    top = _nice(float(y[kept].max()) * 100)
    series = Series(name="FNMR of what is left", x=x[kept] * 100, y=y[kept] * 100, kind="strong")
    svg = charts.lines(
        [series],
        "% of genuine pairs discarded, lowest quality first",
        "FNMR, %",
        x_range=(0.0, 50.0),
        y_range=(0.0, top),
    )
    told = f"At the threshold of FAR {found['far']:g}. Falls where quality tells the errors."
    return Chart(title="Error against quality discard", svg=svg, caption=told)


def _rates(judged: Numbers) -> Table:
    rows = [
        (
            f"{point['target_far']:g}",
            f"{point['far']:.3g}",
            point["threshold"],
            point["tar"],
            point["tar_whole"],
            point["num_impostors"],
            "insufficient" if point["insufficient"] else "",
        )
        for point in judged["points"]
    ]
    columns = (
        "FAR wanted", "achieved", "threshold", "TAR", "TAR, faceless missed", "impostor pairs", "",
    )  # fmt: skip
    note = "Insufficient: fewer than 1 / FAR impostor pairs, so the data cannot say."
    return Table(title="TAR at FAR", columns=columns, rows=rows, note=note, bars=frozenset({3, 4}))


def _identification(numbers: Numbers) -> Iterator[Section]:
    found = numbers["identification"]
    if not found:
        return
    judged, whole = found["found"], found["whole"]
    shares = judged["cmc"][: min(NUM_RANKS, found["num_people"])]
    ranks, floor = list(range(1, len(shares) + 1)), _floor(shares[0])
    svg = charts.lines(
        [Series(name=f"rank 1: {shares[0]:.4f}", x=ranks, y=shares, kind="strong")],
        "rank",
        "share of probes found",
        x_range=(1.0, float(max(len(shares), 2))),
        y_range=(floor, 1.0),
        x_ticks=[(float(k), str(k)) for k in ranks if k == 1 or k % max(1, len(ranks) // 5) == 0],
    )
    text = (
        f"One picture a person for {found['num_people']:,} people; {judged['num_known']:,} probes. "
        f"Rank 1 {judged['rank_1']:.4f}, rank 5 {judged['rank_5']:.4f}; with probes in which no "
        f"face was found: {whole['rank_1']:.4f} and {whole['rank_5']:.4f}. For FPIR each probe is "
        "searched for in the gallery without its person."
    )
    rows = [
        (
            f"{point['target_fpir']:g}",
            f"{point['fpir']:.3g}",
            point["threshold"],
            point["tpir"],
            point["num_unknown"],
            "insufficient" if point["insufficient"] else "",
        )
        for point in judged["points"]
    ]
    columns = ("FPIR wanted", "achieved", "threshold", "TPIR", "searches in vain", "")
    table = Table(title="TPIR at FPIR", columns=columns, rows=rows, bars=frozenset({3}))
    chart = Chart(title="Cumulative match", svg=svg)
    yield Section(title="Identification, 1:N", text=text, charts=[chart], tables=[table])


def _left_out(counts: Mapping[str, int], shown: Shown) -> Iterator[Section]:
    if counts["failed"]:
        yield Section(title="Failed images", tables=[shown.causes.table()])
    if number := counts["faceless"]:
        note = f"The first of {number:,}." if number > len(shown.faceless) else ""
        table = Table(columns=("id",), rows=[(id,) for id in shown.faceless], note=note)
        yield Section(title="Images without a face", tables=[table], folded=True)


def _thumbnail(pair: Pair) -> Thumbnail:
    names = " · ".join(dict.fromkeys(name for name in pair.names if name))
    return Thumbnail(
        title=f"{pair.a} · {pair.b}", image=pair.image, caption=f"{pair.score:.4f}", detail=names
    )


def _floor(share: float) -> float:
    return next(floor for floor in FLOORS if floor <= share)


def _nice(value: float) -> float:
    """The next larger of 1, 2, 5, 10 … times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= value * (1 - 1e-9))
