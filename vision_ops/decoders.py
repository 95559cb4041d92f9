"""The decoder of a kind of input: bytes of a file -> the array that a network's card asks for.

Light on purpose: a decoder process imports no more than its own kind needs.
"""

from typing import Protocol

import numpy as np

from vision_ops.canvas import Canvas
from vision_ops.clips import ClipPreprocess
from vision_ops.clips.decode import DecodeClip
from vision_ops.decode import Decode, DecodeConfig, DecodeWhole
from vision_ops.decode.gpu import DecodeOnGpu
from vision_ops.inputs import Inputs
from vision_ops.noise import DecodeNumber, Noise
from vision_ops.pairs import DecodePair
from vision_ops.preprocess import Preprocess
from vision_ops.signals import DecodeSignal, SignalPreprocess
from vision_ops.volumes import DecodeVolume, VolumePreprocess


class Decoder(Protocol):
    """What each of them is; picklable."""

    shape: tuple[int, ...]
    dtype: np.dtype
    suffixes: tuple[str, ...]
    """endings of the files that it decodes"""
    extent: tuple[int, ...]
    """shape of what was decoded last, before it was fitted"""

    def __call__(self, data: bytes, out: np.ndarray) -> str: ...


def make_decoder(config: DecodeConfig, preprocess: Inputs) -> Decoder:
    """The decoder of what `preprocess` describes.

    Raises ValueError for a package that is missing, and for a mode that this kind does not have.
    """
    if isinstance(preprocess, Canvas):
        return picture_decoder(DecodeWhole(config, preprocess))
    if isinstance(preprocess, Preprocess):
        return picture_decoder(Decode(config, preprocess))
    if isinstance(preprocess, Noise):
        return DecodeNumber(preprocess)
    if config.mode == "cuda":
        raise ValueError(f"decode.mode cuda: is for pictures, not for {type(preprocess).__name__}")
    if isinstance(preprocess, SignalPreprocess):
        return DecodeSignal(config, preprocess)
    if isinstance(preprocess, VolumePreprocess):
        return DecodeVolume(config, preprocess)
    if isinstance(preprocess, ClipPreprocess):
        return DecodeClip(config, preprocess)
    return DecodePair(config, preprocess)


def picture_decoder(usual: Decode | DecodeWhole) -> Decoder:
    """The same, or on a GPU where its config asks for that; raises ValueError as make_decoder."""
    return DecodeOnGpu(usual) if usual.config.mode == "cuda" else usual
