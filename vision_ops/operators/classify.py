"""Name what is in a picture."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from vision_ops.precision import open_network


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Which network names the pictures, and how much of what it says is kept."""

    weights: str = "runs/train_classifier/checkpoints/best.safetensors"
    """checkpoint; it carries the network, its input size, mean, std and class names"""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """auto: the fastest here that names 99 % of a sample as fp32 does; fp32 where nothing judged"""
    pass_size: int = 0
    """images of a forward pass on a GPU; 0: what measures best, or a whole call"""
    compiled: bool = False
    """run by torch.compile on a GPU; `auto` finds out whether that pays"""
    top_k: int = 10
    """how many of the most probable classes are kept; fewer where there are fewer classes"""
    embeddings: bool = False
    """add the penultimate features, to search and to compare pictures by"""

    def __post_init__(self) -> None:
        if self.pass_size < 0:
            raise ValueError(f"pass_size {self.pass_size}: must not be negative")
        if self.top_k < 1:
            raise ValueError(f"top_k {self.top_k}: must be at least 1")


class Classifier:
    """Name the most probable classes of each image.

    reads   pixels           uint8    (B, H, W, 3)  sRGB, 0..255, the size that the card says;
                                                    clips (B, T, H, W, 3); or the shape and dtype
                                                    of another kind of input
    adds    label            str      (B,)          class name from the checkpoint
            confidence       float32  (B,)          softmax probability, 0..1
            top_labels       str      (B, k)        most probable first; ties in class order
            top_confidences  float32  (B, k)        their probabilities, k = min(top_k, K)
            embedding        float32  (B, E)        with `embeddings`: L2 norm 1
    drops   pixels

    `callers` threads may call it at a time. On a CPU the network always sees 32 images at once,
    the last ones padded with zeros: a result is bit for bit the same however rows are batched. On
    a GPU a pass holds `pass_size` images, or what a call brings padded to a multiple of 32: another
    size may change the last bits.
    """

    def __init__(self, config: ClassifierConfig, callers: int = 1) -> None:
        self.config = config
        precision = "fp32" if config.precision == "auto" else config.precision
        self.network = open_network(
            config.weights,
            precision,
            pass_size=config.pass_size,
            compiled=config.compiled,
            callers=callers,
        )
        self.card = self.network.card
        self.top_k = min(config.top_k, len(self.card.classes))
        self.classes = np.array(self.card.classes, dtype=object)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        logits, features = self.network(self._checked(batch["pixels"]))
        chances = softmax(logits)
        indices = top_classes(chances, self.top_k)
        confidences = np.take_along_axis(chances, indices, axis=1)
        top_labels = self.classes[indices]
        added = {
            "label": top_labels[:, 0],
            "confidence": confidences[:, 0],
            "top_labels": top_labels,
            "top_confidences": confidences,
        }
        if self.config.embeddings:
            lengths = np.linalg.norm(features, axis=1, keepdims=True)
            added["embedding"] = features / np.maximum(lengths, np.float32(1e-12))
        return {name: column for name, column in batch.items() if name != "pixels"} | added

    def _checked(self, pixels: np.ndarray) -> np.ndarray:
        wanted = self.card.preprocess
        if pixels.dtype != wanted.dtype or pixels.shape[1:] != wanted.shape:
            raise ValueError(
                f"pixels {pixels.dtype} {pixels.shape[1:]}: "
                f"{self.config.weights} takes {wanted.dtype} {wanted.shape}"
            )
        return pixels


def softmax(logits: Float32[np.ndarray, "B K"]) -> Float32[np.ndarray, "B K"]:
    """Probabilities of the classes of each row, 0..1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def top_classes(chances: Float32[np.ndarray, "B K"], k: int) -> Int64[np.ndarray, "B k"]:
    """Indices of the k greatest of each row, greatest first, equal ones in class order.

    chances are 0..1. The bits of such a float order as it does: with the class below them every
    key is another, and a partial sort is exact. Not a number counts as more than 1.
    """
    num_classes = chances.shape[1]
    ranks = np.ascontiguousarray(chances).view(np.int32).astype(np.int64) << 32
    keys = -(ranks + np.arange(num_classes)[::-1])
    first = np.argpartition(keys, k - 1, axis=1)[:, :k]
    order = np.argsort(np.take_along_axis(keys, first, axis=1), axis=1)
    return np.take_along_axis(first, order, axis=1)
