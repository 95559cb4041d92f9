"""Style transfer by optimisation: what it promises of bits, costs and passes, on small networks."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.untrained import save_random, save_untrained
from vision_ops.card import Card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.losses.style import content_loss, gram_matrix, style_loss, total_variation
from vision_ops.models import build
from vision_ops.preprocess import Preprocess
from vision_ops.style import Stylised, Stylist, objective
from vision_ops.style.features import FeatureNetwork
from vision_ops.style.gatys import Gatys
from vision_ops.style.gatys_config import CostsConfig, FeaturesConfig, GatysConfig
from vision_ops.style.layers import LAMBDAS, LAYERS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_untrained(tmp_path_factory.mktemp("weights") / "residual.safetensors", 32)


def asked(**changes: Any) -> GatysConfig:
    config = GatysConfig(steps=4, levels=1)
    return replace(config, **changes)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft spots of colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def stripes(height: int, width: int, period: int = 6) -> np.ndarray:
    """Red and blue ones, askew."""
    y, x = np.mgrid[:height, :width]
    on = (x + y) // (period // 2) % 2
    return np.stack([255 * on, 40 + 0 * on, 255 - 200 * on], axis=2).astype(np.uint8)


def same(ones: Sequence[Stylised], others: Sequence[Stylised]) -> bool:
    return all(
        np.array_equal(one.pixels, other.pixels) and one.losses == other.losses
        for one, other in zip(ones, others, strict=True)
    )


@pytest.mark.parametrize("optimiser", ["adam", "lbfgs"])
def test_the_total_falls_below_a_tenth_of_its_start(weights: str, optimiser: Any):
    config = asked(costs=CostsConfig(content_weight=0.1), optimiser=optimiser, steps=50)
    (result,) = Gatys(config, weights, [255 - photo(24, 24, seed=1)])([photo(24, 24)])
    assert result.losses["total"] < 0.1 * result.losses["total_at_start"]


@pytest.mark.parametrize("convention", ["paper", "mean", "relative"])
def test_costs_told_are_those_of_the_picture_given(weights: str, convention: Any):
    features = FeaturesConfig(
        content_layers=("blocks.0", "blocks.1"),
        style_layers=("stem.2", "blocks.2"),
        style_layer_weights=(0.5, 2.0),
    )
    costs = CostsConfig(
        convention=convention, content_weight=3.0, style_weight=7.0, variation_weight=0.2
    )
    content, style = photo(24, 36), stripes(40, 30)
    gatys = Gatys(asked(features=features, costs=costs), weights, [style])
    (result,) = gatys([content])
    network = FeatureNetwork(weights, ("stem.2", "blocks.0", "blocks.1", "blocks.2"))

    def by_hand(pixels: np.ndarray) -> dict[str, float]:
        images = [
            torch.from_numpy(p.copy()).permute(2, 0, 1)[None] / 255 for p in (pixels, content)
        ]
        of_result, of_content = map(network, images)
        of_style = network(torch.from_numpy(style).permute(2, 0, 1)[None] / 255)
        found = {
            "content": sum(
                content_loss(of_result[name], of_content[name], convention).item()
                for name in ("blocks.0", "blocks.1")
            ),
            "style": sum(
                factor
                * style_loss(
                    gram_matrix(of_result[name]), gram_matrix(of_style[name]), convention
                ).item()
                for name, factor in (("stem.2", 0.5), ("blocks.2", 2.0))
            ),
        }
        variation = total_variation(images[0], convention).item()
        return found | {"total": 3 * found["content"] + 7 * found["style"] + 0.2 * variation}

    start = by_hand(content)
    assert start["content"] == 0
    expected = by_hand(result.pixels) | {"total_at_start": start["total"]}
    assert dict(result.losses) == pytest.approx(expected, rel=1e-4)


def test_a_style_of_weight_1_beside_one_of_0_is_that_style_alone(weights: str):
    config, content = asked(), photo(32, 40)
    one, other = stripes(32, 32), photo(32, 32, seed=3)
    alone = Gatys(config, weights, [one])([content])
    assert same(alone, Gatys(config, weights, [one, other], (1, 0))([content]))
    assert same(alone, Gatys(config, weights, [other, one], (0, 5))([content]))
    assert not same(alone, Gatys(config, weights, [one, other])([content]))


def test_style_layers_weigh_what_is_asked_for_else_what_is_known_else_the_same(tmp_path: Path):
    weights = save_random(tmp_path / "s.safetensors", "torchvision:squeezenet1_1")

    def lambdas(convention: Any, **changes: Any) -> tuple[float, ...]:
        features = FeaturesConfig(**changes)
        config = asked(features=features, costs=CostsConfig(convention=convention))
        return tuple(Gatys(config, weights, [stripes(32, 32)]).objective.lambdas.values())

    layers = LAYERS["torchvision:squeezenet1_1"].style
    for convention in ("paper", "mean"):
        known = LAMBDAS["torchvision:squeezenet1_1", convention]
        assert lambdas(convention) == known
        assert list(known) == sorted(known, reverse=True)
        assert lambdas(convention, style_layers=layers[:4]) == (0.25,) * 4
    assert lambdas("relative") == (0.2,) * 5
    given = (5.0, 4.0, 3.0, 2.0, 1.0)
    assert lambdas("relative", style_layer_weights=given) == given


def test_mixed_gram_matrices_pull_as_the_weighted_sum_of_losses():
    draws = torch.Generator().manual_seed(0)
    maps, *both = (torch.rand(1, 3, 4, 4, generator=draws, dtype=torch.float64) for _ in range(3))
    one, other = map(gram_matrix, both)
    maps.requires_grad_()
    mixed = style_loss(gram_matrix(maps), 0.25 * one + 0.75 * other, "paper")
    each = [style_loss(gram_matrix(maps), target, "paper") for target in (one, other)]
    (by_mixed,) = torch.autograd.grad(mixed.sum(), maps, retain_graph=True)
    (by_sum,) = torch.autograd.grad((0.25 * each[0] + 0.75 * each[1]).sum(), maps)
    torch.testing.assert_close(by_mixed, by_sum)


@pytest.mark.parametrize("levels", [1, 2])
def test_each_style_goes_through_the_network_once_a_level(weights: str, levels: int):
    styles = [stripes(30, 34), photo(26, 38, seed=1), photo(22, 42, seed=2)]
    gatys = Gatys(asked(levels=levels, steps=1), weights, styles)
    passes: Counter[tuple[int, ...]] = Counter()
    gatys.features.network.register_forward_pre_hook(
        lambda _, inputs: passes.update([tuple(inputs[0].shape[2:])])
    )
    for _ in range(2):
        gatys([photo(32, 32), photo(32, 32, seed=1), photo(40, 36)])
    sizes = [(30, 34), (26, 38), (22, 42), *[(15, 17), (13, 19), (11, 21)][: 3 * (levels - 1)]]
    assert [passes[size] for size in sizes] == [1] * len(sizes)


@pytest.mark.parametrize(("optimiser", "start"), [("adam", "noise"), ("lbfgs", "content")])
def test_bits_do_not_depend_on_what_comes_along_nor_on_the_call(
    weights: str, start: Any, optimiser: Any
):
    config = asked(start=start, optimiser=optimiser, levels=2, steps=2)
    pictures = [photo(24, 24), photo(20, 31), photo(24, 24, seed=1)]
    gatys: Stylist = Gatys(config, weights, [stripes(24, 24)])
    together = gatys(pictures)
    assert same(
        together, [Gatys(config, weights, [stripes(24, 24)])([each])[0] for each in pictures]
    )
    assert same(together[::-1], gatys(pictures[::-1]))
    assert [each.pixels.shape for each in together] == [each.shape for each in pictures]


def test_bits_do_not_depend_on_the_number_of_threads(weights: str):
    gatys, content = Gatys(asked(start="noise"), weights, [stripes(60, 80)]), photo(200, 321)
    usual = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(gatys([content]))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(usual)
    assert same(*made)


@pytest.mark.parametrize(("optimiser", "levels"), [("adam", 0.02), ("lbfgs", 0.2)])
def test_pictures_in_one_batch_do_not_change_each_other(
    weights: str, optimiser: Any, levels: float
):
    """But for sums in another order, which Adam's signs and a search along a line make larger."""
    gatys = Gatys(asked(optimiser=optimiser), weights, [stripes(32, 32)])
    pictures = np.stack([photo(32, 32), stripes(32, 32, period=4), np.zeros((32, 32, 3), np.uint8)])
    for picture, result in zip(pictures, gatys.optimise(pictures), strict=True):
        alone = gatys([picture])[0]
        away = np.abs(result.pixels.astype(int) - alone.pixels)
        assert away.mean() < levels
        assert dict(result.losses) == pytest.approx(dict(alone.losses), rel=1e-2)


