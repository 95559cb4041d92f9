"""Heads of similarity as scorers of exact search. Needs torch; cosine is had without."""

import copy

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from vision_ops.faces.heads import AffineHead, WeightedHead
from vision_ops.faces.search import HALF_ULP

ROUNDINGS = 16
"""of a score beside those of its sums: differences, division, sigmoid"""
SIGMOID_SLOPE = 0.25


class HeadScorer:
    """A head over embeddings of norm 1; see `vision_ops.faces.search.Scorer`."""

    def __init__(self, head: AffineHead | WeightedHead) -> None:
        self.head: nn.Module = head.eval()
        self.exact: nn.Module = copy.deepcopy(head).double().eval()

    @torch.inference_mode()
    def block(
        self, probes: Float[np.ndarray, "P E"], gallery: Float[np.ndarray, "G E"]
    ) -> Float[np.ndarray, "P G"]:
        """Scores of all with all."""
        head = self.exact if probes.dtype == np.float64 else self.head
        return head(_tensor(probes), _tensor(gallery)).numpy()

    @torch.inference_mode()
    def pairs(
        self, first: Float[np.ndarray, "N E"], second: Float[np.ndarray, "N E"]
    ) -> Float[np.ndarray, "N"]:
        """Scores of rows, in float64."""
        exact = self.exact
        assert isinstance(exact, AffineHead | WeightedHead)
        return exact.paired(_tensor(first).double(), _tensor(second).double()).numpy()

    @torch.inference_mode()
    def margin(self, size: int) -> float:
        """Bound of the rounding of float32, from what can be summed of vectors of norm 1.

        Differences sum to at most 2 sqrt(E), and so do the terms of chi-square, which are no larger
        than |a_i| + |b_i|; a sigmoid is a quarter as steep as its logit.
        """
        roundings = (size + ROUNDINGS) * HALF_ULP
        if isinstance(self.head, AffineHead):
            return 4 * roundings
        assert isinstance(self.head, WeightedHead)
        heaviest = float(self.head.weights.abs().max())
        largest = 2 * size**0.5 * heaviest + abs(float(self.head.offset))
        return SIGMOID_SLOPE * largest * roundings + 4 * HALF_ULP


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))  # copied if read-only
