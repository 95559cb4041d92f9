"""The colours of a photograph in a picture that was made of it."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


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
