"""The network that paints, its checkpoint, and pictures painted by it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vision_ops.canvas import Canvas
from vision_ops.card import Card, check_names, read_card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.models import build
from vision_ops.models.style_transform import ConditionalInstanceNorm, StyleTransform
from vision_ops.preprocess import Preprocess
from vision_ops.style.feed_forward import FeedForward, FromPixels, style_weights

STYLES = ("waves", "dots", "7")
CARD = Card(
    network="style_transform:4",
    classes=STYLES,
    preprocess=Canvas(),
    licence="Apache-2.0",
    source="random",
    embedding_size=0,
)


def small(seed: int = 0) -> StyleTransform:
    """Random kernels, scales and shifts."""
    torch.manual_seed(seed)
    network = build("style_transform:4", len(STYLES))
    assert isinstance(network, StyleTransform)
    for module in network.modules():
        if isinstance(module, ConditionalInstanceNorm):
            torch.nn.init.normal_(module.scale, 1, 0.5)
            torch.nn.init.normal_(module.shift, 0, 0.5)
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("painter") / "net.safetensors"
    save_checkpoint(path, small(), CARD)
    return path


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARGUS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def shares(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(8, 8), (17, 40), (33, 18), (16, 64)])
def test_any_size_comes_back_as_that_size_within_0_and_1(size: tuple[int, int]):
    images = torch.rand(2, 3, *size)
    painted = small()(images, shares(1, 0, 0).expand(2, 3))
    assert painted.shape == images.shape
    assert 0 <= painted.min() < painted.max() <= 1


def test_picture_too_small_for_its_mirrored_borders_is_refused():
    with pytest.raises(ValueError, match="7 x 20 px: each side must have 8"):
        small()(torch.rand(1, 3, 7, 20), shares(1, 0, 0))


@torch.inference_mode()
def test_weights_of_one_style_give_that_of_a_network_that_has_no_other():
    network, alone = small(), build("style_transform:4", 1).eval()
    state = {
        name: value[1:2] if name.endswith(("scale", "shift")) else value
        for name, value in network.state_dict().items()
    }
    alone.load_state_dict(state)
    images = torch.rand(1, 3, 20, 24)
    assert torch.equal(network(images, shares(0, 1, 0)), alone(images, shares(1)))


@torch.inference_mode()
def test_a_blend_of_two_styles_is_neither_and_moves_with_its_shares():
    network, images = small(), torch.rand(1, 3, 32, 32)
    one, other = network(images, shares(1, 0, 0)), network(images, shares(0, 1, 0))
    steps = [network(images, shares(1 - part, part, 0)) for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
    away = [(step - one).abs().mean().item() for step in steps]
    assert away == sorted(away)
    assert away[0] == 0 < away[1]
    assert torch.equal(steps[-1], other)


@torch.inference_mode()
def test_conditional_norm_equals_the_statistics_taken_by_hand():
    norm, x = ConditionalInstanceNorm(2, 2), torch.randn(3, 2, 5, 6)
    norm.scale.copy_(torch.tensor([[2.0, 3.0], [10.0, 20.0]]))
    norm.shift.copy_(torch.tensor([[1.0, -1.0], [0.0, 4.0]]))
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    found = norm(x, weights)
    for row, (scale, shift) in enumerate(
        [((2, 3), (1, -1)), ((10, 20), (0, 4)), ((6, 11.5), (0.5, 1.5))]
    ):
        for channel in range(2):
            values = x[row, channel].double()
            wanted = (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
            wanted = wanted * scale[channel] + shift[channel]
            torch.testing.assert_close(found[row, channel].double(), wanted, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_each_picture_of_a_batch_is_normalised_for_itself():
    network, images = small(), torch.rand(3, 3, 16, 20)
    weights = torch.eye(3)
    whole = network(images, weights)
    for row in range(3):
        alone = network(images[row : row + 1], weights[row : row + 1])[0]
        torch.testing.assert_close(whole[row], alone, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_brightness_and_contrast_of_a_picture_hardly_matter():
    """What instance normalisation is for (Ulyanov et al. 2016, sec. 2)."""
    network, images = small(), torch.rand(1, 3, 32, 32)
    first, faint = (network(x, shares(1, 0, 0)) for x in (images, 0.4 + 0.3 * images))
    assert (first - faint).abs().max() < 0.02


def test_checkpoint_comes_back_with_its_styles_and_weights(checkpoint: Path):
    network, card = load_checkpoint(checkpoint, "cpu")
    assert card == CARD == read_card(checkpoint)
    assert isinstance(network, StyleTransform)
    assert (network.width, network.num_styles) == (4, 3)
    assert card.is_painter
    assert not card.is_embedder
    for name, value in small().state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def test_a_job_that_wants_class_names_refuses_a_painter(checkpoint: Path):
    with pytest.raises(ValueError, match=r"op.weights x: style_transform:4 paints .* waves, dots"):
        check_names(read_card(checkpoint), "op.weights x")


def test_a_painter_is_of_whole_pictures_and_has_styles():
    with pytest.raises(ValueError, match=r"style_transform:4 takes whole pictures .* not pictures"):
        replace(CARD, preprocess=Preprocess())
    with pytest.raises(ValueError, match="classes: 0 names"):
        replace(CARD, classes=())
    with pytest.raises(ValueError, match=r"given twice: \['waves'\]"):
        replace(CARD, classes=("waves", "waves"))


@pytest.mark.parametrize("name", ["style_transform:wide", "style_transform:0"])
def test_a_width_that_is_none_is_refused(name: str):
    with pytest.raises(ValueError, match="width must be a number above 0"):
        build(name, 2)


BLEND = {"waves": 1, "7": 3}
SIZES = ((16, 16), (33, 47), (16, 16), (64, 21))


def test_pictures_keep_their_sizes_and_bits_whichever_come_along(checkpoint: Path):
    stylist, contents = FeedForward(checkpoint, BLEND), pictures(*SIZES)
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
    again = FeedForward(checkpoint, {"0": 0.5, "7": 1.5, "dots": 0})(contents)
    for others in (backwards, alone, again):
        for ours, theirs in zip(together, others, strict=True):
            assert np.array_equal(ours.pixels, theirs.pixels)
    assert stylist([]) == []


@torch.inference_mode()
def test_pictures_painted_are_those_of_the_network_within_a_level(checkpoint: Path):
    """Compiled or not, filled up inside or outside."""
    stylist, network = FeedForward(checkpoint, BLEND), small()
    assert stylist.styles == {"waves": 0.25, "dots": 0, "7": 0.75}
    for content in pictures(*SIZES, (120, 90)):
        images = torch.from_numpy(content).permute(2, 0, 1)[None].float() / 255
        wanted = network(images, shares(0.25, 0, 0.75))[0].permute(1, 2, 0).numpy() * 255
        found = stylist([content])[0].pixels
        assert np.abs(found - wanted).max() < 0.51


def test_shares_are_by_name_or_number_and_divided_by_their_sum():
    def of(styles: Mapping[str, float]) -> list[float]:
        return style_weights(CARD, styles, "net").tolist()

    assert of({"dots": 2}) == [0, 1, 0] == of({"1": 0.1})
    assert of({"waves": 1, "1": 3}) == [0.25, 0.75, 0]
    assert of({"7": 1}) == of({"2": 1}) == [0, 0, 1]
    assert style_weights(replace(CARD, classes=("only",)), {}, "net").tolist() == [1]


@pytest.mark.parametrize(
    ("styles", "said"),
    [
        ({"waves": 1, "wabes": 1}, "'wabes' is not one of .*; it has waves, dots, 7"),
        ({"3": 1}, "'3' is not one of"),
        ({"waves": 0, "dots": 0}, "the shares of waves, dots are all 0"),
        ({"waves": -1, "dots": 3}, "waves has the share -1"),
        ({"waves": float("nan")}, "waves has the share nan"),
        ({}, "none said; .* has waves, dots, 7"),
    ],
)
def test_styles_that_cannot_be_are_refused(checkpoint: Path, styles: dict[str, float], said: str):
    with pytest.raises(ValueError, match=f"styles: {said}"):
        FeedForward(checkpoint, styles)


def test_a_classifier_is_refused_as_a_painter(tmp_path: Path):
    card = replace(
        CARD,
        network="residual",
        preprocess=Preprocess(height_px=32, width_px=32),
        embedding_size=160,
    )
    save_checkpoint(tmp_path / "net.safetensors", build("residual", 3), card)
    with pytest.raises(ValueError, match="residual paints no pictures"):
        FeedForward(tmp_path / "net.safetensors", {"waves": 1})


def test_pixels_and_images_are_one_network():
    network, pixels = small(), torch.from_numpy(np.stack(pictures((16, 20))))
    with torch.inference_mode():
        found = FromPixels(network)(pixels, shares(0, 0.5, 0.5))[0]
        images = pixels.permute(0, 3, 1, 2).float() / 255
        wanted = network(images, shares(0, 0.5, 0.5)).permute(0, 2, 3, 1) * 255
    torch.testing.assert_close(found, wanted)
    assert F.mse_loss(found, pixels.float()) > 100
