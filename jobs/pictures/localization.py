"""Localising as the engine's work, and boxes as what a training learns from."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.runtime.drawn import IMAGE_URI
from jobs.runtime.examples import Examples
from jobs.runtime.objects import Marked, fitted, from_truth
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run, TooManyFailedError
from jobs.runtime.work import Work
from vision_ops.boxes import area, clip, to_network
from vision_ops.decode import DecodeConfig, UnreadableImageError
from vision_ops.decoders import make_decoder
from vision_ops.draw import Drawn, draw_boxes
from vision_ops.operators.localize import LocalizerConfig, Method, make_localizer
from vision_ops.precision import PASS_SIZE
from vision_ops.preprocess import Preprocess
from vision_ops.weights import Resolved

logger = logging.getLogger(__name__)

OVERLAY_PX = 640
REPORT_PX = 320
"""longer side of the pictures in reports, which say beside them what was found"""
DRAWN_FROM = 0.5
"""confidence of the objects of a detector that are drawn"""
LEAST_SEEN = 0.25
"""part of a box that the network must see for its picture to be learnt from"""
JUDGED_FROM_ROWS = 100
OBJECT = pa.struct(
    [
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("box", pa.list_(pa.float32(), 4)),
    ]
)


def make_work(
    op: LocalizerConfig,
    method: Method,
    decode: DecodeConfig,
    resources: Resources,
    weights: Resolved,
    *,
    overlays: bool,
) -> Work:
    """The work of a run."""
    card = weights.card
    fields = [
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("boxes", pa.list_(OBJECT)),
        ("height_px", pa.int32()),
        ("width_px", pa.int32()),
    ]
    if overlays:
        fields.append((IMAGE_URI, pa.string()))
    return Work(
        decoder=make_decoder(decode, card.preprocess),
        operator=make_localizer,
        config=op,
        columns=pa.schema(fields),
        files={"weights": str(weights.path)},
        metadata={
            "weights": f"{weights.source} sha256:{weights.sha256}",
            "licence": card.licence,
            "preprocess": str(card.preprocess),
            "network": f"{method}, fp32 on torch",
        },
        batch_size=resources.batch_size or PASS_SIZE,
        draw=partial(overlay, max_megapixels=decode.max_megapixels) if overlays else None,
    )


def shown(objects: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the objects found that are drawn: of half confidence, and always the first."""
    return [o for n, o in enumerate(objects) if n == 0 or o["confidence"] >= DRAWN_FROM]


def overlay(data: bytes, row: Mapping[str, Any], max_megapixels: float) -> bytes:
    """A picture with the boxes found and what they are; see `draw`."""
    boxes = [
        Drawn(box=each["box"], text=f"{each['label']} {each['confidence']:.2f}")
        for each in shown(row["boxes"])
    ]
    return draw(data, boxes, OVERLAY_PX, max_megapixels)


def draw(data: bytes, boxes: Sequence[Drawn], size_px: int, max_megapixels: float) -> bytes:
    """A JPEG of a picture with boxes, empty where there is none: it may have changed since."""
    try:
        return draw_boxes(data, boxes, size_px, max_megapixels)
    except UnreadableImageError as refusal:
        logger.warning("a picture cannot be drawn on: %s", refusal)
        return b""


def rows_of(run: Run, ids: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of a run by id; `columns` hold `id`."""
    wanted, rows = pc.field("id").isin(list(ids)), dict[str, dict[str, Any]]()
    for batch in run.results(columns):
        rows |= {row["id"]: row for row in batch.filter(wanted).to_pylist()}
    return rows


@dataclass(frozen=True, kw_only=True)
class Learnable:
    """Examples of which the truth is one box that the network sees."""

    examples: Examples
    labels: np.ndarray
    """str (N,)"""
    boxes: np.ndarray
    """float32 (N, 4), x0, y0, x1, y1 in parts of what the network sees, 0..1"""


def learnable(
    examples: Examples, preprocess: Preprocess, name: str, max_failed_fraction: float
) -> Learnable:
    """One object a picture: the largest. Pictures without one that can be learnt are left out.

    They are counted and said by cause, with the first of each; more than `max_failed_fraction` of
    100 or more raise TooManyFailedError, none left ValueError.
    """
    causes: Counter[str] = Counter()
    first: dict[str, str] = {}
    kept, labels, boxes, several = [], [], [], 0
    for number, (truth, extent) in enumerate(zip(examples.truths, examples.extents, strict=True)):
        try:
            chosen, box, count = _largest(str(truth), extent.tolist(), preprocess)
        except ValueError as wrong:
            causes[str(wrong)] += 1
            first.setdefault(str(wrong), examples.ids[number])
            continue
        several += count > 1
        kept.append(number)
        labels.append(chosen.label)
        boxes.append(box)
    _judge(causes, first, len(examples), name, max_failed_fraction)
    if several:
        logger.warning("%s: %d pictures hold several objects; the largest is learnt", name, several)
    return Learnable(
        examples=examples.take(np.array(kept, np.int64)),
        labels=np.array(labels, np.str_),
        boxes=np.array(boxes, np.float32),
    )


def largest_labels(examples: Examples) -> np.ndarray:
    """Label of the largest object of each picture: str (N,), "" where none can be told."""
    return np.array([_largest_label(str(truth)) for truth in examples.truths], np.str_)


def _largest_label(truth: str) -> str:
    try:
        objects = from_truth(truth)
    except ValueError:  # said where it is learnt from
        return ""
    boxes = np.array([each.box for each in objects], np.float64).reshape(-1, 4)
    return objects[int(area(boxes).argmax())].label if objects else ""


def _largest(
    truth: str, extent: Sequence[int], preprocess: Preprocess
) -> tuple[Marked, np.ndarray, int]:
    """The largest object, its box in parts of what the network sees, and how many there are."""
    if not truth:
        raise ValueError("it has no boxes; they are read with --data.label boxes")
    objects = fitted(from_truth(truth), extent[0], extent[1])
    if not objects:
        raise ValueError("nothing is marked in it")
    boxes = np.array([each.box for each in objects], np.float64)
    first = int(area(boxes).argmax())
    placed = to_network(boxes[first : first + 1], [extent], preprocess)
    seen = clip(placed, [preprocess.shape[:2]])
    if area(seen)[0] < LEAST_SEEN * area(placed)[0]:
        raise ValueError("the centre crop cuts off most of its box; --model.preprocess.resize-px 0")
    sides = np.array(preprocess.shape[:2])[[1, 0, 1, 0]]
    return objects[first], seen[0] / sides, len(objects)


def _judge(
    causes: Counter[str], first: Mapping[str, str], count: int, name: str, allowed: float
) -> None:
    left_out = sum(causes.values())
    if not left_out:
        return
    worst = "\n".join(
        f"  {number:>8,}  {cause} ({'first ' * (number > 1)}{first[cause]})"
        for cause, number in causes.most_common(10)
    )
    told = f"{name}: {left_out:,} of {count:,} pictures have no box that can be learnt:\n{worst}"
    if left_out == count:
        raise ValueError(told)
    if count >= JUDGED_FROM_ROWS and left_out > allowed * count:
        raise TooManyFailedError(told)
    logger.warning("%s", told)
