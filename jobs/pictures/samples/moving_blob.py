"""Clips that only their order tells apart: a bright blob that moves in one of four directions.

It goes over the frame as a pen over lines of text: step by step in its direction, and where it
comes in again on the other side it is a line further. Every direction so shows the blob at the
same places, each once: a network that looks at frames by themselves can name none, whatever it
makes of them. (A blob that kept to its line would betray by its places whether it goes along or
across.)
"""

import io

import numpy as np

DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""down and to the right, by name"""
STEPS = 4
"""that cross a frame; as many lines"""
NUM_FRAMES = STEPS**2
"""of a clip: its blob was everywhere once"""
X264 = {"crf": "12", "x264-params": "cpu-independent=1"}
"""hardly a difference to be seen; without what x264 has for AVX-512, which gives now these bytes,
now those"""


def blob_places(name: str) -> np.ndarray:
    """Lines down and to the right of where the blob begins: int (T, 2), each 0..STEPS-1."""
    down, right = DIRECTIONS[name]
    steps = np.arange(NUM_FRAMES)
    lines = steps // STEPS
    moves = np.stack([down * steps + abs(right) * lines, right * steps + abs(down) * lines], axis=1)
    return moves % STEPS


def moving_blobs(
    names: list[str], random: np.random.Generator, size_px: int = 32, noise: float = 8.0
) -> np.ndarray:
    """A clip for each name of DIRECTIONS: uint8 (B, T, H, W, 3), sRGB, on grey noise.

    The blob begins anywhere; `noise` is the standard deviation in grey levels.
    """
    start = random.uniform(0, size_px, (len(names), 1, 2))
    lines = np.stack([blob_places(name) for name in names])  # (B, T, 2)
    places = start + lines * (size_px / STEPS)
    away = np.arange(size_px) - places[..., None]  # (B, T, 2, size)
    away = (away + size_px / 2) % size_px - size_px / 2
    falls = np.exp(-(away**2) / (2 * (size_px / 8) ** 2))
    blob = falls[:, :, 0, :, None] * falls[:, :, 1, None, :]  # (B, T, H, W)
    grey = (random.normal(40, noise, blob.shape) + 180 * blob).clip(0, 255).astype(np.uint8)
    return grey[..., None].repeat(3, axis=-1)


def encode_mp4(frames: np.ndarray, frames_per_s: int = 16) -> bytes:
    """uint8 (T, H, W, 3) as H.264 in MP4; by the same FFmpeg always and anywhere the same bytes."""
    import av  # 0.2 s that those who make no clips do without

    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frames_per_s, options=X264)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return target.getvalue()
