"""The frames of a video file, by number: those that decoding it from the start gives, no others."""

import io
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_clips import (
    FRAMES,
    HEIGHT,
    NUM_FRAMES,
    WAYS,
    WIDTH,
    X264,
    Made,
    as_rgb,
    decoded,
    frames_at,
    made,
)
from vision_ops.clips.frames import ClipFile
from vision_ops.decode import UnreadableImageError


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    return {name: made(way) for name, way in WAYS.items()}


@pytest.fixture(scope="module")
def whole(clips: dict[str, bytes]) -> dict[str, np.ndarray]:
    return {name: decoded(data) for name, data in clips.items()}


# ------------------------------------------------------------------------- the right frames


@pytest.mark.parametrize("way", WAYS)
def test_every_frame_is_the_one_that_decoding_from_the_start_gives(clips, whole, way):
    frames = whole[way]
    assert len(frames) == NUM_FRAMES
    assert len({frame.tobytes() for frame in frames}) == NUM_FRAMES  # none can be taken for another
    assert np.array_equal(np.stack(frames_at(clips[way], list(range(NUM_FRAMES)))), frames)


@settings(max_examples=150)
@given(
    way=st.sampled_from(sorted(WAYS)),
    numbers=st.lists(st.integers(0, NUM_FRAMES - 1), min_size=1, max_size=6).map(sorted),
)
def test_frames_far_apart_are_those_that_decoding_from_the_start_gives(
    clips, whole, way: str, numbers: list[int]
):
    assert np.array_equal(np.stack(frames_at(clips[way], numbers)), whole[way][numbers])


def test_clips_hold_the_pictures_that_were_put_into_them(whole):
    """So that the reference of these tests is no error of its own."""
    assert np.array_equal(whole["avi lossless"], FRAMES)
    near = np.abs(whole["mp4 h264 b-frames"].astype(int) - FRAMES).mean(axis=(1, 2, 3))
    assert near.max() < 12  # colours are of half the size


@pytest.mark.parametrize("way", ["mp4 h264", "mkv h264 b-frames", "avi xvid b-frames", "mpeg 2"])
def test_one_frame_is_a_clip(way):
    frames = frames_at(made(way, FRAMES[:1]), [0])
    assert np.array_equal(frames[0], decoded(made(way, FRAMES[:1]))[0])


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("unit", [Fraction(1, 1000), Fraction(1, 50_000)])
def test_times_may_be_uneven_begin_late_or_be_too_near_to_tell(container, unit):
    """Matroska counts milliseconds: at 50,000 frames a second it gives several one time."""
    steps = np.random.default_rng(0).integers(1, 90, NUM_FRAMES) if unit.denominator < 9_999 else 1
    times = 70_000 + np.cumsum(np.broadcast_to(steps, NUM_FRAMES))
    target = io.BytesIO()
    with av.open(target, "w", format=container) as file:
        stream = file.add_stream("libx264", rate=25, options=dict(X264))
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.max_b_frames = unit, 2
        for time, pixels in zip(times.tolist(), FRAMES, strict=True):
            frame = VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    data = target.getvalue()
    assert np.array_equal(frames_at(data, [3, 17, 38]), decoded(data)[[3, 17, 38]])


# ------------------------------------------------------------------------- what is no frame


def with_edit(data: bytes, duration: int, start: int) -> bytes:
    """An MP4 of which a person has cut off the start and the end, as telephones do it."""
    at = data.index(b"elst") + 12
    return data[:at] + struct.pack(">Ii", duration, start) + data[at + 8 :]


