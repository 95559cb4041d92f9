"""Large pictures in tiles and bands: what a whole would give, to the last bits and no further."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tests.untrained import save_random, save_untrained
from tests.vision_ops.test_style_transform import CARD, pictures
from vision_ops.checkpoint import save_checkpoint
from vision_ops.models.style_transform import StyleTransform
from vision_ops.models.unet import UNet
from vision_ops.style import maps
from vision_ops.style.bands import BandPainter
from vision_ops.style.features import FeatureNetwork
from vision_ops.style.feed_forward import FeedForward
from vision_ops.style.gatys import Gatys
from vision_ops.style.gatys_config import CostsConfig, FeaturesConfig, GatysConfig
from vision_ops.style.generator import Translator
from vision_ops.style.maps import Moments
from vision_ops.style.objective import Objective, Targets
from vision_ops.style.tiles import TiledFeatures, reach
from vision_ops.style.unet_bands import BandTranslator

CPU = torch.device("cpu")
SHALLOW = ("stem.2", "blocks.0")
"""layers of `residual` that look no further than 12 px"""
FEATURES = {
    "residual": FeaturesConfig(content_layers=SHALLOW[1:], style_layers=SHALLOW),
    "squeeze": FeaturesConfig(),
}
WHOLE = 4_000
Network = TypeVar("Network", bound=nn.Module)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_untrained(tmp_path_factory.mktemp("weights") / "residual.safetensors", 32)


@pytest.fixture(scope="module")
def squeeze(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "squeeze.safetensors"
    return save_random(path, "torchvision:squeezenet1_1")


@pytest.fixture(scope="module")
def tiled(residual: str) -> TiledFeatures:
    return TiledFeatures(FeatureNetwork(residual, SHALLOW), 40)


def images(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 9, generator=generator)
    fine = 0.3 * torch.rand(1, 3, height, width, generator=generator)
    return (0.7 * F.interpolate(coarse, (height, width), mode="bilinear") + fine).contiguous()


def both(config: GatysConfig, weights: str, tile_px: int, *size: int) -> list[Any]:
    """Costs, total and gradient of a picture, as a whole and in tiles, in float64."""
    content, picture = images(*size).double(), images(*size, seed=1).double()
    found: list[Any] = []
    for side in (WHOLE, tile_px):
        objective = Objective(config, weights, CPU, side)
        features = objective.features
        features.network.double()
        features.factor, features.offset = features.factor.double(), features.offset.double()
        grams = objective.grams(images(90, 120, seed=2).double())
        targets = Targets(objective.content(content), grams)
        tiles = objective.tiled.tiles(*size)
        assert (len(tiles) > 3) == (side == tile_px)
        found.append((objective.costs(picture, targets), *objective.gradient(picture, targets)))
    return found


@pytest.mark.parametrize(
    ("network", "size", "convention"),
    [
        ("residual", (97, 131), "paper"),
        ("residual", (97, 131), "mean"),
        ("squeeze", (181, 186), "relative"),
    ],
)
def test_costs_of_tiles_are_those_of_the_whole_and_so_is_the_gradient(
    network: str, size: tuple[int, int], convention: Any, request: pytest.FixtureRequest
):
    costs = CostsConfig(convention=convention, style_weight=3.0, variation_weight=0.5)
    config = GatysConfig(costs=costs, features=FEATURES[network])
    whole, tiled = both(config, request.getfixturevalue(network), 64, *size)
    for ours, theirs in zip(tiled[0], whole[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    torch.testing.assert_close(tiled[1], whole[1], rtol=1e-9, atol=0)
    torch.testing.assert_close(tiled[2], whole[2], rtol=1e-6, atol=1e-9 * float(whole[2].norm()))


def test_costs_of_tiles_in_float32_are_those_of_the_whole_to_1e_4(residual: str):
    content, style = images(140, 150), images(60, 60, seed=2)
    found: list[Any] = []
    for side in (WHOLE, 64):
        config = GatysConfig(features=FEATURES["residual"])
        objective = Objective(config, residual, CPU, side)
        targets = Targets(objective.content(content), objective.grams(style))
        found.append(objective.costs(images(140, 150, seed=1), targets))
    torch.testing.assert_close(found[0].total, found[1].total, rtol=1e-4, atol=0)


@given(height=st.integers(20, 110), width=st.integers(20, 110))
@settings(max_examples=12)
def test_each_position_is_in_one_tile(tiled: TiledFeatures, height: int, width: int):
    picture = images(height, width)
    expected = tiled.features(picture)
    for layer, found in tiled.whole(picture, SHALLOW).items():
        torch.testing.assert_close(found, expected[layer], rtol=1e-3, atol=1e-5)


def test_pictures_as_they_are_made_differ_by_little(residual: str):
    """Optimised to the end: what rounding becomes in eight steps."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    content = np.asarray(coarse.resize((150, 110), Image.Resampling.BICUBIC))
    style = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    config = GatysConfig(steps=4, levels=2, features=FEATURES["residual"])
    whole, tiled = (Gatys(config, residual, [style], (), px)([content])[0] for px in (WHOLE, 64))
    assert tiled.losses == pytest.approx(dict(whole.losses), rel=1e-3)
    assert np.abs(tiled.pixels.astype(int) - whole.pixels).mean() < 0.5
    again = Gatys(config, residual, [style], (), 64)([content, content[:40, :40]])[0]
    assert np.array_equal(again.pixels, tiled.pixels)


