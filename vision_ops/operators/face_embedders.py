"""Pictures -> faces with embeddings: found, aligned, embedded in full passes, graded."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from vision_ops.canvas import Canvas
from vision_ops.faces import FacePreprocess, Faces, no_faces
from vision_ops.faces.align import align, crop_matrices, template, visible
from vision_ops.faces.detect import make_detector
from vision_ops.faces.embed import Embedded, Embedder
from vision_ops.faces.quality import judge
from vision_ops.operators.embed_faces import Batch, FacesConfig, Finding, check_embedder
from vision_ops.precision import PASS_SIZE

Crops = UInt8[np.ndarray, "N S S 3"]


class Found(NamedTuple):
    """The faces of a batch of pictures."""

    faces: Sequence[Faces]
    """of each picture, in pixels of the upright original"""
    seen: Sequence[Faces]
    """the same in pixels of the picture that the crops were cut from, which may be reduced"""
    crops: Crops
    """aligned, all of the batch behind each other"""
    visible: Float64[np.ndarray, "N"]
    """which part of each lies within its picture; not a number where crops came as they are"""
    extents: np.ndarray
    """height and width of the originals, (B, 2)"""


class FaceEmbedder:
    """Embed every face of every picture.

    reads   pixels      uint8  (B, L, L, 3)  sRGB, 0..255: whole pictures on a `Canvas`; with
                                             detector `none` (B, S, S, 3), each one aligned face
            extent      int32  (B, 2)        height and width of the originals, px
            faces       list   (B,)          with detector `given`: (box, landmarks, confidence) of
                                             each face, in pixels of the upright original
    adds    faces       list   (B,)          a list of dicts, the surest face first, in pixels of
                                             the upright original: box (x0, y0, x1, y1), landmarks
                                             (x, y of five points), confidence (0..1), quality
                                             (0..1), embedding (E,) of L2 norm 1; none: empty
            crops       list   (B,)          with `crops`: uint8 (N, S, S, 3), aligned
            height_px   int32  (B,)          of the original
            width_px    int32  (B,)
    drops   pixels, extent

    Faces of several pictures, and of several calls by `regrouped`, fill passes of 32 together; on a
    CPU a face gets the same bits whichever it shares a pass with. Safe in threads.
    """

    def __init__(self, config: FacesConfig, callers: int = 1) -> None:
        self.config = config
        self.embedder = Embedder(config.weights, callers=callers)
        face = check_embedder(self.embedder.card, config.weights)
        self.find = FINDERS[config.finding](config, face, callers)

    def __call__(self, batch: Batch) -> Batch:
        (result,) = self.regrouped(iter([batch]))
        return result

    def regrouped(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """What a call of each batch gives, in order; their faces are embedded in full passes."""
        waiting: deque[tuple[Batch, Found]] = deque()
        ready = _Ready(self.embedder)
        for batch in batches:
            found = self.find(batch)
            kept = {name: column for name, column in batch.items() if name not in READ}
            waiting.append((kept, found))
            ready.add(found.crops)
            while waiting and len(waiting[0][1].crops) <= len(ready):
                yield self._result(*waiting.popleft(), ready)
        ready.flush()
        while waiting:
            yield self._result(*waiting.popleft(), ready)

    def _result(self, kept: Batch, found: Found, ready: "_Ready") -> Batch:
        """What is added to a batch, from the next of the embeddings."""
        embeddings, norms = ready.take(len(found.crops))
        faces, crops, start = [], [], 0
        for each, seen in zip(found.faces, found.seen, strict=True):
            stop = start + len(each.boxes)
            part = found.crops[start:stop]
            quality = judge(
                part,
                *seen,
                visible=found.visible[start:stop],
                norms=norms[start:stop],
                usual_norm=self.config.usual_norm,
            ).score
            columns = (*each, quality, embeddings[start:stop])
            faces.append([_as_row(*face) for face in zip(*columns, strict=True)])
            crops.append(part)
            start = stop
        added = {"faces": _column(faces)}
        if self.config.crops:
            added["crops"] = _column(crops)
        height, width = found.extents[:, 0], found.extents[:, 1]
        return kept | added | {"height_px": height, "width_px": width}


def _column(values: Sequence[Any]) -> np.ndarray:
    """An array of objects, whatever these are."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _as_row(box: Any, landmarks: Any, confidence: Any, quality: Any, embedding: Any) -> Any:
    return {
        "box": box,
        "landmarks": landmarks.reshape(-1),
        "confidence": confidence,
        "quality": quality,
        "embedding": embedding,
    }


