"""JPEGs by the road to a GPU: here with torch on the CPU, and on a GPU where there is one."""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.runtime.decoding import DecodesMany, GuardedDecoder
from tests.vision_ops.test_decode import swapped_profile
from tests.vision_ops.test_decode_fast import STORED, encode, photos, psnr_db
from vision_ops.canvas import Canvas
from vision_ops.clips import ClipPreprocess
from vision_ops.decode import Decode, DecodeConfig, DecodeWhole
from vision_ops.decode import gpu as module
from vision_ops.decode.gpu import DecodeOnGpu, bare_jpeg
from vision_ops.decoders import make_decoder
from vision_ops.preprocess import Preprocess
from vision_ops.signals import SignalPreprocess

__all__ = ["photos"]
CUDA = DecodeConfig(mode="cuda")
SIZES = [(375, 500), (500, 333), (97, 64), (1500, 2000), (2049, 130)]
"""(height, width)"""


Answer = tuple[str, tuple[int, ...]]


def answered(
    decoder: DecodeOnGpu, files: Sequence[bytes], out: np.ndarray
) -> tuple[list[Answer], list[bytes]]:
    """As the decoder process does it: a reason and an extent each, and what went the CPU's road."""
    extents = decoder.many(files, out)
    answers: list[Answer] = []
    for data, place, extent in zip(files, out, extents, strict=True):
        reason = "" if extent else decoder.usual(data, place)
        answers.append((reason, extent or (() if reason else decoder.usual.extent)))
    left = [data for data, extent in zip(files, extents, strict=True) if extent is None]
    return answers, left


def compare(
    files: Sequence[bytes],
    preprocess: Preprocess | None = None,
    config: DecodeConfig = CUDA,
    levels: int = 1,
) -> list[bytes]:
    """Hold all against the exact mode: so near. What the GPU did not take comes back."""
    preprocess = preprocess or Preprocess()
    decoder, exact = (
        DecodeOnGpu(Decode(config, preprocess), "cpu"),
        Decode(replace(config, mode="exact"), preprocess),
    )
    out, expected = (np.full((len(files), *decoder.shape), 7, np.uint8) for _ in range(2))
    answers, left = answered(decoder, files, out)
    for k, data in enumerate(files):
        reason = exact(data, expected[k])
        assert answers[k] == (reason, () if reason else exact.extent)
        assert int(np.abs(out[k].astype(int) - expected[k]).max()) <= levels
    return left


@pytest.mark.parametrize(
    ("preprocess", "levels"),
    [
        (Preprocess(), 1),
        (Preprocess(height_px=96, width_px=160, resize_px=100, interpolation="bicubic"), 6),
        (Preprocess(height_px=80, width_px=60, resize_px=0), 1),
        (Preprocess(height_px=120, width_px=120, resize_px=50), 1),
    ],
)
def test_a_batch_of_jpegs_is_what_the_exact_mode_gives(photos, preprocess: Preprocess, levels: int):
    files = [
        encode(photo, *size, subsampling=subsampling)
        for photo in photos
        for size in SIZES
        for subsampling in (0, 2)
    ]
    assert compare(files, preprocess, levels=levels) == []


