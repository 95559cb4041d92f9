"""Faces that are known before a picture is looked at: a Parquet column of its own."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NUM_COORDINATES = 10
"""x and y of five landmarks"""


class KnownFace(NamedTuple):
    """A face of a picture, in pixels of the upright original."""

    box: tuple[float, ...]
    """x0, y0, x1, y1"""
    landmarks: tuple[float, ...]
    """x, y of eyes, nose and corners of the mouth; not numbers where they are not known"""
    confidence: float
    """0..1"""


def check_column(names: Sequence[str], wanted: str) -> str:
    """The column of faces among these; "" where none is asked for. Raises ValueError."""
    if wanted and wanted not in names:
        raise ValueError(f"data.faces: no column {wanted!r}; there are {list(names)}")
    return wanted


def faces_of(value: Any) -> tuple[tuple[KnownFace, ...], str]:
    """The faces that a value of the column tells, and what is wrong with it.

    Accepted: a list of {box: x0, y0, x1, y1}, with or without landmarks (ten numbers, or five
    pairs) and confidence: what embed_faces writes, for one.
    """
    if value is None:
        return (), "faces: none are told, not even that there are none"
    try:
        if not isinstance(value, list):
            raise ValueError(f"{value!r:.80} is no list of faces")
        return tuple(map(_face, value)), ""
    except (ValueError, KeyError, TypeError) as wrong:
        return (), f"faces: {f'no {wrong}' if isinstance(wrong, KeyError) else wrong}"


def _face(value: Mapping[str, Any]) -> KnownFace:
    box = _numbers(value["box"], 4, "box")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"box {list(box)}: empty")
    points = value.get("landmarks")
    if points is not None and len(points) == NUM_COORDINATES // 2:
        points = [number for point in points for number in point]
    landmarks = (math.nan,) * NUM_COORDINATES
    if points is not None:
        landmarks = _numbers(points, NUM_COORDINATES, "landmarks", also_nan=True)
    said = value.get("confidence")
    (confidence,) = _numbers([1.0 if said is None else said], 1, "confidence")
    return KnownFace(box, landmarks, confidence)


def _numbers(
    values: Sequence[Any], count: int, name: str, *, also_nan: bool = False
) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    fine = all(math.isfinite(n) or (also_nan and math.isnan(n)) for n in numbers)
    if len(numbers) != count or not fine:
        raise ValueError(f"{name} {list(numbers)}: not {count} finite numbers")
    return numbers
