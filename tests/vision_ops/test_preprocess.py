"""Resize and crop: torchvision's, bit for bit, and bounded where torchvision's are not."""

import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from vision_ops.preprocess import EXTREME_ASPECT, Preprocess, fit

METHODS = ("nearest", "bilinear", "bicubic", "box", "lanczos")


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def by_torchvision(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    shape = (preprocess.height_px, preprocess.width_px)
    method = transforms.InterpolationMode(preprocess.interpolation)
    if preprocess.resize_px == 0:
        return np.asarray(transforms.Resize(shape, method)(image))
    steps = [transforms.Resize(preprocess.resize_px, method), transforms.CenterCrop(shape)]
    return np.asarray(transforms.Compose(steps)(image))


def wanted(target: tuple[int, int, int], method: str = "bilinear") -> Preprocess:
    """target: height and width of the crop, shorter side before it."""
    height_px, width_px, resize_px = target
    return Preprocess(
        height_px=height_px,
        width_px=width_px,
        resize_px=resize_px,
        interpolation=method,  # pyright: ignore[reportArgumentType]
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(375, 500), (501, 333), (97, 64), (20, 30), (1, 1), (224, 224)])
@pytest.mark.parametrize("target", [(224, 224, 256), (112, 96, 112), (64, 65, 48), (40, 50, 0)])
def test_fit_equals_torchvision(method, size, target):
    image, preprocess = noise(*size), wanted(target, method)
    assert np.array_equal(np.asarray(fit(image, preprocess)), by_torchvision(image, preprocess))


@settings(max_examples=150)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    crop=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    resize_px=st.integers(0, 60),
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 9),
)
def test_fit_equals_torchvision_for_any_sizes(size, crop, resize_px, method, seed):
    height, width = size
    image, preprocess = noise(height, width, seed), wanted((*crop, resize_px), method)
    found, expected = np.asarray(fit(image, preprocess)), by_torchvision(image, preprocess)
    assert found.shape == (*crop, 3)
    if resize_px == 0 or max(size) <= EXTREME_ASPECT * min(size):
        assert np.array_equal(found, expected)
    elif method == "bilinear":  # box and nearest: other pixels; the rest: clipped in between
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_fit_equals_torchvision_on_photographs(shared_data):
    for path in sorted((shared_data / "photos").glob("*.JPEG"))[::10]:
        with Image.open(path) as photo:
            image = photo.convert("RGB")
        for preprocess in (
            Preprocess(),
            wanted((299, 301, 299), "bicubic"),
            wanted((600, 64, 600)),
        ):
            expected = by_torchvision(image, preprocess)
            assert np.array_equal(np.asarray(fit(image, preprocess)), expected), path.name


def test_fit_of_a_picture_smaller_than_the_crop_pads_with_zeros():
    found = np.asarray(fit(Image.new("RGB", (10, 10), "white"), wanted((14, 12, 10))))
    assert found[2:12, 1:11].min() == 255
    assert found.sum() == 10 * 10 * 3 * 255


@pytest.mark.parametrize("size", [(1, 5_000), (5_000, 1), (3, 60_000), (60_000, 3)])
@pytest.mark.parametrize("method", METHODS)
def test_fit_of_a_strip_takes_no_memory_for_what_the_crop_cuts_off(size, method):
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fit(noise(*size), wanted((224, 224, 256), method)).size == (224, 224)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 100_000


def test_fit_of_a_strip_shows_its_middle():
    strip = np.zeros((2, 4_000, 3), np.uint8)
    strip[:, 1_999:2_001] = 255
    found = np.asarray(fit(Image.fromarray(strip), wanted((2, 2, 2))))
    assert found.min() == 255


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_fit_makes_rgb_of_any_mode(mode):
    assert fit(noise(30, 40).convert(mode), wanted((8, 8, 9))).mode == "RGB"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height_px", 0),
        ("width_px", -1),
        ("resize_px", -1),
        ("resize_px", 1_000_000),
        ("interpolation", "hamming"),
        ("channels", "RBG"),
        ("mean", (0.5, 0.5)),
        ("mean", (0.5, float("nan"), 0.5)),
        ("std", (0.5, 0.0, 0.5)),
        ("scale", 0.0),
        ("scale", float("inf")),
    ],
)
def test_preprocess_refuses_the_impossible_and_names_it(field, value):
    with pytest.raises(ValueError, match=field):
        Preprocess(**{field: value})
