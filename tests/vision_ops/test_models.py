"""Networks: what their builders promise, by parameter count, shape and one law for all."""

import warnings
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models as torchvision_models

from vision_ops.card import FIXED_SIZE_PX, NUM_AXES
from vision_ops.models import NETWORKS, build, embed, embedding_size, logits_and_embeddings
from vision_ops.models.activations import ACTIVATIONS
from vision_ops.models.external import AUXILIARY
from vision_ops.models.resnet20 import PaddedBlock

ON_META = [
    name
    for name in torchvision_models.list_models(module=torchvision_models)
    if not name.startswith("regnet")  # these cannot be built without memory
]


def tiny(num_classes: int) -> nn.Module:
    """A network named as `module:function`."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )


def no_network(num_classes: int) -> int:
    return num_classes


def input_shape(network: str) -> tuple[int, ...]:
    """An input of the network, channels first."""
    size = FIXED_SIZE_PX.get(network, 40)
    return {1: (3, 40), 2: (3, size, size), 3: (3, 9, 12, 11)}[NUM_AXES[network]]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_cifar10_tutorial_network_has_the_parameters_that_keras_prints():
    # conv 3*3*3*32 + 32 = 896; 3*3*32*64 + 64 = 18,496; 3*3*64*64 + 64 = 36,928
    # 32 -> 30 -> 15 -> 13 -> 6 -> 4: dense 4*4*64*64 + 64 = 65,600; head 64*10 + 10 = 650
    assert count(build("cnn_cifar10", 10)) == 896 + 18_496 + 36_928 + 65_600 + 650 == 122_570


def test_224_pixel_tutorial_network_has_the_parameters_that_keras_prints():
    # conv 896; 18,496; 3*3*64*128 + 128 = 73,856; 3*3*128*128 + 128 = 147,584
    # 224 -> 222 -> 111 -> 109 -> 54 -> 52 -> 26 -> 24 -> 12: dense 12*12*128*512 + 512 = 9,437,696
    # head 512*10 + 10 = 5,130
    expected = 896 + 18_496 + 73_856 + 147_584 + 9_437_696 + 5_130
    assert count(build("cnn_224", 10)) == expected == 9_683_658


def test_residual_network_has_the_parameters_counted_by_hand():
    # every convolution without bias, two numbers a channel for its batch norm
    stem = 3 * 9 * 32 + 64
    blocks = sum(
        9 * inputs * outputs + 9 * outputs * outputs + inputs * outputs + 6 * outputs
        for inputs, outputs in ((32, 48), (48, 96), (96, 160))
    )
    assert count(build("residual", 10)) == stem + blocks + 160 * 10 + 10 == 553_482


CHOOSES_ITS_ACTIVATION = [name for name in NETWORKS if name != "fast_cifar10"]


@pytest.mark.parametrize(
    ("network", "activation"),
    [(name, kind) for name in CHOOSES_ITS_ACTIVATION for kind in ACTIVATIONS],
)
def test_every_network_of_ours_gives_logits_gradients_and_its_features(network, activation):
    torch.manual_seed(0)
    model: Any = build(network, 7, activation, channels=3)
    images = torch.rand(2, *input_shape(network))
    logits, embeddings = logits_and_embeddings(model, images)
    assert logits.shape == (2, 7)
    assert embeddings.shape == (2, embedding_size(model, input_shape(network)))
    logits.square().sum().backward()
    learnt = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learnt)
    kinds = {type(layer) for layer in model.modules()} & {nn.ReLU, nn.Sigmoid, nn.Tanh}
    assert kinds == {type(ACTIVATIONS[activation]())}
    model.eval()
    assert torch.equal(embed(model, images), model.features(images))


def test_airbench_has_gelu_alone_and_three_channels():
    with pytest.raises(ValueError, match="GELU"):
        build("fast_cifar10", 10, "tanh")
    with pytest.raises(ValueError, match="takes three"):
        build("fast_cifar10", 10, channels=1)


def test_resnet20_has_as_many_parameters_as_its_layers_say():
    """0.27 million in the paper's table 6."""
    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = sum(
        9 * inputs * outputs + 9 * outputs * outputs + 4 * outputs
        for inputs, outputs in pairwise(widths)
    )
    assert count(build("resnet20", 10)) == 9 * 3 * 16 + 32 + blocks + 650 == 269_722


def test_a_padded_shortcut_keeps_what_it_has_and_fills_up_with_zeros():
    block = PaddedBlock(4, 8, stride=2, activation="relu").eval()
    for layer in block.body:
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
    x = torch.rand(1, 4, 6, 6)
    found = block(x)
    assert torch.equal(found[:, 2:6], x[:, :, ::2, ::2])
    assert not found[:, :2].any()
    assert not found[:, 6:].any()


