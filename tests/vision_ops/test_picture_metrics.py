"""Measures of pictures against torchmetrics, published pairs of colours, and by hand."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import FrechetInceptionDistance

from vision_ops.metrics.colour import ciede2000, colour_error, to_lab
from vision_ops.metrics.features import feature_distance
from vision_ops.metrics.frechet import Spread, SpreadAccumulator, frechet_distance
from vision_ops.metrics.pictures import luma, psnr, ssim

# L1 a1 b1, L2 a2 b2, their difference: Sharma, Wu and Dalal (2005, table 1)
SHARMA = """
50.0000 2.6772 -79.7751 50.0000 0.0000 -82.7485 2.0425
50.0000 3.1571 -77.2803 50.0000 0.0000 -82.7485 2.8615
50.0000 2.8361 -74.0200 50.0000 0.0000 -82.7485 3.4412
50.0000 -1.3802 -84.2814 50.0000 0.0000 -82.7485 1.0000
50.0000 -1.1848 -84.8006 50.0000 0.0000 -82.7485 1.0000
50.0000 -0.9009 -85.5211 50.0000 0.0000 -82.7485 1.0000
50.0000 0.0000 0.0000 50.0000 -1.0000 2.0000 2.3669
50.0000 -1.0000 2.0000 50.0000 0.0000 0.0000 2.3669
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0009 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0010 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0011 7.2195
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0012 7.2195
50.0000 -0.0010 2.4900 50.0000 0.0009 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0010 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0011 -2.4900 4.7461
50.0000 2.5000 0.0000 50.0000 0.0000 -2.5000 4.3065
50.0000 2.5000 0.0000 73.0000 25.0000 -18.0000 27.1492
50.0000 2.5000 0.0000 61.0000 -5.0000 29.0000 22.8977
50.0000 2.5000 0.0000 56.0000 -27.0000 -3.0000 31.9030
50.0000 2.5000 0.0000 58.0000 24.0000 15.0000 19.4535
50.0000 2.5000 0.0000 50.0000 3.1736 0.5854 1.0000
50.0000 2.5000 0.0000 50.0000 3.2972 0.0000 1.0000
50.0000 2.5000 0.0000 50.0000 1.8634 0.5757 1.0000
50.0000 2.5000 0.0000 50.0000 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""


def pictures(seed: int, height: int = 40, width: int = 33) -> tuple[np.ndarray, np.ndarray]:
    """A picture with large and small patterns, and a disturbed one."""
    random = np.random.default_rng(seed)
    waves = np.sin(
        np.arange(height)[:, None, None] / 5 + np.arange(width)[:, None] / random.integers(2, 9, 3)
    )
    a = (127 + 90 * waves + random.normal(0, 8, waves.shape)).clip(0, 255)
    b = (0.8 * a + random.normal(10, 20, a.shape)).clip(0, 255)
    return a.astype(np.uint8), b.astype(np.uint8)


def as_tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.atleast_3d(values).astype(np.float64)).permute(2, 0, 1)[None]


@pytest.mark.parametrize("seed", range(3))
def test_ssim_and_psnr_are_those_of_torchmetrics(seed: int):
    a, b = pictures(seed)
    found = structural_similarity_index_measure(
        as_tensor(luma(a)), as_tensor(luma(b)), data_range=255.0, return_full_image=True
    )
    assert isinstance(found, tuple)
    whole = found[1][0, 0, 5:-5, 5:-5]  # where its window lies inside; the rest is mirrored
    assert ssim(a, b) == pytest.approx(whole.mean().item(), abs=1e-9)
    wanted = peak_signal_noise_ratio(as_tensor(a), as_tensor(b), data_range=255.0)
    assert psnr(a, b) == pytest.approx(wanted.item(), abs=1e-6)


def test_ssim_of_one_window_is_the_papers_formula():
    a, b = (each[:11, :11] for each in pictures(5))
    x, y = luma(a).ravel(), luma(b).ravel()
    line = [math.exp(-((k - 5) ** 2) / 4.5) for k in range(11)]
    weights = np.array([u * v for u in line for v in line]) / sum(line) ** 2
    mean_x, mean_y = weights @ x, weights @ y
    spread_x, spread_y = weights @ (x - mean_x) ** 2, weights @ (y - mean_y) ** 2
    together = weights @ ((x - mean_x) * (y - mean_y))
    above = (2 * mean_x * mean_y + 6.5025) * (2 * together + 58.5225)
    below = (mean_x**2 + mean_y**2 + 6.5025) * (spread_x + spread_y + 58.5225)
    assert ssim(a, b) == pytest.approx(above / below, abs=1e-12)


def test_a_picture_is_like_itself_and_noise_is_not():
    a, _ = pictures(0)
    noise = np.random.default_rng(0).integers(0, 256, a.shape, dtype=np.uint8)
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)
    assert psnr(a, a) == math.inf
    assert colour_error(a, a) == 0
    assert ssim(a, noise) < 0.1


def test_psnr_of_one_level_everywhere_is_48_dB():
    a = np.full((4, 5, 3), 100, np.uint8)
    assert psnr(a, a + np.uint8(1)) == pytest.approx(20 * math.log10(255), abs=1e-12)


def test_pictures_that_cannot_be_compared_are_refused():
    a, b = pictures(0)
    with pytest.raises(ValueError, match="not of one size"):
        ssim(a, b[:-1])
    with pytest.raises(ValueError, match="not of one size"):
        colour_error(a, b[:-1])
    with pytest.raises(ValueError, match="SSIM needs 11 px"):
        ssim(a[:10], b[:10])


