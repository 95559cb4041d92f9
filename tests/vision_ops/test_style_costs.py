"""What painted pictures cost, recomputed by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vision_ops.learners.style_costs import (
    FeatureMaps,
    content_cost,
    gram_matrix,
    style_cost,
    total_variation,
)
from vision_ops.preprocess import Preprocess

PLAIN = Preprocess(mean=(0, 0, 0), std=(1, 1, 1), scale=255)


@given(seed=st.integers(0, 99))
def test_gram_matrix_is_symmetric_positive_and_blind_to_places(seed: int):
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    gram = gram_matrix(maps)
    torch.testing.assert_close(gram, gram.mT)
    assert torch.linalg.eigvalsh(gram.double()).min() > -1e-6
    mixed = maps.flatten(2)[:, :, torch.randperm(20)].reshape(maps.shape)
    torch.testing.assert_close(gram_matrix(mixed), gram)
    by_hand = sum(maps[1, 0, y, x] * maps[1, 2, y, x] for y in range(4) for x in range(5)) / 60
    torch.testing.assert_close(gram[1, 0, 2], by_hand)


def test_costs_are_0_for_the_same_and_1_for_nothing():
    maps = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    grams = [gram_matrix(each) for each in maps]
    nothing = [torch.zeros_like(each) for each in maps]
    for found, wanted in ((maps, 0.0), (nothing, 1.0)):
        torch.testing.assert_close(content_cost(found[0], maps[0]), torch.full((2,), wanted))
        torch.testing.assert_close(style_cost(found, grams), torch.full((2,), wanted))


def test_style_cost_is_the_mean_over_layers_on_a_case_of_paper():
    """One channel: Gram matrices are means of squares, 4 and 1 of the style, 1 and 9 found."""
    found = [torch.ones(1, 1, 2, 2), torch.full((1, 1, 1, 3), 3.0)]
    grams = [torch.full((1, 1, 1), 4.0), torch.full((1, 1, 1), 1.0)]
    wanted = ((1 - 4) ** 2 / 16 + (9 - 1) ** 2 / 1) / 2
    assert style_cost(found, grams).item() == pytest.approx(wanted, rel=1e-6)


def test_style_cost_does_not_depend_on_the_scale_of_the_features():
    maps, style = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 9, 7)
    first, scaled = (style_cost([k * maps], [gram_matrix(k * style)]) for k in (1.0, 50.0))
    torch.testing.assert_close(first, scaled)


def test_total_variation_on_a_case_of_paper():
    image = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.5]])[None, None]
    down = (0**2 + 1**2 + 0.5**2) / 3
    across = (1**2 + 1**2 + 0**2 + 0.5**2) / 4
    assert total_variation(image).item() == pytest.approx(down + across)


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(5, 2))


def test_feature_maps_are_those_of_the_layers_though_the_next_one_writes_in_place():
    plain, images = convolutions(), torch.rand(2, 3, 8, 9)
    maps = FeatureMaps(convolutions(), PLAIN, ("2", "0"))(images)  # the linear layer would not fit
    with torch.no_grad():
        wanted = [plain[:3](images), plain[0](images)]
    for found, expected in zip(maps, wanted, strict=True):
        torch.testing.assert_close(found, expected)


def test_feature_maps_see_what_the_card_says_that_networks_see():
    preprocess = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), scale=127.5, channels="BGR")
    identity = nn.Sequential(nn.Identity(), nn.Conv2d(3, 1, 1))
    images = torch.rand(1, 3, 4, 4)
    found = FeatureMaps(identity, preprocess, ("0",))(images)[0].numpy()
    pixels = 255 * images.numpy()[:, ::-1]
    mean, std = (np.array(each)[:, None, None] for each in (preprocess.mean, preprocess.std))
    np.testing.assert_allclose(found, (pixels / 127.5 - mean) / std, rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_pictures_and_no_weight():
    network = convolutions()
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    FeatureMaps(network, PLAIN, ("3",))(images)[0].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("layers", "said"),
    [(("9",), "layers 9: the feature network has not"), (("4",), "gives no map")],
)
def test_layers_that_give_no_map_are_refused(layers: tuple[str, ...], said: str):
    with pytest.raises(ValueError, match=said):
        FeatureMaps(convolutions(), PLAIN, layers)(torch.rand(1, 3, 5, 5))
