"""People into a gallery, out of it, and what is in it."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jobs.pictures.faces.labelled import LabelledFaces, read_faces
from jobs.pictures.faces.matching.faces_run import FacesRun, open_faces
from jobs.pictures.faces.matching.requests import Enrol, Remove, Show
from jobs.pictures.faces.matching.thresholds import MAKES_ONE, check_calibration, measure_of
from jobs.runtime.labels import read_labels
from jobs.runtime.storage import Storage, absolute
from vision_ops.faces.calibration import Calibration
from vision_ops.faces.gallery import CALIBRATION, Change, Gallery
from vision_ops.faces.people import EnrolledFace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What came of an enrolment: every image of the run is counted once in `images`."""

    change: Change
    images: dict[str, int]
    """offered to the gallery, or left out: failed, faceless, without_truth, low_quality,
    beyond_per_person"""
    several_faces: int
    """images of several faces, of which one was taken"""
    labels_without_row: int
    """names given by --labels to images that the run does not have"""
    gallery: Gallery


def enrol(config: Enrol) -> Enrolment:
    """Add the people of a labelled run. Raises ValueError where nobody can be added."""
    storage = Storage(config.storage)
    source = open_faces(config.run, storage)
    labels = read_labels(config.labels, storage) if config.labels else None
    uri = absolute(config.gallery)
    gallery = Gallery.open(uri, storage, source.about_embedder)
    calibration = _calibration(config, gallery, storage)
    faces = read_faces(source.run, config.choice, labels)
    chosen, images = choose(faces, config.min_quality, config.per_person)
    if not len(chosen):
        raise ValueError(
            f"run: {source.run.uri}: nobody to enrol: {_told(images)}; people's names are the "
            "rows' truth (embed_faces --data.label folder), or --labels FILE"
        )
    change = gallery.enrol(_enrolled(source, faces, chosen))
    if calibration:
        storage.put(gallery.path(CALIBRATION), calibration)
    result = Enrolment(
        change=change,
        images=images,
        several_faces=faces.counts["several_faces"],
        labels_without_row=faces.counts["labels_without_row"],
        gallery=gallery,
    )
    _say(result, config)
    return result


def choose(
    faces: LabelledFaces, min_quality: float, per_person: int
) -> tuple[np.ndarray, dict[str, int]]:
    """Which faces are enrolled, and what became of every image, see `Enrolment.images`."""
    images = Counter(
        failed=faces.counts["failed"],
        faceless=faces.counts["faceless"],
        without_truth=int((faces.people < 0).sum()),
    )
    known = faces.people >= 0
    good = known & (faces.quality >= np.float32(min_quality))
    images["low_quality"] = int((known & ~good).sum())
    chosen = np.flatnonzero(good)
    if per_person:
        # faces stand in the order of their ids, which breaks ties of quality
        order = chosen[np.lexsort((chosen, -faces.quality[chosen], faces.people[chosen]))]
        people = faces.people[order]
        first = np.searchsorted(people, people)
        kept = np.sort(order[np.arange(len(order)) - first < per_person])
        images["beyond_per_person"] = len(chosen) - len(kept)
        chosen = kept
    images["offered"] = len(chosen)
    assert sum(images.values()) == faces.counts["read"]  # law: in = out
    return chosen, dict(images)


def _enrolled(
    source: FacesRun, faces: LabelledFaces, chosen: np.ndarray
) -> Iterator[tuple[str, EnrolledFace]]:
    for k in chosen:
        yield (
            faces.names[faces.people[k]],
            EnrolledFace(
                id=f"{faces.ids[k]}#face{faces.places[k]}",
                run=source.run.fingerprint,
                quality=float(faces.quality[k]),
                embedding=faces.embeddings[k],
            ),
        )


def _calibration(config: Enrol, gallery: Gallery, storage: Storage) -> bytes:
    """The bytes to keep in the gallery; empty where none is given."""
    if not config.calibration:
        return b""
    uri = absolute(config.calibration)
    try:
        data = storage.read(uri)
    except FileNotFoundError as missing:
        raise ValueError(f"calibration: {uri}: not there; {MAKES_ONE} makes one") from missing
    calibration = Calibration.from_json(data, uri)
    check_calibration(calibration, uri, gallery.embedder, measure_of(calibration))
    return data


def _say(result: Enrolment, config: Enrol) -> None:
    change, gallery = result.change, result.gallery
    logger.info(
        "%s: %d faces added (%d for older ones of the same pictures), %d there already, %d moved "
        "from another name; it holds %s people, %s faces",
        gallery.uri, change.added, change.replaced, change.unchanged, change.moved,
        f"{gallery.num_people:,}", f"{gallery.num_faces:,}",
    )  # fmt: skip
    if result.several_faces:
        how = {"largest": "of the largest box", "surest": "found most surely"}[config.choice]
        logger.warning(
            "%d pictures hold several faces: the person's is the one %s; the others are nobody's",
            result.several_faces, how,
        )  # fmt: skip
    if result.labels_without_row:
        logger.warning(
            "labels: %d name images that the run does not have", result.labels_without_row
        )
    if sum(result.images.values()) > result.images["offered"]:
        logger.warning("not enrolled: %s", _told(result.images))


def _told(images: dict[str, int]) -> str:
    told = [
        f"{count:,} {name.replace('_', ' ')}"
        for name, count in images.items()
        if count and name != "offered"
    ]
    return ", ".join(told) or "the run holds no image"


def remove(config: Remove) -> Change:
    """Remove people and faces. Raises ValueError for one who is not there."""
    gallery = Gallery.load(absolute(config.gallery), Storage(config.storage))
    change = gallery.remove(config.person, config.id)
    logger.info(
        "%s: %d faces removed, with them %d people; it holds %s people. Runs that named them, and "
        "their reports, still do",
        gallery.uri, change.removed, len(change.people_removed), f"{gallery.num_people:,}",
    )  # fmt: skip
    return change


def show(config: Show) -> dict[str, str]:
    """A gallery, line by line."""
    storage = Storage(config.storage)
    gallery = Gallery.load(absolute(config.gallery), storage)
    told = gallery.manifest["embedder"]
    lines = {
        "gallery": gallery.uri,
        "people": f"{gallery.num_people:,}",
        "faces": f"{gallery.num_faces:,}",
        "embedder": f"sha256:{gallery.embedder}",
        "weights": str(told.get("source", "not known")),
        "licence": str(told.get("licence", "not known")),
        "embedding": f"{gallery.size} numbers",
        "content": gallery.digest,
    }
    try:
        data = storage.read(gallery.path(CALIBRATION))
        known = Calibration.from_json(data, gallery.path(CALIBRATION))
        lines["calibration"] = (
            f"{known.head}, {known.num_genuine:,} genuine and {known.num_impostor:,} impostor "
            f"pairs, FPIR {known.told()}"
        )
    except FileNotFoundError:
        lines["calibration"] = "none"
    if left := sum(1 for _ in gallery.leftovers()):
        lines["left over"] = f"{left:,} faces of an interrupted change; the next change deletes it"
    if config.people:
        lines |= {f"  {name}": f"{count:,}" for name, count in sorted(gallery.people())}
    return lines
