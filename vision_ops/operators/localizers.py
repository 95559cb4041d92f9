"""Where in a picture things are: boxes in pixels of the original, by three kinds of networks.

Localizer      a network trained to give one box (`localizer:…`)
ClassMap       a classifier that never saw a box, by its class activation map
Detector       a detector of torchvision (`torchvision_detection:…`): several objects
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64

from vision_ops.boxes import clip, to_original
from vision_ops.card import Card
from vision_ops.checkpoint import load_checkpoint
from vision_ops.class_maps import bright_box, make_class_maps
from vision_ops.device import pick_device
from vision_ops.models import in_fast_layout
from vision_ops.normalize import normalize
from vision_ops.operators.classify import softmax
from vision_ops.operators.localize import Batch, LocalizerConfig, Method, of_pictures
from vision_ops.precision import PASS_SIZE, full_passes


class Localizer:
    """Name each picture, and say where by one box.

    reads   pixels      uint8    (B, H, W, 3)  sRGB, 0..255, the size that the card says
            extent      int32    (B, 2)        height and width of the originals, px
    adds    label       str      (B,)          class name from the checkpoint
            confidence  float32  (B,)          softmax probability of it, 0..1
            boxes       list     (B,)          one dict: label, confidence, box (x0, y0, x1, y1) in
                                               pixels of the upright original, within it
            height_px   int32    (B,)          of the original
            width_px    int32    (B,)
    drops   pixels, extent

    On a CPU the network always sees 32 pictures at once: the same bits for any batching.
    """

    def __init__(self, config: LocalizerConfig) -> None:
        self.config = config
        self.device = pick_device()
        network, self.card = load_checkpoint(config.weights, self.device)
        self.network = in_fast_layout(network)

    def __call__(self, batch: Batch) -> Batch:
        pixels, extents = checked(batch, self.card)
        logits, boxes = run(self._forward, pixels)
        sides = np.array(self.card.preprocess.shape[:2])[[1, 0, 1, 0]]
        return one_box_each(batch, logits, boxes.astype(np.float64) * sides, extents, self.card)

    def _forward(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, boxes = self.network(normalize(part, self.card.preprocess, self.device))
        return logits.cpu().numpy(), boxes.cpu().numpy()


class ClassMap:
    """Name each picture, and say where by what spoke for that name (Zhou et al. 2016).

    Reads, adds and drops what `Localizer` does. For a classifier that ends in a global average and
    one layer, the logit of a class is the mean of a map, eq. 2. That of the most probable class is
    enlarged bilinearly to what the network sees and brought to 0..1; the box is the tight one
    around the largest connected part (edges and corners touch) above `threshold`, sec. 3.2. Where
    the map is the same everywhere the box is the whole picture. Only what the network sees can lie
    in a box: a centre crop cuts the rest off.
    """

    def __init__(self, config: LocalizerConfig) -> None:
        self.config = config
        self.device = pick_device()
        network, self.card = load_checkpoint(config.weights, self.device)
        self.maps = make_class_maps(in_fast_layout(network), self.card, config.weights)

    def __call__(self, batch: Batch) -> Batch:
        pixels, extents = checked(batch, self.card)
        logits, maps = run(self._forward, pixels)
        boxes = np.array([bright_box(each, self.config.threshold) for each in maps], np.float64)
        return one_box_each(batch, logits, boxes.reshape(-1, 4), extents, self.card)

    def _forward(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, maps = self.maps(normalize(part, self.card.preprocess, self.device))
        best = logits.argmax(dim=1)
        chosen = maps[torch.arange(len(maps)), best][:, None]  # (B, 1, h, w)
        size = list(self.card.preprocess.shape[:2])
        large = F.interpolate(chosen, size, mode="bilinear", align_corners=False)
        return logits.cpu().numpy(), large[:, 0].cpu().numpy()


class Detector:
    """Find several objects in each picture.

    Reads, adds and drops what `Localizer` does; `boxes` are all objects of `min_confidence`, the
    most confident first, often none: `label` is null then, and `confidence` 0. Pictures go through
    one at a time: what is found in one depends on no other.
    """

    def __init__(self, config: LocalizerConfig) -> None:
        self.config = config
        self.device = pick_device()
        self.network, self.card = load_checkpoint(config.weights, self.device)

    def __call__(self, batch: Batch) -> Batch:
        pixels, extents = checked(batch, self.card)
        found = [self._find(*row) for row in zip(pixels, extents, strict=True)]
        labels = [each[0]["label"] if each else None for each in found]
        chances = [each[0]["confidence"] if each else 0.0 for each in found]
        return added(batch, labels, np.array(chances, np.float32), found, extents)

    @torch.inference_mode()
    def _find(self, pixels: np.ndarray, extent: np.ndarray) -> list[dict[str, Any]]:
        card, config = self.card, self.config
        (found,) = self.network(normalize(pixels[None], card.preprocess, self.device))
        sure = found["scores"] >= config.min_confidence
        boxes, labels, scores = (
            found[name][sure][: config.max_objects].cpu().numpy()
            for name in ("boxes", "labels", "scores")
        )
        names = [card.classes[label - 1] for label in labels]
        boxes = originals(boxes.astype(np.float64), np.tile(extent, (len(boxes), 1)), card)
        return [
            described(*each)
            for each in zip(names, scores, boxes, strict=True)
            if each[2][2] > each[2][0] and each[2][3] > each[2][1]
        ]


METHODS: dict[Method, Callable[[LocalizerConfig], Callable[[Batch], Batch]]] = {
    "regression": Localizer,
    "cam": ClassMap,
    "detector": Detector,
}


def checked(batch: Batch, card: Card) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and extents of a batch. Raises ValueError for pixels of another size or type."""
    pixels, wanted = batch["pixels"], card.preprocess
    if pixels.dtype != wanted.dtype or pixels.shape[1:] != wanted.shape:
        raise ValueError(
            f"pixels {pixels.dtype} {pixels.shape[1:]}: the card wants {wanted.dtype} "
            f"{wanted.shape}"
        )
    return pixels, batch["extent"].reshape(-1, 2)


