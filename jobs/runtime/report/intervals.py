"""How sure a share is that was counted."""

import math

DEVIATES = 1.959964
"""standard deviations on both sides of a normal distribution's middle that hold 95 % of it"""


def interval(share: float, count: int) -> tuple[float, float]:
    """95 % confidence interval of a share, 0..1, that was seen on `count` cases (Wilson 1927)."""
    middle = (share + DEVIATES**2 / (2 * count)) / (1 + DEVIATES**2 / count)
    variance = share * (1 - share) / count + DEVIATES**2 / (4 * count**2)
    half = DEVIATES * math.sqrt(variance) / (1 + DEVIATES**2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)
