"""Bytes that are no clip, or not all of one: a reason each, and never an exception."""

import io
import re
import resource
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.made_clips import FRAMES, HEIGHT, WAYS, WIDTH, Made, decoded, made, scenes
from vision_ops.clips import ClipPreprocess
from vision_ops.clips.containers import check_whole, kind_of_clip
from vision_ops.clips.frames import ClipFile
from vision_ops.decode import DecodeConfig, UnreadableImageError
from vision_ops.decoders import make_decoder
from vision_ops.preprocess import Preprocess, fit

SMALL = ClipPreprocess(num_frames=5, frame=Preprocess(height_px=16, width_px=20, resize_px=0))
ENDLESS = ("mp4 in fragments", "mkv live", "mpeg 1", "mpeg 2")
"""ways of which the container does not say where it ends"""


def decode(data: bytes, **config: float) -> tuple[np.ndarray, str]:
    decoder = make_decoder(DecodeConfig(**config), SMALL)  # pyright: ignore[reportArgumentType]
    out = np.full(decoder.shape, 7, np.uint8)
    return out, decoder(data, out)


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    return {name: made(way, FRAMES[:24]) for name, way in WAYS.items()}


@pytest.fixture(scope="module")
def whole(clips: dict[str, bytes]) -> dict[str, np.ndarray]:
    found = {name: decode(data) for name, data in clips.items()}
    assert {reason for _, reason in found.values()} == {""}
    return {name: out for name, (out, _) in found.items()}


def picture(kind: str) -> bytes:
    target = io.BytesIO()
    Image.fromarray(FRAMES[0]).save(target, kind)
    return target.getvalue()


# ------------------------------------------------------------------------- no clip


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty file"),
        (b"\0" * 100, "not a clip that is read (MP4, AVI, Matroska, MPEG are): starts with 00 00"),
        (b"<html>", "not a clip that is read (MP4, AVI, Matroska, MPEG are): starts with '<html>'"),
        (picture("JPEG"), "not a clip that is read"),
        (picture("PNG"), "not a clip that is read"),
        (picture("GIF"), "not a clip that is read"),
        (picture("WEBP"), "not a clip that is read"),
        (picture("AVIF"), "not a clip that is read"),
        (b"FLV\1\5\0\0\0\x09", "not a clip that is read"),
        (b"G\x40\x11\x10" + bytes(184), "not a clip that is read"),
        (b"\0\0\0\x18ftypisom", "truncated MP4: 24 bytes by its own account, 12 are there"),
        (b"\0\0\0\x10ftypisom\0\0\0\0", "truncated MP4: it has no index (moov)"),
        (b"RIFF\x40\0\0\0AVI LIST", "truncated AVI: 72 bytes by its own account, 16 are there"),
        (b"\x1a\x45\xdf\xa3", "corrupt Matroska: "),
        (b"\0\0\1\xba", "corrupt MPEG: "),
    ],
)  # fmt: skip
def test_what_is_no_clip_has_a_reason(data: bytes, said: str):
    out, reason = decode(data)
    assert reason.startswith(said)
    assert (out == 7).all()


def test_a_list_that_names_other_files_opens_none(tmp_path: Path, clips: dict[str, bytes]):
    """FFmpeg would: it guesses what a file is, and these lead it to others."""
    other = tmp_path / "other.mp4"
    other.write_bytes(clips["mp4 h264"])
    lists = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{other}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
        "dash": f'<?xml version="1.0"?><MPD><BaseURL>file://{other}</BaseURL></MPD>',
    }
    for name, text in lists.items():
        assert decode(text.encode())[1].startswith("not a clip that is read"), name
    (tmp_path / "list.txt").write_text(lists["concat"])
    with av.open(tmp_path / "list.txt", "r", format="concat", options={"safe": "0"}) as opened:
        assert len(list(opened.decode(video=0))) == 24  # it would have been read


def test_pictures_before_the_clip_or_behind_it_cost_no_frame(clips, whole):
    for name in ("mp4 h264", "avi xvid b-frames", "mkv h264 b-frames"):
        out, reason = decode(clips[name] + picture("PNG"))
        assert reason == ""
        assert np.array_equal(out, whole[name])
    assert decode(picture("PNG") + clips["mp4 h264"])[1].startswith("not a clip")