@torch.inference_mode()
def run(
    forward: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both outputs of a network over full passes; rows of padding are left out."""

    def passes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for part, rows in full_passes(pixels, PASS_SIZE):
            first, second = forward(part)
            yield first[:rows], second[:rows]

    first, second = zip(*passes(), strict=True)
    return np.concatenate(first), np.concatenate(second)


def one_box_each(
    batch: Batch,
    logits: Float32[np.ndarray, "B K"],
    boxes: Float64[np.ndarray, "B 4"],
    extents: np.ndarray,
    card: Card,
) -> Batch:
    """A batch's results where each picture has one box, in pixels of what the network sees."""
    chances = softmax(logits)
    best = chances.argmax(axis=1)
    labels = [card.classes[k] for k in best]
    confidence = chances[np.arange(len(best)), best]
    rows = zip(labels, confidence, originals(boxes, extents, card), strict=True)
    return added(batch, labels, confidence, [[described(*row)] for row in rows], extents)


def originals(
    boxes: Float64[np.ndarray, "N 4"], extents: np.ndarray, card: Card
) -> Float64[np.ndarray, "N 4"]:
    """Boxes in pixels of the originals, within them."""
    return clip(to_original(boxes, extents, of_pictures(card)), extents)


def described(label: str, confidence: np.floating, box: np.ndarray) -> dict[str, Any]:
    """One object as a row holds it."""
    return {"label": label, "confidence": float(confidence), "box": box.tolist()}


def added(
    batch: Batch,
    labels: Sequence[str | None],
    confidence: Float32[np.ndarray, " B"],
    found: Sequence[Sequence[dict[str, Any]]],
    extents: np.ndarray,
) -> Batch:
    """The batch without pixels and extent, with the columns that `Localizer` lists."""
    lists = np.empty(len(found), object)
    for row, each in enumerate(found):  # numpy would take lists of one length for an axis
        lists[row] = each
    kept = {name: column for name, column in batch.items() if name not in ("pixels", "extent")}
    return kept | {
        "label": np.array(labels, object),
        "confidence": confidence,
        "boxes": lists,
        "height_px": extents[:, 0].astype(np.int32),
        "width_px": extents[:, 1].astype(np.int32),
    }
