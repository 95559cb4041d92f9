"""Every way in which bytes are a picture: formats, modes, orientations, profiles."""

import pickle
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from vision_ops.decode import (
    IMAGE_SUFFIXES,
    Decode,
    DecodeConfig,
    read_rgb,
    thumbnail,
)
from vision_ops.preprocess import Preprocess, fit

BAD_IMAGES = {  # file: what Decode says of it, "" where it is read
    "damaged_jpeg/bad_huffman.jpg": "",  # nonsense, but each of its blocks is there
    "damaged_jpeg/corrupt.jpg": "corrupt JPEG: Unsupported marker type 0xae",
    "damaged_jpeg/corrupt34_2.jpg": "truncated JPEG: Premature end of JPEG file",
    "damaged_jpeg/corrupt34_3.jpg": "truncated JPEG: Premature end of JPEG file",
    "damaged_jpeg/corrupt34_4.jpg": "truncated JPEG: Premature end of JPEG file",
    "damaged_png/sigsegv.png": "truncated PNG: ends in its bKGD chunk",
    "toosmall_png/heapbof.png": "not an image: starts with 89 50 4e 47",
    **{f"exif_orientation/Landscape_{turn}.jpg": "" for turn in range(1, 9)},
    "interlaced_png/wizard_low-interlaced.png": "",
    "interlaced_png/wizard_low.png": "",
    "logos/cmyk_pytorch.jpg": "",
    "logos/gray_pytorch.jpg": "",
    "logos/gray_pytorch.png": "",
    "logos/grayalpha_pytorch.png": "",
    "logos/palette_pytorch.png": "",
    "logos/rgb_pytorch.jpg": "",
    "logos/rgb_pytorch.png": "",
    "logos/rgb_pytorch16.png": "",
    "logos/rgbalpha_pytorch.png": "",
    "logos/rgbalpha_pytorch16.png": "",
}