def test_another_seed_is_another_picture_from_noise_only(weights: str):
    content, style = photo(24, 24), [stripes(24, 24)]

    def made(start: Any, seed: int) -> list[Stylised]:
        return Gatys(asked(start=start, seed=seed), weights, style)([content])

    assert same(made("noise", 1), made("noise", 1))
    assert not same(made("noise", 1), made("noise", 2))
    assert same(made("content", 1), made("content", 2))


@pytest.mark.parametrize("shape", [(16, 16), (16, 90), (131, 17)])
def test_pictures_of_any_size_and_aspect_keep_theirs(weights: str, shape: tuple[int, int]):
    content = photo(*shape)
    content.flags.writeable = False
    before = content.copy()
    (result,) = Gatys(asked(levels=3), weights, [stripes(32, 32)])([content])
    assert result.pixels.shape == content.shape
    assert np.array_equal(content, before)
    assert not np.array_equal(result.pixels, content)


def test_a_picture_smaller_than_the_network_needs_is_enlarged_for_the_while(tmp_path: Path):
    weights = save_random(tmp_path / "s.safetensors", "torchvision:squeezenet1_1")
    deep = FeaturesConfig(style_layers=("features.12",))
    gatys = Gatys(asked(features=deep, steps=2), weights, [stripes(64, 64)])
    assert gatys.features.least_side_px > 16
    (result,) = gatys([photo(16, 19)])
    assert result.pixels.shape == (16, 19, 3)
    with pytest.raises(ValueError, match=r"style 1: 16 x 70 px .* needs \d+ px a side"):
        Gatys(asked(features=deep), weights, [stripes(64, 64), stripes(16, 70)])


