"""How far the features of one set of pictures are from those of another, as a whole."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What a Gaussian of features is told by."""

    num_rows: int
    mean: Float64[np.ndarray, " D"]
    covariance: Float64[np.ndarray, "D D"]
    """unbiased: divided by the rows less one"""

    @property
    def is_trusted(self) -> bool:
        """Whether there are more rows than features: else the covariance has no full rank."""
        return self.num_rows > len(self.mean)


class SpreadAccumulator:
    """Sums of features and of their products in float64; memory does not grow with the rows."""

    def __init__(self, num_features: int) -> None:
        self.num_rows = 0
        self.sums = np.zeros(num_features)
        self.products = np.zeros((num_features, num_features))

    def update(self, features: Float[np.ndarray, "B D"]) -> None:
        """Add rows. Raises ValueError for other lengths, and for what is no number."""
        if features.shape[1:] != self.sums.shape:
            raise ValueError(f"features of {features.shape[1:]}: wanted {self.sums.shape}")
        if not np.isfinite(features).all():
            raise ValueError("features: not all are numbers")
        rows = features.astype(np.float64)
        self.num_rows += len(rows)
        self.sums += rows.sum(axis=0)
        self.products += rows.T @ rows

    def merge(self, other: "SpreadAccumulator") -> None:
        """Add another's rows. Raises ValueError for features of another length."""
        if self.sums.shape != other.sums.shape:
            raise ValueError(f"merge: {other.sums.shape} features into {self.sums.shape}")
        self.num_rows += other.num_rows
        self.sums += other.sums
        self.products += other.products

    def result(self) -> Spread:
        """Mean and covariance. Raises ValueError for fewer than two rows."""
        if self.num_rows < 2:
            raise ValueError(f"{self.num_rows} rows have no covariance: two at least")
        mean = self.sums / self.num_rows
        scattered = self.products - self.num_rows * np.outer(mean, mean)
        covariance = scattered / (self.num_rows - 1)
        return Spread(num_rows=self.num_rows, mean=mean, covariance=covariance)


def frechet_distance(a: Spread, b: Spread) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)): 0 for the same set (Heusel et al. 2017).

    That is their FID where features are those of the Inception network; of others it is the same
    formula and no number to be compared with published ones. The trace of the root is the sum of
    the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which are those of C_a C_b: this stays
    real and symmetric where there are fewer pictures than features.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ b.covariance @ root).clip(min=0)
    traces = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(shared).sum()
    return float(np.square(a.mean - b.mean).sum() + max(traces, 0.0))