def test_ciede2000_gives_the_published_differences():
    table = np.array([line.split() for line in SHARMA.strip().splitlines()], np.float64)
    assert len(table) == 34
    found = ciede2000(table[:, :3], table[:, 3:6])
    np.testing.assert_allclose(found, table[:, 6], atol=5e-5)
    np.testing.assert_allclose(ciede2000(table[:, 3:6], table[:, :3]), found, atol=1e-9)


def test_lab_of_primaries_is_what_tables_have():
    colours = np.array(
        [[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8
    )
    wanted = [
        [100, 0, 0],
        [0, 0, 0],
        [53.2408, 80.0925, 67.2032],
        [87.7347, -86.1827, 83.1793],
        [32.2970, 79.1875, -107.8602],
    ]
    np.testing.assert_allclose(to_lab(colours), wanted, atol=2e-3)
    assert ciede2000(to_lab(colours[0]), to_lab(colours[1])) == pytest.approx(100, abs=1e-6)


class Channels(nn.Module):
    """Six features of a picture: what torchmetrics takes for a feature network."""

    num_features = 6

    def forward(self, images: Tensor) -> Tensor:
        values = images.double() / 255
        return torch.cat([values.mean((2, 3)), values.std((2, 3))], dim=1)


def test_frechet_distance_is_that_of_torchmetrics_by_the_same_features():
    random, network = np.random.default_rng(0), Channels()
    sets = [
        torch.from_numpy(random.integers(low, 256, (count, 3, 8, 8), dtype=np.uint8))
        for low, count in ((0, 40), (90, 31))
    ]
    theirs = FrechetInceptionDistance(feature=network, normalize=False)
    spreads: list[Spread] = []
    for number, images in enumerate(sets):
        theirs.update(images, real=number == 0)
        sums = SpreadAccumulator(6)
        for part in images.split(7):  # in pieces, merged
            other = SpreadAccumulator(6)
            other.update(network(part).numpy())
            sums.merge(other)
        spreads.append(sums.result())
    assert frechet_distance(*spreads) == pytest.approx(theirs.compute().item(), rel=1e-4)


@given(seed=st.integers(0, 999), rows=st.integers(2, 12), features=st.integers(1, 6))
def test_frechet_distance_is_symmetric_and_zero_of_a_set_from_itself(seed, rows, features):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(rows, features)), random.normal(2, 3, size=(rows + 1, features))
    one, other = SpreadAccumulator(features), SpreadAccumulator(features)
    one.update(a)
    other.update(b)
    found = frechet_distance(one.result(), other.result())
    assert found == pytest.approx(frechet_distance(other.result(), one.result()), abs=1e-5)
    assert frechet_distance(one.result(), one.result()) == pytest.approx(0, abs=1e-6)
    assert one.result().is_trusted == (rows > features)
    np.testing.assert_allclose(
        one.result().covariance, np.atleast_2d(np.cov(a, rowvar=False)), atol=1e-12
    )
    if rows > features:
        both = [np.atleast_2d(np.cov(each, rowvar=False)) for each in (a, b)]
        root = np.real(np.asarray(scipy.linalg.sqrtm(both[0] @ both[1])))
        wanted = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(both[0] + both[1] - 2 * root)
        assert found == pytest.approx(wanted, rel=1e-5)


def test_two_gaussians_on_paper():
    a = Spread(num_rows=9, mean=np.array([0.0, 1.0]), covariance=np.diag([4.0, 1.0]))
    b = Spread(num_rows=9, mean=np.array([3.0, 1.0]), covariance=np.diag([1.0, 9.0]))
    assert frechet_distance(a, b) == pytest.approx(9 + (2 - 1) ** 2 + (1 - 3) ** 2)


def test_sums_refuse_what_does_not_fit():
    sums = SpreadAccumulator(2)
    sums.update(np.ones((1, 2)))
    with pytest.raises(ValueError, match="two at least"):
        sums.result()
    with pytest.raises(ValueError, match="wanted"):
        sums.update(np.ones((1, 3)))
    with pytest.raises(ValueError, match="not all are numbers"):
        sums.update(np.array([[np.nan, 0]]))


def by_hand(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    layers = []
    for name in a:
        _, _, height, width = a[name].shape
        found = []
        for i in range(height):
            for k in range(width):
                u, v = a[name][0, :, i, k], b[name][0, :, i, k]
                found.append(float(((u / u.norm() - v / v.norm()) ** 2).sum()))
        layers.append(sum(found) / len(found))
    return sum(layers) / len(layers)


def test_feature_distance_is_the_loop_over_positions_and_layers():
    torch.manual_seed(0)
    maps = [{"x": torch.randn(1, 5, 4, 3), "y": torch.randn(1, 2, 2, 2)} for _ in range(2)]
    assert feature_distance(*maps).item() == pytest.approx(by_hand(*maps), rel=1e-5)
    assert feature_distance(maps[0], {n: 7 * m for n, m in maps[0].items()}).item() < 1e-12
    against = {name: -each for name, each in maps[0].items()}
    assert feature_distance(maps[0], against).item() == pytest.approx(4, rel=1e-6)
    dark = {name: torch.zeros_like(each) for name, each in maps[0].items()}
    assert feature_distance(dark, maps[0]).item() == pytest.approx(1, rel=1e-6)
    with pytest.raises(ValueError, match="must be the same"):
        feature_distance(maps[0], {"x": maps[1]["x"]})
