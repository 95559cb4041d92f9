"""Activations at named layers: the right ones, differentiable, and no more work than they need."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.untrained import save_random, save_untrained
from vision_ops.card import Card, read_card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.models import build
from vision_ops.models.encoder import vgg_aliases
from vision_ops.normalize import normalize
from vision_ops.signals import SignalPreprocess
from vision_ops.style.features import FeatureNetwork
from vision_ops.style.gatys_config import Pooling
from vision_ops.style.layers import LAMBDAS, LAYERS, layers_of


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_untrained(tmp_path_factory.mktemp("weights") / "residual.safetensors", 32)


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    return save_random(path, "torchvision:squeezenet1_1")


def pictures(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize(
    "preprocess", [{}, {"channels": "BGR", "scale": 1.0, "mean": (104.0, 117.0, 123.0)}]
)
def test_features_are_what_the_modules_give_for_pictures_as_the_card_wants_them(
    tmp_path: Path, preprocess: dict[str, Any]
):
    weights = save_random(tmp_path / "w.safetensors", "residual", **preprocess)
    pixels = pictures(2, 24, 40)
    found = FeatureNetwork(weights, ("blocks.1", "stem.2"))(as_tensor(pixels))
    model, card = load_checkpoint(weights, "cpu")
    with torch.no_grad():
        stem = model.get_submodule("stem")(normalize(pixels, card.preprocess, "cpu"))
        blocks = model.get_submodule("blocks.1")(model.get_submodule("blocks.0")(stem))
        before_pool = FeatureNetwork(weights, ("stem.2",))(as_tensor(pixels))["stem.2"]
    assert set(found) == {"blocks.1", "stem.2"}
    torch.testing.assert_close(found["blocks.1"], blocks, atol=1e-3, rtol=1e-3)
    assert torch.equal(found["stem.2"], before_pool)
    assert found["stem.2"].shape == (2, 32, 24, 40)


def test_nothing_runs_behind_the_last_layer(squeezenet: str):
    features = FeatureNetwork(squeezenet, ("features.3", "features.1"))
    ran: list[str] = []
    for name in ("features.3", "features.4", "classifier.1"):
        layer = features.network.get_submodule(name)
        layer.register_forward_hook(lambda *_, name=name: ran.append(name))
    features(torch.zeros(1, 3, 64, 64))
    assert "features.4" not in ran
    assert "classifier.1" not in ran


def test_what_works_in_place_leaves_the_layer_before_it_as_it_was(squeezenet: str):
    found = FeatureNetwork(squeezenet, ("features.0", "features.1"))(as_tensor(pictures(1, 40, 40)))
    assert found["features.0"].min() < 0
    assert torch.equal(found["features.0"].relu(), found["features.1"])


def test_pools_are_exchanged_over_the_same_windows(squeezenet: str, tmp_path: Path):
    images = as_tensor(pictures(1, 45, 50))
    pools: tuple[tuple[Pooling, Any], ...]
    pools = (("as_trained", F.max_pool2d), ("average", F.avg_pool2d))
    for pooling, pool in pools:
        names = ("features.1", "features.2")
        found = FeatureNetwork(squeezenet, names, pooling=pooling)(images)
        expected = pool(found["features.1"], 3, 2, ceil_mode=True)
        torch.testing.assert_close(found["features.2"], expected)
    densenet = save_random(tmp_path / "d.safetensors", "torchvision:densenet121")
    names = ("features.transition1.conv", "features.transition1.pool")
    found = FeatureNetwork(densenet, names, pooling="max")(images)
    torch.testing.assert_close(found[names[1]], F.max_pool2d(found[names[0]], 2))


def test_pixels_have_a_gradient_and_weights_have_none(residual: str):
    features = FeatureNetwork(residual, ("blocks.1",))
    images = as_tensor(pictures(1, 24, 24)).requires_grad_()
    features(images)["blocks.1"].square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in features.network.parameters())


def test_a_picture_too_small_for_the_depth_is_refused_on_either_side(squeezenet: str):
    features = FeatureNetwork(squeezenet, ("features.12",))
    least = features.least_side_px
    assert features(torch.zeros(1, 3, least, 200))["features.12"].shape[2] == 1
    for height, width in ((least - 1, 200), (200, least - 1)):
        with pytest.raises(ValueError, match=f"{height} x {width} px .* needs {least} px a side"):
            features(torch.zeros(1, 3, height, width))
    shallow = FeatureNetwork(squeezenet, ("features.1",))
    assert shallow.least_side_px == 3


def test_layers_that_there_are_not_are_refused_with_some_that_there_are(
    squeezenet: str, residual: str
):
    with pytest.raises(ValueError, match=r"no layer relu4_2; it has features\.0, features\.1, .*…"):
        FeatureNetwork(squeezenet, ("features.1", "relu4_2"))
    with pytest.raises(ValueError, match="head gives no map of positions"):
        FeatureNetwork(residual, ("head",))


def test_what_cannot_be_compared_by_is_refused(tmp_path: Path):
    weights = save_random(tmp_path / "r.safetensors", "resnet20")
    with pytest.raises(ValueError, match="has no pooling that could become average"):
        FeatureNetwork(weights, ("stem",), pooling="average")
    with pytest.raises(ValueError, match=r"no layers are known .* resnet20; name content_layers"):
        layers_of(read_card(weights), ("stem",), (), weights)
    assert layers_of(read_card(weights), ("a",), ("b",), weights) == (("a",), ("b",))
    signals = tmp_path / "s.safetensors"
    card = Card(
        network="convnet_1d",
        classes=("a", "b"),
        preprocess=SignalPreprocess(samples=50),
        licence="none",
        source="random",
        embedding_size=1,
    )
    save_checkpoint(signals, build("convnet_1d", 2, channels=1), card)
    with pytest.raises(ValueError, match=r"s\.safetensors: convnet_1d does not take pictures"):
        FeatureNetwork(signals, ("layers.0",))


def test_vgg_layers_have_the_names_that_papers_use():
    with torch.device("meta"):
        vgg19, with_norm = (build(f"torchvision:{name}", 2) for name in ("vgg19", "vgg19_bn"))
    aliases = vgg_aliases(vgg19)
    expected = {"conv1_1": 0, "relu1_1": 1, "pool1": 4, "relu2_1": 6, "relu3_1": 11}
    expected |= {"relu4_1": 20, "relu4_2": 22, "relu5_1": 29, "relu5_4": 35, "pool5": 36}
    assert {name: aliases[name] for name in expected} == {
        name: f"features.{index}" for name, index in expected.items()
    }
    assert len(aliases) == len(list(vgg19.get_submodule("features").children()))
    assert vgg_aliases(with_norm)["relu4_2"] == "features.32"


def test_known_weights_of_layers_are_as_many_as_these():
    assert all(len(LAYERS[name].style) == len(found) for (name, _), found in LAMBDAS.items())


@pytest.mark.parametrize("network", LAYERS)
def test_layers_of_the_table_are_layers_of_the_networks(network: str):
    with torch.device("meta"):
        model = build(network, 2)
    there = dict(model.named_modules())
    there |= vgg_aliases(model) if "vgg" in network else {}
    assert not [layer for names in LAYERS[network] for layer in names if layer not in there]