def sound(container: str) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format=container) as file:
        stream = file.add_stream("mp2" if container == "mpeg" else "aac", rate=44_100)
        silence = np.zeros((1, 4 * 1152), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
        frame.sample_rate = 44_100
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return target.getvalue()


@pytest.mark.parametrize("container", ["mp4", "mov", "avi", "matroska", "mpeg"])
def test_sound_alone_is_no_clip(container: str):
    assert "without pictures: sound only" in decode(sound(container))[1]


@pytest.mark.parametrize("way", ["mp4 h264", "avi xvid b-frames", "mkv h264 b-frames"])
def test_a_codec_that_nobody_knows_is_named_so(clips, way):
    names = {b"avc1": b"zzz1", b"FMP4": b"ZZZ4", b"V_MPEG4/ISO/AVC": b"V_MPEG9/ZZZ/ZZZ"}
    data = clips[way]
    for known, unknown in names.items():
        data = data.replace(known, unknown)
    assert data != clips[way]
    assert decode(data)[1].endswith(" of a codec that FFmpeg does not know")


def test_a_codec_that_is_not_what_the_file_says_has_a_reason(clips):
    data = clips["avi motion jpeg"].replace(b"MJPG", b"H264")
    assert decode(data)[1].startswith("corrupt AVI: ")


# ------------------------------------------------------------------------- too large


def test_frames_and_files_beyond_the_limits_are_refused_with_both_numbers(clips):
    data = clips["mp4 h264"]
    reason = decode(data, max_megapixels=0.003)[1]
    assert reason == "0.003072 megapixels, more than the 0.003 allowed"
    assert decode(data, max_megapixels=0.0031)[1] == ""
    reason = decode(data, max_megabytes=0.005)[1]
    assert reason == f"{len(data) / 1e6:.4g} megabytes, more than the 0.005 allowed"


SIZES = re.compile(rb"(\xff\xc0\x00\x11\x08)....", re.DOTALL)
"""height and width in each frame of Motion JPEG"""


@pytest.mark.parametrize("first", [0, 3])
def test_a_claimed_size_takes_no_memory(clips, first: int):
    """60,000 x 60,000 pixels in a header of a few bytes, of all frames or of later ones."""
    data = clips["avi motion jpeg"]
    places = [each.start() for each in SIZES.finditer(data)]
    claim = SIZES.sub(lambda found: found[1] + struct.pack(">HH", 60_000, 60_000), data)
    claim = data[: places[first]] + claim[places[first] :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode(claim)[1] == "corrupt AVI: Invalid data found when processing input"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    mpeg = clips["mpeg 1"]
    at = mpeg.index(b"\0\0\1\xb3") + 4
    claim = mpeg[:at] + b"\xff\xff\xff" + mpeg[at + 3 :]
    assert decode(claim, max_megapixels=4)[1] == "16.77 megapixels, more than the 4 allowed"


def test_frames_that_grow_within_a_clip_are_refused_where_they_do():
    """Motion JPEG says its size in every frame: the header's is no promise."""
    small, large = (made(Made("avi", "mjpeg", pix_fmt="yuvj420p"), each) for each in (
        scenes(4), scenes(4, 2 * HEIGHT, 2 * WIDTH)))  # fmt: skip
    target = io.BytesIO()
    with (
        av.open(io.BytesIO(small), "r") as one,
        av.open(io.BytesIO(large), "r") as other,
        av.open(target, "w", format="matroska") as file,
    ):
        stream = file.add_stream_from_template(one.streams.video[0])
        packets = [p for each in (one, other) for p in each.demux(video=0) if p.size]
        for number, packet in enumerate(packets):
            packet.stream, packet.pts, packet.dts = stream, number, number
            file.mux(packet)
    assert decode(target.getvalue())[1] == ""
    assert "megapixels, more than the 0.004" in decode(target.getvalue(), max_megapixels=0.004)[1]


# ------------------------------------------------------------------------- cut off, damaged


@pytest.mark.parametrize("way", WAYS)
def test_a_clip_that_was_cut_off_anywhere_is_refused(clips, way: str):
    """Where its container does not say its length, what is left may be a clip: a shorter one."""
    data = clips[way]
    whole = decoded(data)
    cuts = {*range(0, len(data), max(1, len(data) // 97)), *range(len(data) - 40, len(data))}
    for cut in sorted(cuts):
        out, reason = decode(data[:cut])
        assert reason.startswith(("truncated ", "corrupt ", "empty ", "not ")) or way in ENDLESS
        if not reason:
            count = ClipFile(data[:cut], 1.0).count
            chosen = (Image.fromarray(whole[k]) for k in SMALL.frames_of(count))
            left = [np.asarray(fit(each, SMALL.frame)) for each in chosen]
            assert count <= len(whole)
            assert np.abs(out.astype(int) - np.stack(left)).max() <= 1


@pytest.mark.parametrize("way", ["mp4 index first", "mkv h264 b-frames"])
def test_a_hole_of_the_size_of_what_is_lost_is_found(clips, way: str):
    """What a broken download leaves: all bytes are there, the last half of them zeros."""
    data = clips[way]
    half = len(data) // 2
    assert decode(data[:half] + bytes(len(data) - half))[1].startswith("corrupt")


@settings(max_examples=400)
@given(
    way=st.sampled_from(sorted(WAYS)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12),
    near_start=st.booleans(),
)
def test_damaged_bytes_never_raise(clips, way, changes, near_start):
    data = bytearray(clips[way])
    reach = min(len(data) - 1, 700) if near_start else len(data) - 1
    for place, value in changes:
        data[int(place * reach)] = value
    _, reason = decode(bytes(data), max_megapixels=4)
    assert "\n" not in reason
    assert len(reason) < 300


@settings(max_examples=100)
@given(
    start=st.sampled_from(
        [b"\0\0\0\x18ftypisom", b"\0\0\0\x08moov", b"RIFF\xff\0\0\0AVI ", b"\x1a\x45\xdf\xa3"]
        + [b"\0\0\1\xba", b"\0\0\0\1mdat\0\0\0\0\0\0\0\x20", b"\0\0\0\0mdat"]
    ),
    rest=st.binary(max_size=300),
)
def test_random_bytes_never_raise(start: bytes, rest: bytes):
    assert decode(start + rest)[1]


@pytest.mark.parametrize("way", ["mp4 h264 b-frames", "mkv h264 b-frames", "avi h264 b-frames"])
def test_damage_that_a_decoder_sees_is_refused_and_none_is_hidden_by_a_key_frame(clips, way):
    """Half of the bytes of a key frame in the middle, on which all that follows stands."""
    data = clips[way]
    with av.open(io.BytesIO(data), "r") as file:
        keys = [packet for packet in file.demux(video=0) if packet.size and packet.is_keyframe]
    last = bytes(keys[-1])
    start = data.index(last) + len(last) // 2
    noise = np.random.default_rng(0).bytes(len(last) // 2)
    harmed = data[:start] + noise + data[start + len(noise) :]
    assert decode(harmed)[1].startswith("corrupt ")


def test_damage_that_no_wanted_frame_depends_on_is_not_looked_for(clips, whole):
    """The last frame of a clip, after the last one that is taken."""
    data = clips["mov motion jpeg"]
    with av.open(io.BytesIO(data), "r") as file:
        last = bytes([packet for packet in file.demux(video=0) if packet.size][-1])
    at = data.index(last)
    out, reason = decode(data[:at] + bytes(len(last)) + data[at + len(last) :])
    assert reason == ""
    assert np.array_equal(out, whole["mov motion jpeg"])


# ------------------------------------------------------------------------- containers


@pytest.mark.parametrize("way", WAYS)
def test_containers_are_told_by_their_first_bytes_and_end_where_they_say(clips, way):
    kinds = {"mp4": "MP4", "mov": "MP4", "3gp": "MP4", "avi": "AVI", "mpeg": "MPEG"}
    kind = kind_of_clip(clips[way])
    assert kind == kinds.get(way.partition(" ")[0], "Matroska")
    check_whole(kind, clips[way])
    if way not in ENDLESS:
        with pytest.raises(UnreadableImageError, match=f"truncated {kind}"):
            check_whole(kind, clips[way][:-1])


def test_sizes_of_eight_bytes_and_none_at_all_are_understood(clips, whole):
    """A last box of size 0 goes to the end of the file; one of size 1 has its size behind it."""
    data = clips["mp4 index first"]
    at = data.index(b"mdat") - 4
    to_the_end = data[:at] + bytes(4) + data[at + 4 :]
    assert np.array_equal(decode(to_the_end)[0], whole["mp4 index first"])
    data = clips["mp4 h264"]
    large = data + struct.pack(">I4sQ", 1, b"free", 16 + 9) + bytes(9)
    assert np.array_equal(decode(large)[0], whole["mp4 h264"])
    assert decode(large[:-1])[1].startswith("truncated MP4")
    riff = clips["avi motion jpeg"]
    unsaid = riff[:4] + b"\xff\xff\xff\xff" + riff[8:]
    assert np.array_equal(decode(unsaid)[0], whole["avi motion jpeg"])