def test_black_and_equal_pictures_end_in_numbers(weights: str):
    black = np.zeros((24, 24, 3), np.uint8)
    for optimiser in ("adam", "lbfgs"):
        gatys = Gatys(asked(optimiser=optimiser), weights, [black])
        (result,) = gatys([black])
        assert np.array_equal(result.pixels, black)
        assert result.losses["style"] == 0


@pytest.mark.parametrize(
    ("styles", "shares", "message"),
    [
        ([], (), "styles: none given"),
        ([stripes(24, 24)], (1.0, 2.0), "2 for 1 styles"),
        ([stripes(24, 24)], (0.0,), "must be 0 or more, one above 0"),
        ([stripes(24, 24)] * 2, (2.0, -1.0), "must be 0 or more, one above 0"),
        ([stripes(24, 24)] * 2, (1.0, float("nan")), "must be 0 or more, one above 0"),
        ([stripes(1, 24)], (), "style 0: 1 x 24 px"),
    ],
)
def test_styles_that_cannot_be_used_are_refused(
    weights: str, styles: list[np.ndarray], shares: tuple[float, ...], message: str
):
    with pytest.raises(ValueError, match=message):
        Gatys(asked(), weights, styles, shares)


def test_layers_weights_and_networks_that_do_not_fit_are_refused(weights: str):
    unknown = FeaturesConfig(style_layers=("relu1_1",))
    with pytest.raises(ValueError, match=r"no layer relu1_1; it has stem\.0"):
        Gatys(asked(features=unknown), weights, [stripes(24, 24)])
    three = FeaturesConfig(style_layer_weights=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match=r"style_layer_weights .*: 3 for \('stem.2', "):
        Gatys(asked(features=three), weights, [stripes(24, 24)])


