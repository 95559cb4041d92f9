"""The same person or not: pairs of pictures of a run, a row a pair."""

import csv
import hashlib
import io
import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.pictures.faces.labelled import LabelledFaces, read_faces
from jobs.pictures.faces.matching.faces_run import PREFIX, open_faces
from jobs.pictures.faces.matching.pages import write_verified
from jobs.pictures.faces.matching.requests import Verify
from jobs.pictures.faces.matching.search import open_scorer
from jobs.pictures.faces.matching.thresholds import Decision, decide
from jobs.pictures.faces.pairs import places, read_pairs
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage, absolute
from vision_ops.faces.search import Scorer, score_pairs

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("a", pa.string(), nullable=False),
        pa.field("b", pa.string(), nullable=False),
        ("truth", pa.bool_()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        ("similarity", pa.float32()),
        ("probability", pa.float32()),
        ("same", pa.bool_()),
    ]
)
"""id: number of the pair in the list; truth: the list's own word, where it has one"""
PART = "part-pairs.parquet"


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What is to be compared."""

    a: list[str]
    b: list[str]
    truth: list[bool] | None
    by_stem: bool
    """named as LFW names images"""
    digest: str
    """of the file"""


def verify(config: Verify) -> Run:
    """Compare the pairs of a list; returns the finished run of match_faces. Raises ValueError."""
    storage = Storage(config.storage)
    source = open_faces(config.run, storage)
    scorer, measure = open_scorer(config.similarity.head, source.embedder, source.size, storage)
    decision = decide(config.similarity, measure, source.embedder, storage, rate=config.far)
    pairs = load_pairs(config.pairs, storage)
    faces = read_faces(source.run, config.choice, None, {*pairs.a, *pairs.b})
    table = compared(pairs, faces, scorer, decision)
    if "ok" not in set(table["status"].to_pylist()):
        causes = Counter(table["error"].to_pylist()).most_common(3)
        told = "; ".join(f"{count} x {cause}" for cause, count in causes)
        raise ValueError(f"pairs: {config.pairs}: no pair can be compared: {told}")
    identity = {
        "run": source.run.uri,
        "run_content": source.digest(),
        "pairs": absolute(config.pairs),
        "pairs_content": pairs.digest,
        "head": measure,
        "threshold": decision.threshold,
        "calibration": decision.digest,
        "choice": config.choice,
    }
    opened = Run.open(
        config.out, job="match_faces", config=config, identity=identity, storage=storage
    )
    with opened as run:
        run.note(
            status="running",
            **source.about,
            threshold={"value": decision.threshold, "told": decision.told, "head": measure.kind},
        )
        metadata = {
            "argus.embedder": PREFIX + source.embedder,
            "argus.fingerprint": run.fingerprint,
        }
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
        run.put(f"results/{PART}", sink.getvalue())
        counts = write_verified(run, table, decision)
        logger.info("%s", ", ".join(f"{count:,} {name}" for name, count in counts.items()))
        run.finish(counts=dict(counts), report=run.path("report", "index.html"))
    return run


def load_pairs(uri: str, storage: Storage) -> Pairs:
    """Pairs of a CSV with or without their truth, or of LFW's pairs.txt. Raises ValueError."""
    try:
        data = storage.read(absolute(uri))
        text = data.decode("utf-8-sig")
    except FileNotFoundError as missing:
        raise ValueError(f"pairs: {absolute(uri)}: not there") from missing
    except UnicodeDecodeError as binary:
        raise ValueError(f"pairs: {absolute(uri)}: not text") from binary
    digest = hashlib.sha256(data).hexdigest()[:16]
    rows = csv.DictReader(io.StringIO(text))
    names = rows.fieldnames or []
    if {"a", "b"} <= set(names) and "same" not in names:
        listed = [(row["a"] or "", row["b"] or "") for row in rows]
        if not listed or not all(a and b for a, b in listed):
            raise ValueError(f"pairs: {absolute(uri)}: no pairs, or one without a or b")
        a, b = (list(side) for side in zip(*listed, strict=True))
        return Pairs(a=a, b=b, truth=None, by_stem=False, digest=digest)
    known = read_pairs(uri, storage)
    return Pairs(
        a=list(known.a),
        b=list(known.b),
        truth=known.same.tolist(),
        by_stem=known.by_stem,
        digest=digest,
    )


def compared(pairs: Pairs, faces: LabelledFaces, scorer: Scorer, decision: Decision) -> pa.Table:
    """A row for every pair; failed where a side is no row of the run, or has no face."""
    ids = {id: k for k, id in enumerate(faces.ids)}
    # rows without a face stand behind the others, so that a name finds them too
    ids |= {id: len(ids) + k for k, id in enumerate(faces.without_face)}
    sides = [places(names, ids, pairs.by_stem) for names in (pairs.a, pairs.b)]
    errors = [
        _error(a, int(i), len(faces.ids)) or _error(b, int(k), len(faces.ids))
        for a, i, b, k in zip(pairs.a, sides[0], pairs.b, sides[1], strict=True)
    ]
    good = np.array([not error for error in errors], bool)
    scores = np.full(len(errors), np.nan, np.float32)
    first, second = (side[good].astype(np.int64) for side in sides)
    scores[good] = score_pairs(faces.embeddings, faces.embeddings, first, second, scorer)
    probability = decision.probability(scores)
    columns = {
        "id": [f"{k:08d}" for k in range(len(errors))],
        "a": pairs.a,
        "b": pairs.b,
        "truth": pairs.truth or [None] * len(errors),
        "status": ["failed" if error else "ok" for error in errors],
        "stage": ["read" if error else "" for error in errors],
        "error": errors,
        "similarity": pa.array(scores, mask=~good),
        "probability": pa.array(probability, mask=np.isnan(probability)),
        "same": pa.array(decision.same(scores), mask=~good),
    }
    arrays = [pa.array(columns[f.name], f.type) for f in SCHEMA]
    return pa.table(arrays, schema=SCHEMA)


def _error(name: str, place: int, num_faces: int) -> str:
    if place < 0:
        return f"no row or face of the run: {name}"
    return f"no face was found, or the picture failed: {name}" if place >= num_faces else ""