class Global(nn.Module):
    """Adds the mean of the whole picture: what no halo reaches."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + x.mean()


def test_a_network_that_looks_everywhere_is_refused_by_name(residual: str):
    network = FeatureNetwork(residual, ("blocks.0",))
    network.network.set_submodule("stem.0", Global(network.network.get_submodule("stem.0")))
    with pytest.raises(ValueError, match=r"residual.safetensors: layer blocks.0 looks further"):
        TiledFeatures(network, 64).tiles(200, 200)


def painter(width: int = 4) -> StyleTransform:
    torch.manual_seed(0)
    return disturbed(StyleTransform(2, width))


def generator(depth: int = 4) -> UNet:
    torch.manual_seed(0)
    return disturbed(UNet(4, depth))


def disturbed(network: Network) -> Network:
    """Weights further from 0 than first ones: what is made is not grey."""
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(0.2 * torch.randn_like(tensor))
    return network.eval()


@torch.inference_mode()
@pytest.mark.parametrize("band_px", [1, 700, 10_000, 10**9])
@pytest.mark.parametrize("filed", [0, 10**9])
def test_bands_paint_what_one_pass_paints(
    band_px: int, filed: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(maps, "FILED_BYTES", filed)
    network, blend = painter(), torch.tensor([[0.3, 0.7]])
    pixels = (255 * images(52, 84)[0]).to(torch.uint8).permute(1, 2, 0).contiguous()
    before = pixels.clone()
    expected = 255 * network.paint(pixels.permute(2, 0, 1)[None] / 255, blend)[0].permute(1, 2, 0)
    found = BandPainter(network, blend, band_px)(pixels)
    assert (found.float() - expected).abs().max() < 0.51  # rounding
    assert expected.std() > 5
    assert torch.equal(pixels, before)


@torch.inference_mode()
@pytest.mark.parametrize("band_px", [1, 700, 10_000, 10**9])
@pytest.mark.parametrize("depth", [3, 5])
@pytest.mark.parametrize("filed", [0, 10**9])
def test_bands_translate_what_one_pass_translates(
    band_px: int, depth: int, filed: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(maps, "FILED_BYTES", filed)
    network = generator(depth)
    pixels = (255 * images(64, 96)[0]).to(torch.uint8).permute(1, 2, 0).contiguous()
    before = pixels.clone()
    whole = network(pixels.permute(2, 0, 1)[None] / 127.5 - 1)
    expected = (127.5 * (whole + 1))[0].permute(1, 2, 0)
    found = BandTranslator(network, band_px)(pixels)
    assert (found.float() - expected).abs().max() < 0.51  # rounding
    assert expected.std() > 5
    assert torch.equal(pixels, before)


def test_a_picture_too_large_for_a_pass_is_translated_in_bands(tmp_path: Path):
    card = replace(CARD, network="unet:4x4", classes=(), embedding_size=0)
    save_checkpoint(tmp_path / "net.safetensors", generator(), card)
    (content,) = pictures((83, 122))
    whole, banded = (
        Translator(tmp_path / "net.safetensors", tile_px=px)([content])[0].pixels
        for px in (WHOLE, 64)
    )
    assert banded.shape == content.shape
    assert np.abs(banded.astype(int) - whole).max() <= 2
    assert banded.std() > 5


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_moments_of_bands_are_those_of_the_whole(lengths: list[int], seed: int):
    rng = np.random.default_rng(seed)
    whole = torch.from_numpy(1000 + rng.normal(size=(3, sum(lengths), 7))).float()
    moments = Moments(3)
    for band in whole.split(lengths, dim=1):
        moments.add(band)
    expected = whole.double()
    torch.testing.assert_close(moments.mean, expected.mean((1, 2)), rtol=1e-6, atol=0)
    variance = expected.var((1, 2), correction=0)
    torch.testing.assert_close(moments.variance, variance, rtol=1e-3, atol=1e-6)


def test_a_picture_too_large_for_a_pass_is_painted_in_bands(tmp_path: Path):
    torch.manual_seed(0)
    card = replace(CARD, classes=("waves", "dots"))
    save_checkpoint(tmp_path / "net.safetensors", painter(), card)
    (content,) = pictures((83, 122))
    whole, banded = (
        FeedForward(tmp_path / "net.safetensors", {"dots": 1}, tile_px=px)([content])[0].pixels
        for px in (WHOLE, 64)
    )
    assert banded.shape == content.shape
    assert np.abs(banded.astype(int) - whole).max() <= 2


@pytest.mark.parametrize(("kernel", "dilation", "expected"), [(1, 1, 0), (3, 1, 1), (5, 2, 4)])
def test_how_far_a_network_looks_is_found(kernel: int, dilation: int, expected: int):
    wide = dilation * (kernel // 2)
    look = nn.Conv2d(3, 2, kernel, dilation=dilation, padding=wide, padding_mode="reflect")
    assert reach(look, torch.zeros(1, 3, 16, 40)) == expected
    halved = nn.Sequential(look, nn.MaxPool2d(2))
    assert reach(halved, torch.zeros(1, 3, 16, 40)) == (expected + 1) // 2
    with pytest.raises(ValueError, match="looks at whole pictures"):
        reach(lambda x: x - x.mean(), torch.zeros(1, 3, 8, 8))