def scene(height: int = 60, width: int = 80) -> Image.Image:
    """A picture of which no part is grey or like another: colours by place, some noise."""
    y, x = np.mgrid[0:height, 0:width]
    colours = np.stack([255 * x / width, 255 * y / height, 200 - 150 * x / width], axis=-1)
    noise = np.random.default_rng(0).integers(-9, 10, colours.shape)
    return Image.fromarray((colours + noise).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    target = BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def decode(data: bytes, config: DecodeConfig | None = None) -> tuple[np.ndarray, str]:
    decoder = Decode(config or DecodeConfig(), Preprocess(height_px=32, width_px=32, resize_px=36))
    out = np.full(decoder.shape, 7, np.uint8)
    reason = decoder(data, out)
    return out, reason


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(read_rgb(data)).astype(int)


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


# ------------------------------------------------------------------------- real files


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_every_bad_image_has_its_expected_outcome(shared_data, mode):
    folder = shared_data / "bad_images"
    files = {str(path.relative_to(folder)): path for path in folder.glob("*/*")}
    assert set(files) == set(BAD_IMAGES)
    for name, path in files.items():
        reason = decode(path.read_bytes(), DecodeConfig(mode=mode))[1]
        expected = BAD_IMAGES[name]
        assert reason.startswith(expected) if expected else not reason, (name, reason)


def test_the_same_logo_in_every_mode_is_the_same_logo(shared_data):
    folder = shared_data / "bad_images" / "logos"
    logo = {path.name: pixels(path.read_bytes()) for path in folder.iterdir()}
    assert np.abs(logo["rgb_pytorch.png"] - logo["rgb_pytorch16.png"]).max() <= 1
    assert np.abs(logo["rgbalpha_pytorch.png"] - logo["rgbalpha_pytorch16.png"]).max() <= 1
    assert np.abs(logo["rgb_pytorch.jpg"] - logo["cmyk_pytorch.jpg"]).mean() < 8
    assert np.abs(logo["gray_pytorch.jpg"] - logo["gray_pytorch.png"]).mean() < 4
    for on_white in ("rgbalpha_pytorch.png", "palette_pytorch.png", "grayalpha_pytorch.png"):
        assert (logo[on_white][:5] == 255).all(), on_white


def test_interlacing_changes_no_pixel(shared_data):
    folder = shared_data / "bad_images" / "interlaced_png"
    interlaced = (folder / "wizard_low-interlaced.png").read_bytes()
    assert (pixels(interlaced) == pixels((folder / "wizard_low.png").read_bytes())).all()


def test_eight_orientations_of_a_photo_are_one_picture(shared_data):
    folder = shared_data / "bad_images" / "exif_orientation"
    upright = pixels((folder / "Landscape_1.jpg").read_bytes())
    for turn in range(2, 9):  # each has its number painted in the middle
        other = pixels((folder / f"Landscape_{turn}.jpg").read_bytes())
        assert other.shape == upright.shape == (1200, 1800, 3)
        assert np.abs(other - upright).mean() < 4, turn


def test_photographs_are_bitwise_those_of_pillow(shared_data):
    photos = sorted((shared_data / "photos").glob("*.JPEG"))
    decoder = Decode(DecodeConfig(apply_icc=False, mode="exact"), Preprocess())
    out = np.empty(decoder.shape, np.uint8)
    for photo in photos:
        data = photo.read_bytes()
        full = by_pillow(data)
        assert np.array_equal(np.asarray(read_rgb(data, apply_icc=False)), full), photo.name
        assert decoder(data, out) == ""
        assert np.array_equal(out, np.asarray(fit(Image.fromarray(full), Preprocess())))
    assert len(photos) == 100


# ------------------------------------------------------------------------- formats and colours


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (33, 17), (64, 48)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_is_bitwise_that_of_pillow(size, subsampling, progressive, mode):
    image = scene(*size).convert(mode)
    data = encode(image, "JPEG", subsampling=subsampling, progressive=progressive)
    assert np.array_equal(pixels(data), by_pillow(data))


def test_jpeg_with_restarts_or_stored_as_rgb_is_bitwise_that_of_pillow():
    for options in ({"restart_marker_blocks": 2}, {"keep_rgb": True}):
        data = encode(scene(), "JPEG", **options)
        assert np.array_equal(pixels(data), by_pillow(data))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("DIB", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_lossless_formats_give_the_pixels_back(kind, options):
    assert (pixels(encode(scene(), kind, **options)) == np.asarray(scene())).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF", "PNG"])
def test_of_an_animation_the_first_frame_is_read(kind):
    if kind == "AVIF" and ".avif" not in IMAGE_SUFFIXES:
        pytest.skip("this Pillow has no AVIF")
    red, blue = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")
    data = encode(red, kind, save_all=True, append_images=[blue], duration=100)
    with Image.open(BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 2
    assert np.abs(pixels(data) - np.asarray(red)).max() <= 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_laid_on_white(mode):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 2, 4))
    image.paste((0, 0, 0, 51), (3, 0, 4, 4))
    kind = "TIFF" if mode == "PA" else "PNG"
    found = pixels(encode(image.convert("LA" if mode == "PA" else mode), kind))
    assert found[0, :, 0].tolist() == [255, 255, 0, 204]


def test_transparent_palette_entry_and_transparent_colour_are_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        found = pixels(encode(palette, kind, transparency=1))
        assert found[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    keyed = encode(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert pixels(keyed)[0, 0].tolist() == [255, 255, 255]


def test_cmyk_is_read_by_the_convention_of_adobe_marked_or_not():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    marked = encode(image, "JPEG", quality=95)
    start = marked.index(b"\xff\xee")
    unmarked = marked[:start] + marked[start + 16 :]
    for data in (marked, unmarked):
        assert np.abs(pixels(data) - [255, 0, 0]).max() < 6


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_high_byte(kind):
    values = np.array([[0, 255, 256, 32_768, 65_535]], np.uint16)
    found = pixels(encode(Image.fromarray(values), kind))
    assert found[0].tolist() == [[level] * 3 for level in (0, 0, 1, 128, 255)]


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 32_896.0, 65_535.0], [0, 128, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([float("nan"), float("inf"), 1.0], [0, 0, 255]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
        ([-5.0, -5.0, -5.0], [0, 0, 0]),
    ],
)
def test_float_grey_is_scaled_by_its_range(values, levels):
    found = pixels(encode(Image.fromarray(np.array([values], np.float32)), "TIFF"))
    assert np.abs(found[0, :, 0] - levels).max() <= (max(values) > 1e30)


def test_32_bit_integer_grey_is_scaled_by_its_range():
    for values, levels in (([0, 128, 255], [0, 128, 255]), ([-1000, 0, 1000], [0, 128, 255])):
        found = pixels(encode(Image.fromarray(np.array([values], np.int32)), "TIFF"))
        assert found[0, :, 0].tolist() == levels


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_undone_in_every_format(kind, turn):
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = scene() if turn == 1 else scene().transpose(stored[turn])
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"lossless": True} if kind == "WEBP" else {"quality": 98} if kind == "JPEG" else {}
    found = pixels(encode(image, kind, exif=exif, **options))
    assert found.shape == (60, 80, 3)
    assert np.abs(found - np.asarray(scene())).mean() < (4 if kind == "JPEG" else 1e-9)


# ------------------------------------------------------------------------- profiles


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """sRGB with the names of red and blue exchanged: a red picture by it is a blue one."""
    head, tags = srgb_profile()[:128], srgb_profile()[128:]
    swapped = tags.replace(b"rXYZ", b"?").replace(b"bXYZ", b"rXYZ").replace(b"?", b"bXYZ")
    return head + swapped


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_profile_is_applied(kind):
    data = encode(Image.new("RGB", (40, 40), "red"), kind, icc_profile=swapped_profile())
    assert np.abs(pixels(data) - [0, 0, 255]).max() <= 6
    converted = decode(data, DecodeConfig(apply_icc=True))[0]
    assert np.abs(converted.astype(int) - [0, 0, 255]).max() <= 6
    as_stored = decode(data)[0]
    assert np.abs(as_stored.astype(int) - [255, 0, 0]).max() <= 6


@pytest.mark.parametrize("profile", [b"", b"no profile", srgb_profile()[:300], srgb_profile()])
def test_profile_that_is_broken_or_srgb_changes_no_pixel(profile):
    data = encode(scene(), "PNG", icc_profile=profile)
    assert (pixels(data) == np.asarray(scene())).all()


def test_profile_of_another_mode_is_ignored():
    for mode in ("L", "CMYK"):
        plain = encode(scene().convert(mode), "JPEG")
        profiled = encode(scene().convert(mode), "JPEG", icc_profile=swapped_profile())
        assert (pixels(plain) == pixels(profiled)).all()


def test_profiles_of_photographs_are_applied_before_or_after_the_fit_alike(shared_data):
    data = (shared_data / "photos" / "n01751748_sea_snake.JPEG").read_bytes()  # Adobe RGB
    assert np.abs(pixels(data) - by_pillow(data)).max() > 20
    out = np.empty((224, 224, 3), np.uint8)
    Decode(DecodeConfig(apply_icc=True), Preprocess())(data, out)
    assert np.abs(np.asarray(fit(read_rgb(data), Preprocess())).astype(int) - out).mean() < 1


# ------------------------------------------------------------------------- the decoder


def test_decoder_survives_pickling_and_leaves_the_shape_it_promises():
    decoder = Decode(DecodeConfig(), Preprocess(height_px=20, width_px=30, resize_px=0))
    copy = pickle.loads(pickle.dumps(decoder))
    assert copy.shape == (20, 30, 3)
    first, second = np.zeros(copy.shape, np.uint8), np.ones(copy.shape, np.uint8)
    assert decoder(encode(scene(), "PNG"), first) == copy(encode(scene(), "PNG"), second) == ""
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("size", "expected"), [((300, 400), (72, 96)), ((8, 6), (8, 6))])
def test_thumbnail_is_a_small_jpeg_and_never_enlarged(size, expected):
    data = thumbnail(encode(scene(*size), "PNG"), size_px=96)
    assert data[:3] == b"\xff\xd8\xff"
    assert pixels(data).shape == (*expected, 3)


def test_decoding_needs_no_torch():
    program = "import sys, vision_ops.decode; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
