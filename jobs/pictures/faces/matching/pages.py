"""The pages of match_faces: who was named, which pairs agree, which people were found."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from jobs.pictures.faces.embedding import cut_out
from jobs.pictures.faces.matching.thresholds import Decision
from jobs.runtime.report import charts
from jobs.runtime.report.bulk import Extremes, about
from jobs.runtime.report.causes import Causes
from jobs.runtime.report.page import Chart, Figure, Section, Table, Thumbnail, facts_of, page
from jobs.runtime.run import Run
from vision_ops.metrics.scores import ScoreGrid

NUM_PICTURES = 12
NUM_PEOPLE, FACES_OF_EACH = 30, 8
NUM_NAMED = 100
NUM_BARS = 40
REPORT = "report/index.html"
EVENTS = {
    "right": "the right name",
    "wrong": "another's name",
    "missed": "enrolled, but unknown",
    "stranger_named": "not enrolled, but named",
    "stranger_unknown": "not enrolled, and unknown",
}


@dataclass(kw_only=True)
class Summary:
    """What a page says of rows of single faces."""

    counts: Counter[str]
    """images: read, failed, faceless; faces: faces, and what became of them"""
    scores: np.ndarray = field(default_factory=lambda: np.zeros(NUM_BARS, np.int64))
    """faces by similarity to the nearest person"""
    causes: Causes = field(default_factory=Causes)
    faceless: list[str] = field(default_factory=list)
    """the first of them"""

    def add_images(self, batch: pa.RecordBatch) -> None:
        """Count images, each by its first row; name what failed and where nobody was found."""
        for row in batch.select(["id", "uri", "status", "stage", "error", "face"]).to_pylist():
            self.counts["faces"] += row["face"] is not None
            if row["face"]:
                continue
            self.counts["read"] += 1
            if row["status"] == "failed":
                self.counts["failed"] += 1
                self.causes.add(row["id"], row["uri"], row["stage"], row["error"])
            elif row["face"] is None:
                self.counts["faceless"] += 1
                if len(self.faceless) < NUM_NAMED:
                    self.faceless.append(row["id"])


def write_identified(run: Run, source: Run, decision: Decision, people: frozenset[str]) -> Summary:
    """Put the page of an identification; `people`: names in the gallery."""
    summary = Summary(counts=Counter(read=0, failed=0, faceless=0, faces=0, matched=0, unknown=0))
    columns = ("id", "image", "truth", "match", "similarity", "top_people")
    kinds = {name: Extremes(NUM_PICTURES, s, columns) for name, s in (("least", 1), ("near", -1))}
    kinds["wrong"] = Extremes(NUM_PICTURES, -1, columns)
    several = {
        image.as_py()
        for batch in run.results(("image", "face"))
        for image in batch.filter(pc.field("face") == 1)["image"]
    }
    for batch in run.results():
        summary.add_images(batch)
        faces = batch.filter(batch["face"].is_valid())
        scores = faces["similarity"].to_numpy(zero_copy_only=False).astype(np.float64)
        summary.scores += counted(scores, decision.grid)
        named = faces["match"].is_valid().to_numpy(zero_copy_only=False)
        summary.counts.update(matched=int(named.sum()), unknown=int((~named).sum()))
        events = np.array([_event(row, people, several) for row in _light(faces)], object)
        summary.counts.update(event for event in events if event)
        for name, chosen in (
            ("least", named),
            ("near", ~named),
            ("wrong", np.isin(events, ["wrong", "stranger_named"])),
        ):
            kinds[name].add(scores[chosen], faces.filter(pa.array(chosen)))
    run.put(REPORT, identified_page(run, source, summary, kinds, decision))
    return summary


def _light(faces: pa.RecordBatch) -> list[dict[str, Any]]:
    return faces.select(["image", "truth", "match", "enrolled"]).to_pylist()


def _event(row: Mapping[str, Any], people: frozenset[str], several: set[str]) -> str:
    """What became of a face whose person is known: alone in its picture, not the enrolled one."""
    if not row["truth"] or row["enrolled"] or row["image"] in several:
        return ""
    if row["truth"] in people:
        right = "right" if row["match"] == row["truth"] else "wrong"
        return right if row["match"] else "missed"
    return "stranger_named" if row["match"] else "stranger_unknown"


def identified_page(
    run: Run, source: Run, summary: Summary, kinds: Mapping[str, Extremes], decision: Decision
) -> bytes:
    """The page as HTML."""
    counts = summary.counts
    figures = _image_figures(counts)
    if decision.threshold is not None:
        figures += [
            Figure(name="Named", value=f"{counts['matched']:,}", note="faces"),
            Figure(name="Unknown", value=f"{counts['unknown']:,}", note="faces"),
        ]
    told = _threshold(decision)
    chart = Chart(
        title="Faces by similarity to the nearest person",
        svg=by_similarity(summary.scores, decision.grid, "faces"),
    )
    sections = [Section(title="Results", text=told, charts=[chart])]
    judged = [(words, counts[name]) for name, words in EVENTS.items() if counts[name]]
    if judged:
        text = "Faces of known people, alone in their picture, that were not themselves enrolled."
        table = Table(columns=("outcome", "faces"), rows=judged)
        sections.append(Section(title="Beside the truth", text=text, tables=[table]))
    titles = {
        "wrong": "Wrong names, the most alike first",
        "least": "Named, the least alike first",
        "near": "Unknown, the most alike first",
    }
    rows = {name: kinds[name].rows() for name in titles}
    images = pictured(source, run, [row[1] for each in rows.values() for row in each])
    for name, title in titles.items():
        if rows[name]:
            shown = [_identified(row, images) for row in rows[name]]
            sections.append(Section(title=title, thumbnails=shown))
    sections += [*_left_out(summary), *networks(run), *about(run)]
    return page("Identification", run.uri, figures, sections)


def _identified(row: Sequence[Any], images: Mapping[str, bytes]) -> Thumbnail:
    score, id, _, truth, match, _, nearest = row
    said = match or f"unknown, nearest {nearest[0]}"
    known = f"truth {truth}, " if truth else ""
    wrong = bool(truth and match and truth != match)
    detail = f"{known}similarity {score:.3f}"
    return Thumbnail(title=id, image=images.get(id, b""), caption=said, detail=detail, bad=wrong)


def write_clustered(run: Run, source: Run, decision: Decision) -> Summary:
    """Put the page of a clustering."""
    summary = Summary(counts=Counter(read=0, failed=0, faceless=0, faces=0, nobody=0, people=0))
    sizes: Counter[str] = Counter()
    best: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for batch in run.results():
        summary.add_images(batch)
        faces = batch.filter(batch["face"].is_valid())
        for row in faces.select(["id", "person", "quality"]).to_pylist():
            sizes[row["person"] or ""] += 1
            kept = best[row["person"] or ""]
            kept.append((-row["quality"], row["id"]))
            if len(kept) > 16 * FACES_OF_EACH:
                kept[:] = heapq.nsmallest(FACES_OF_EACH, kept)
    nobody = sizes.pop("", 0)
    summary.counts.update(nobody=nobody, people=len(sizes))
    shown = sorted(sizes)[:NUM_PEOPLE]  # numbered by size
    faces_of = {
        name: [id for _, id in heapq.nsmallest(FACES_OF_EACH, best[name])] for name in shown
    }
    alone = [id for _, id in heapq.nsmallest(NUM_PICTURES, best[""])]
    images = pictured(source, run, [id for ids in faces_of.values() for id in ids] + alone)
    sections = [Section(title="Results", text=_threshold(decision))]
    for name in shown:
        text = f"{sizes[name]:,} faces; the best {FACES_OF_EACH}." * (sizes[name] > FACES_OF_EACH)
        thumbnails = [Thumbnail(title=id, image=images.get(id, b"")) for id in faces_of[name]]
        title = f"{name}: {sizes[name]:,} faces"
        sections.append(Section(title=title, text=text, thumbnails=thumbnails))
    if alone:
        thumbnails = [Thumbnail(title=id, image=images.get(id, b"")) for id in alone]
        text = f"{nobody:,} faces are like too few others; those of best quality."
        sections.append(Section(title="Nobody", text=text, thumbnails=thumbnails))
    if len(sizes) > NUM_PEOPLE:
        rows = [(name, sizes[name]) for name in sorted(sizes)[NUM_PEOPLE : NUM_PEOPLE + NUM_NAMED]]
        table = Table(columns=("person", "faces"), rows=rows)
        sections.append(Section(title="Others", tables=[table], folded=True))
    figures = _image_figures(summary.counts)
    figures.append(Figure(name="People", value=f"{len(sizes):,}"))
    figures.append(Figure(name="Nobody", value=f"{nobody:,}", note="faces"))
    sections += [*_left_out(summary), *networks(run), *about(run)]
    run.put(REPORT, page("People", run.uri, figures, sections))
    return summary


def write_verified(run: Run, table: pa.Table, decision: Decision) -> Counter[str]:
    """Put the page of a verification; returns counts of pairs."""
    causes, counts = Causes(), Counter(read=table.num_rows, failed=0, same=0, different=0)
    judged: Counter[tuple[bool, bool]] = Counter()
    scores = []
    for row in table.to_pylist():
        if row["status"] == "failed":
            counts["failed"] += 1
            causes.add(row["id"], f"{row['a']} {row['b']}", row["stage"], row["error"])
            continue
        counts["same" if row["same"] else "different"] += 1
        scores.append(row["similarity"])
        if row["truth"] is not None:
            judged[row["truth"], row["same"]] += 1
    told = _threshold(decision)
    bars = counted(np.array(scores, np.float64), decision.grid)
    svg = by_similarity(bars, decision.grid, "pairs")
    sections = [
        Section(title="Results", text=told, charts=[Chart(title="Pairs by similarity", svg=svg)])
    ]
    figures = [Figure(name="Pairs", value=f"{counts['read']:,}")]
    figures += [Figure(name=n.title(), value=f"{counts[n]:,}") for n in ("same", "different")]
    if judged:
        right = judged[True, True] + judged[False, False]
        counts.update(right=right, wrong=judged.total() - right)
        share = f"{right / judged.total():.2%}"
        figures.append(Figure(name="Right", value=share, note=f"{right:,} of {judged.total():,}"))
        rows = [
            ("same person", judged[True, True], judged[True, False]),
            ("two people", judged[False, True], judged[False, False]),
        ]
        titles = ("truth", "called the same", "called different")
        sections.append(
            Section(title="Beside the truth", tables=[Table(columns=titles, rows=rows)])
        )
    if counts["failed"]:
        value = f"{counts['failed']:,}"
        figures.append(Figure(name="Not compared", value=value, bad=True))
        sections.append(Section(title="Pairs that could not be compared", tables=[causes.table()]))
    run.put(
        REPORT, page("Verification", run.uri, figures, [*sections, *networks(run), *about(run)])
    )
    return counts


def pictured(source: Run, run: Run, ids: Iterable[str]) -> dict[str, bytes]:
    """JPEGs of faces by id, cut out of their pictures; those that cannot be had are left out."""
    wanted = set(ids)
    if not wanted:
        return {}
    boxes: dict[str, tuple[str, list[float]]] = {}
    values = pa.array(sorted(wanted))
    for batch in run.results(("id", "image", "box")):
        for row in batch.filter(pc.field("id").isin(values)).to_pylist():
            boxes[row["id"]] = row["image"], row["box"]
    return cut_out(source, boxes)


def counted(scores: np.ndarray, grid: ScoreGrid) -> np.ndarray:
    """int64 (NUM_BARS,): scores in equal parts of all that this similarity can be."""
    within = scores.clip(grid.low, grid.high)  # float32 may round over an end
    return np.histogram(within, NUM_BARS, range=(grid.low, grid.high))[0]


def by_similarity(counts: np.ndarray, grid: ScoreGrid, of: str) -> Markup:
    """The chart of `counted`."""
    edges = np.linspace(grid.low, grid.high, NUM_BARS + 1).tolist()
    return charts.histogram(counts.tolist(), edges, "similarity", of)


def networks(run: Run) -> list[Section]:
    """By which networks the faces were found and embedded, with their licences."""
    told = {
        "Embedder": facts_of(run.manifest.get("embedder", {})),
        "Detector": facts_of(run.manifest.get("detector", {})),
    }
    return [Section(title=title, facts=facts) for title, facts in told.items() if facts]


def _image_figures(counts: Mapping[str, int]) -> list[Figure]:
    failed, faceless = counts["failed"], counts["faceless"]
    return [
        Figure(name="Images", value=f"{counts['read']:,}"),
        Figure(name="Faces", value=f"{counts['faces']:,}"),
        Figure(name="Without a face", value=f"{faceless:,}", note="images", bad=faceless > 0),
        Figure(name="Failed", value=f"{failed:,}", note="images", bad=failed > 0),
    ]


def _left_out(summary: Summary) -> list[Section]:
    sections = []
    if summary.counts["failed"]:
        text = "Like errors make one line: … stands for names and N for numbers that differ."
        sections.append(Section(title="Failed images", text=text, tables=[summary.causes.table()]))
    if summary.faceless:
        more = summary.counts["faceless"] > len(summary.faceless)
        note = f"The first of {summary.counts['faceless']:,}." if more else ""
        table = Table(columns=("id",), rows=[(id,) for id in summary.faceless], note=note)
        sections.append(Section(title="Images without a face", tables=[table], folded=True))
    return sections


def _threshold(decision: Decision) -> str:
    if decision.threshold is None:
        return "No threshold was given: nobody is named, only the nearest and how alike they are."
    return f"One person from a similarity of {decision.threshold:.4f} on: {decision.told}."
