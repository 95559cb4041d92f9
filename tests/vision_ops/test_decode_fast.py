"""The fast mode against the exact one: how near its pixels are, whether its labels are the same."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, JpegImagePlugin
from sklearn.datasets import load_sample_images
from torchvision import models

from vision_ops.decode import Decode, DecodeConfig, thumbnail
from vision_ops.decode.jpeg import decode_jpeg, reduction
from vision_ops.preprocess import Preprocess, fit, fit_stored

LEAST_DB = 38.0
SMALL = [(375, 500), (427, 640), (500, 333), (768, 1024), (1023, 1500), (97, 64)]
"""(height, width) of pictures that are not reduced for the default Preprocess"""
LARGE = [(1024, 1536), (1500, 2000), (2049, 3001), (1501, 1027), (2051, 2049)]
"""those that are"""
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> how a picture is stored that it makes upright"""


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def encode(
    photo: Image.Image, height: int, width: int, kind: str = "JPEG", **options: Any
) -> bytes:
    target = BytesIO()
    photo.resize((width, height), Image.Resampling.LANCZOS).save(target, kind, **options)
    return target.getvalue()


def both(
    data: bytes, preprocess: Preprocess | None = None, *, icc: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the fast and of the exact mode."""
    found = []
    for mode in ("fast", "exact"):
        decoder = Decode(DecodeConfig(mode=mode, apply_icc=icc), preprocess or Preprocess())
        found.append(np.full(decoder.shape, 7, np.uint8))
        assert decoder(data, found[-1]) == ""
    return found[0], found[1]


def most(pair: tuple[np.ndarray, np.ndarray]) -> int:
    """Greatest difference in levels."""
    return int(np.abs(pair[0].astype(int) - pair[1]).max())


def psnr_db(pair: tuple[np.ndarray, np.ndarray]) -> float:
    error = np.square(pair[0].astype(float) - pair[1]).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


# ------------------------------------------------------------------------- how near


@pytest.mark.parametrize("size", SMALL)
@pytest.mark.parametrize("quality", [75, 85, 95])
def test_picture_that_is_not_reduced_is_within_one_level(photos, size, quality):
    for photo in photos:
        for subsampling in ("4:2:0", "4:4:4"):
            data = encode(photo, *size, quality=quality, subsampling=subsampling)
            assert most(both(data)) <= 1


@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("quality", [75, 95])
def test_picture_that_is_reduced_is_near(photos, size, quality):
    for photo in photos:
        pair = both(encode(photo, *size, quality=quality))
        assert most(pair) > 0  # it was reduced
        assert psnr_db(pair) >= LEAST_DB


def test_published_photographs_are_near_at_any_reduction(shared_data):
    paths = sorted((shared_data / "photos").glob("*.JPEG"))
    for number, path in enumerate(paths):
        data = path.read_bytes()
        with Image.open(path) as photo:
            assert most(both(data)) <= 1 or min(photo.size) >= 1024
        side = (8, 16, 30, 61, 90)[number % 5]  # reduced by 8 down to 2
        small = Preprocess(height_px=side, width_px=side + 3, resize_px=side + 5)
        assert psnr_db(both(data, small)) >= LEAST_DB, (path.name, side)


@pytest.mark.parametrize("method", ["nearest", "box", "bicubic", "lanczos"])
def test_every_filter_is_near(photos, method):
    preprocess = Preprocess(interpolation=method)
    small = both(encode(photos[0], 375, 500, quality=90), preprocess)
    large = both(encode(photos[1], 1027, 1501, quality=90), preprocess)
    if method in ("bicubic", "lanczos"):  # overshooting edges are rounded in between
        assert psnr_db(small) >= 60
        assert psnr_db(large) >= LEAST_DB
    else:
        assert max(most(small), most(large)) == 0


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(height_px=31, width_px=22, resize_px=36),  # odd margins, another shape
        Preprocess(height_px=41, width_px=50, resize_px=36),  # zeros around
        Preprocess(height_px=30, width_px=17, resize_px=0),  # squashed
    ],
    ids=["crop", "pad", "squash"],
)
def test_turned_picture_is_near_whatever_its_margins(photos, turn, preprocess):
    exif = Image.Exif()
    exif[0x0112] = turn
    for size, limit in (((129, 97), None), ((85, 110), 1), ((293, 331), None)):
        photo = photos[0].resize((size[1], size[0]), Image.Resampling.LANCZOS)
        stored = photo.transpose(STORED[turn]) if turn in STORED else photo
        data = encode(stored, *stored.size[::-1], quality=90, exif=exif)
        pair = both(data, preprocess)
        assert most(pair) <= limit if limit else psnr_db(pair) >= LEAST_DB, size


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_other_formats_are_within_one_level_at_any_size(photos, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert most(both(encode(photos[0], 321, 482, kind, **options))) <= 1
    small = Preprocess(height_px=20, width_px=21, resize_px=24)
    assert most(both(encode(photos[0], 321, 482, kind, **options), small)) <= 1


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_grey_cmyk_and_progressive_are_near(photos, mode, progressive):
    photo = photos[0].convert(mode)
    options = {"quality": 90, "progressive": progressive}
    assert most(both(encode(photo, 375, 500, **options))) <= 1
    assert psnr_db(both(encode(photo, 1027, 1501, **options))) >= LEAST_DB


def test_picture_that_only_pillow_can_decode_is_near():
    """Three components, two of them subsampled in one direction: libjpeg can, TurboJPEG cannot."""
    strength = np.random.default_rng(0).integers(-40, 41, (130, 188, 1, 1, 3))
    wave = np.cos((2 * np.arange(8) + 1) * np.pi / 16).reshape(1, 1, 8, 1, 1)
    blocks = np.broadcast_to(128 + strength * wave, (130, 188, 8, 8, 3))  # all as bright
    pixels = blocks.swapaxes(1, 2).reshape(1040, 1504, 3).round().astype(np.uint8)
    data = bytearray(encode(Image.fromarray(pixels), 1040, 1504, quality=90, keep_rgb=True))
    frame = data.index(b"\xff\xc0")
    data[frame + 11] = data[frame + 14] = 0x21  # puts its blocks into another order
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(bytes(data))
    pair = both(bytes(data))
    assert most(pair) > 1
    assert psnr_db(pair) >= LEAST_DB


def test_profile_is_applied_to_a_reduced_picture(shared_data):
    data = (shared_data / "photos" / "n01751748_sea_snake.JPEG").read_bytes()  # Adobe RGB
    small = Preprocess(height_px=28, width_px=28, resize_px=32)
    applied, plain = both(data, small, icc=True), both(data, small)
    assert psnr_db(applied) >= LEAST_DB
    assert np.abs(applied[0].astype(int) - plain[0]).max() > 10


@pytest.mark.parametrize("size", [(3, 900), (900, 3), (1, 1), (5, 4), (4_000, 70)])
def test_strips_and_crumbs_are_within_one_level(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for preprocess in (Preprocess(), Preprocess(resize_px=0), Preprocess(resize_px=100)):
        extent = (float(size[0]), float(size[1]))
        found = fit_stored(image, preprocess, extent, None)
        assert most((np.asarray(found), np.asarray(fit(image, preprocess)))) <= 1


# ------------------------------------------------------------------------- what is kept


def test_reduction_leaves_the_shorter_side_its_pixels():
    sides = {511: 1, 1023: 1, 1024: 2, 2047: 2, 2048: 4, 4095: 4, 4096: 8, 60_000: 8}
    for side, factor in sides.items():
        assert reduction((side, 2 * side), 512) == reduction((2 * side, side), 512) == factor
        assert reduction((side, side), 0) == 1


def test_reduced_picture_whose_headers_disagree_is_refused(photos):
    data = encode(photos[0], 400, 600)
    header = JpegImagePlugin.JpegImageFile(BytesIO(data))
    header._size = (300, 200)  # what libjpeg can reduce the picture to
    for factor in (1, 2):
        with pytest.raises(ValueError, match=r"two sizes, \(300, 200\) and \("):
            decode_jpeg(data, header, factor)


def test_limit_of_megapixels_is_judged_by_the_full_size(photos):
    data = encode(photos[0], 1025, 1500)
    decoder = Decode(DecodeConfig(max_megapixels=1.5), Preprocess())
    reason = decoder(data, np.zeros(decoder.shape, np.uint8))
    assert reason == "1.538 megapixels, more than the 1.5 allowed"


def test_truncated_or_corrupt_large_picture_is_refused_alike_in_both_modes(photos):
    for name in ("optimize", "progressive", "restart_marker_blocks"):
        options: dict[str, Any] = {name: 1}
        data = encode(photos[0], 1025, 1540, quality=80, **options)
        middle = len(data) // 2
        damaged = {
            "cut": data[:middle],
            "cut and ended": data[:middle] + b"\xff\xd9",
            "end cut off": data[:-2000],
            "holed": data[:middle] + data[middle + 9_000 :],
        }
        for fault, each in damaged.items():
            reasons = []
            for mode in ("fast", "exact"):
                decoder = Decode(DecodeConfig(mode=mode), Preprocess())
                reasons.append(decoder(each, np.zeros(decoder.shape, np.uint8)))
            assert reasons[0] == reasons[1], (name, fault)
            assert reasons[0] or fault == "holed", (name, fault)


def test_thumbnail_of_a_large_picture_is_near(photos):
    data = encode(photos[1], 1201, 1801)
    found = Image.open(BytesIO(thumbnail(data, size_px=96)))
    with Image.open(BytesIO(data)) as image:
        expected = image.convert("RGB")
    expected.thumbnail((96, 96))
    assert found.size == expected.size
    assert psnr_db((np.asarray(found), np.asarray(expected))) >= 32  # it is a JPEG itself


# ------------------------------------------------------------------------- labels


@pytest.fixture(scope="module")
def squeezenet(shared_data) -> torch.nn.Module:
    state = shared_data / "weights" / "squeezenet1_1-imagenet.pth"
    if not state.is_file():
        pytest.skip("needs squeezenet's weights beside the checkout")
    network = models.squeezenet1_1()
    network.load_state_dict(torch.load(state, weights_only=True))
    return network.eval()


@torch.inference_mode()
def same_labels(network: torch.nn.Module, files: Sequence[bytes]) -> float:
    """Fraction of pictures that both modes give the same label."""
    mean, std = torch.tensor(Preprocess().mean), torch.tensor(Preprocess().std)
    labels = []
    for pixels in zip(*(both(data) for data in files), strict=True):
        images = (torch.from_numpy(np.stack(pixels)) / 255 - mean) / std  # (B, H, W, C)
        batches = images.permute(0, 3, 1, 2).split(20)
        labels.append(torch.cat([network(batch).argmax(dim=1) for batch in batches]))
    return (labels[0] == labels[1]).float().mean().item()


def test_labels_of_published_photographs_are_the_same(squeezenet, shared_data):
    files = [path.read_bytes() for path in sorted((shared_data / "photos").glob("*.JPEG"))]
    assert same_labels(squeezenet, files) >= 0.98


@pytest.mark.slow
def test_labels_of_enlarged_photographs_are_the_same(squeezenet, shared_data):
    files = []
    for number, path in enumerate(sorted((shared_data / "photos").glob("*.JPEG"))):
        factor = 2 + number % 5 / 2  # to 4
        with Image.open(path) as photo:
            size = (int(photo.height * factor), int(photo.width * factor))
            files.append(encode(photo.convert("RGB"), *size, quality=90))
    assert same_labels(squeezenet, files) >= 0.98
