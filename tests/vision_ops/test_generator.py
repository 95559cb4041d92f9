"""Generators in use: pictures of any size, the same bits, and who takes which checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.untrained import save_untrained
from vision_ops.canvas import Canvas
from vision_ops.card import Card, check_names, read_card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.faces.detect import kind_of_detector
from vision_ops.learners.adversaries import as_images, as_pixels
from vision_ops.models import build
from vision_ops.noise import DecodeNumber, Noise
from vision_ops.normalize import normalize
from vision_ops.operators.stylize import StylizeConfig, check_styles
from vision_ops.pairs import PairPreprocess
from vision_ops.preprocess import Preprocess
from vision_ops.style.feed_forward import FeedForward
from vision_ops.style.gatys_config import GatysConfig
from vision_ops.style.generator import Translator
from vision_ops.style.make import make_stylists


def card(network: str = "unet:4x4", **more: Any) -> Card:
    told: dict[str, Any] = {
        "network": network,
        "classes": (),
        "preprocess": Canvas(longest_px=16),
        "licence": "CC0",
        "source": "random",
        "embedding_size": 0,
    }
    return Card(**{**told, **more})


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARGUS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Kernels larger than first ones: what is made is not grey."""
    path = tmp_path_factory.mktemp("generator") / "unet.safetensors"
    torch.manual_seed(0)
    network = build("unet:4x4", 0)
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(0.15 * torch.randn_like(tensor))
    save_checkpoint(path, network, card())
    return str(path)


@pytest.fixture(scope="module")
def translator(checkpoint: str) -> Translator:
    return Translator(checkpoint)


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("size", [(16, 16), (32, 48), (17, 31), (50, 16), (40, 21)])
def test_a_picture_of_any_size_keeps_it_and_is_what_the_network_makes(
    translator: Translator, checkpoint: str, size: tuple[int, int]
):
    (content,) = pictures(size)
    (made,) = translator([content])
    assert made.pixels.shape == content.shape
    assert made.pixels.dtype == np.uint8
    assert made.losses == {}
    network, _ = load_checkpoint(checkpoint, "cpu")
    fill = ((0, -size[0] % 16), (0, -size[1] % 16), (0, 0))
    whole = torch.from_numpy(np.pad(content, fill, mode="symmetric")[None])
    with torch.no_grad():
        wanted = as_pixels(network(as_images(whole)))[0, : size[0], : size[1]].numpy()
    assert np.abs(made.pixels.astype(int) - wanted).max() <= 1
    assert made.pixels.std() > 5


def test_bits_do_not_depend_on_what_else_is_asked_for(translator: Translator, checkpoint: str):
    contents = pictures((20, 30), (16, 16), (20, 30), (33, 40))
    together = [each.pixels for each in translator(contents)]
    alone = [translator([each])[0].pixels for each in reversed(contents)][::-1]
    again = [each.pixels for each in Translator(checkpoint, callers=2)(contents)]
    for found in (alone, again):
        assert all(np.array_equal(*both) for both in zip(found, together, strict=True))


def test_stylists_of_its_checkpoint_are_generators(checkpoint: str):
    stylists = make_stylists([], StylizeConfig(weights=checkpoint), 2)
    assert len(stylists) == 2
    assert all(isinstance(each[""], Translator) for each in stylists)
    assert check_styles(StylizeConfig(weights=checkpoint), read_card(checkpoint), checkpoint)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"styles": ("waves",)}, "op.styles: w is a generator .* has no styles"),
        ({"gatys": GatysConfig(steps=4)}, "op.gatys: w is a generator .* nothing is optimised"),
    ],
)
def test_styles_and_costs_named_with_a_generator_are_refused(asked: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        check_styles(StylizeConfig(weights="w", **asked), card(), "w")


def test_checkpoints_of_other_networks_are_refused_by_name(checkpoint: str, tmp_path: Path):
    classifier = save_untrained(tmp_path / "w.safetensors", size_px=32)
    with pytest.raises(ValueError, match="makes no pictures of pictures; .*train_translation"):
        Translator(classifier)
    with pytest.raises(ValueError, match="unet:4x4 paints no pictures"):
        FeedForward(checkpoint)
    with pytest.raises(ValueError, match="unet:4x4 finds no faces"):
        kind_of_detector(read_card(checkpoint), checkpoint)
    with pytest.raises(ValueError, match="makes pictures of pictures .*jobs.stylize"):
        check_names(read_card(checkpoint), "op.weights w")
    noise = card("dcgan:4x16", preprocess=Noise(), embedding_size=100)
    with pytest.raises(ValueError, match="makes pictures of noise .*jobs.generate"):
        check_names(noise, "op.weights w")


@pytest.mark.parametrize(
    "make",
    [
        lambda: card(preprocess=Preprocess(), embedding_size=3),
        lambda: card("dcgan:4x16"),
        lambda: card("residual", preprocess=Noise(), embedding_size=100),
        lambda: card(classes=("a",)),
        lambda: card("dcgan:4x16", preprocess=Noise(), embedding_size=0),
    ],
)
def test_cards_that_contradict_themselves_are_refused(make: Callable[[], Card]):
    with pytest.raises(ValueError, match=r"does not take|classes|embedding_size"):
        make()


def test_numbers_are_decoded_and_what_is_none_is_refused():
    decode, out = DecodeNumber(Noise()), np.zeros(1, np.int64)
    assert decode(b"4095", out) == ""
    assert out[0] == 4095
    for bad in (b"", b"-1", b"1.5", b"x"):
        assert "no number" in decode(bad, out)


def test_neither_pairs_nor_noise_are_normalised_as_pictures():
    for preprocess in (PairPreprocess(height_px=2, width_px=2), Noise()):
        with pytest.raises(ValueError, match="pairs and noise"):
            normalize(np.zeros((1, *preprocess.shape), preprocess.dtype), preprocess, "cpu")
