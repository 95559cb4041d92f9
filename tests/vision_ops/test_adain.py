"""The network that paints in any style: its formula, its encoder and decoder, its pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.untrained import save_random, save_untrained
from vision_ops.canvas import Canvas
from vision_ops.card import Card, check_names, read_card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.learners.style import (
    AdainModelConfig,
    StyleLearner,
    StyleLearnerConfig,
    StyleLossConfig,
    StylePicture,
)
from vision_ops.losses.moments import Moments, channel_moments, moments_loss
from vision_ops.models import build
from vision_ops.models.adain import Adain, blend, put_together, taken_apart
from vision_ops.models.encoder import Encoder
from vision_ops.operators.stylize import StylizeConfig, check_styles, make_stylizer
from vision_ops.preprocess import Preprocess
from vision_ops.style.adain import AnyStyle
from vision_ops.style.features import FeatureNetwork
from vision_ops.style.gatys_config import GatysConfig

CARD = Card(
    network="adain:residual/blocks.1",
    classes=(),
    preprocess=Canvas(),
    licence="Apache-2.0",
    source="random",
    embedding_size=0,
)


def small() -> Adain:
    torch.manual_seed(0)
    network = build(CARD.network, 0)
    assert isinstance(network, Adain)
    network.see_as(Preprocess())
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("any") / "net.safetensors"
    save_checkpoint(path, small(), CARD)
    return path


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARGUS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def images(*pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255


def test_exchanged_features_are_eq_8_over_loops():
    content, style = torch.randn(2, 3, 4, 5), 2 + 3 * torch.randn(2, 3, 6, 2)
    content[1, 2] = 7.0  # a channel that is the same everywhere
    bare, own = taken_apart(content)
    found = put_together(bare, channel_moments(style))
    for row in range(2):
        for channel in range(3):
            x, y = content[row, channel].double(), style[row, channel].double()
            sigma = [(each.var(correction=0) + 1e-5).sqrt() for each in (x, y)]
            wanted = sigma[1] * (x - x.mean()) / sigma[0] + y.mean()
            torch.testing.assert_close(found[row, channel].double(), wanted, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(put_together(bare, own), content, rtol=1e-5, atol=1e-5)


def test_strength_and_shares_mix_features():
    """Eq. 14 and 15: what is mixed here is moments, what is meant is features."""
    content, styles = torch.rand(1, 4, 5, 6), [torch.rand(1, 4, 3, 3), 5 * torch.rand(1, 4, 7, 2)]
    bare, own = taken_apart(content)
    of_styles = [channel_moments(style) for style in styles]
    exchanged = [put_together(bare, each) for each in of_styles]
    found = put_together(bare, blend(own, of_styles[0], 0.3))
    torch.testing.assert_close(found, 0.7 * content + 0.3 * exchanged[0])
    both = Moments(*(0.25 * a + 0.75 * b for a, b in zip(*of_styles, strict=True)))
    wanted = 0.25 * exchanged[0] + 0.75 * exchanged[1]
    torch.testing.assert_close(put_together(bare, both), wanted)
    assert torch.equal(put_together(bare, blend(own, of_styles[1], 1.0)), exchanged[1])


def test_loss_of_moments_on_paper():
    found = Moments(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]))
    wanted = Moments(torch.tensor([[3.0, 2.0]]), torch.tensor([[1.0, 2.0]]))
    assert moments_loss(found, wanted).item() == pytest.approx((4 + 1) / (9 + 4 + 1 + 4))
    assert moments_loss(wanted, wanted).item() == 0
    nothing = Moments(*(torch.zeros(1, 2) for _ in range(2)))
    assert moments_loss(nothing, wanted).item() == pytest.approx(1)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("encoder", "layer", "preprocess"),
    [
        ("residual", "blocks.1", {"channels": "BGR", "mean": (0.1, 0.2, 0.3)}),
        ("torchvision:squeezenet1_1", "features.7", {"scale": 127.5, "std": (1.0, 2.0, 0.5)}),
    ],
)
def test_encoder_gives_the_features_of_the_classifier_as_its_card_wants_pictures(
    tmp_path: Path, encoder: str, layer: str, preprocess: dict[str, Any]
):
    weights = save_random(tmp_path / "net.safetensors", encoder, **preprocess)
    features, (classifier, card) = (
        FeatureNetwork(weights, (layer,)),
        load_checkpoint(weights, "cpu"),
    )
    parameters = sum(each.numel() for each in classifier.parameters())
    network = Adain(classifier, layer)
    assert isinstance(card.preprocess, Preprocess)
    network.see_as(card.preprocess)
    shown = torch.rand(2, 3, 48, 64)
    wanted = features(network.with_margin(shown))[layer]
    torch.testing.assert_close(network.encode(shown), wanted, rtol=1e-4, atol=1e-4)
    assert wanted.shape[2:] == (48 // network.stride, 64 // network.stride)
    assert sum(each.numel() for each in network.encoder.parameters()) < parameters
    assert not any(each.requires_grad for each in network.encoder.parameters())
    network.train()
    assert not any(each.training for each in network.encoder.modules())


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("residual/stem.2", (1, 0, 0, ((32, 1),))),
        ("residual/blocks.1", (4, 0, 0, ((32, 1), (48, 2), (96, 2)))),
        ("torchvision:squeezenet1_1/features.1", (2, 0, 1, ((32, 0), (64, 1)))),
        ("torchvision:squeezenet1_1/features.4", (4, 1, 1, ((32, 0), (64, 1), (128, 2)))),
    ],
)
def test_decoder_is_built_to_what_the_encoder_does_to_sizes(name: str, scheme: Any):
    network = build(f"adain:{name}", 0)
    assert isinstance(network, Adain)
    found = network.scheme
    stages = tuple((each.channels, each.num_convolutions) for each in found.stages)
    assert (found.stride, found.before, found.after, stages) == scheme
    features = torch.rand(1, found.stages[-1].channels, 3, 5)
    assert network.decoder(features).shape == (1, 3, 3 * found.stride, 5 * found.stride)


@pytest.mark.slow
def test_decoder_of_vgg_19_is_that_of_the_paper():
    network = build("adain:torchvision:vgg19/relu4_1", 0)
    assert isinstance(network, Adain)
    convolutions = [
        (each.in_channels, each.out_channels)
        for each in network.decoder.layers
        if isinstance(each, nn.Conv2d)
    ]
    assert convolutions == [
        *((512, 256), (256, 256), (256, 256), (256, 256), (256, 128)),
        *((128, 128), (128, 64), (64, 64), (64, 3)),
    ]
    assert [each for each in network.encoder.state_dict() if "classifier.classifier" in each] == []


@torch.inference_mode()
@pytest.mark.parametrize("size", [(8, 8), (17, 40), (33, 18), (16, 64)])
def test_any_size_comes_back_as_that_size_within_0_and_1(size: tuple[int, int]):
    shown = torch.rand(2, 3, *size)
    painted = small()(shown, torch.rand(1, 3, 20, 31))
    assert painted.shape == shown.shape
    assert 0 <= painted.min() < painted.max() <= 1


@torch.inference_mode()
def test_each_picture_of_a_batch_has_its_own_style():
    network, shown, styles = small(), torch.rand(2, 3, 16, 20), torch.rand(2, 3, 24, 16)
    whole = network(shown, styles)
    for row in range(2):
        alone = network(shown[row : row + 1], styles[row : row + 1])[0]
        torch.testing.assert_close(whole[row], alone, rtol=0, atol=1e-5)
    assert not torch.allclose(whole, network(shown, styles.flip(0)), atol=1e-3)


def test_picture_too_small_for_its_mirrored_borders_is_refused():
    with pytest.raises(ValueError, match="7 x 20 px: each side must have 8"):
        small()(torch.rand(1, 3, 7, 20), torch.rand(1, 3, 20, 20))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("residual", "must be adain:ENCODER/LAYER"),
        ("residual/", "must be adain:ENCODER/LAYER"),
        ("resnet_of_mine/blocks.1", "network 'resnet_of_mine': not one of"),
        ("residual/blocks.9", r"residual has no layer blocks.9; it has stem.0, stem.1"),
        ("residual/head", "layer head gives no map of positions"),
        ("torchvision:squeezenet1_1/relu4_1", r"has no layer relu4_1; it has features\.0"),
        ("torchvision:squeezenet1_1/classifier.3", "divides sizes by"),
    ],
)
def test_encoders_and_layers_that_cannot_be_are_refused(name: str, said: str):
    with pytest.raises(ValueError, match=said):
        build(f"adain:{name}", 0)


class Sideways(nn.Module):
    """A layer that nothing comes to."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.used(images)


