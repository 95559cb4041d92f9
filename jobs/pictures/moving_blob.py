"""Clips that only their order tells apart: a bright blob that moves in one of four directions.

It starts anywhere and comes in again where it leaves, so the place of the blob in any one frame is
the same to chance for every direction: a network that looks at frames by themselves can name none.
"""

import io

import numpy as np

DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""down and to the right, by name"""
CRF = 12
"""of x264: hardly a difference to be seen"""


def moving_blobs(
    names: list[str], random: np.random.Generator, size_px: int = 32, num_frames: int = 16
) -> np.ndarray:
    """A clip for each name of DIRECTIONS: uint8 (B, T, H, W, 3), sRGB, on grey noise.

    The blob crosses the frame once: height and width are `size_px`, in `num_frames` equal steps.
    """
    steps = np.array([DIRECTIONS[name] for name in names]) * (size_px / num_frames)  # (B, 2)
    start = random.uniform(0, size_px, (len(names), 1, 2))
    places = start + steps[:, None] * np.arange(num_frames)[:, None]  # (B, T, 2)
    away = np.arange(size_px) - places[..., None]  # (B, T, 2, size)
    away = (away + size_px / 2) % size_px - size_px / 2
    falls = np.exp(-(away**2) / (2 * (size_px / 8) ** 2))
    blob = falls[:, :, 0, :, None] * falls[:, :, 1, None, :]  # (B, T, H, W)
    noise = random.normal(40, 8, blob.shape)
    grey = (noise + 180 * blob).clip(0, 255).astype(np.uint8)
    return grey[..., None].repeat(3, axis=-1)


def encode_mp4(frames: np.ndarray, frames_per_s: int = 16) -> bytes:
    """uint8 (T, H, W, 3) as H.264 in MP4; the same bytes each time, by the same FFmpeg."""
    import av  # 0.2 s that those who make no clips do without

    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frames_per_s, options={"crf": str(CRF)})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return target.getvalue()
