"""Making pictures of noise as the engine's work, and the page of what was made."""

import heapq
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from jobs.pictures.stylizing import encoded
from jobs.runtime.drawn import IMAGE_URI
from jobs.runtime.report.bulk import about, figures_of, title_of
from jobs.runtime.report.page import Section, Thumbnail, page
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.work import Work
from vision_ops.noise import DecodeNumber, Noise
from vision_ops.operators.generate import Dreamer, GeneratorConfig
from vision_ops.weights import Resolved

PICTURES_PER_CALL = 32
SHEET = 60
"""pictures of a page, six in a row"""


def make_work(op: GeneratorConfig, resources: Resources, weights: Resolved) -> Work:
    """The work of a run."""
    fields = [
        ("seed", pa.int64()),
        (IMAGE_URI, pa.string()),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
    ]
    return Work(
        decoder=DecodeNumber(Noise(length=weights.card.embedding_size)),
        operator=Dreamer,
        config=op,
        columns=pa.schema(fields),
        files={"weights": str(weights.path)},
        metadata={
            "weights": f"{weights.source} sha256:{weights.sha256}",
            "licence": weights.card.licence,
        },
        batch_size=resources.batch_size or PICTURES_PER_CALL,
        draw=_png,
        image_ending="png",
    )


def _png(data: bytes, row: Mapping[str, Any]) -> bytes:
    return encoded(row["picture"], format="png", quality=100)


def write_page(run: Run) -> str:
    """Put report/index.html: the pictures of the first numbers; returns its URI."""
    count, first = 0, list[tuple[str, str]]()
    for batch in run.results(("id", IMAGE_URI)):
        count += batch.num_rows
        rows = zip(*(batch[name].to_pylist() for name in ("id", IMAGE_URI)), strict=True)
        first = heapq.nsmallest(SHEET, [*first, *rows])
    shown = [Thumbnail(title=id, image=_there(run, uri)) for id, uri in first]
    sections = [
        Section(title="Made", text="Of the first numbers, not chosen.", thumbnails=shown),
        *about(run),
    ]
    figures = list(figures_of(run, count, 0))
    return run.put("report/index.html", page(title_of(run), run.uri, figures, sections))


def _there(run: Run, uri: str) -> bytes:
    """The picture, or nothing where somebody took it away."""
    try:
        return run.storage.read(uri)
    except FileNotFoundError:
        return b""
