"""Clips: which frames are taken, fitted as pictures are, upright, and what is shown of them."""

import io
import struct
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.made_clips import FRAMES, HEIGHT, NUM_FRAMES, WIDTH, decoded, frames_at, made
from vision_ops.clips import CLIP_SUFFIXES, MAX_FRAMES, ClipPreprocess
from vision_ops.clips.decode import DecodeClip, clip_thumbnail
from vision_ops.clips.frames import TURNS
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.preprocess import Preprocess, fit

SMALL = Preprocess(height_px=20, width_px=24, resize_px=22)
EXACT = DecodeConfig(mode="exact")
WAYS = ("mp4 h264", "mp4 h264 b-frames", "mov prores")


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    return {way: made(way) for way in WAYS}


@pytest.fixture(scope="module")
def whole(clips: dict[str, bytes]) -> dict[str, np.ndarray]:
    return {way: decoded(data) for way, data in clips.items()}


def decode(
    data: bytes, preprocess: ClipPreprocess, config: DecodeConfig | None = None
) -> tuple[np.ndarray, tuple[int, ...]]:
    decoder = make_decoder(config or DecodeConfig(), preprocess)
    out = np.full(decoder.shape, 7, decoder.dtype)
    assert decoder(data, out) == ""
    return out, decoder.extent


# ------------------------------------------------------------------------- which frames

counts = st.integers(1, 3_000)
lengths = st.integers(1, 64)


@given(count=counts, length=lengths)
def test_uniform_takes_the_middle_one_of_equal_parts(count: int, length: int):
    taken = ClipPreprocess(num_frames=length).frames_of(count)
    assert len(taken) == length
    part = Fraction(count, length)
    for number, frame in enumerate(taken):
        middle = (
            number + Fraction(1, 2)
        ) * part  # in frames; each lasts from its number to the next
        assert frame <= middle < frame + 1
    assert taken[0] >= 0
    assert taken[-1] < count
    assert max(Counter(taken).values()) <= -(-length // count)  # repeated evenly, or not at all


@given(count=counts, length=lengths, stride=st.integers(1, 50))
def test_dense_takes_frames_apart_by_the_stride_around_the_middle(count, length, stride):
    preprocess = ClipPreprocess(num_frames=length, sampling="dense", stride=stride)
    taken = preprocess.frames_of(count)
    assert len(taken) == length
    assert all(0 <= frame < count for frame in taken)
    span = (length - 1) * stride + 1
    inner = [frame for frame in taken if 0 < frame < count - 1]
    assert all(after - before == stride for before, after in pairwise(inner))
    if count >= span:
        left, right = taken[0], count - 1 - taken[-1]
        assert all(after - before == stride for before, after in pairwise(taken))
        assert right - left in (0, 1)
    else:
        doubled = {frame for frame, times in Counter(taken).items() if times > 1}
        assert doubled <= {0, count - 1}


def test_frames_by_hand():
    assert ClipPreprocess(num_frames=4).frames_of(8) == [1, 3, 5, 7]
    assert ClipPreprocess(num_frames=4).frames_of(4) == [0, 1, 2, 3]
    assert ClipPreprocess(num_frames=3).frames_of(9) == [1, 4, 7]
    assert ClipPreprocess(num_frames=6).frames_of(3) == [0, 0, 1, 1, 2, 2]
    assert ClipPreprocess(num_frames=1).frames_of(5) == [2]
    dense = ClipPreprocess(num_frames=3, sampling="dense", stride=2)
    assert dense.frames_of(9) == [2, 4, 6]
    assert dense.frames_of(5) == [0, 2, 4]
    assert dense.frames_of(3) == [0, 1, 2]
    assert dense.frames_of(1) == [0, 0, 0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_frames": 0}, "num_frames 0: must be 1..1024"),
        ({"num_frames": MAX_FRAMES + 1}, "num_frames 1025"),
        ({"sampling": "random"}, "sampling 'random': not one of"),
        ({"sampling": "dense", "stride": 0}, "stride 0: must be at least 1"),
        ({"stride": 2}, "stride 2: is for dense sampling"),
    ],
)
def test_impossible_samplings_are_refused_by_name(fields, said: str):
    with pytest.raises(ValueError, match=said):
        ClipPreprocess(**fields)


