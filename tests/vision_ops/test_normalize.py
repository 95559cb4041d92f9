"""Pixels on their way into a network: equal to torchvision, whatever the memory they come in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision import transforms

from vision_ops.normalize import normalize
from vision_ops.preprocess import Preprocess

CPU = torch.device("cpu")


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_normalize_equals_torchvision_for_every_value():
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    preprocess = Preprocess()
    reference = transforms.Normalize(preprocess.mean, preprocess.std)(
        torch.from_numpy(every).permute(0, 3, 1, 2).float().div(255)
    )
    found = normalize(every, preprocess, CPU)
    assert found.dtype == torch.float32
    assert found.shape == (1, 3, 16, 16)
    assert torch.allclose(found, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "scale"),
    [
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0),  # 0..255 as it is
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 255.0),
        ((127.5, 127.5, 127.5), (128.0, 128.0, 128.0), 1.0),
    ],
)
def test_normalize_by_hand(mean, std, scale):
    pixels = random_pixels(2, 5, 4, 3)
    by_hand = (pixels.astype(np.float64) / scale - mean) / std
    found = normalize(pixels, Preprocess(mean=mean, std=std, scale=scale), CPU)
    assert np.allclose(found.numpy().transpose(0, 2, 3, 1), by_hand, rtol=1e-6, atol=1e-6)


def test_normalize_bgr_reverses_the_channels_before_mean_and_std():
    pixels = random_pixels(2, 4, 6, 3)
    as_rgb = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    found = normalize(pixels, replace(as_rgb, channels="BGR"), CPU)
    swapped = np.ascontiguousarray(pixels[..., ::-1])
    assert torch.equal(found, normalize(swapped, as_rgb, CPU))


def test_normalize_reads_what_it_may_not_write_and_never_writes():
    pixels = random_pixels(3, 4, 4, 3)
    writeable = normalize(pixels, Preprocess(), CPU)
    before = pixels.copy()
    pixels.setflags(write=False)
    assert torch.equal(normalize(pixels, Preprocess(), CPU), writeable)
    assert torch.equal(normalize(torch.from_numpy(before), Preprocess(), CPU), writeable)
    assert torch.equal(normalize(pixels[::-1], Preprocess(), "cpu"), writeable.flip(0))
    assert np.array_equal(pixels, before)


def test_normalize_of_no_rows_is_no_rows():
    assert normalize(random_pixels(0, 7, 5, 3), Preprocess(), CPU).shape == (0, 3, 7, 5)


def test_normalize_of_a_batch_is_that_of_its_halves():
    pixels = random_pixels(6, 8, 8, 3)
    halves = [normalize(half, Preprocess(), CPU) for half in (pixels[:2], pixels[2:])]
    assert torch.equal(normalize(pixels, Preprocess(), CPU), torch.cat(halves))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_normalize_on_cuda_equals_cpu():
    pixels = random_pixels(4, 9, 9, 3)
    on_cuda = normalize(pixels, Preprocess(), torch.device("cuda"))
    assert torch.allclose(on_cuda.cpu(), normalize(pixels, Preprocess(), CPU), atol=1e-6)
