"""Clips made by PyAV itself, and what comes out of them where everything is decoded."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from vision_ops.clips.frames import CONVERSION, ClipFile


class Made(NamedTuple):
    """How a clip is made."""

    container: str
    """FFmpeg's muxer"""
    codec: str
    options: Mapping[str, str] = {}
    """of the encoder"""
    mux: Mapping[str, str] = {}
    """of the muxer"""
    pix_fmt: str = "yuv420p"
    b_frames: int = 0
    gop: int = 12
    """frames from one key frame to the next"""


X264 = {"crf": "10", "preset": "fast"}
WAYS: dict[str, Made] = {
    "mp4 h264": Made("mp4", "libx264", X264, gop=8),
    "mp4 h264 b-frames": Made("mp4", "libx264", {**X264, "b_strategy": "0"}, b_frames=3),
    "mp4 h264 pyramid, open groups": Made(
        "mp4", "libx264", {**X264, "x264-params": "bframes=5:b-pyramid=normal:open-gop=1:b-adapt=0"}
    ),
    "mp4 h264 gradual refresh": Made("mp4", "libx264", {**X264, "x264-params": "intra-refresh=1"}),
    "mp4 index first": Made("mp4", "libx264", X264, {"movflags": "faststart"}),
    "mp4 in fragments": Made("mp4", "libx264", X264, {"movflags": "frag_keyframe+empty_moov"}),
    "mp4 hevc b-frames": Made("mp4", "libx265", {"x265-params": "log-level=0:bframes=3"}),
    "mp4 av1": Made("mp4", "libsvtav1", {"preset": "10", "crf": "20"}),
    "mp4 mpeg4 b-frames": Made("mp4", "mpeg4", {"qscale": "2"}, b_frames=2),
    "mov h264": Made("mov", "libx264", X264, b_frames=2),
    "mov prores": Made("mov", "prores_ks", {}, pix_fmt="yuv422p10le"),
    "mov motion jpeg": Made("mov", "mjpeg", {}, pix_fmt="yuvj420p"),
    "3gp mpeg4": Made("3gp", "mpeg4", {"qscale": "2"}),
    "avi xvid b-frames": Made("avi", "mpeg4", {"qscale": "2"}, b_frames=2),
    "avi motion jpeg": Made("avi", "mjpeg", {}, pix_fmt="yuvj420p"),
    "avi h264 b-frames": Made("avi", "libx264", X264, b_frames=2),
    "avi lossless": Made("avi", "ffv1", {}, pix_fmt="bgr0"),
    "mkv h264 b-frames": Made("matroska", "libx264", X264, b_frames=2),
    "mkv mpeg4 b-frames": Made("matroska", "mpeg4", {"qscale": "2"}, b_frames=2),
    "mkv live": Made("matroska", "libx264", X264, {"live": "1"}),
    "webm vp8 hidden frames": Made(
        "webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good"}
    ),
    "webm vp9 hidden frames": Made(
        "webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good"}
    ),
    "webm av1": Made("webm", "libsvtav1", {"preset": "10", "crf": "20"}),
    "mpeg 1": Made("mpeg", "mpeg1video", {"qscale": "2"}, b_frames=2),
    "mpeg 2": Made("vob", "mpeg2video", {"qscale": "2"}, b_frames=2),
}
"""by what is odd about each"""


def scenes(count: int = 40, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 (T, H, W, 3): a square that wanders over a ramp of colours, no frame as another."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    frames = np.empty((count, height, width, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[:] = np.stack([3 * x, 4 * y, np.full_like(x, 5 * number % 250)], axis=-1) % 256
        top, left = int(number * 3 % (height - 12)), int(number * 5 % (width - 12))
        frame[top : top + 12, left : left + 12] = random.integers(0, 255, 3)
    return frames


FRAMES = scenes()
NUM_FRAMES, HEIGHT, WIDTH, _ = FRAMES.shape


def made(way: str | Made, frames: np.ndarray | None = None, **settings: Any) -> bytes:
    """A file of these frames; `settings` are attributes of the stream."""
    way = WAYS[way] if isinstance(way, str) else way
    frames = FRAMES if frames is None else frames
    usual = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        with TemporaryDirectory() as folder:  # an index goes first when the file is opened again
            path = Path(folder) / "clip"
            _write(path, way, frames, settings)
            return path.read_bytes()
    finally:  # SVT-AV1 makes root's thread a real-time one, which starves those that it waits for
        os.sched_setscheduler(0, *usual)


def _write(path: Path, way: Made, frames: np.ndarray, settings: Mapping[str, Any]) -> None:
    with av.open(path, "w", format=way.container, options=dict(way.mux)) as container:
        stream = container.add_stream(way.codec, rate=25, options=dict(way.options))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = way.pix_fmt
        context = stream.codec_context
        context.gop_size = way.gop
        context.max_b_frames = way.b_frames
        context.thread_count = 1
        for name, value in settings.items():
            setattr(stream, name, value)
        for frame in frames:
            container.mux(stream.encode(VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def decoded(data: bytes) -> np.ndarray:
    """uint8 (T, H, W, 3): all that comes out where FFmpeg guesses and decodes from the start."""
    with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
        return np.stack([as_rgb(frame) for frame in container.decode(video=0)])


def as_rgb(frame: VideoFrame) -> np.ndarray:
    """uint8 (H, W, 3), as it is stored."""
    made = VideoReformatter().reformat(frame, format="rgb24", interpolation=CONVERSION, threads=1)
    return made.to_ndarray()


def frames_at(data: bytes, numbers: list[int]) -> list[np.ndarray]:
    """These frames of a file, upright, as Argus finds them."""
    found: dict[int, np.ndarray] = {}
    clip = ClipFile(data, max_megapixels=1.0)
    clip.read(lambda _: numbers, lambda place, f: found.update({place: np.asarray(f.upright)}))
    clip.close()
    return [found[place] for place in range(len(numbers))]