def test_a_layer_that_takes_no_part_is_refused():
    with pytest.raises(ValueError, match="layer idle takes no part"):
        Encoder(Sideways(), "idle")


def test_checkpoint_comes_back_and_says_that_it_paints_in_any_style(checkpoint: Path):
    network, card = load_checkpoint(checkpoint, "cpu")
    assert card == CARD == read_card(checkpoint)
    assert card.is_painter
    assert card.paints_any_style
    for name, value in small().state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    with pytest.raises(ValueError, match="adain:residual/blocks.1 paints pictures in any style"):
        check_names(card, "op.weights x")
    with pytest.raises(ValueError, match="classes: 1 names"):
        replace(CARD, classes=("waves",))
    with pytest.raises(ValueError, match="takes whole pictures"):
        replace(CARD, preprocess=Preprocess())


SIZES = ((16, 16), (33, 47), (16, 16), (64, 21))
STYLES = pictures((24, 40), (50, 18), seed=1)


def test_pictures_keep_their_sizes_and_bits_whichever_come_along(checkpoint: Path):
    stylist, contents = AnyStyle(checkpoint, STYLES, (0.3, 0.7)), pictures(*SIZES)
    before = [each.copy() for each in contents]
    for each in contents:
        each.flags.writeable = False
    together = stylist(contents)
    for content, found, kept in zip(contents, together, before, strict=True):
        assert found.pixels.shape == content.shape
        assert found.pixels.dtype == np.uint8
        assert found.losses == {}
        assert np.array_equal(content, kept)
    backwards = stylist(contents[::-1])[::-1]
    alone = [stylist([each])[0] for each in contents]
    again = AnyStyle(checkpoint, STYLES, (0.3, 0.7))(contents)
    for others in (backwards, alone, again):
        for ours, theirs in zip(together, others, strict=True):
            assert np.array_equal(ours.pixels, theirs.pixels)
    assert stylist([]) == []


