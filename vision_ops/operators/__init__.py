"""What can be done to a batch of pictures, by name: each operator is put to the same laws."""

from collections.abc import Callable
from typing import Any

from vision_ops.operators.classify import Classifier
from vision_ops.operators.localize import make_localizer

OPERATORS: dict[str, Callable[..., Any]] = {"classify": Classifier, "localize": make_localizer}
