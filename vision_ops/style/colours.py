"""The colours of a photograph in a picture that was made of it."""

from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

Colours = Literal["style", "content", "matched"]
LEAST_VARIANCE = 1 / 12
"""of a direction of colour, in squares of levels of 0..255: that of rounding. Below it a picture
has nothing there that could be made more of"""


def recoloured(
    colours: Colours, content: UInt8[np.ndarray, "H W 3"], made: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """`made` with the colours asked for: its own, or by one of the functions below."""
    if colours == "content":
        return with_colours_of(content, made)
    if colours == "matched":
        return with_range(matched(content, made))
    return made


def with_colours_of(
    content: UInt8[np.ndarray, "H W 3"], made: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """The brightness of `made` with the colours of `content`, both sRGB.

    Luma of one and chroma of the other in Y'CbCr of ITU-R BT.601, as JPEG has it (Gatys et al.
    2016, Preserving Color in Neural Artistic Style Transfer, sec. 5: luminance-only transfer).
    Raises ValueError for different sizes.
    """
    if content.shape != made.shape:
        raise ValueError(f"content {content.shape}, made {made.shape}: not of one size")
    luma = Image.fromarray(made).convert("YCbCr").getchannel("Y")
    _, *chroma = Image.fromarray(content).convert("YCbCr").split()
    return np.asarray(Image.merge("YCbCr", (luma, *chroma)).convert("RGB"))


def matched(
    content: UInt8[np.ndarray, "H W 3"], made: UInt8[np.ndarray, "h w 3"]
) -> Float32[np.ndarray, "h w 3"]:
    """`made` with the mean and the covariance of the colours of `content`; sRGB, not yet rounded.

    x -> A (x - m) + m', A = C'^(1/2) C^(-1/2) of symmetric square roots (Gatys et al. 2016,
    Preserving Color in Neural Artistic Style Transfer, sec. 4: their linear transform as in image
    analogies). They transform the style's picture before the transfer; here it is the picture made,
    which every method has, and styles are measured once whatever the contents. Colours that `made`
    hardly varies in (`LEAST_VARIANCE`) are left at the mean: there is nothing to transform. Values
    may leave 0..255, and cutting them off changes both moments a little.
    """
    (mean, covariance), (wanted_mean, wanted) = colour_moments(made), colour_moments(content)
    transform = _power(wanted, 0.5) @ _power(covariance, -0.5)
    parts = made.astype(np.float32) - mean.astype(np.float32)
    found = np.empty(made.shape, np.float32)
    for channel, row in enumerate(transform.astype(np.float32)):  # no order that BLAS chooses
        found[..., channel] = (
            parts[..., 0] * row[0] + parts[..., 1] * row[1] + parts[..., 2] * row[2]
        )
    return found + wanted_mean.astype(np.float32)


def colour_moments(
    pixels: UInt8[np.ndarray, "H W 3"],
) -> tuple[Float64[np.ndarray, " 3"], Float64[np.ndarray, "3 3"]]:
    """Mean and covariance of colours, sRGB 0..255; from whole numbers, so in any order the same."""
    flat = pixels.reshape(-1, 3).astype(np.int64)
    count = len(flat)
    total, products = flat.sum(axis=0), flat.T @ flat
    # their products leave int64 from about 24 megapixels on: Python's whole numbers have no end
    whole, sums = products.astype(object), total.astype(object)
    covariance = (count * whole - np.outer(sums, sums)) / count**2
    return total / count, covariance.astype(np.float64)


def with_range(values: Float32[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Rounded, cut off at 0 and 255."""
    return values.round().clip(0, 255).astype(np.uint8)


def _power(covariance: Float64[np.ndarray, "3 3"], exponent: float) -> Float64[np.ndarray, "3 3"]:
    """Of a symmetric matrix, 0 in directions of hardly any variance."""
    values, vectors = np.linalg.eigh(covariance)
    powers = np.where(values > LEAST_VARIANCE, values.clip(LEAST_VARIANCE) ** exponent, 0.0)
    return (vectors * powers) @ vectors.T
