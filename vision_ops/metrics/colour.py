"""How far colours are from each other, as people see them: CIE Lab and CIEDE2000."""

import numpy as np
from jaxtyping import Float, Float64, UInt8

RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
"""linear sRGB -> XYZ, white at Y = 1 (IEC 61966-2-1)"""
WHITE = RGB_TO_XYZ.sum(axis=1)
"""D65 as these primaries give it: sRGB's white is L = 100, a = b = 0"""
LINEAR_BELOW = (6 / 29) ** 3
FAR = 25.0**7
"""of the chroma at which the rotation and the correction of a* are half of what they can be"""


def to_lab(pixels: UInt8[np.ndarray, "*B 3"]) -> Float64[np.ndarray, "*B 3"]:
    """sRGB 0..255 -> CIE L*a*b* under D65; L* is 0..100."""
    encoded = np.arange(256) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    scaled = linear[pixels] @ (RGB_TO_XYZ / WHITE[:, None]).T
    cubic = np.where(scaled > LINEAR_BELOW, np.cbrt(scaled), scaled / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(cubic, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def ciede2000(
    a: Float[np.ndarray, "*B 3"], b: Float[np.ndarray, "*B 3"]
) -> Float64[np.ndarray, "*B"]:
    """Difference of colours in L*a*b*: about 1 is just seen, black and white are 100 apart.

    CIE 142-2001 with all weights 1, by Sharma, Wu and Dalal (2005, eq. 2 to 22).
    """
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    mean_chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretched = 1 + 0.5 * (1 - _saturating(mean_chroma))
    c1, c2 = np.hypot(stretched * a1, b1), np.hypot(stretched * a2, b2)
    h1, h2 = _hue(b1, stretched * a1), _hue(b2, stretched * a2)
    grey = c1 * c2 == 0
    turn = np.where(grey, 0.0, (h2 - h1 + 180) % 360 - 180)
    turn = np.where(~grey & (h2 - h1 == 180), 180.0, turn)  # of half a turn the sign is that of it
    apart = np.abs(h1 - h2) > 180
    wrapped = np.where(h1 + h2 < 360, h1 + h2 + 360, h1 + h2 - 360)
    hue = np.where(grey, h1 + h2, np.where(apart, wrapped, h1 + h2) / 2)
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    weight = 1 - 0.17 * _cos(hue - 30) + 0.24 * _cos(2 * hue)
    weight += 0.32 * _cos(3 * hue + 6) - 0.20 * _cos(4 * hue - 63)
    off = (lightness - 50) ** 2
    by_lightness = (l2 - l1) / (1 + 0.015 * off / np.sqrt(20 + off))
    by_chroma = (c2 - c1) / (1 + 0.045 * chroma)
    by_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * weight)
    around_blue = 60 * np.exp(-(((hue - 275) / 25) ** 2))  # twice the angle, degrees
    rotation = -2 * _saturating(chroma) * np.sin(np.radians(around_blue))
    squared = by_lightness**2 + by_chroma**2 + by_hue**2 + rotation * by_chroma * by_hue
    return np.sqrt(np.maximum(squared, 0))


def colour_error(a: UInt8[np.ndarray, "H W 3"], b: UInt8[np.ndarray, "H W 3"]) -> float:
    """Mean CIEDE2000 between two pictures in sRGB, pixel by pixel; 0 for the same.

    Raises ValueError for different sizes.
    """
    if a.shape != b.shape:
        raise ValueError(f"pictures of {a.shape[:2]} and {b.shape[:2]}: not of one size")
    return float(ciede2000(to_lab(a), to_lab(b)).mean())


def _saturating(chroma: np.ndarray) -> np.ndarray:
    """0 for greys, towards 1 for strong colours."""
    return np.sqrt(chroma**7 / (chroma**7 + FAR))


def _hue(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Degrees, 0..360; 0 for grey."""
    return np.degrees(np.arctan2(y, x)) % 360


def _cos(degrees: np.ndarray) -> np.ndarray:
    return np.cos(np.radians(degrees))
