"""How much of a style: the same number for every method."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.untrained import save_untrained
from vision_ops.canvas import Canvas
from vision_ops.card import Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.models import build
from vision_ops.operators.stylize import StylizeConfig
from vision_ops.style import Stylised
from vision_ops.style.gatys import Gatys
from vision_ops.style.gatys_config import CostsConfig, GatysConfig
from vision_ops.style.make import make_stylists
from vision_ops.style.strength import Faded

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def soft(height: int, width: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def away(content: np.ndarray, made: Sequence[np.ndarray]) -> list[float]:
    return [np.abs(each.astype(float) - content).mean() for each in made]


@pytest.mark.parametrize("strength", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_strength_beside_0_and_1_is_refused(strength: float):
    with pytest.raises(ValueError, match=f"op.strength {strength}: must be 0..1"):
        StylizeConfig(strength=strength)


def test_an_optimised_picture_keeps_more_of_the_content_the_weaker_the_style(tmp_path: Path):
    weights = save_untrained(tmp_path / "w.safetensors", 32)
    content, style = soft(32, 40, 0), soft(36, 36, 1)
    config = StylizeConfig(weights=weights, styles=("s",), gatys=GatysConfig(steps=12))
    made = [
        make_stylists([style], replace(config, strength=each), 1)[0][""]([content])[0].pixels
        for each in STRENGTHS
    ]
    assert np.array_equal(made[0], content)
    found = away(content, made)
    assert found == sorted(set(found))
    assert np.array_equal(made[-1], Gatys(config.gatys, weights, [style])([content])[0].pixels)


def test_strength_multiplies_the_weight_of_the_style():
    costs = CostsConfig(convention="mean", style_weight=50.0)
    half = StylizeConfig(strength=0.5, gatys=GatysConfig(costs=costs)).faded_gatys()
    assert half == GatysConfig(costs=replace(costs, style_weight=25.0))
    auto = StylizeConfig(strength=0.5).faded_gatys().costs
    assert auto.beta == CostsConfig().beta / 2
    with pytest.raises(ValueError, match="nothing would be lowered"):
        StylizeConfig(strength=0.0, gatys=GatysConfig(costs=CostsConfig(content_weight=0.0)))


class Negative:
    """A stylist that inverts."""

    def __call__(self, contents: Sequence[np.ndarray]) -> list[Stylised]:
        return [Stylised(255 - each, {"total": 1.0}) for each in contents]


def test_pixels_are_mixed_by_hand():
    content = np.array([[[0, 100, 255], [10, 128, 3]]], np.uint8)
    made = Faded(Negative(), 0.25)([content, content])
    assert len(made) == 2
    assert made[0].pixels.tolist() == [[[64, 114, 191], [69, 128, 65]]]
    assert made[0].losses == {"total": 1.0}
    assert np.array_equal(Faded(Negative(), 0.0)([content])[0].pixels, content)
    assert np.array_equal(Faded(Negative(), 1.0)([content])[0].pixels, 255 - content)


def test_a_network_that_learnt_styles_leaves_more_of_the_content_the_weaker_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ARGUS_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    card = Card(
        network="style_transform:4",
        classes=("waves",),
        preprocess=Canvas(),
        licence="none",
        source="random",
        embedding_size=0,
    )
    save_checkpoint(tmp_path / "net.safetensors", build("style_transform:4", 1), card)
    config, content = StylizeConfig(weights=str(tmp_path / "net.safetensors")), soft(24, 20, 0)
    made = [
        make_stylists([], replace(config, styles=("waves",), strength=each), 1)[0][""]([content])[0]
        for each in (0.0, 0.5, 1.0)
    ]
    assert np.array_equal(made[0].pixels, content)
    found = away(content, [each.pixels for each in made])
    assert found == sorted(set(found))
    both = content.astype(float) + made[2].pixels
    assert np.abs(made[1].pixels - both / 2).max() <= 0.5
