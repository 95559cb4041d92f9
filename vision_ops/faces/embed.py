"""Aligned faces to embeddings: one network, any number of faces, the same bits however grouped."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from vision_ops.precision import PASS_SIZE, Precision, open_network


class Embedded(NamedTuple):
    """Faces as an embedder sees them."""

    embeddings: Float32[np.ndarray, "N E"]
    """L2 norm 1; zeros where the network gave zeros"""
    norms: Float32[np.ndarray, "N"]
    """what the L2 norm was before (of the mean of both views, with flip-sum): higher for faces that
    are easily recognised, on each network's own scale (Meng et al. 2021; see `quality`)"""


class Embedder:
    """Embeddings of aligned faces by a checkpoint whose card is of a face embedder.

    Where the card says so, an embedding is the sum of those of the crop and of its mirror image.
    Passes hold `pass_size` crops, mirror images included, the last one filled up with zeros: an
    embedding is bit for bit the same however faces are grouped. `callers` threads may call it at a
    time. Raises ValueError for weights of anything else, and for a precision that is not to be had.
    """

    def __init__(
        self,
        weights: str | Path,
        precision: Precision = "fp32",
        *,
        compiled: bool = False,
        callers: int = 1,
        pass_size: int = PASS_SIZE,
    ) -> None:
        self.network = open_network(
            weights, precision, pass_size=pass_size, compiled=compiled, callers=callers
        )
        self.card = self.network.card
        if not self.card.is_embedder:
            raise ValueError(f"{weights}: {self.card.network} is no embedder of faces")
        self.preprocess = self.card.preprocess

    def __call__(self, crops: UInt8[np.ndarray, "N S S 3"]) -> Float32[np.ndarray, "N E"]:
        """Embeddings of crops, sRGB 0..255, aligned to the card's template and size; L2 norm 1."""
        return self.embed(crops).embeddings

    def embed(self, crops: UInt8[np.ndarray, "N S S 3"]) -> Embedded:
        """The same, and what their norms were."""
        if crops.dtype != np.uint8 or crops.shape[1:] != self.preprocess.shape:
            raise ValueError(
                f"crops {crops.dtype} {crops.shape[1:]}: the embedder takes uint8 "
                f"{self.preprocess.shape}"
            )
        views = [crops, crops[:, :, ::-1]] if self.flips else [crops]
        raw = self.network(np.concatenate(views))[0]
        mean = raw if len(views) == 1 else (raw[: len(crops)] + raw[len(crops) :]) * np.float32(0.5)
        norms = np.linalg.norm(mean, axis=1)
        return Embedded(mean / np.maximum(norms, np.float32(1e-12))[:, None], norms)

    @property
    def flips(self) -> bool:
        """Whether each face is seen twice."""
        return getattr(self.preprocess, "flip_sum", False)
