"""Name what is in a picture."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vision_ops.checkpoint import load_checkpoint
from vision_ops.device import pick_device
from vision_ops.models import logits_and_embeddings
from vision_ops.normalize import normalize

PASS_SIZE = 32
"""images in one forward pass on a CPU, always; FACTS: 16-64 are the fastest"""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Which network names the pictures, and how much of what it says is kept."""

    weights: str = "runs/train_classifier/checkpoints/best.safetensors"
    """checkpoint; it carries the network, its input size, mean, std and class names"""
    top_k: int = 10
    """how many of the most probable classes are kept; fewer where there are fewer classes"""
    embeddings: bool = False
    """add the penultimate features, to search and to compare pictures by"""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k {self.top_k}: must be at least 1")


class Classifier:
    """Name the most probable classes of each image.

    reads   pixels           uint8    (B, H, W, 3)  sRGB, 0..255, the size that the card says
    adds    label            str      (B,)          class name from the checkpoint
            confidence       float32  (B,)          softmax probability, 0..1
            top_labels       str      (B, k)        most probable first; ties in class order
            top_confidences  float32  (B, k)        their probabilities, k = min(top_k, K)
            embedding        float32  (B, E)        with `embeddings`: L2 norm 1
    drops   pixels

    On a CPU the network always sees 32 images at once, the last ones padded with zeros: a result
    is bit for bit the same however rows are batched. On a GPU it sees the batch that it is given,
    padded to a multiple of 32, in full fp32 (no TF32): another batching may change the last bits.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        self.config = config
        self.device = pick_device()
        model, self.card = load_checkpoint(config.weights, self.device)
        self.model = model.to(memory_format=torch.channels_last)
        self.top_k = min(config.top_k, len(self.card.classes))
        self.classes = np.array(self.card.classes)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels = self._checked(batch["pixels"])
        size = PASS_SIZE if self.device.type == "cpu" else max(len(pixels), 1)
        starts = range(0, max(len(pixels), 1), size)  # one pass for no image: shapes stay
        passes = [self._forward(pixels[start : start + size]) for start in starts]
        confidences, indices, embeddings = (
            torch.cat(parts).cpu().numpy() for parts in zip(*passes, strict=True)
        )
        top_labels = self.classes[indices]
        added = {
            "label": top_labels[:, 0],
            "confidence": confidences[:, 0],
            "top_labels": top_labels,
            "top_confidences": confidences,
        }
        if self.config.embeddings:
            added["embedding"] = embeddings
        return {name: column for name, column in batch.items() if name != "pixels"} | added

    def _forward(self, pixels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities (B, k), class indices (B, k) and embeddings (B, E) of one pass."""
        rows = len(pixels)
        missing = -rows % PASS_SIZE or (PASS_SIZE if rows == 0 else 0)
        padded = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
        images = normalize(padded, self.card.preprocess, self.device)
        with torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
            logits, features = logits_and_embeddings(self.model, images)
        chances, order = logits.float().softmax(dim=1).sort(dim=1, descending=True, stable=True)
        embeddings = torch.nn.functional.normalize(features.float(), dim=1)
        return chances[:rows, : self.top_k], order[:rows, : self.top_k], embeddings[:rows]

    def _checked(self, pixels: np.ndarray) -> np.ndarray:
        wanted = (self.card.preprocess.height_px, self.card.preprocess.width_px, 3)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != wanted:
            raise ValueError(
                f"pixels {pixels.dtype} {pixels.shape[1:]}: "
                f"{self.config.weights} takes uint8 {wanted}"
            )
        return pixels