@torch.inference_mode()
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_pictures_painted_are_those_of_the_network_within_a_level(
    checkpoint: Path, strength: float
):
    """Compiled or not, filled up inside or outside."""
    stylist, network = AnyStyle(checkpoint, STYLES[:1], (1.0,), strength), small()
    for content in pictures(*SIZES, (120, 90)):
        wanted = network(images(content), images(STYLES[0]), strength)[0].permute(1, 2, 0) * 255
        found = stylist([content])[0].pixels
        assert np.abs(found - wanted.numpy()).max() < 0.51


def test_a_share_of_1_beside_one_of_0_is_that_style_alone(checkpoint: Path):
    contents = pictures((33, 47))
    alone, with_none, both = (
        AnyStyle(checkpoint, styles, shares)(contents)[0].pixels
        for styles, shares in ((STYLES[:1], (1.0,)), (STYLES, (1.0, 0.0)), (STYLES, (0.5, 0.5)))
    )
    assert np.array_equal(alone, with_none)
    assert not np.array_equal(both, alone)


def test_more_strength_leads_further_from_the_picture_without_a_style(checkpoint: Path):
    contents = pictures((48, 40))
    stylist, made = AnyStyle(checkpoint, STYLES[:1], (1.0,), 0.0), []
    for strength in (0.0, 0.25, 0.5, 0.75, 1.0):
        stylist.strength = strength
        made.append(stylist(contents)[0].pixels.astype(float))
    away = [np.abs(each - made[0]).mean() for each in made]
    assert away == sorted(set(away))
    none = small()(images(contents[0]), images(STYLES[1]), 0.0)[0].permute(1, 2, 0) * 255
    assert np.abs(made[0] - none.detach().numpy()).max() < 0.51  # no style has a part in it


def test_the_operator_finds_the_method_by_the_checkpoint(checkpoint: Path):
    config = StylizeConfig(
        weights=str(checkpoint), styles=("a", "b"), style_weights=(3, 1), longest_px=48
    )
    assert not check_styles(config, CARD, "w")  # its styles are pictures
    (content,) = pictures((48, 30))
    canvas = np.zeros((1, 48, 48, 3), np.uint8)
    canvas[0, :48, :30] = content
    made = make_stylizer(STYLES, config)({"pixels": canvas, "extent": np.array([[48, 30]])})
    wanted = AnyStyle(checkpoint, STYLES, (0.75, 0.25))([content])[0].pixels
    assert np.array_equal(made["picture"][0], wanted)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"styles": ()}, "op.styles: none is named; a picture"),
        ({"gatys": GatysConfig(steps=3)}, "paints in one pass; style_longest_px alone is heeded"),
    ],
)
def test_what_it_cannot_do_is_refused(change: dict[str, Any], said: str):
    asked = StylizeConfig(styles=("a",), gatys=GatysConfig(style_longest_px=300))
    check_styles(asked, CARD, "w")
    with pytest.raises(ValueError, match=said):
        check_styles(replace(asked, **change), CARD, "w")


