"""Clips as networks see them: which frames of a video, and how each is fitted.

Light on purpose, as `vision_ops.preprocess` is; PyAV is imported where a clip is decoded.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from vision_ops.preprocess import Preprocess

Sampling = Literal["uniform", "dense"]
MAX_FRAMES = 1_024
"""of what a network sees"""
CLIP_NETWORKS = ("cnn_gru", "cnn_lstm", "cnn_mean")
"""families of networks of clips; a colon and the network of a frame follow"""
CLIP_SUFFIXES = (
    *(".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".qt", ".webm"),
)


@dataclass(frozen=True, kw_only=True)
class ClipPreprocess:
    """How a network wants its clips: which frames, and each of them as a picture."""

    num_frames: int = 16
    """T, frames that the network sees"""
    sampling: Sampling = "uniform"
    """uniform: spread over the whole clip; dense: from its middle, `stride` apart"""
    stride: int = 1
    """dense: from one frame to the next that is taken"""
    frame: Preprocess = field(default_factory=Preprocess)
    """size, crop, mean and std of every frame"""

    def __post_init__(self) -> None:
        if not 1 <= self.num_frames <= MAX_FRAMES:
            raise ValueError(f"num_frames {self.num_frames}: must be 1..{MAX_FRAMES}")
        if self.sampling not in get_args(Sampling):
            raise ValueError(f"sampling {self.sampling!r}: not one of {get_args(Sampling)}")
        if self.stride < 1:
            raise ValueError(f"stride {self.stride}: must be at least 1")
        if self.sampling == "uniform" and self.stride != 1:
            raise ValueError(f"stride {self.stride}: is for dense sampling; uniform has none")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a decoded clip: (T, H, W, 3)."""
        return (self.num_frames, *self.frame.shape)

    @property
    def dtype(self) -> np.dtype:
        """Of a decoded clip."""
        return self.frame.dtype

    @property
    def num_channels(self) -> int:
        """Of what the network sees."""
        return self.frame.num_channels

    @property
    def network_shape(self) -> tuple[int, ...]:
        """Of what the network sees, channels of each frame first: (T, 3, H, W)."""
        return (self.num_frames, *self.frame.network_shape)

    def describe(self) -> dict[str, str]:
        """What a person is told of it."""
        apart = f", {self.stride} apart, from the middle" if self.sampling == "dense" else ""
        return {"frames": f"{self.num_frames} {self.sampling}{apart}", **self.frame.describe()}

    def frames_of(self, count: int) -> list[int]:
        """Which frames of a clip of `count` are taken: T numbers from 0, never falling.

        uniform: the middle one of each of T equal parts. dense: T frames, `stride` apart, as many
        left before them as after. Frames are counted, not seconds: where a clip's frame rate
        varies, it is sampled most where it has most frames. A clip that is too short has frames
        repeated: uniform spreads what there is evenly, dense repeats the first and the last.
        """
        if self.sampling == "uniform":
            return [(2 * k + 1) * count // (2 * self.num_frames) for k in range(self.num_frames)]
        first = (count - (self.num_frames - 1) * self.stride - 1) // 2
        places = (first + k * self.stride for k in range(self.num_frames))
        return [min(max(place, 0), count - 1) for place in places]
