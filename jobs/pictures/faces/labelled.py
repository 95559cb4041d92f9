"""The faces of a finished run of embed_faces whose people are known: one an image."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from jobs.runtime.labels import LabelTable
from jobs.runtime.report.causes import Causes
from jobs.runtime.run import Run

COLUMNS = ("id", "uri", "truth", "status", "stage", "error", "faces")
NUM_NAMED = 100

Choice = Literal["largest", "surest"]
"""the face that stands for an image of several: of the largest box, or the surest"""


@dataclass(kw_only=True)
class LabelledFaces:
    """One face an image, in the order of row ids; F faces, N people, E numbers of an embedding."""

    ids: list[str]
    """row ids; of single faces that were asked for, `<row id>#face<k>`"""
    places: np.ndarray
    """int32 (F,): which of its row's faces each is"""
    boxes: np.ndarray
    """float32 (F, 4): x0, y0, x1, y1 px of the upright original"""
    quality: np.ndarray
    """float32 (F,), 0..1"""
    embeddings: np.ndarray
    """float32 (F, E), unit L2"""
    people: np.ndarray
    """int64 (F,): index in `names`; -1: not known"""
    names: list[str]
    """of people with a face"""
    without_face: dict[str, str]
    """person by id of the rows in which no face was found, or that failed; "" for unknown"""
    counts: Counter[str]
    """rows: read, failed, faceless, several_faces, without_truth; labels_without_row"""
    causes: Causes = field(default_factory=Causes)
    faceless_ids: list[str] = field(default_factory=list)
    """the first of them"""

    @property
    def num_known(self) -> int:
        """Faces whose person is known."""
        return int((self.people >= 0).sum())

    def known(self) -> "LabelledFaces":
        """Only the faces whose person is known, and rows without a face of such."""
        kept = np.flatnonzero(self.people >= 0)
        return LabelledFaces(
            ids=[self.ids[k] for k in kept],
            places=self.places[kept],
            boxes=self.boxes[kept],
            quality=self.quality[kept],
            embeddings=self.embeddings[kept],
            people=self.people[kept],
            names=self.names,
            without_face={id: name for id, name in self.without_face.items() if name},
            counts=self.counts,
            causes=self.causes,
            faceless_ids=self.faceless_ids,
        )


class Reader:
    """Gathers faces row by row."""

    def __init__(
        self, choice: Choice, labels: LabelTable | None, wanted: Collection[str] = ()
    ) -> None:
        """`wanted`: ids `<row id>#face<k>` of faces that are kept whatever stands for their row."""
        self.choice, self.labels, self.wanted = choice, labels, frozenset(wanted)
        self.counts: Counter[str] = Counter(
            read=0, failed=0, faceless=0, several_faces=0, without_truth=0, labels_without_row=0
        )
        self.causes = Causes()
        self.faceless_ids: list[str] = []
        self.without_face: dict[str, str] = {}
        self.rows: list[tuple[str, str, int, np.ndarray, float]] = []
        self.embeddings: list[np.ndarray] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows with COLUMNS."""
        truth = self.labels.look_up(batch["id"]) if self.labels else batch["truth"]
        self.counts["read"] += batch.num_rows
        lists = batch["faces"]
        embeddings = lists.values.field("embedding")
        vectors = embeddings.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        vectors = vectors.reshape(-1, embeddings.type.list_size)
        first = len(lists.values) - len(vectors)  # flatten leaves out what a slice does not show
        offsets = lists.offsets.to_numpy() - first
        shown = batch.select([name for name in COLUMNS if name not in ("truth", "faces")])
        details = lists.to_pylist() if len(batch) else []
        for number, row in enumerate(shown.to_pylist()):
            faces: list[dict[str, Any]] = details[number] or []
            self._add_row(row, truth[number].as_py() or "", faces, vectors[offsets[number] :])

    def _add_row(
        self, row: dict[str, Any], person: str, faces: list[dict[str, Any]], vectors: np.ndarray
    ) -> None:
        self.counts["without_truth"] += not person
        if row["status"] == "failed":
            self.counts["failed"] += 1
            self.causes.add(row["id"], row["uri"], row["stage"], row["error"])
        elif not faces:
            self.counts["faceless"] += 1
            if len(self.faceless_ids) < NUM_NAMED:
                self.faceless_ids.append(row["id"])
        if not faces:
            self.without_face[row["id"]] = person
            return
        self.counts["several_faces"] += len(faces) > 1
        place = 0  # the surest comes first
        if self.choice == "largest":
            place = int(np.argmax([area(face["box"]) for face in faces]))
        self._keep(row["id"], person, place, faces[place], vectors[place])
        for k, face in enumerate(faces if self.wanted else ()):
            if (id := f"{row['id']}#face{k}") in self.wanted:
                self._keep(id, "", k, face, vectors[k])

    def _keep(
        self, id: str, person: str, place: int, face: dict[str, Any], vector: np.ndarray
    ) -> None:
        box = np.array(face["box"], np.float32)
        self.rows.append((id, person, place, box, face["quality"]))
        self.embeddings.append(vector.copy())

    def faces(self) -> LabelledFaces:
        """What was gathered. ValueError where there is no face at all."""
        if not self.rows:
            raise ValueError(
                f"run: {self.counts['read']:,} rows hold no face: {self.counts['failed']:,} "
                f"failed, in {self.counts['faceless']:,} none was found"
            )
        order = sorted(range(len(self.rows)), key=lambda k: self.rows[k][0])
        ids, people, places, boxes, quality = zip(*(self.rows[k] for k in order), strict=True)
        names = sorted({name for name in people if name})
        index = {name: k for k, name in enumerate(names)} | {"": -1}
        embeddings = np.stack([self.embeddings[k] for k in order])
        if self.labels:
            self.counts["labels_without_row"] = self.labels.num_unused
        return LabelledFaces(
            ids=list(ids),
            places=np.array(places, np.int32),
            boxes=np.stack(boxes),
            quality=np.array(quality, np.float32),
            embeddings=embeddings,
            people=np.array([index[name] for name in people], np.int64),
            names=names,
            without_face=self.without_face,
            counts=self.counts,
            causes=self.causes,
            faceless_ids=self.faceless_ids,
        )


def read_faces(
    source: Run, choice: Choice, labels: LabelTable | None, wanted: Collection[str] = ()
) -> LabelledFaces:
    """The faces of a run of embed_faces, see `Reader`; memory grows with their embeddings."""
    reader = Reader(choice, labels, wanted)
    for batch in source.results(COLUMNS):
        reader.add(batch)
    return reader.faces()


def area(box: list[float]) -> float:
    """Pixels of a box."""
    x0, y0, x1, y1 = box
    return max(x1 - x0, 0.0) * max(y1 - y0, 0.0)