class _Ready:
    """Embeddings of crops in the order in which these came, made in full passes."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.crops: list[Crops] = []
        self.num_crops = 0
        self.made: list[Embedded] = []
        self.num_made = 0

    def __len__(self) -> int:
        """Embeddings that can be taken."""
        return self.num_made

    def add(self, crops: Crops) -> None:
        """Add crops; as many as fill passes are embedded."""
        self.crops.append(crops)
        self.num_crops += len(crops)
        if self.num_crops >= PASS_SIZE:
            self._embed(self.num_crops // PASS_SIZE * PASS_SIZE)

    def flush(self) -> None:
        """Embed what is left."""
        if self.num_crops:
            self._embed(self.num_crops)

    def _embed(self, count: int) -> None:
        crops = np.concatenate(self.crops)
        self.made.append(self.embedder.embed(crops[:count]))
        self.num_made += count
        self.crops, self.num_crops = [crops[count:]], len(crops) - count

    def take(self, count: int) -> Embedded:
        """The next so many."""
        size = self.embedder.card.embedding_size
        empty = Embedded(np.zeros((0, size), np.float32), np.zeros(0, np.float32))
        embeddings, norms = (np.concatenate(parts) for parts in zip(empty, *self.made, strict=True))
        self.made, self.num_made = (
            [Embedded(embeddings[count:], norms[count:])],
            self.num_made - count,
        )
        return Embedded(embeddings[:count], norms[:count])


class Cropped:
    """Every picture is one face: the crop, its box all of it, its landmarks the template's."""

    def __init__(self, config: FacesConfig, face: FacePreprocess, callers: int) -> None:
        self.face = face
        points = template(face.height_px, face.template).numpy()
        self.points = ((points + 0.5) / face.height_px).astype(np.float32)

    def __call__(self, batch: Batch) -> Found:
        """Their faces."""
        pixels, extents = batch["pixels"], batch["extent"]
        wanted = self.face
        if pixels.dtype != wanted.dtype or pixels.shape[1:] != wanted.shape:
            raise ValueError(
                f"pixels {pixels.dtype} {pixels.shape[1:]}: wanted {wanted.dtype} {wanted.shape}"
            )
        sides = extents[:, ::-1].astype(np.float32)
        faces = [
            Faces(
                np.concatenate([np.zeros(2, np.float32), side])[None],
                (self.points * side - 0.5)[None],
                np.ones(1, np.float32),
            )
            for side in sides
        ]
        whole = pixels.copy()  # theirs are gone when the next come
        return Found(faces, faces, whole, np.full(len(pixels), np.nan), extents)


class Given:
    """Faces that came with the pictures, the surest first."""

    def __init__(self, config: FacesConfig, face: FacePreprocess, callers: int) -> None:
        self.canvas, self.face = config.canvas(), face

    def __call__(self, batch: Batch) -> Found:
        """Their faces, and crops of them."""
        faces = list(map(_as_faces, batch["faces"]))
        return cut_out(batch, self.canvas, faces, self.face)


def _as_faces(known: Sequence[Any]) -> Faces:
    if not known:
        return no_faces()
    boxes, landmarks, confidence = (np.array(c, np.float32) for c in zip(*known, strict=True))
    order = np.argsort(-confidence, kind="stable")
    return Faces(boxes[order], landmarks.reshape(-1, 5, 2)[order], confidence[order])


class Detected:
    """Faces that a detector finds."""

    def __init__(self, config: FacesConfig, face: FacePreprocess, callers: int) -> None:
        self.canvas, self.face = config.canvas(), face
        self.detector = make_detector(config.detect, config.detector, callers)

    def __call__(self, batch: Batch) -> Found:
        """Their faces, and crops of them."""
        sizes, scales = on_canvas(batch["extent"], self.canvas)
        shown = zip(batch["pixels"], sizes, strict=True)
        found = self.detector([pixels[:height, :width] for pixels, (height, width) in shown])
        faces = [
            Faces(
                each.boxes / np.tile(scale, 2), _moved(each.landmarks, 1 / scale), each.confidence
            )
            for each, scale in zip(found, scales, strict=True)
        ]
        return cut_out(batch, self.canvas, faces, self.face)


def cut_out(batch: Batch, canvas: Canvas, faces: Sequence[Faces], face: FacePreprocess) -> Found:
    """Aligned crops of faces, from the pictures as they were decoded."""
    sizes, scales = on_canvas(batch["extent"], canvas)
    seen = [
        Faces(each.boxes * np.tile(scale, 2), _moved(each.landmarks, scale), each.confidence)
        for each, scale in zip(faces, scales, strict=True)
    ]
    owners = np.repeat(np.arange(len(faces)), [len(each.boxes) for each in faces])
    size_px = face.height_px
    crops, shown = np.zeros((0, *face.shape), np.uint8), np.zeros(0)
    if len(owners):
        boxes, landmarks, _ = (np.concatenate(columns) for columns in zip(*seen, strict=True))
        matrices = crop_matrices(boxes, landmarks, size_px, face.template)
        crops = align(batch["pixels"], matrices, size_px, owners, sizes).cpu().numpy()
        shown = visible(matrices, size_px, sizes[owners])
    return Found(faces, seen, crops, shown, batch["extent"])


def on_canvas(
    extents: Int32[np.ndarray, "B 2"], canvas: Canvas
) -> tuple[Int32[np.ndarray, "B 2"], Float32[np.ndarray, "B 2"]]:
    """Height and width of each picture as it lies on its canvas; pixels there to one, x and y."""
    sizes = np.array([canvas.size_of(*extent) for extent in extents.tolist()], np.int32)
    sizes = sizes.reshape(-1, 2)
    return sizes, (sizes / extents)[:, ::-1].astype(np.float32)


def _moved(points: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Centres of pixels (the first is at 0) in a picture of which each has `scale` as many."""
    return ((points + 0.5) * scale - 0.5).astype(np.float32)


FINDERS: dict[Finding, Callable[[FacesConfig, FacePreprocess, int], Callable[[Batch], Found]]] = {
    "none": Cropped,
    "given": Given,
    "detector": Detected,
}
READ = ("pixels", "extent", "faces")