def test_what_is_no_number_is_never_a_picture(weights: str, tmp_path: Path):
    model, card = load_checkpoint(weights, "cpu")
    with torch.no_grad():
        next(iter(model.parameters()))[0, 0, 0, 0] = torch.nan
    broken = str(tmp_path / "broken.safetensors")
    save_checkpoint(broken, model, card)
    with pytest.raises(ValueError, match=r"broken\.safetensors: no numbers at stem\.2"):
        Gatys(asked(), broken, [stripes(24, 24)])([photo(24, 24)])
    with torch.no_grad():
        next(iter(model.parameters())).fill_(1e30)  # black is still 0, all else overflows
    card = replace(card, preprocess=replace(card.preprocess, mean=(0.0, 0.0, 0.0)))
    save_checkpoint(broken, model, card)
    for optimiser in ("adam", "lbfgs"):
        gatys = Gatys(asked(optimiser=optimiser), broken, [np.zeros((24, 24, 3), np.uint8)])
        with pytest.raises(ArithmeticError, match="became what is no number"):
            gatys([photo(24, 24)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeaturesConfig(content_layers=("a", "a")), "named twice"),
        (lambda: FeaturesConfig(style_layer_weights=(0.0,)), "one above 0"),
        (lambda: CostsConfig(content_weight=-1), "content_weight -1: must be 0.."),
        (lambda: CostsConfig(style_weight=float("nan")), "style_weight nan"),
        (lambda: CostsConfig(content_weight=0, style_weight=0), "nothing would be lowered"),
        (lambda: asked(steps=0), "steps 0: must be 1.."),
        (lambda: asked(learning_rate=0.0), "learning_rate 0.0: must be above 0"),
        (lambda: asked(levels=9), "levels 9: must be 1..8"),
    ],
)
def test_impossible_values_are_refused(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_asked_for_is_read_without_torch():
    code = "import sys, vision_ops.style.gatys_config, vision_ops.style; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "torch" not in loaded.stdout.split()


@pytest.fixture(scope="module")
def squeezenet(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    state = shared_data / "weights" / "squeezenet1_1-imagenet.pth"
    model = build("torchvision:squeezenet1_1", 1000)
    model.load_state_dict(torch.load(state, weights_only=True))
    card = Card(
        network="torchvision:squeezenet1_1",
        classes=tuple(map(str, range(1000))),
        preprocess=Preprocess(),
        licence="Apache-2.0",
        source="ONNX model zoo",
        embedding_size=512,
    )
    weights = tmp_path_factory.mktemp("squeezenet") / "squeezenet.safetensors"
    save_checkpoint(weights, model, card)
    return str(weights)


def test_a_photograph_in_a_paintings_style_costs_less_than_a_tenth(
    shared_data: Path, squeezenet: str
):
    content, style = (
        np.asarray(Image.open(shared_data / "style" / path).convert("RGB").resize((128, 128)))
        for path in ("content/amber.jpg", "styles/candy.jpg")
    )
    gatys = Gatys(asked(steps=30, levels=2), squeezenet, [style])
    assert gatys.objective.layers == LAYERS["torchvision:squeezenet1_1"]
    (result,) = gatys([content])
    assert result.losses["total"] < 0.1 * result.losses["total_at_start"]


@pytest.mark.slow
@pytest.mark.parametrize("content", ["amber.jpg", "Tuebingen_Neckarfront.jpg"])
@pytest.mark.parametrize(
    "style", ["candy.jpg", "mosaic.jpg", "udnie.jpg", "vangogh_starry_night.jpg"]
)
def test_any_photograph_in_any_paintings_style_costs_less_than_a_tenth_by_default(
    shared_data: Path, squeezenet: str, content: str, style: str
):
    photograph, painting = (
        Image.open(shared_data / "style" / path).convert("RGB")
        for path in (f"content/{content}", f"styles/{style}")
    )
    photograph.thumbnail((160, 160))
    painting.thumbnail((256, 256))
    gatys = Gatys(GatysConfig(), squeezenet, [np.asarray(painting)])
    (result,) = gatys([np.asarray(photograph)])
    assert result.pixels.shape == (photograph.height, photograph.width, 3)
    assert result.losses["total"] < 0.1 * result.losses["total_at_start"]


def test_bf16_is_taken_where_it_tells_the_cost_and_refused_where_not(
    weights: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    content, style = photo(48, 40), stripes(40, 40)
    exact, half = (
        Gatys(asked(steps=12, precision=each), weights, [style]) for each in ("fp32", "bf16")
    )
    assert half.objective.half
    (expected,), (found,) = exact([content]), half([content])
    assert not np.array_equal(found.pixels, expected.pixels)
    assert found.losses["total"] == pytest.approx(expected.losses["total"], rel=0.02)
    assert found.losses["total_at_start"] == expected.losses["total_at_start"]
    assert not caplog.records
    monkeypatch.setattr(objective, "HALF_WITHIN", 0.0)
    refused = Gatys(asked(steps=12, precision="bf16"), weights, [style])
    assert "fp32 is used" in caplog.text
    assert np.array_equal(refused([content])[0].pixels, expected.pixels)