@pytest.mark.parametrize(("first", "count"), [(0, 20), (10, 20), (10, 30), (13, 14)])
def test_what_an_edit_list_cuts_off_is_no_frame(clips, first, count):
    data = clips["mp4 h264 b-frames"]
    at = data.index(b"elst") + 12
    _, start = struct.unpack(">Ii", data[at : at + 8])
    cut = with_edit(data, 40 * count, start + 512 * first)  # 1/1000 s, 1/12800 s
    frames = decoded(cut)
    assert len(frames) == count
    assert np.array_equal(frames, decoded(data)[first : first + count])
    assert np.array_equal(frames_at(cut, list(range(count))), frames)
    assert ClipFile(cut, 1.0).count == count
    assert np.array_equal(frames_at(cut, [count // 2]), frames[[count // 2]])


def rewritten(data: bytes, container: str, change: Callable[[int, bytes], bytes]) -> bytes:
    """The same packets in another file; `change` gives the bytes of packet number k."""
    target = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as file, av.open(target, "w", format=container) as copy:
        stream = copy.add_stream_from_template(file.streams.video[0])
        packets = [packet for packet in file.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            new = Packet(change(number, bytes(packet)))
            new.pts, new.dts, new.duration = packet.pts, packet.dts, packet.duration
            new.time_base, new.is_keyframe = packet.time_base, packet.is_keyframe
            new.stream = stream
            copy.mux(new)
    return target.getvalue()


def test_frames_of_vp8_that_are_not_to_be_shown_are_not_counted():
    """They lie in packets of their own, with times of their own, and others refer to them."""
    data = made(Made("webm", "libvpx", gop=100), FRAMES)
    hidden = (5, 6, 20, 39)
    data = rewritten(
        data, "webm", lambda k, each: bytes([each[0] & ~(0x10 * (k in hidden))]) + each[1:]
    )
    frames = decoded(data)
    assert len(frames) == ClipFile(data, 1.0).count == NUM_FRAMES - len(hidden)
    assert np.array_equal(frames_at(data, list(range(len(frames)))), frames)


def not_coded(number: int) -> bytes:
    """An MPEG-4 frame that says: as before (vop_coded 0; ISO/IEC 14496-2, sec. 6.2.5)."""
    bits = f"0101{number % 25:05b}10"
    bits += "0" + "1" * (-(len(bits) + 1) % 8)
    return b"\0\0\1\xb6" + int(bits, 2).to_bytes(len(bits) // 8)


STILL = (3, *range(20, 30))
"""frames of which only the one before is seen"""


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_where_mpeg_4_says_that_a_frame_stays_the_one_before_is_taken(container):
    plain = made(Made("avi", "mpeg4", gop=100), FRAMES)
    data = rewritten(plain, container, lambda k, each: not_coded(k) if k in STILL else each)
    came = iter(decoded(data))
    wanted: list[np.ndarray] = []
    for number in range(NUM_FRAMES):
        wanted.append(wanted[-1] if number in STILL else next(came))
    assert np.array_equal(frames_at(data, list(range(NUM_FRAMES))), wanted)
    assert np.array_equal(frames_at(data, [4, 25, 36])[1], wanted[19])


def test_an_avi_of_frames_that_stay_has_those_that_came():
    """An AVI does not say when a frame is shown."""
    plain = made(Made("avi", "mpeg4", gop=100), FRAMES)
    data = rewritten(plain, "avi", lambda k, each: not_coded(k) if k in STILL else each)
    frames = decoded(data)
    assert len(frames) == NUM_FRAMES - len(STILL)
    counts, found = [], []

    def last_two(count: int) -> list[int]:
        counts.append(count)
        return [count - 2, count - 1]

    ClipFile(data, 1.0).read(last_two, lambda _, frame: found.append(np.asarray(frame.upright)))
    assert counts == [NUM_FRAMES, len(frames)]
    assert np.array_equal(found[-2:], frames[-2:])


def test_a_clip_of_nothing_but_frames_that_stay_is_refused():
    alone = made(Made("avi", "mpeg4"), FRAMES[:1])
    data = rewritten(alone, "avi", lambda k, _: not_coded(k))
    with pytest.raises(UnreadableImageError, match="corrupt AVI: 0 frames of 1 can be decoded"):
        frames_at(data, [0])


def with_cover(has_video: bool) -> bytes:
    """An MP4 with sound and the picture of a cover, before the clip if it has one."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as file:
        cover, sound = file.add_stream("mjpeg", rate=1), file.add_stream("aac", rate=8_000)
        video = file.add_stream("libx264", rate=25) if has_video else cover
        assert isinstance(cover, VideoStream)
        assert isinstance(video, VideoStream)
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        cover.height, cover.width, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8_000
        pictures = [VideoFrame.from_ndarray(frame, format="rgb24") for frame in FRAMES[:6]]
        small = VideoFrame.from_ndarray(FRAMES[0, :16, :16], format="rgb24")
        held = ((cover, [small]), (sound, [silence]), (video, pictures))
        for stream, frames in held[: 2 + has_video]:
            for frame in [*frames, None]:
                file.mux(stream.encode(frame))  # pyright: ignore[reportArgumentType]
    return target.getvalue()


def test_a_cover_is_no_clip_and_a_clip_may_have_one():
    clip = ClipFile(with_cover(has_video=True), 1.0)
    assert (clip.count, clip.codec.name) == (6, "h264")
    with pytest.raises(UnreadableImageError, match="MP4 without pictures: sound only"):
        ClipFile(with_cover(has_video=False), 1.0)


REAL = {
    "R6llTwEh07w.mp4": (303, 256, 340),
    "RATRACE_wave_f_nm_np1_fr_goo_37.avi": (72, 240, 560),
    "SOX5yA1l24A.mp4": (332, 256, 340),
    "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi": (74, 240, 320),
    "TrumanShow_wave_f_nm_np1_fr_med_26.avi": (48, 240, 432),
    "WUzgd7C1pWA.mp4": (327, 256, 340),
    "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": (83, 240, 320),
    "v_SoccerJuggling_g23_c01.avi": (240, 240, 320),
    "v_SoccerJuggling_g24_c01.avi": (251, 240, 320),
}
"""frames, height and width of each"""


@pytest.mark.parametrize("name", REAL)
def test_real_clips_give_the_frames_that_decoding_from_the_start_gives(shared_data: Path, name):
    data = (shared_data / "videos" / name).read_bytes()
    count, *size = REAL[name]
    wanted = [0, count // 3, count // 2, count - 1]
    found = iter(frames_at(data, wanted))
    clip = ClipFile(data, 1.0)
    assert clip.count == count
    with av.open(io.BytesIO(data), "r", metadata_errors="replace") as file:
        for number, frame in enumerate(file.decode(video=0)):
            if number in wanted:
                expected = as_rgb(frame)
                assert expected.shape == (*size, 3)
                assert np.array_equal(next(found), expected)
    assert next(found, None) is None
