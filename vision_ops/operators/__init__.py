"""What can be done to a batch of pictures, by name: each operator is put to the same laws."""

from collections.abc import Callable
from typing import Any

from vision_ops.operators.classify import Classifier
from vision_ops.operators.embed_faces import make_face_embedder
from vision_ops.operators.localize import make_localizer

OPERATORS: dict[str, Callable[..., Any]] = {
    "classify": Classifier,
    "embed_faces": make_face_embedder,
    "localize": make_localizer,
}
