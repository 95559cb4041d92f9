"""How near one picture is to another, pixel by pixel: structure, noise, colour.

Pictures are uint8 (H, W, 3), sRGB 0..255, of one size; sums are taken in float64.
"""

import numpy as np
from jaxtyping import Float64, UInt8

Picture = UInt8[np.ndarray, "H W 3"]
WINDOW = 11
"""sides of the Gaussian window of SSIM, px: what a picture must have"""
SIGMA = 1.5
K1, K2 = 0.01, 0.03
LEVELS = 255.0
LUMA = (0.299, 0.587, 0.114)
"""of ITU-R BT.601, as JPEG has it"""


def luma(picture: UInt8[np.ndarray, "H W 3"]) -> Float64[np.ndarray, "H W"]:
    """Y' of ITU-R BT.601, 0..255, not rounded."""
    return picture @ np.array(LUMA)


def ssim(a: UInt8[np.ndarray, "H W 3"], b: UInt8[np.ndarray, "H W 3"]) -> float:
    """Structural similarity of the luma, -1..1; 1 for the same picture.

    Wang et al. (2004, eq. 13), with their window (11 x 11, Gaussian, sigma 1.5), K1 0.01, K2 0.03
    and population variances; the mean over the positions at which the window lies inside, as their
    code has it. Raises ValueError for different sizes, or a side below 11 px.
    """
    _check(a, b)
    if min(a.shape[:2]) < WINDOW:
        raise ValueError(f"{a.shape[0]} x {a.shape[1]} px: SSIM needs {WINDOW} px a side")
    x, y = luma(a), luma(b)
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x = _windowed(x * x) - mean_x**2
    variance_y = _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (K1 * LEVELS) ** 2, (K2 * LEVELS) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float((above / below).mean())


def psnr(a: UInt8[np.ndarray, "H W 3"], b: UInt8[np.ndarray, "H W 3"]) -> float:
    """Peak signal-to-noise ratio over all channels, dB: 10 log10(255^2 / mean squared difference).

    Infinite for the same picture. Raises ValueError for different sizes.
    """
    _check(a, b)
    squared = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(LEVELS**2 / squared)) if squared else float("inf")


def _windowed(values: Float64[np.ndarray, "H W"]) -> Float64[np.ndarray, "_ _"]:
    """Gaussian means where the window lies inside: (H - 10, W - 10)."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    height, width = (side - WINDOW + 1 for side in values.shape)
    down = sum(weight * values[k : k + height] for k, weight in enumerate(weights))
    assert isinstance(down, np.ndarray)
    across = sum(weight * down[:, k : k + width] for k, weight in enumerate(weights))
    assert isinstance(across, np.ndarray)
    return across


def _check(a: Picture, b: Picture) -> None:
    if a.shape != b.shape:
        raise ValueError(f"pictures of {a.shape[:2]} and {b.shape[:2]}: not of one size")
