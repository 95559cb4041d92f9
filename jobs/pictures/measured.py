"""A finished run that made pictures, measured: figures of each picture, and of all of them.

A part of the run is one part here, put whole, so that a measurement that was broken off goes on;
pictures are read one by one, and what is said of all comes from the parts that were written.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.pictures.located import finite
from jobs.pictures.measure_totals import Summary, Totals
from jobs.pictures.measuring import Judge, Measuring
from jobs.pictures.references import Reference
from jobs.runtime.drawn import IMAGE_URIS, STYLES, PictureReader
from jobs.runtime.plan import load_files, read_slices
from jobs.runtime.progress import Progress
from jobs.runtime.report import measures as report
from jobs.runtime.reread import origin_of
from jobs.runtime.run import Run
from jobs.runtime.slices import Row, Slice
from jobs.runtime.sources import read_slice
from jobs.runtime.storage import absolute
from jobs.runtime.work import ROW_SCHEMA
from vision_ops.decode import UnreadableImageError
from vision_ops.metrics.frechet import Spread, SpreadAccumulator, frechet_distance

logger = logging.getLogger(__name__)

WANTED = ("id", "uri", "truth", "status", "stage", "error")
SEVERAL = (IMAGE_URIS, STYLES)
"""columns of rows that hold a picture in each of several styles, instead of `image_uri`"""
SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        ("image_uri", pa.string()),
        ("style", pa.string()),
        *((name, pa.float64()) for name in report.MEASURES),
        ("embedding", pa.list_(pa.float32())),
        ("reference_embedding", pa.list_(pa.float32())),
    ]
)
SHOWN = 4
"""pictures at each end of a measure that the page shows, at the most"""


@dataclass(frozen=True, kw_only=True)
class SetDistance:
    """How far all pictures, as a set, are from the reference."""

    distance: float
    """`vision_ops.metrics.frechet.frechet_distance`"""
    num_pictures: int
    num_reference: int
    num_features: int
    trusted: bool
    """both sets have more pictures than there are features"""


@dataclass(frozen=True, kw_only=True)
class PictureEvaluation:
    """The numbers of a run that made pictures."""

    measures: Mapping[str, Summary]
    """by the names of `jobs.runtime.report.measures.MEASURES`; those that no picture has are not
    there"""
    frechet: SetDistance | None
    counts: Mapping[str, int]
    """rows: read, measured, failed (in the run), without_content, without_picture, without_target;
    reference_unreadable"""
    missing: str
    """why there is no style cost, or no FID; empty where there is"""
    report: str
    """URI of the page"""


def evaluate(source: Run, run: Run, measuring: Measuring, num_shown: int) -> PictureEvaluation:
    """Measure a run; writes results/part-*.parquet, metrics.json and the page into `run`."""
    judge = Judge(measuring)
    measure_all(source, run, judge)
    rows = Totals(min(num_shown, SHOWN))
    for batch in run.results():
        rows.add(batch)
    result = _result(rows, judge, run)
    told = as_numbers(result, measuring, judge, source)
    run.put("metrics.json", json.dumps(finite(told), indent=1, ensure_ascii=False).encode())
    shown = rows.shown(source, judge)
    page = report.measures_page(source, told, rows.histograms(run), shown, rows.causes)
    run.put("report/index.html", page)
    say(result)
    return result


def measure_all(source: Run, run: Run, judge: Judge) -> None:
    """Write the parts that are not there, or older than what they measure; one for each part."""
    slices = {piece.slice_id: piece for piece in read_slices(source)}
    since = {_slice_id(entry.uri): entry.mtime_ns for entry in run.parts()}
    made = {_slice_id(entry.uri): entry.mtime_ns for entry in source.parts()}
    todo = [each for each, at in made.items() if since.get(each, -1) < at]
    if todo:
        run.note(status="running")
    pictures = PictureReader(source.storage)
    total = sum(sum(source.part_counts(each).values()) for each in todo)
    with Progress(total, 0) as progress:
        for slice_id in todo:
            rows = _rows(source, slice_id)
            known = judge.measuring.noise_px is None  # noise is not read again
            originals = _originals(source, slices.get(slice_id) if known else None)
            measured = [
                _measured(picture, original, pictures, judge)
                for row, original in zip_longest(rows, originals)
                for picture in _pictures(row or {})
            ]
            failed = sum(row["status"] == "failed" for row in measured)
            told = {"argus.ok": str(len(measured) - failed), "argus.failed": str(failed)}
            table = pa.Table.from_pylist(measured, SCHEMA.with_metadata(told))
            buffer = pa.BufferOutputStream()
            pq.write_table(table, buffer, compression="zstd")
            run.storage.put(run.part_uri(slice_id), buffer.getvalue())
            progress.add(len(measured), failed, 0)


def _slice_id(uri: str) -> str:
    return uri.rpartition("/part-")[2].removesuffix(".parquet")


def _rows(source: Run, slice_id: str) -> list[dict[str, Any]]:
    with source.storage.open_input(source.part_uri(slice_id)) as file:
        table = pq.ParquetFile(file)
        made = [n for n in ("image_uri", *SEVERAL) if n in table.schema_arrow.names]
        return table.read(columns=[*WANTED, *made]).to_pylist()


def _pictures(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each picture of a row, with `image_uri` and `style` (empty: the run's mixture)."""
    if not row:
        return
    kept = {name: row[name] for name in WANTED}
    if not row.get("image_uris"):
        yield {**kept, "image_uri": row.get("image_uri"), "style": ""}
        return
    for uri, style in zip(row["image_uris"], row["styles"], strict=True):
        yield {**kept, "image_uri": uri, "style": style}


