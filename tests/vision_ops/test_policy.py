"""Policies put together by hand: what decides, what is remembered, what a batch must not change."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vision_ops.card import Card, card_from_json, card_to_json, check_names
from vision_ops.metrics.navigation import path_efficiency
from vision_ops.models import build
from vision_ops.models.policy import MEMORY, Policy, split_policy
from vision_ops.preprocess import Preprocess

ENCODERS = {"tiles:5x6x4": (20, 24), "nature:36x40": (36, 40), "residual": (16, 16)}


def made(network: str, num_actions: int = 3) -> Policy:
    """With heads that decide, not the almost even ones of the start."""
    torch.manual_seed(0)
    policy: Any = build(network, num_actions)
    nn.init.normal_(policy.policy.weight)
    for layer in policy.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.get_buffer("running_mean"), -0.3, 0.3)
    return policy


def frames(encoder: str, num_frames: int, batch: int = 2, steps: int = 3) -> Tensor:
    """Random pictures (B, T, F, 3, H, W)."""
    torch.manual_seed(1)
    return torch.randn(batch, steps, num_frames, 3, *ENCODERS[encoder])


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("num_frames", [1, 3])
def test_each_picture_goes_through_the_encoder_alone(encoder: str, num_frames: int):
    policy = made(f"policy:{encoder}/{num_frames}")
    seen = frames(encoder, num_frames)
    decision = policy(seen, torch.zeros(2, 0))
    for row in range(2):
        for step in range(3):
            each = [policy.encoder(seen[row, step, f][None])[0] for f in range(num_frames)]
            features = torch.cat([one.flatten(1).mean(1) if one.ndim == 3 else one for one in each])
            torch.testing.assert_close(decision.logits[row, step], policy.policy(features))
            torch.testing.assert_close(decision.value[row, step], policy.value(features)[0])


def test_a_memory_of_steps_together_is_that_of_one_after_the_other():
    policy = made("policy_gru:tiles:5x6x4/1")
    seen, memory = frames("tiles:5x6x4", 1), torch.zeros(2, MEMORY)
    whole = policy(seen, memory)
    for step in range(3):
        one = policy(seen[:, step : step + 1], memory)
        torch.testing.assert_close(one.logits[:, 0], whole.logits[:, step])
        memory = one.memory
    torch.testing.assert_close(memory, whole.memory)
    again = policy(seen[:, -1:], torch.zeros(2, MEMORY))
    assert not torch.allclose(again.logits[:, 0], whole.logits[:, -1])


def test_what_an_action_is_worth_does_not_hang_on_the_rest_of_the_batch():
    policy = made("policy:residual/1").train()  # with batch norm
    seen = frames("residual", 1, batch=4)
    whole = policy(seen, torch.zeros(4, 0))
    alone = policy(seen[:1], torch.zeros(1, 0))
    torch.testing.assert_close(alone.logits, whole.logits[:1])
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    policy(seen, torch.zeros(4, 0))
    assert all(torch.equal(before[name], t) for name, t in policy.state_dict().items())


def test_a_frozen_encoder_gets_no_gradient_and_the_heads_do():
    policy = made("policy:tiles:5x6x4/1")
    policy.freeze()
    decision = policy.train()(frames("tiles:5x6x4", 1), torch.zeros(2, 0))
    (decision.logits.sum() + decision.value.sum()).backward()
    assert all(parameter.grad is None for parameter in policy.encoder.parameters())
    assert policy.policy.weight.grad is not None
    assert policy.value.weight.grad is not None


def test_a_new_policy_tries_each_action_about_as_often():
    torch.manual_seed(0)
    policy = build("policy:tiles:5x6x4/1", 4)
    chances = policy(frames("tiles:5x6x4", 1), torch.zeros(2, 0)).logits.softmax(-1)
    assert (chances - 0.25).abs().max() < 0.01


@pytest.mark.parametrize(
    "network",
    ["policy:tiles:5x6x4", "policy:/1", "policy:tiles:5x6x4/0", "policy:residual/x", "policy_gru:"],
)
def test_names_without_encoder_or_frames_are_refused(network: str):
    with pytest.raises(ValueError, match="ENCODER/FRAMES"):
        build(network, 3)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("tiles:5x6", "ROWSxCOLUMNSxPIXELS"),
        ("tiles:4x9x5", "at least 5 x 5 tiles"),
        ("nature:84", "HEIGHTxWIDTH"),
        ("nature:30x84", "at least 36 x 36"),
        ("tiles:5x0x3", "1..1024"),
    ],
)
def test_encoders_of_impossible_sizes_are_refused(network: str, told: str):
    with pytest.raises(ValueError, match=told):
        build(network, 3)


@pytest.mark.parametrize(("height", "width"), [(84, 84), (36, 36), (48, 64), (39, 41)])
def test_nature_fits_any_size_that_its_name_says(height: int, width: int):
    logits = build(f"nature:{height}x{width}", 4)(torch.zeros(2, 3, height, width))
    assert logits.shape == (2, 4)


def card(network: str, height: int = 20, width: int = 24) -> Card:
    return Card(
        network=network,
        classes=("left", "right", "forward"),
        preprocess=Preprocess(height_px=height, width_px=width, resize_px=0),
        licence="Apache-2.0",
        source="a test",
        embedding_size=128,
    )


def test_the_card_of_a_policy_comes_back_and_says_what_it_is_for():
    made_card = card("policy:tiles:5x6x4/2")
    assert card_from_json(card_to_json(made_card)) == made_card
    assert split_policy(made_card.network) == ("tiles:5x6x4", 2)
    with pytest.raises(ValueError, match="evaluate_navigation"):
        check_names(made_card, "op.weights w.safetensors")


@pytest.mark.parametrize(
    "network", ["policy:tiles:5x6x4/1", "policy_gru:tiles:5x6x4/1", "tiles:5x6x4"]
)
def test_the_card_of_another_size_is_refused(network: str):
    with pytest.raises(ValueError, match="takes pictures of 20 x 24 pixels, not 24 x 24 x 3"):
        card(network, height=24)


def test_path_efficiency_on_paper():
    success = np.array([True, True, False, True])
    shortest, taken = np.array([4, 5, 6, 10]), np.array([4, 10, 6, 8])
    # 1, a half, nothing, and no more than 1 where the path that was known is no shortest one
    assert path_efficiency(success, shortest, taken) == pytest.approx((1 + 0.5 + 0 + 1) / 4)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 50), st.integers(1, 50)), min_size=1))
def test_path_efficiency_is_at_most_the_share_of_success(rows: list[tuple[bool, int, int]]):
    success, shortest, taken = (np.array(column) for column in zip(*rows, strict=True))
    assert 0 <= path_efficiency(success, shortest, taken) <= success.mean() + 1e-12


def test_path_efficiency_of_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="no episodes"):
        path_efficiency(np.zeros(0, bool), np.zeros(0, int), np.zeros(0, int))
    with pytest.raises(ValueError, match="must be known"):
        path_efficiency(np.array([True]), np.array([-1]), np.array([3]))
