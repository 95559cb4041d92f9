"""Who is it: the faces of a run beside a gallery, a row a face, a part a part of the run."""

import logging
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from jobs.pictures.faces.matching.faces_run import (
    FACE_SCHEMA,
    PREFIX,
    FacePart,
    FacesRun,
    face_rows,
    ids_of,
    open_faces,
    part_names,
    put_part,
    read_part,
)
from jobs.pictures.faces.matching.pages import write_identified
from jobs.pictures.faces.matching.requests import Identify
from jobs.pictures.faces.matching.search import Search, open_scorer, open_search
from jobs.pictures.faces.matching.thresholds import Decision, decide
from jobs.runtime.progress import Progress
from jobs.runtime.run import Run
from jobs.runtime.storage import Entry, Storage, absolute
from vision_ops.faces.gallery import Gallery

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        *FACE_SCHEMA,
        ("enrolled", pa.bool_()),
        ("match", pa.string()),
        ("similarity", pa.float32()),
        ("probability", pa.float32()),
        ("top_people", pa.list_(pa.string())),
        ("top_similarities", pa.list_(pa.float32())),
    ]
)
"""enrolled: this very face is in the gallery; match: null is unknown; similarity: of the nearest
person; probability: that two pictures as alike show one person, if half of all pairs do. Templates
of several pictures are more like everybody, which makes it too high"""


@dataclass(frozen=True, kw_only=True)
class Identifier:
    """What is done to each part."""

    source: FacesRun
    run: Run
    search: Search
    decision: Decision
    enrolled: frozenset[str]
    """ids of this run's faces that are in the gallery"""
    gallery: str
    """its content"""

    def __call__(self, name: str, entry: Entry) -> Counter[str]:
        """Identify the faces of one part, and put the part; counts its images and faces."""
        part = read_part(self.source, entry)
        table = face_rows(part, self.columns(part)).cast(SCHEMA)
        matched = table["match"].drop_null()
        about = {"embedder": PREFIX + self.source.embedder, "gallery": self.gallery}
        put_part(self.run, name, table, about)
        failed = sum(each == "failed" for each in part.rows["status"].to_pylist())
        return Counter(
            read=part.rows.num_rows,
            failed=failed,
            faceless=int((part.counts == 0).sum()) - failed,
            faces=len(part.embeddings),
            matched=len(matched),
            rows=table.num_rows,
        )

    def columns(self, part: FacePart) -> dict[str, pa.Array]:
        """What is known of each face."""
        scores, names = self.search(part.embeddings)
        best = scores[:, 0]
        same, probability = self.decision.same(best), self.decision.probability(best)
        match = [name if yes else None for name, yes in zip(names[:, 0], same, strict=True)]
        known = [id in self.enrolled for id in ids_of(part)]
        ends = pa.array(np.arange(len(best) + 1, dtype=np.int32) * scores.shape[1])
        return {
            "enrolled": pa.array(known, pa.bool_()),
            "match": pa.array(match, pa.string()),
            "similarity": pa.array(best, pa.float32()),
            "probability": pa.array(probability, pa.float32(), mask=np.isnan(probability)),
            "top_people": pa.ListArray.from_arrays(ends, pa.array(names.ravel(), pa.string())),
            "top_similarities": pa.ListArray.from_arrays(ends, pa.array(scores.ravel())),
        }


def identify(config: Identify) -> Run:
    """Name the faces of a run; returns the finished run of match_faces. Raises ValueError."""
    storage = Storage(config.storage)
    source = open_faces(config.run, storage)
    gallery = Gallery.load(absolute(config.gallery), storage)
    gallery.check_embedder(source.embedder, f"the faces of {source.run.uri}")
    if not gallery.num_people:
        raise ValueError(
            f"gallery {gallery.uri}: nobody is enrolled; match_faces enrol adds people"
        )
    scorer, measure = open_scorer(config.similarity.head, gallery.embedder, gallery.size, storage)
    decision = decide(
        config.similarity, measure, gallery.embedder, storage, rate=config.fpir,
        gallery=gallery, similarity_only=config.similarity_only,
    )  # fmt: skip
    identity = {
        "run": source.run.uri,
        "run_fingerprint": source.run.fingerprint,
        "gallery": gallery.uri,
        "gallery_content": gallery.digest,
        "head": measure,
        "threshold": decision.threshold,
        "calibration": decision.digest,
        "k": config.k,
    }
    k = min(config.k, gallery.num_people)
    if k < config.k:
        logger.info("k: the gallery holds %d people: so many are named", k)
    opened = Run.open(
        config.out, job="match_faces", config=config, identity=identity, storage=storage
    )
    with opened as run:
        run.note(
            status="running",
            **source.about,
            threshold={"value": decision.threshold, "told": decision.told, "head": measure.kind},
            gallery={"people": gallery.num_people, "content": gallery.digest},
        )
        todo = left_to_do(source, run)
        probes = sum(entry.size for entry in todo.values()) // (4 * gallery.size)
        if todo:
            with open_search(gallery, k, scorer, config.resources.whole(), probes) as found:
                search, callers = found
                work = Identifier(
                    source=source, run=run, search=search, decision=decision,
                    enrolled=enrolled_of(gallery, source), gallery=gallery.digest,
                )  # fmt: skip
                _do(work, todo, callers)
        else:
            logger.info("%s: nothing was left to do", run.uri)
        run.lap("search")
        people = frozenset(name for name, _ in gallery.people())
        summary = write_identified(run, source.run, decision, people)
        _check(source, summary.counts)
        logger.info("%s", ", ".join(f"{count:,} {name}" for name, count in summary.counts.items()))
        run.lap("report")
        run.finish(counts=dict(summary.counts), report=run.path("report", "index.html"))
    return run


def enrolled_of(gallery: Gallery, source: FacesRun) -> frozenset[str]:
    """Ids of the run's own faces that are in the gallery."""
    made_by = source.run.fingerprint
    return frozenset(id for _, (run, id), _ in gallery.faces() if run == made_by)


def left_to_do(source: FacesRun, run: Run) -> dict[str, Entry]:
    """Parts of the source without a result, by the result's name.

    Results of parts that are no more as they were (embed_faces --retry-failed) are deleted.
    """
    wanted = part_names(source.run.parts())
    done = {entry.uri.rpartition("/")[2]: entry for entry in run.parts()}
    for name in done.keys() - wanted.keys():
        run.storage.delete(done[name].uri)
    return {name: entry for name, entry in wanted.items() if name not in done}


def _do(work: Identifier, todo: dict[str, Entry], callers: int) -> None:
    """All parts, so many at a time."""
    items = iter(todo.items())
    with (
        Progress(-1, sum(entry.size for entry in todo.values())) as progress,
        ThreadPoolExecutor(callers) as pool,
    ):
        flying: dict[Future[Counter[str]], Entry] = {}

        def send(count: int) -> None:
            for name, entry in islice(items, count):
                flying[pool.submit(work, name, entry)] = entry

        send(callers)
        try:
            while flying:
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    counts, entry = future.result(), flying.pop(future)
                    progress.add(counts["rows"], counts["failed"], entry.size)
                send(len(done))
        finally:
            pool.shutdown(cancel_futures=True)


def _check(source: FacesRun, counts: Counter[str]) -> None:
    """Law: in = out. Every image of the run is accounted for."""
    read = source.run.manifest["counts"]["read"]
    if counts["read"] != read:
        raise RuntimeError(f"{source.run.uri}: {read} images, {counts['read']} accounted for")
