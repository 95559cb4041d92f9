"""How well an agent finds its way."""

import numpy as np
from jaxtyping import Bool, Int


def path_efficiency(
    success: Bool[np.ndarray, " N"], shortest: Int[np.ndarray, " N"], taken: Int[np.ndarray, " N"]
) -> float:
    """Success weighted by path length, SPL, 0..1 (Anderson et al. 2018, sec. 4.1).

    The mean over episodes of S * l / max(p, l): l of the shortest path, p of the one taken, both at
    least 1. Here both are counted in actions, turns included, for that is what an episode costs;
    the paper has metres. Raises ValueError where a shortest path is not known, or of no episode.
    """
    if len(success) == 0:
        raise ValueError("SPL of no episodes")
    if (shortest < 1).any() or (taken[success] < 1).any():
        raise ValueError("SPL: paths must be known, and of at least one action")
    return float(np.mean(success * shortest / np.maximum(taken, shortest)))