def make_airbench() -> Any:
    torch.manual_seed(0)
    model: Any = build("fast_cifar10", 10)
    smooth = F.interpolate(torch.randn(64, 3, 8, 8), 32, mode="bilinear")
    model.begin(smooth + 0.1 * torch.randn(64, 3, 32, 32))
    return model


def test_the_first_layer_of_airbench_whitens_the_patches_that_it_was_set_by():
    torch.manual_seed(0)
    model: Any = build("fast_cifar10", 10)
    images = 3 * F.interpolate(torch.randn(400, 3, 8, 8), 32) + torch.randn(400, 3, 32, 32)
    model.begin(images)
    out = model.whiten(images)[:, :12].permute(1, 0, 2, 3).flatten(1).detach()
    assert torch.allclose(torch.cov(out), torch.eye(12), atol=2e-3)
    assert torch.equal(model.whiten.weight[:12], -model.whiten.weight[12:])
    assert not model.whiten.weight.requires_grad


def test_airbench_answers_the_mean_of_six_views_in_evaluation_and_one_in_training():
    model = make_airbench()
    model(torch.randn(32, 3, 32, 32))  # statistics of batch norm
    model.eval()
    images = torch.randn(2, 3, 32, 32)
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    views = [(images, 1 / 4), (padded[:, :, :32, :32], 1 / 8), (padded[:, :, 2:, 2:], 1 / 8)]
    wanted = sum(
        part * model.head(model._seen(each)) / 9
        for view, part in views
        for each in (view, view.flip(3))
    )
    torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_same_seed_builds_the_same_network(network):
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(build(network, 3).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (96, 64)])
def test_residual_network_takes_pictures_of_any_size(size):
    model = build("residual", 4).eval()
    assert model(torch.rand(2, 3, *size)).shape == (2, 4)
    assert embedding_size(model, (3, *size)) == 160


def test_embedding_size_leaves_training_mode_and_statistics_alone():
    model = build("residual", 4).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embedding_size(model, (3, 32, 32))
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize("name", ON_META)
def test_embedding_of_every_torchvision_classifier_is_the_input_of_its_last_layer(name):
    options = {"aux_logits": False, "init_weights": False} if name in AUXILIARY else {}
    with torch.device("meta"):  # shapes only: 80 networks in seconds
        model = torchvision_models.get_model(name, weights=None, num_classes=7, **options).eval()
        side = 299 if name == "inception_v3" else 224
        with torch.inference_mode():
            logits, embeddings = logits_and_embeddings(model, torch.zeros(2, 3, side, side))
    assert logits.shape == (2, 7)
    assert embeddings.ndim == 2
    heads = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    head = heads[-1]
    wanted = head.in_features if isinstance(head, nn.Linear) else head.in_channels
    assert embeddings.shape == (2, wanted)


@pytest.mark.parametrize("network", ["torchvision:squeezenet1_1", "torchvision:resnet18"])
def test_torchvision_embedding_is_recomputed_by_hand(network):
    torch.manual_seed(0)
    model: Any = build(network, 5).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        if network.endswith("resnet18"):
            by_hand = nn.Sequential(*list(model.children())[:-1])(images).flatten(1)
        else:
            by_hand = model.features(images).mean(dim=(2, 3))  # dropout does nothing in eval
        torch.testing.assert_close(embed(model, images), by_hand)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_timm_embedding_is_what_timm_calls_pre_logits(name):
    torch.manual_seed(0)
    model: Any = build(f"timm:{name}", 5).eval()
    images = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        by_timm = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(embed(model, images), by_timm)
    assert timm.is_model(name)


def test_function_of_a_module_is_a_network():
    model = build(f"{__name__}:tiny", 3)
    assert model(torch.rand(2, 3, 9, 9)).shape == (2, 3)
    assert embed(model, torch.rand(2, 3, 9, 9)).shape == (2, 4)


@pytest.mark.parametrize(
    ("network", "activation", "words"),
    [
        ("resnet50", "relu", "torchvision:NAME"),
        ("torchvision:resnet5", "relu", "resnet50"),
        ("timm:resnet5_", "relu", "no such network"),
        ("residual", "gelu", "relu"),
        ("torchvision:resnet18", "tanh", "only"),
        ("no_such_module:net", "relu", "no_such_module"),
        ("torch:no_such_function", "relu", "no_such_function"),
        (f"{__name__}:no_network", "relu", "int"),
    ],
)
def test_unknown_network_or_activation_is_refused_with_what_exists(network, activation, words):
    with pytest.raises(ValueError, match=words):
        build(network, 3, activation)


def test_network_without_classes_is_refused():
    with pytest.raises(ValueError, match="num_classes 0"):
        build("residual", 0)


@pytest.mark.parametrize("name", sorted(AUXILIARY))
def test_networks_with_side_classifiers_are_built_without_them(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = build(f"torchvision:{name}", 3)
    model.train()
    assert isinstance(model(torch.rand(2, 3, 96, 96)), torch.Tensor)
