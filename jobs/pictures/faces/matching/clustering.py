"""Unlabelled faces to people: all faces of a run at once, a row a face."""

import logging

import numpy as np
import pyarrow as pa

from jobs.pictures.faces.matching.faces_run import (
    FACE_SCHEMA,
    PREFIX,
    FacePart,
    face_rows,
    ids_of,
    open_faces,
    part_names,
    put_part,
    read_part,
)
from jobs.pictures.faces.matching.pages import write_clustered
from jobs.pictures.faces.matching.requests import Cluster
from jobs.pictures.faces.matching.search import open_scorer
from jobs.pictures.faces.matching.thresholds import decide
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage
from vision_ops.faces.clusters import NOBODY, cluster

logger = logging.getLogger(__name__)

SCHEMA = pa.schema([*FACE_SCHEMA, ("person", pa.string())])
"""person: `person 0001` is the one of most faces; null: nobody, of too few faces"""
LEAST_DIGITS = 4


def cluster_faces(config: Cluster) -> Run:
    """Tell the people of a run apart; returns the finished run of match_faces. Raises ValueError.

    Who belongs together depends on all faces: an attempt that was broken off computes them again,
    with the same outcome, and writes the parts that are missing.
    """
    storage = Storage(config.storage)
    source = open_faces(config.run, storage)
    scorer, measure = open_scorer(config.similarity.head, source.embedder, source.size, storage)
    decision = decide(config.similarity, measure, source.embedder, storage, rate=config.far)
    assert decision.threshold is not None  # else `decide` had refused
    identity = {
        "run": source.run.uri,
        "run_content": source.digest(),
        "head": measure,
        "threshold": decision.threshold,
        "method": config.method,
        "min_faces": config.min_faces,
    }
    opened = Run.open(
        config.out, job="match_faces", config=config, identity=identity, storage=storage
    )
    with opened as run:
        entries = part_names(source.run.parts())
        parts = {name: read_part(source, entry) for name, entry in entries.items()}
        if not any(len(part.embeddings) for part in parts.values()):
            raise ValueError(f"run: {source.run.uri}: no face was found in any of its images")
        run.note(
            status="running",
            **source.about,
            threshold={"value": decision.threshold, "told": decision.told, "head": measure.kind},
        )
        done = {entry.uri.rpartition("/")[2] for entry in run.parts()}
        if done != parts.keys():
            ids, embeddings = in_order(list(parts.values()))
            labels = cluster(
                embeddings,
                decision.threshold,
                method=config.method,
                min_faces=config.min_faces,
                scorer=scorer,
            )
            names = dict(zip(ids, named(labels), strict=True))
            about = {"embedder": PREFIX + source.embedder}
            for name, part in parts.items():
                people = pa.array([names[id] for id in ids_of(part)], pa.string())
                put_part(run, name, face_rows(part, {"person": people}).cast(SCHEMA), about)
        else:
            logger.info("%s: nothing was left to do", run.uri)
        run.lap("cluster")
        summary = write_clustered(run, source.run, decision)
        logger.info("%s", ", ".join(f"{count:,} {name}" for name, count in summary.counts.items()))
        run.lap("report")
        run.finish(counts=dict(summary.counts), report=run.path("report", "index.html"))
    return run


def in_order(parts: list[FacePart]) -> tuple[list[str], np.ndarray]:
    """Ids and embeddings of all faces, by id: how they lay in parts does not matter."""
    ids = [id for part in parts for id in ids_of(part)]
    embeddings = np.concatenate([part.embeddings for part in parts])
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return [ids[k] for k in order], embeddings[order]


def named(labels: np.ndarray) -> list[str | None]:
    """`person 0001` and so on; None for NOBODY."""
    digits = max(LEAST_DIGITS, len(str(int(labels.max(initial=0)) + 1)))
    return [None if k == NOBODY else f"person {k + 1:0{digits}d}" for k in labels.tolist()]
