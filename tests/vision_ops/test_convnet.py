"""Convolutions over one, two, three axes: the arithmetic that tutorials teach, and networks."""

import pytest
import torch
from torch import nn

from vision_ops.card import check_size
from vision_ops.inputs import Inputs
from vision_ops.models import build
from vision_ops.models.convnet import ConvNet, convolution
from vision_ops.preprocess import Preprocess
from vision_ops.signals import SignalPreprocess
from vision_ops.volumes import VolumePreprocess


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("dims", "size", "channels", "after", "parameters"),
    [
        (1, (14,), 1, (10,), 5 * 1 * 16 + 16),
        (2, (14, 14), 3, (10, 10), 5 * 5 * 3 * 16 + 16),
        (3, (14, 14, 14), 1, (10, 10, 10), 5 * 5 * 5 * 1 * 16 + 16),
    ],
)
def test_sixteen_filters_of_five_turn_fourteen_places_into_ten(
    dims, size, channels, after, parameters
):
    layer = convolution(dims, channels, 16, kernel=5)
    assert layer(torch.zeros(1, channels, *size)).shape == (1, 16, *after)
    assert count(layer) == parameters


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 8])
def test_same_padding_keeps_every_size_also_where_the_kernel_is_even(dims, kernel):
    layer = convolution(dims, 2, 4, kernel, padding="same")
    assert layer(torch.rand(1, 2, *(9,) * dims)).shape == (1, 4, *(9,) * dims)


def test_an_even_kernel_sees_one_more_place_behind_than_before():
    layer = convolution(1, 1, 1, kernel=4, padding="same", bias=False)
    with torch.no_grad():
        next(layer.parameters()).copy_(torch.tensor([[[1.0, 10.0, 100.0, 1000.0]]]))
        found = layer(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    # place i sees i-1, i, i+1, i+2: one zero before the first, two behind the last, as in Keras
    assert found.tolist() == [[[3210.0, 4321.0, 432.0, 43.0]]]


def test_the_network_for_signals_has_the_parameters_of_the_paper():
    # 8*1*128, 5*128*256, 3*256*128 weights, two numbers a filter for batch norm, 128*2 + 2
    convolutions = 8 * 128 + 5 * 128 * 256 + 3 * 256 * 128
    expected = convolutions + 2 * (128 + 256 + 128) + 128 * 2 + 2
    assert count(build("convnet_1d", 2, channels=1)) == expected == 264_450


@pytest.mark.parametrize(
    ("network", "channels", "expected"),
    [
        ("convnet_2d", 3, 9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * 224 + 128 * 10 + 10),
        ("convnet_3d", 1, 27 * (1 * 16 + 16 * 32 + 32 * 64) + 2 * 112 + 64 * 10 + 10),
    ],
)
def test_the_others_have_the_parameters_counted_by_hand(network, channels, expected):
    assert count(build(network, 10, channels=channels)) == expected


@pytest.mark.parametrize(
    ("network", "sizes"),
    [
        ("convnet_1d", [(1,), (7,), (150,)]),
        ("convnet_2d", [(1, 1), (2, 9), (33, 20)]),
        ("convnet_3d", [(1, 1, 1), (5, 2, 9), (16, 16, 16)]),
    ],
)
def test_inputs_of_any_size_are_taken(network, sizes):
    model = build(network, 4, channels=2).eval()
    for size in sizes:
        assert model(torch.rand(2, 2, *size)).shape == (2, 4)


def test_the_mean_over_positions_is_what_the_last_layer_sees():
    torch.manual_seed(0)
    model = ConvNet(3, channels=1, dims=1, widths=(4, 6), kernels=(3, 3)).eval()
    inputs = torch.rand(2, 1, 20)
    with torch.inference_mode():
        by_hand = model.head(model.layers(inputs).mean(dim=2))
        assert torch.equal(model(inputs), by_hand)


def test_four_axes_are_refused():
    with pytest.raises(ValueError, match="dims 4: must be 1, 2 or 3"):
        convolution(4, 1, 1, 3)


@pytest.mark.parametrize(
    ("network", "preprocess", "said"),
    [
        ("convnet_1d", Preprocess(), "takes inputs of 1 axes, a picture has 2"),
        ("residual", SignalPreprocess(), "takes inputs of 2 axes, a signal has 1"),
        ("convnet_2d", VolumePreprocess(), "takes inputs of 2 axes, a volume has 3"),
    ],
)
def test_a_network_of_another_kind_of_input_is_refused(network: str, preprocess: Inputs, said: str):
    with pytest.raises(ValueError, match=said):
        check_size(network, preprocess)