def test_first_loss_of_a_training_is_eq_11_by_hand(tmp_path: Path):
    """Content against the exchanged features, style by means and deviations, and smoothness."""
    weights = save_untrained(tmp_path / "w.safetensors", 32)
    layers, (style, *shown) = ("stem.2", "blocks.0"), pictures((20, 34), (12, 16), (12, 16))
    learner = StyleLearner(
        StyleLearnerConfig(
            model=AdainModelConfig(),
            loss=StyleLossConfig(
                style_weight=3.0, smooth_weight=0.5, content_layer="blocks.0", style_layers=layers
            ),
            features=weights,
            styles=(StylePicture(name="s", pixels=style),),
            num_steps=1,
        )
    )
    decoder = learner.descent.network.eval()
    features = FeatureNetwork(weights, layers)  # halves sizes, without a margin

    def of(values: torch.Tensor, name: str) -> np.ndarray:
        return features(values)[name][0].detach().double().numpy()

    losses = []
    for picture in shown:
        x, y = of(images(picture), "blocks.0"), of(images(style), "blocks.0")
        target = np.empty_like(x)
        for row, (own, other) in enumerate(zip(x, y, strict=True)):
            sigma = [np.sqrt(each.var() + 1e-5) for each in (own, other)]
            target[row] = sigma[1] * (own - own.mean()) / sigma[0] + other.mean()
        made = decoder(torch.from_numpy(target).float()[None]).detach()
        content = ((of(made, "blocks.0") - target) ** 2).sum() / (target**2).sum()
        costs = []
        for name in layers:
            both = [of(values, name) for values in (made, images(style))]
            means = [each.mean(axis=(1, 2)) for each in both]
            stds = [np.sqrt(each.var(axis=(1, 2)) + 1e-5) for each in both]
            off = ((means[0] - means[1]) ** 2).sum() + ((stds[0] - stds[1]) ** 2).sum()
            costs.append(off / ((means[1] ** 2).sum() + (stds[1] ** 2).sum()))
        values = made[0].double().numpy()
        rough = (np.diff(values, axis=1) ** 2).sum() + (np.diff(values, axis=2) ** 2).sum()
        losses.append(content + 3 * np.mean(costs) + 0.5 * rough / values.size)
    batch = {"pixels": torch.from_numpy(np.stack(shown)), "row": torch.arange(2)}
    assert learner.evaluate(batch)["loss"] == pytest.approx(sum(losses), rel=1e-4)
    assert learner.step(batch)["objective"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_training_by_features_that_no_picture_can_be_made_of_is_refused(tmp_path: Path):
    weights = save_untrained(tmp_path / "w.safetensors", 32)
    config = StyleLearnerConfig(
        model=AdainModelConfig(),
        loss=StyleLossConfig(content_layer="blocks.8", style_layers=("stem.2",)),
        features=weights,
        styles=(StylePicture(name="s", pixels=pictures((20, 20))[0]),),
        num_steps=1,
    )
    with pytest.raises(ValueError, match="residual has no layer blocks.8; it has stem.0"):
        StyleLearner(config)
    with pytest.raises(ValueError, match=r"must be named for features of resnet20; known are"):
        StyleLossConfig().layers("resnet20", AdainModelConfig())


def test_a_classifier_is_refused_as_a_painter(tmp_path: Path):
    weights = save_untrained(tmp_path / "net.safetensors", 32)
    with pytest.raises(ValueError, match="residual is no adain:ENCODER/LAYER"):
        AnyStyle(weights, STYLES, (0.5, 0.5))


def soft(height: int, width: int) -> np.ndarray:
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (255 * fine[0]).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(130, 175), (91, 303), (64, 65)])
def test_a_picture_in_tiles_is_that_of_one_pass(checkpoint: Path, size: tuple[int, int]):
    styles, content = pictures((40, 40), seed=3), soft(*size)
    whole = AnyStyle(checkpoint, styles, (1.0,))([content])[0].pixels
    tiled = AnyStyle(checkpoint, styles, (1.0,), tile_px=64)
    assert tiled.halo * tiled.stride < 32  # not all of it is seen at once
    found = tiled([content])[0].pixels
    assert found.shape == content.shape
    assert np.abs(found.astype(int) - whole).max() <= 2
    assert np.array_equal(tiled([content, content])[1].pixels, found)
