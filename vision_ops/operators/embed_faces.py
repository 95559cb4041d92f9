"""Faces of pictures as embeddings: which networks, and what of it is kept.

Light on purpose: drivers read it without torch. The work is done by `face_embedders`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from vision_ops.canvas import Canvas
from vision_ops.card import Card
from vision_ops.faces import FacePreprocess
from vision_ops.faces.detect import DetectorConfig, kind_of_detector

Batch = dict[str, np.ndarray]
LONGEST_PX = 1024
Finding = Literal["none", "given", "detector"]
"""how the faces of a picture are found"""


@dataclass(frozen=True, kw_only=True)
class FacesConfig:
    """Which networks find and embed faces, and what of it is kept."""

    weights: str = "runs/train_faces/checkpoints/best.safetensors"
    """checkpoint of the embedder; it carries the size of its crops and how they are aligned"""
    detector: str = ""
    """checkpoint of what finds faces, or a name that `jobs.weights pull` knows; none: every picture
    is one face, already cropped as the embedder wants it; given: by --data.faces; empty: none, for
    the sample faces only"""
    detect: DetectorConfig = field(default_factory=DetectorConfig)
    """what of the faces found is kept"""
    longest_px: int = LONGEST_PX
    """pictures are reduced to this longer side before faces are looked for, cut out and graded;
    boxes are in pixels of the original. More finds smaller faces in large pictures, shows more of
    each, and takes time with its square"""
    usual_norm: float = 0.0
    """L2 norm that the embedder gives good faces before it is brought to 1: shorter ones then lower
    the quality; 0: they do not"""
    crops: bool = False
    """write the aligned crops too, below images/"""

    def __post_init__(self) -> None:
        self.canvas()
        if self.usual_norm < 0:
            raise ValueError(f"op.usual_norm {self.usual_norm}: must not be negative")

    @property
    def finding(self) -> Finding:
        """How faces are found."""
        return "given" if self.detector == "given" else "detector" if self.has_detector else "none"

    @property
    def has_detector(self) -> bool:
        """Whether a checkpoint finds them."""
        return self.detector not in ("", "none", "given")

    def canvas(self) -> Canvas:
        """How whole pictures are decoded."""
        return Canvas(longest_px=self.longest_px)


@runtime_checkable
class Embeds(Protocol):
    """What each operator of this kind is; `regrouped` fills batches from several calls' faces."""

    def __call__(self, batch: Batch) -> Batch: ...

    def regrouped(self, batches: Iterator[Batch]) -> Iterator[Batch]: ...


def check_embedder(card: Card, weights: str) -> FacePreprocess:
    """How its faces are made. Raises ValueError where a card is of no embedder of faces."""
    if not isinstance(card.preprocess, FacePreprocess):
        raise ValueError(
            f"op.weights {weights}: {card.network} embeds no faces; "
            "`python -m jobs.train_faces` trains a network that does, "
            "`python -m jobs.weights import` takes a published one"
        )
    return card.preprocess


def check_finding(config: FacesConfig, card: Card | None) -> None:
    """Raise ValueError where what is asked is not for how faces are found; `card`: a detector's."""
    if card is not None:
        kind_of_detector(card, config.detector)
    elif config.detect != DetectorConfig():
        raise ValueError(f"op.detect: nothing is looked for with op.detector {config.detector}")
    elif config.finding == "none" and config.longest_px != LONGEST_PX:
        raise ValueError("op.longest_px: with op.detector none a picture is one face of any size")


def make_face_embedder(config: FacesConfig, callers: int = 1) -> Embeds:
    """The operator of `face_embedders`. Safe for so many threads that call it at a time."""
    from vision_ops.operators.face_embedders import FaceEmbedder  # torch: actors pay, not drivers

    return FaceEmbedder(config, callers)