def test_what_a_clip_is_to_a_network_and_to_a_person():
    preprocess = ClipPreprocess(num_frames=3, sampling="dense", stride=2, frame=SMALL)
    assert preprocess.shape == (3, 20, 24, 3)
    assert preprocess.network_shape == (3, 3, 20, 24)
    assert (preprocess.dtype, preprocess.num_channels) == (np.uint8, 3)
    assert preprocess.describe()["frames"] == "3 dense, 2 apart, from the middle"
    assert "20 x 24" in preprocess.describe()["pixels"]


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("sampling", ["uniform", "dense"])
def test_a_clip_is_its_frames_fitted_as_pictures_are(clips, whole, mode, sampling):
    preprocess = ClipPreprocess(num_frames=5, sampling=sampling, frame=SMALL)
    out, extent = decode(clips["mp4 h264 b-frames"], preprocess, DecodeConfig(mode=mode))
    assert extent == (NUM_FRAMES, HEIGHT, WIDTH)
    frames = whole["mp4 h264 b-frames"][preprocess.frames_of(NUM_FRAMES)]
    expected = np.stack([np.asarray(fit(Image.fromarray(frame), SMALL)) for frame in frames])
    off = np.abs(out.astype(int) - expected).max()
    assert off == 0 if mode == "exact" else off <= 1


def test_a_clip_that_is_too_short_repeats_its_frames():
    data = made("mkv h264 b-frames", FRAMES[:3])
    out, extent = decode(data, ClipPreprocess(num_frames=6, frame=SMALL))
    assert extent == (3, HEIGHT, WIDTH)
    assert np.array_equal(out[::2], out[1::2])
    assert len({frame.tobytes() for frame in out}) == 3


# ------------------------------------------------------------------------- upright


def turned(data: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """An MP4 or MOV whose track header has this matrix (ISO/IEC 14496-12, sec. 8.3.2)."""
    at = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return data[:at] + matrix + data[at + 36 :]


def shown(pixels: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Where the matrix puts every pixel: (x, y) goes to (a x + c y, b x + d y), moved into view."""
    height, width, _ = pixels.shape
    y, x = np.mgrid[0:height, 0:width]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    view = np.zeros((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    view[to_y, to_x] = pixels
    return view


@pytest.mark.parametrize("way", ["mp4 h264 b-frames", "mov prores"])
@pytest.mark.parametrize("matrix", TURNS)
def test_a_display_matrix_turns_and_mirrors_every_frame(clips, whole, way, matrix):
    data = turned(clips[way], *matrix)
    expected = [shown(whole[way][number], *matrix) for number in (2, 30)]
    assert np.array_equal(frames_at(data, [2, 30]), expected)
    preprocess = ClipPreprocess(num_frames=2, frame=SMALL)
    chosen = [shown(whole[way][number], *matrix) for number in preprocess.frames_of(NUM_FRAMES)]
    fitted = np.stack([np.asarray(fit(Image.fromarray(each), SMALL)) for each in chosen])
    out, extent = decode(data, preprocess, DecodeConfig(mode="exact"))
    assert np.array_equal(out, fitted)
    assert extent == (NUM_FRAMES, *expected[0].shape[:2])
    fast, extent_of_fast = decode(data, preprocess)
    assert extent_of_fast == extent
    assert np.abs(fast.astype(int) - fitted).max() <= 1


def test_an_angle_that_is_no_quarter_is_left_as_it_is(clips, whole):
    data = turned(clips["mp4 h264"], 1, 1, -1, 1)
    assert np.array_equal(frames_at(data, [7])[0], whole["mp4 h264"][7])


# ------------------------------------------------------------------------- thumbnails, the rest


def test_the_thumbnail_is_the_middle_frame_upright_and_never_enlarged(clips, whole):
    image = Image.open(io.BytesIO(clip_thumbnail(turned(clips["mp4 h264"], 0, 1, -1, 0), 32)))
    assert (image.format, image.size) == ("JPEG", (24, 32))
    middle = Image.fromarray(shown(whole["mp4 h264"][20], 0, 1, -1, 0))
    near = np.abs(np.asarray(image, int) - np.asarray(middle.resize((24, 32))))
    assert near.mean() < 8
    assert Image.open(io.BytesIO(clip_thumbnail(clips["mp4 h264"], 200))).size == (WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="not a clip"):
        clip_thumbnail(b"nothing")


def test_a_decoder_of_clips_says_which_files_it_reads_and_has_no_profiles():
    decoder = make_decoder(DecodeConfig(), ClipPreprocess())
    assert isinstance(decoder, DecodeClip)
    assert decoder.suffixes == CLIP_SUFFIXES
    with pytest.raises(ValueError, match="decode.apply_icc: pictures have ICC profiles, clips"):
        make_decoder(DecodeConfig(apply_icc=True), ClipPreprocess())


def test_without_the_package_clips_are_refused_before_anything_is_read():
    code = """
import sys
sys.modules["av"] = None
from vision_ops.clips import ClipPreprocess
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
make_decoder(DecodeConfig(), ClipPreprocess())
"""
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert "clips need the package av: pip install -e '.[video]'" in told.stderr
