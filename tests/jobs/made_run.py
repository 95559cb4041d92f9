"""A finished run of classify, made by hand: real pictures, a real plan, rows of known numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.runtime.plan import make_plan
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage
from jobs.runtime.work import ROW_SCHEMA

SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("top_labels", pa.list_(pa.string())),
        ("top_confidences", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class MadeConfig:
    """The part of a bulk job's config that readers of a run look at."""

    data: Source
    out: str


def make_scores(num_rows: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Truth (B,) and float32 probabilities (B, K) of a fair classifier."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, num_rows)
    logits = rng.normal(size=(num_rows, num_classes))
    logits[np.arange(num_rows), truth] += rng.gamma(2.0, 1.8, num_rows)
    neighbours = rng.random(num_rows) < 0.3  # some classes look alike
    logits[np.arange(num_rows)[neighbours], (truth[neighbours] ^ 1) % num_classes] += 2.5
    scores = np.exp(logits)
    return truth, (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def draw_pictures(folder: Path, num: int) -> list[str]:
    """PNG files of 24 px; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"shelf {i % 3}/picture-{i:06d}.png" for i in range(num)]
    y, x = np.mgrid[0:24, 0:24]
    for i, name in enumerate(names):
        pixels = np.stack([x * 10, y * 10, (x + y) * 5 * (i % 3)], axis=2).astype(np.uint8)
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.roll(pixels, i, axis=1)).save(folder / name)
    return sorted(names)


def make_rows(
    ids: Sequence[str],
    truth: Sequence[str | None],
    scores: np.ndarray,
    classes: Sequence[str],
    top_k: int,
) -> list[dict]:
    """Rows as classify writes them."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    rows = []
    for id, name, best, values in zip(ids, truth, order, scores, strict=True):
        rows.append(
            {"id": id, "uri": f"/pictures/{id}", "truth": name, "status": "ok"}
            | {"stage": "", "error": "", "label": classes[best[0]], "confidence": values[best[0]]}
            | {"top_labels": [classes[k] for k in best], "top_confidences": values[best]}
        )
    return rows


def fail(row: dict, stage: str, error: str) -> dict:
    """The row as a failed one."""
    kept = {name: row[name] for name in ("id", "uri", "truth")}
    return {**kept, "status": "failed", "stage": stage, "error": error}


def make_run(
    out: Path,
    pictures: Path,
    rows: Sequence[dict],
    classes: Sequence[str],
    *,
    num_parts: int = 3,
    finished: bool = True,
    schema: pa.Schema = SCHEMA,
) -> Run:
    """A run directory over a folder of pictures that holds these rows."""
    storage, source = Storage(), Source(uri=str(pictures))
    config = MadeConfig(data=source, out=str(out))
    opened = Run.open(
        str(out), job="classify", config=config, identity={"data": source}, storage=storage
    )
    with opened as run:
        make_plan(Origin(source=source, storage=storage), run)
        run.note(
            status="running",
            weights={"source": "made.safetensors", "licence": "MIT", "classes": classes},
        )
        for i in range(num_parts):
            buffer = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(list(rows[i::num_parts]), schema), buffer)
            run.put(f"results/part-{i:04d}.parquet", buffer.getvalue())
        failed = sum(row["status"] == "failed" for row in rows)
        counts = {"read": len(rows), "ok": len(rows) - failed, "failed": failed}
        if finished:
            run.finish(counts=counts, seconds={"wall": 12.5})
    return run
