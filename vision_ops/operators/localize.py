"""Saying where in a picture things are: what is asked for, and by which kind of network.

Light on purpose: drivers read it without torch. The networks are run by `localizers`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np

from vision_ops.card import DETECTOR, LOCALIZER, Card, read_card
from vision_ops.inputs import kind_of_input
from vision_ops.preprocess import Preprocess

Method = Literal["regression", "cam", "detector"]
Batch = dict[str, np.ndarray]
CAM_SHARE = 0.2
NUM_OBJECTS = 100
LEAST_CONFIDENCE = 0.05


@dataclass(frozen=True, kw_only=True)
class LocalizerConfig:
    """Which network says where things are, and what of it is kept."""

    weights: str = "runs/train_localizer/checkpoints/best.safetensors"
    """checkpoint: of train_localizer, of any classifier that ends in a global average, or of a
    torchvision detector"""
    method: Literal["auto", "regression", "cam", "detector"] = "auto"
    """auto: what the weights are for; cam: class activation maps, where no box was ever learnt"""
    threshold: float = CAM_SHARE
    """cam: part of the map's range above which a position belongs to the thing, 0..1"""
    max_objects: int = NUM_OBJECTS
    """detector: the most confident objects of a picture that are kept"""
    min_confidence: float = LEAST_CONFIDENCE
    """detector: objects below are left out, 0..1; mean average precision wants low ones too"""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"op.threshold {self.threshold}: must be between 0 and 1")
        if not 0 <= self.min_confidence < 1:
            raise ValueError(f"op.min_confidence {self.min_confidence}: must be 0 or more, below 1")
        if self.max_objects < 1:
            raise ValueError(f"op.max_objects {self.max_objects}: must be at least 1")


def method_of(config: LocalizerConfig, card: Card) -> Method:
    """How a network of this card localises. Raises ValueError for what was asked and cannot be."""
    of_pictures(card)
    able: Method = "cam"
    if card.network.startswith(LOCALIZER):
        able = "regression"
    elif card.network.startswith(DETECTOR):
        able = "detector"
    if card.network == "onnx":
        raise ValueError(f"op.weights {config.weights}: an ONNX file has no layers to look into")
    asked = able if config.method == "auto" else config.method
    if asked != able and (able, asked) != ("regression", "cam"):
        raise ValueError(f"op.method {asked}: {config.weights} is of {card.network}, for {able}")
    usual = {"threshold": CAM_SHARE} if asked != "cam" else {}
    if asked != "detector":
        usual |= {"max_objects": NUM_OBJECTS, "min_confidence": LEAST_CONFIDENCE}
    if changed := [name for name, value in usual.items() if getattr(config, name) != value]:
        raise ValueError(f"op.{changed[0]}: not for method {asked}")
    return asked


def of_pictures(card: Card) -> Preprocess:
    """How the network's pictures are made. Raises ValueError for one of something else."""
    if not isinstance(card.preprocess, Preprocess):
        kind = kind_of_input(card.preprocess)
        raise ValueError(f"op.weights: {card.network} takes {kind}s, not pictures")
    return card.preprocess


def make_localizer(config: LocalizerConfig, callers: int = 1) -> Callable[[Batch], Batch]:
    """The operator of `localizers` that fits the weights: Localizer, ClassMap or Detector.

    Safe in threads, which wait for each other: a map is caught by a hook on a network that all
    callers share.
    """
    from vision_ops.operators.localizers import METHODS  # torch: actors pay, drivers do not

    operator = METHODS[method_of(config, read_card(config.weights))](config)
    if callers == 1:
        return operator
    turn = Lock()

    def in_turns(batch: Batch) -> Batch:
        with turn:
            return operator(batch)

    return in_turns
