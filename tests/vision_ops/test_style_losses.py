"""Costs of style transfer: on paper, against loops, and what their conventions promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_ops.losses import StyleConvention
from vision_ops.losses.style import (
    content_loss,
    gram_matrix,
    gram_sum,
    style_loss,
    total_variation,
)

CONVENTIONS: tuple[StyleConvention, ...] = ("paper", "mean", "relative")
# two channels over a map of one row and two columns
FEATURES = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]], dtype=torch.float64)
TARGET = torch.tensor([[[[0.0, 2.0]], [[1.0, 1.0]]]], dtype=torch.float64)


def random_maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gram_matrix_on_paper():
    # rows (1, 2) and (3, 4): 1+4, 3+8, 9+16, over 2 channels x 2 positions
    expected = torch.tensor([[[5.0, 11.0], [11.0, 25.0]]], dtype=torch.float64)
    assert torch.equal(gram_sum(FEATURES), expected)
    torch.testing.assert_close(gram_matrix(FEATURES), expected / 4, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("convention", "expected"),
    # differences 1, 0, 2, 3: squares add up to 14; those of the target to 6
    [("paper", 7.0), ("mean", 14 / 4), ("relative", 14 / 6)],
)
def test_content_loss_on_paper(convention: StyleConvention, expected: float):
    assert content_loss(FEATURES, TARGET, convention).tolist() == pytest.approx([expected], 1e-6)


@pytest.mark.parametrize(
    ("convention", "expected"),
    # G - A = (1, 9, 9, 23) with A = (4, 2, 2, 2): squares add up to 692, those of A to 28
    [("paper", 692 / (4 * 2**2 * 2**2)), ("mean", 692 / 4**2 / 2**2), ("relative", 692 / 28)],
)
def test_style_loss_on_paper(convention: StyleConvention, expected: float):
    loss = style_loss(gram_matrix(FEATURES), gram_matrix(TARGET), convention)
    assert loss.tolist() == pytest.approx([expected], 1e-6)


@pytest.mark.parametrize(
    ("convention", "expected"),
    # down 2, 0, -3; across 1, 0, -1, -3: squares add up to 24, of six values
    [("paper", 24.0), ("mean", 4.0), ("relative", 4.0)],
)
def test_total_variation_on_paper(convention: StyleConvention, expected: float):
    image = torch.tensor([[[[0.0, 1.0, 1.0], [2.0, 1.0, -2.0]]]], dtype=torch.float64)
    assert total_variation(image, convention).tolist() == pytest.approx([expected], 1e-6)


def test_the_papers_convention_is_eq_4_over_loops():
    result, style = random_maps(1, 3, 4, 5), random_maps(1, 3, 4, 5, seed=1)
    filters, positions = 3, 20
    summed = 0.0
    for i in range(filters):
        for j in range(filters):
            g = sum(result[0, i, y, x] * result[0, j, y, x] for y in range(4) for x in range(5))
            a = sum(style[0, i, y, x] * style[0, j, y, x] for y in range(4) for x in range(5))
            summed += float((g - a) ** 2)
    paper = summed / (4 * filters**2 * positions**2)
    tutorial = summed / (2 * 4 * 5 * 3) ** 2
    found = style_loss(gram_matrix(result), gram_matrix(style), "paper").item()
    assert found == pytest.approx(paper, 1e-9)
    assert found == pytest.approx(tutorial, 1e-9)


@settings(max_examples=25)
@given(
    channels=st.integers(1, 5),
    height=st.integers(2, 9),
    width=st.integers(1, 7),
    data=st.data(),
)
def test_gram_sums_of_tiles_add_up_to_that_of_the_whole(
    channels: int, height: int, width: int, data: st.DataObject
):
    cut = data.draw(st.integers(1, height - 1))
    maps = random_maps(2, channels, height, width, seed=height)
    parts = gram_sum(maps[:, :, :cut]) + gram_sum(maps[:, :, cut:])
    whole = gram_matrix(maps)
    torch.testing.assert_close(parts / (channels * height * width), whole)
    torch.testing.assert_close(whole, whole.mT)
    assert torch.linalg.eigvalsh(whole).min() > -1e-12


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_picture_of_a_batch_costs_what_it_costs_alone(convention: StyleConvention):
    maps, target = random_maps(3, 4, 5, 6), random_maps(3, 4, 5, 6, seed=1)
    grams, style = gram_matrix(maps), gram_matrix(target)[:1]
    together = (
        content_loss(maps, target, convention),
        style_loss(grams, style, convention),
        total_variation(maps, convention),
    )
    for index in range(3):
        one = slice(index, index + 1)
        alone = (
            content_loss(maps[one], target[one], convention),
            style_loss(grams[one], style, convention),
            total_variation(maps[one], convention),
        )
        assert [each[index].item() for each in together] == pytest.approx(
            [each.item() for each in alone]
        )


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_equal_features_cost_nothing_and_gradients_are_those_of_finite_differences(
    convention: StyleConvention,
):
    target = random_maps(2, 3, 4, 4, seed=1)
    assert content_loss(target, target, convention).tolist() == [0, 0]
    assert style_loss(gram_matrix(target), gram_matrix(target), convention).tolist() == [0, 0]
    maps = random_maps(2, 3, 4, 4).requires_grad_()

    def all_costs(values: torch.Tensor) -> torch.Tensor:
        style = style_loss(gram_matrix(values), gram_matrix(target), convention)
        return (
            content_loss(values, target, convention) + style + total_variation(values, convention)
        )

    assert torch.autograd.gradcheck(all_costs, (maps,))


def test_the_relative_convention_knows_neither_scale_nor_size_nor_black():
    maps, target = random_maps(1, 3, 4, 4), random_maps(1, 3, 4, 4, seed=1)
    cost = style_loss(gram_matrix(maps), gram_matrix(target), "relative")
    brighter = style_loss(gram_matrix(9 * maps), gram_matrix(9 * target), "relative")
    tiled = style_loss(gram_matrix(maps.tile(2, 3)), gram_matrix(target), "relative")
    torch.testing.assert_close(brighter, cost)
    torch.testing.assert_close(tiled, cost)
    black = torch.zeros(1, 3, 4, 4)
    assert content_loss(black, target.float(), "relative").item() == pytest.approx(1, 1e-6)
    assert content_loss(black, black, "relative").item() == 0
    assert math.isfinite(style_loss(gram_matrix(black), gram_matrix(black), "relative").item())
