"""How good several boxes a picture are: mean average precision, by torchmetrics."""

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class PrecisionResult:
    """COCO's numbers (Lin et al. 2014; cocodataset.org, detection evaluation); NaN: no object."""

    average: float
    """over classes and IoU of 0.5, 0.55 … 0.95, 0..1"""
    at_50: float
    """at IoU 0.5, 0..1"""
    at_75: float
    per_class: dict[int, float]
    """by class index, over all IoU"""


def import_torchmetrics() -> ModuleType:
    """torchmetrics' detection metrics. Raises ValueError, with the command, where they are not."""
    try:
        return importlib.import_module("torchmetrics.detection")
    except ModuleNotFoundError as missing:
        raise ValueError(
            "mean average precision needs torchmetrics: pip install -e '.[detection]'"
        ) from missing


class PrecisionAccumulator:
    """Found and true objects of pictures, kept until the end: precision needs them all ranked."""

    def __init__(self) -> None:
        module = import_torchmetrics()
        self.metric = module.MeanAveragePrecision(box_format="xyxy", class_metrics=True)
        self.metric.warn_on_many_detections = False  # 100 a picture count, as COCO has it

    def update(
        self,
        found: Float[np.ndarray, "N 4"],
        scores: Float[np.ndarray, " N"],
        labels: Int[np.ndarray, " N"],
        true: Float[np.ndarray, "M 4"],
        classes: Int[np.ndarray, " M"],
    ) -> None:
        """Add a picture: boxes px and class indices of what was found and of what is there."""
        self.metric.update(
            [{"boxes": _floats(found), "scores": _floats(scores), "labels": _whole(labels)}],
            [{"boxes": _floats(true), "labels": _whole(classes)}],
        )

    def result(self) -> PrecisionResult:
        """All numbers."""
        with warnings.catch_warnings(action="ignore"):
            values = self.metric.compute()
        names: Sequence[int] = values["classes"].reshape(-1).tolist()
        each = values["map_per_class"].reshape(-1).tolist()
        return PrecisionResult(
            average=_share(values["map"].item()),
            at_50=_share(values["map_50"].item()),
            at_75=_share(values["map_75"].item()),
            per_class={k: _share(v) for k, v in zip(names, each, strict=True)},
        )


def _floats(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _whole(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.int64))


def _share(value: float) -> float:
    return value if value >= 0 else float("nan")
