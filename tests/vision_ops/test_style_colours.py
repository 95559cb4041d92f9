"""Colours of a picture that was made of a photograph."""

import numpy as np
import pytest
from PIL import Image

from vision_ops.style.colours import (
    colour_moments,
    matched,
    recoloured,
    with_colours_of,
    with_range,
)


def soft(seed: int, low: int = 0, high: int = 256) -> np.ndarray:
    """Spots of colour, 40 x 56."""
    coarse = np.random.default_rng(seed).integers(low, high, (6, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((56, 40), Image.Resampling.BICUBIC))


def test_moments_are_those_of_numpy():
    pixels = soft(0)
    flat = pixels.reshape(-1, 3).astype(float)
    mean, covariance = colour_moments(pixels)
    np.testing.assert_allclose(mean, flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(flat.T, bias=True), rtol=1e-9)


@pytest.mark.slow
def test_moments_of_a_picture_of_48_megapixels_are_exact():
    """Sums of their products are beyond 64 bits."""
    pixels = np.zeros((8000, 6000, 3), np.uint8)
    pixels[4000:] = 255
    mean, covariance = colour_moments(pixels)
    assert mean.tolist() == [127.5] * 3
    assert covariance.tolist() == [[127.5**2] * 3] * 3


def test_mean_and_covariance_become_those_of_the_content():
    content, made = soft(0, 60, 120)[:30, :47], soft(1, 10, 250)
    found = matched(content, made)
    assert found.shape == made.shape
    mean, covariance = colour_moments(content)
    flat = found.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(flat.mean(axis=0), mean, atol=1e-3)
    np.testing.assert_allclose(np.cov(flat.T, bias=True), covariance, atol=1e-3)


def test_colours_that_vary_each_for_itself_are_stretched_each_for_itself():
    """By hand: the square roots of diagonal matrices are those of their numbers."""
    steps = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, 1, 8).transpose(1, 2, 0)
    made = (steps * (20, 40, 60) + (10, 20, 30)).astype(np.uint8)
    content = (steps * (60, 20, 30) + (100, 50, 0)).astype(np.uint8)
    np.testing.assert_allclose(matched(content, made), content, atol=1e-3)
    assert np.array_equal(recoloured("matched", content, made), content)


def test_no_channel_comes_before_another():
    """The square roots are symmetric; Cholesky's begin with red."""
    content, made = soft(2, 40, 200), soft(2, 40, 200)[:, ::-1, ::-1]  # red and blue exchanged
    found, mirrored = matched(content, made), matched(content[..., ::-1], made[..., ::-1])
    np.testing.assert_allclose(found, mirrored[..., ::-1], atol=1e-3)


@pytest.mark.parametrize("which", ["content", "made", "both"])
def test_a_grey_picture_on_either_side_gives_a_grey_one(which: str):
    content, made = soft(0, 30, 200), soft(1, 30, 200)
    if which != "made":
        content = content[..., :1].repeat(3, axis=2)
    if which != "content":
        made = made[..., :1].repeat(3, axis=2)
    found = matched(content, made)
    assert np.isfinite(found).all()
    if which != "made":
        np.testing.assert_allclose(found.max(axis=2), found.min(axis=2), atol=1e-2)
    np.testing.assert_allclose(found.mean(axis=(0, 1)), content.mean(axis=(0, 1)), atol=1e-2)


def test_a_picture_of_one_colour_gets_that_of_the_contents_mean():
    flat = np.full((8, 9, 3), (10, 200, 30), np.uint8)
    np.testing.assert_allclose(matched(soft(0), flat)[0, 0], soft(0).mean(axis=(0, 1)), atol=1e-3)
    assert np.abs(matched(flat, soft(0)) - flat[0, 0]).max() < 1e-3


def test_noise_of_rounding_is_not_blown_up():
    """Nearly grey: what differs among the channels is by a level here and there."""
    random = np.random.default_rng(0)
    grey = random.integers(50, 200, (40, 40, 1)).repeat(3, axis=2)
    grey[..., 0] += random.random((40, 40)) < 0.05
    found = matched(soft(0), grey.astype(np.uint8))
    variances = np.linalg.eigvalsh(np.cov(found.reshape(-1, 3).T))
    assert variances[1] < 1 < 100 < variances[2]


def test_values_are_rounded_and_cut_off():
    values = np.array([[[-3.0, 0.4, 254.6], [300.0, 1.5, 2.5]]], np.float32)
    assert with_range(values).tolist() == [[[0, 0, 255], [255, 2, 2]]]


def test_each_way_is_called_by_its_name():
    content, made = soft(0), soft(1)
    assert recoloured("style", content, made) is made
    assert np.array_equal(recoloured("content", content, made), with_colours_of(content, made))
    wanted = with_range(matched(content, made))
    assert np.array_equal(recoloured("matched", content, made), wanted)