def _originals(source: Run, piece: Slice | None) -> Iterator[Row]:
    """What the rows of a part were made of, one at a time; none where the plan has not the slice"""
    if piece is not None:
        yield from read_slice(origin_of(source), load_files(source.uri, source.storage, piece))


def _measured(
    row: Mapping[str, Any], original: Row | None, pictures: PictureReader, judge: Judge
) -> dict[str, Any]:
    """The row with its figures, or as a failed one that says what is not there."""
    if row["status"] == "failed":
        return dict(row)
    dreamt = judge.measuring.noise_px is not None
    try:
        content = None if dreamt else _content(row, original, judge)
    except UnreadableImageError as gone:
        return {**row, "status": "failed", "stage": "content", "error": str(gone)}
    try:
        made = judge.opened(pictures.read(row["image_uri"]))
        if content is None:
            return {**row, **judge.measure_dream(made)}
        data = judge.measuring.targets.read(row["id"]) if judge.measuring.targets else None
        target = _target(data, judge)
        return {**row, **judge.measure(made, content, target, row["style"])}
    except FileNotFoundError:
        return {**row, "status": "failed", "stage": "picture", "error": "gone"}
    except (UnreadableImageError, ValueError) as refusal:
        return {**row, "status": "failed", "stage": "picture", "error": str(refusal)}


def _content(row: Mapping[str, Any], original: Row | None, judge: Judge) -> Any:
    if original is None or original.id != row["id"]:
        raise UnreadableImageError(original.error if original and original.error else "gone")
    if original.error:
        raise UnreadableImageError(original.error)
    return judge.opened(original.data)


def _target(data: bytes | None, judge: Judge) -> Any:
    """The target's picture; None where there is none that can be read: counted, by its nulls."""
    try:
        return judge.opened(data) if data is not None else None
    except UnreadableImageError:
        return None


def _result(rows: Totals, judge: Judge, run: Run) -> PictureEvaluation:
    """All numbers. ValueError where no row can be measured."""
    if not rows.counts["measured"]:
        told = ", ".join(f"{count:,} {name}" for name, count in rows.counts.items() if count)
        raise ValueError(f"run: no picture can be measured ({told})")
    reference, unreadable = rows.reference, 0
    if judge.measuring.reference:
        reference, unreadable = _features_of(judge.measuring.reference, judge)
    counts = {**rows.counts, "reference_unreadable": unreadable}
    if judge.measuring.targets is None:
        del counts["without_target"]
    frechet = _frechet(rows.made, reference)
    notes = []
    if missing := judge.measuring.styles.missing:
        notes.append(f"No style cost: {missing}.")
    if frechet is None:
        notes.append("No distance of sets: that takes two pictures in each.")
    return PictureEvaluation(
        measures=rows.summaries(),
        frechet=frechet,
        counts=counts,
        missing=" ".join(notes),
        report=run.path("report", "index.html"),
    )


def _frechet(
    made: SpreadAccumulator | None, reference: SpreadAccumulator | None
) -> SetDistance | None:
    if made is None or reference is None or min(made.num_rows, reference.num_rows) < 2:
        return None
    both: tuple[Spread, Spread] = made.result(), reference.result()
    return SetDistance(
        distance=frechet_distance(*both),
        num_pictures=made.num_rows,
        num_reference=reference.num_rows,
        num_features=len(both[0].mean),
        trusted=all(each.is_trusted for each in both),
    )


def _features_of(reference: Reference, judge: Judge) -> tuple[SpreadAccumulator | None, int]:
    """Of all pictures of the reference, and how many rows were none."""
    sums, unreadable = None, 0
    for row in reference.rows():
        try:
            if row.error:
                raise UnreadableImageError(row.error)
            seen = judge.reference_embedding(bytes(row.data))
        except UnreadableImageError:
            unreadable += 1
            continue
        sums = sums or SpreadAccumulator(len(seen))
        sums.update(seen[None])
    return sums, unreadable


def as_numbers(
    result: PictureEvaluation, measuring: Measuring, judge: Judge, source: Run
) -> dict[str, Any]:
    """metrics.json."""
    layers, asked = judge.comparer.layers, measuring.protocol
    frechet = None
    if found := result.frechet:
        reference = absolute(asked.reference) if asked.reference else ""
        reference = reference or ("their targets" if measuring.targets else "their contents")
        told = "" if found.trusted else (
            "Not to be trusted: there are no more pictures than features, so that their "
            "covariance has not full rank."
        )  # fmt: skip
        more = {"reference": reference, "layer": layers.style[-1], "told": told}
        frechet = asdict(found) | more
    return {
        "run": source.uri,
        "fingerprint": source.fingerprint,
        "counts": dict(result.counts),
        "measures": {name: asdict(each) for name, each in result.measures.items()},
        "frechet": frechet,
        "features": {
            "network": measuring.features.card.network,
            "weights": measuring.features.source,
            "sha256": measuring.features.sha256,
            "content_layers": layers.content,
            "style_layers": layers.style,
            "convention": asked.convention,
        },
        "styles": dict(measuring.styles.shares),
        "missing": result.missing,
    }


def say(result: PictureEvaluation) -> None:
    """The summary as log lines."""
    told = ", ".join(f"{name} {each.mean:.4g}" for name, each in result.measures.items())
    logger.info("%s pictures: %s", f"{result.counts['measured']:,}", told or "of noise")
    if found := result.frechet:
        doubt = "" if found.trusted else " (not to be trusted: too few pictures)"
        logger.info("distance of sets %.4g%s", found.distance, doubt)
    if result.missing:
        logger.warning("%s", result.missing)
    if left_out := report.left_out(result.counts):
        logger.warning("left out: %s", left_out)