@pytest.mark.parametrize("orientation", sorted(STORED))
def test_pictures_are_turned_upright(photos, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = photos[0].transpose(STORED[orientation])
    sizes = [(301, 400), (400, 301)]
    files = [encode(photo, *size, exif=exif) for photo in (photos[0], turned) for size in sizes]
    assert compare(files) == []


def test_grey_progressive_and_restarting_ones_are_the_gpus_too(photos):
    grey = photos[0].convert("L")
    files = [
        encode(grey, 300, 400),
        encode(photos[0], 300, 400, progressive=True),
        encode(photos[0], 300, 400, restart_marker_blocks=3),
        encode(photos[0], 300, 400) + b"what a camera writes behind",
        encode(photos[0], 300, 400) + encode(photos[1], 200, 500),
    ]
    assert compare(files) == []


def test_what_nvjpeg_does_not_know_goes_the_cpus_road(photos):
    photo = photos[0]
    good = encode(photo, 300, 400)
    tables = good.index(b"\xff\xdb")
    others = [
        encode(photo.convert("CMYK"), 300, 400),
        encode(photo, 300, 400, keep_rgb=True),
        encode(photo, 300, 400, "PNG"),
        encode(photo, 300, 400, "WEBP"),
        encode(photo, 40, 1000),
        odd_sampling(photo),
        good[:tables] + b"junk" + good[tables:],
        good[: len(good) // 2],
        b"\xff\xd8\xff" + bytes(range(256)),
        b"",
        b"hello",
        encode(photo, 1100, 1100),
    ]
    files = [good, *others, good]
    assert compare(files, config=replace(CUDA, max_megapixels=1.2)) == others


def odd_sampling(photo: Image.Image) -> bytes:
    """Two components of two samples across to one of the third."""
    data = bytearray(encode(photo, 64, 96, subsampling=0))
    frame = data.index(b"\xff\xc0")
    data[frame + 11] = data[frame + 14] = 0x21
    return bytes(data)


def test_limits_are_those_of_the_config(photos):
    small, large = encode(photos[0], 100, 100), encode(photos[0], 1100, 1100)
    assert compare([small, large], config=replace(CUDA, max_megapixels=1)) == [large]
    assert compare([small, large], config=replace(CUDA, max_megabytes=0.05)) == [large]


def test_a_jpeg_that_is_refused_late_costs_itself_and_no_other(photos):
    good = [encode(photo, 200 + 9 * k, 300) for k in range(3) for photo in photos]
    bad = with_bad_table(good[2])
    assert bare_jpeg(bad) is not None
    assert compare([*good[:3], bad, *good[3:], bad]) == [bad, bad]


def test_colours_are_brought_to_srgb_where_that_is_asked(photos):
    files = [encode(photo, 300, 400, icc_profile=swapped_profile()) for photo in photos]
    files.append(encode(photos[0], 300, 400))
    assert compare(files, config=replace(CUDA, apply_icc=True), levels=4) == []
    assert compare(files) == []
    grey = encode(photos[0].convert("L"), 300, 400, icc_profile=swapped_profile())
    assert compare([grey], config=replace(CUDA, apply_icc=True)) == [grey]


def test_groups_hold_what_memory_allows_and_change_nothing(photos, monkeypatch):
    files = [encode(photos[k % 2], 200 + k, 300) for k in range(9)]
    decoder = DecodeOnGpu(Decode(CUDA, Preprocess()), "cpu")
    together, apart = (np.zeros((9, 224, 224, 3), np.uint8) for _ in range(2))
    extents = decoder.many(files, together)
    monkeypatch.setattr(module, "MAX_GROUP_PX", 130_000)
    monkeypatch.setattr(module, "GROUP", 3)
    assert decoder.many(files, apart) == extents == [(200 + k, 300) for k in range(9)]
    assert np.array_equal(together, apart)


class Skipping(DecodeOnGpu):
    """A GPU that reports pictures as decoded and leaves what was there."""

    def _decoded(self, files: Sequence[bytes]) -> list[torch.Tensor | None]:
        found = super()._decoded(files)
        return [None if image is None else torch.zeros_like(image) for image in found]


def test_a_gpu_that_gives_other_pictures_is_not_believed(photos):
    files = [encode(photo, 300, 400) for photo in photos]
    usual, fast = Decode(CUDA, Preprocess()), Decode(DecodeConfig(), Preprocess())
    out, expected = (np.zeros((2, 224, 224, 3), np.uint8) for _ in range(2))
    answers, left = answered(Skipping(usual, "cpu"), files, out)
    assert answers == [("", (300, 400))] * 2
    assert left == files
    assert [fast(data, place) for data, place in zip(files, expected, strict=True)] == ["", ""]
    assert np.array_equal(out, expected)


def test_a_damaged_first_picture_does_not_vouch_for_the_others(photos):
    good = encode(photos[0], 300, 400)
    scan = good.index(b"\xff\xda")
    damaged = good[: scan + 2000] + b"\xff\xd9"  # ends early, and says so
    exact, out = (
        Decode(DecodeConfig(mode="exact"), Preprocess()),
        np.zeros((3, 224, 224, 3), np.uint8),
    )
    assert exact(damaged, out[0]).startswith("corrupt JPEG")
    usual = Decode(CUDA, Preprocess())
    assert DecodeOnGpu(usual, "cpu").many([damaged, good, good], out) == [(300, 400)] * 3
    assert Skipping(usual, "cpu").many([damaged, good, good], out) == [None] * 3


class Counting(DecodeOnGpu):
    """Counts the calls that were refused."""

    refused = 0

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        with super()._refusals():
            try:
                yield
            except RuntimeError:
                self.refused += 1
                raise


@pytest.mark.parametrize(("num_bad", "most"), [(1, 7), (2, 13), (40, module.MAX_REFUSALS)])
def test_refused_files_are_looked_for_a_few_times_and_lose_none(photos, num_bad: int, most: int):
    good = encode(photos[0], 60, 80)
    bad = with_bad_table(good)
    files = [bad if k in range(5, 64, 64 // num_bad) else good for k in range(64)]
    decoder = Counting(Decode(CUDA, Preprocess(height_px=32, width_px=32, resize_px=36)), "cpu")
    out = np.zeros((64, 32, 32, 3), np.uint8)
    answers, left = answered(decoder, files, out)
    assert [reason != "" for reason, _ in answers] == [data is bad for data in files]
    assert set(left) <= {bad, good}
    assert 0 < decoder.refused <= most
    if num_bad <= 2:
        assert set(left) == {bad}


def with_bad_table(data: bytes) -> bytes:
    """A JPEG whose Huffman table has counts that no code can have."""
    table = data.index(b"\xff\xc4") + 5
    return data[:table] + b"\xff" * 16 + data[table + 16 :]


def test_whole_pictures_keep_their_shape(photos):
    canvas = Canvas(longest_px=256)
    files = [encode(photos[0], *size) for size in [(375, 500), (500, 333), (100, 60), (700, 100)]]
    decoder = DecodeOnGpu(DecodeWhole(CUDA, canvas, least_px=50), "cpu")
    exact = DecodeWhole(DecodeConfig(mode="exact"), canvas, least_px=50)
    out, expected = (np.full((4, 256, 256, 3), 7, np.uint8) for _ in range(2))
    answers, left = answered(decoder, files, out)
    for k, data in enumerate(files):
        reason = exact(data, expected[k])
        assert answers[k] == (reason, () if reason else exact.extent)
    assert "each side must have 50" in answers[3][0]
    assert left == files[3:]
    assert int(np.abs(out.astype(int) - expected).max()) <= 1


def test_bare_jpeg_keeps_what_pixels_need(photos):
    exif = Image.Exif()
    exif[0x010E] = "a description"
    plain = encode(photos[0], 60, 80)
    told = encode(photos[0], 60, 80, exif=exif, comment=b"hello", icc_profile=b"p" * 70_000)
    assert len(told) > len(plain) + 70_000
    assert bare_jpeg(told) == plain == bare_jpeg(plain + told)
    assert bare_jpeg(plain[:-2]) is None
    assert bare_jpeg(plain[:2] + b"\xff\xff" + plain[2:]) == plain  # bytes that fill
    arithmetic = plain.replace(b"\xff\xc0", b"\xff\xc9")
    assert bare_jpeg(arithmetic) is None
    scan = plain.index(b"\xff\xda")
    assert bare_jpeg(plain[: scan + 60] + b"\xff\x77" + plain[scan + 62 :]) is None
    frame = plain.index(b"\xff\xc0")
    twice = plain[:frame] + plain[frame : frame + 19] + plain[frame:]
    assert bare_jpeg(twice) is None  # two frames
    assert bare_jpeg(plain[:frame] + plain[frame + 19 :]) is None  # none
    header = scan + 2 + int.from_bytes(plain[scan + 2 : scan + 4])
    assert plain[header - 3 : header] == b"\0\x3f\0"
    assert bare_jpeg(plain[: header - 2] + b"\x3e" + plain[header - 1 :]) is None


def test_one_file_is_a_batch_of_one(photos):
    decoder = DecodeOnGpu(Decode(CUDA, Preprocess()), "cpu")
    out = np.zeros((224, 224, 3), np.uint8)
    assert decoder(encode(photos[0], 300, 400), out) == ""
    assert decoder.extent == (300, 400)
    assert "starts with" in decoder(b"hello", out)


def test_the_decoder_process_decodes_groups(photos):
    files = [encode(photos[k % 2], 100, 150 + k) for k in range(150)]
    decoder: DecodeOnGpu = pickle.loads(
        pickle.dumps(DecodeOnGpu(Decode(CUDA, Preprocess()), "cpu"))
    )
    assert isinstance(decoder, DecodesMany)
    out = np.zeros((150, 224, 224, 3), np.uint8)
    answers = decoder.many(files, out)
    assert None not in answers
    with closing(GuardedDecoder(decoder)) as guard:
        guard.submit([*files[:70], b"hello", *files[70:]])
        pixels, errors, extents = guard.result()
    assert [error != "" for error in errors] == [k == 70 for k in range(151)]
    assert [*extents[:70], *extents[71:]] == answers
    assert np.array_equal(np.delete(pixels, 70, axis=0), out)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_its_process_does_not_start():
    refused = pytest.raises(RuntimeError, match=r"decode.mode cuda: this process has no GPU")
    with closing(GuardedDecoder(make_decoder(CUDA, Preprocess()))) as guard, refused:
        guard.submit([b""])


def test_a_device_that_does_not_decode_is_refused_before_the_first_file():
    with pytest.raises(RuntimeError, match="decode.mode cuda: .*DeviceType"):
        DecodeOnGpu(Decode(CUDA, Preprocess()), "hpu").open()
    DecodeOnGpu(DecodeWhole(CUDA, Canvas()), "cpu").open()


def test_only_pictures_and_filters_that_torch_has_are_decoded_there():
    assert isinstance(make_decoder(CUDA, Preprocess()), DecodeOnGpu)
    assert isinstance(make_decoder(CUDA, Canvas()), DecodeOnGpu)
    for preprocess in (SignalPreprocess(samples=9), ClipPreprocess()):
        with pytest.raises(ValueError, match="decode.mode cuda: is for pictures"):
            make_decoder(CUDA, preprocess)
    with pytest.raises(ValueError, match="resizes bilinear or bicubic, .* resized lanczos"):
        make_decoder(CUDA, Preprocess(interpolation="lanczos"))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"needs torchcodec: pip install -e '.\[gpu\]'"):
        make_decoder(CUDA, Preprocess())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nvjpeg_is_near_the_exact_mode(photos):
    files = [encode(photo, *size) for photo in photos for size in SIZES] * 8
    decoder, exact = (
        DecodeOnGpu(Decode(CUDA, Preprocess())),
        Decode(DecodeConfig(mode="exact"), Preprocess()),
    )
    expected = np.zeros((len(files), *exact.shape), np.uint8)
    assert {exact(data, place) for data, place in zip(files, expected, strict=True)} == {""}
    with closing(GuardedDecoder(decoder)) as guard:
        guard.submit([*files, b"hello"])
        pixels, errors, _ = guard.result()
    assert errors[:-1] == [""] * len(files)
    assert errors[-1]
    assert min(psnr_db(pair) for pair in zip(pixels, expected, strict=False)) > 30
