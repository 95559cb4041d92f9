"""Policy gradient: the loss and its gradient against what is computed by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from jobs.navigation.agent import AgentConfig, begin
from jobs.navigation.algorithm import algorithm_config, make_algorithm
from jobs.navigation.env import WorldConfig, interface_of, make_world
from jobs.navigation.learners import policy_gradient_loss
from jobs.navigation.policy_gradient import PolicyGradientConfig, RolloutConfig
from jobs.navigation.resources import Placement

WORLD = WorldConfig(name="tests.jobs.navigation.worlds:corridor")


def test_the_gradient_of_a_softmax_policy_on_paper():
    logits = torch.tensor([[0.0, 0.0], [1.0, -1.0]], requires_grad=True)
    actions, advantages = torch.tensor([0, 1]), torch.tensor([2.0, -3.0])
    chosen = logits.log_softmax(dim=1)[torch.arange(2), actions]
    policy_gradient_loss(chosen, advantages).backward()
    # of each row: advantage * (probabilities - one of the action taken), over two rows
    second = 1 / (1 + np.exp(-2.0))
    by_hand = [[2 * (0.5 - 1) / 2, 2 * 0.5 / 2], [-3 * second / 2, -3 * (1 - second - 1) / 2]]
    torch.testing.assert_close(logits.grad, torch.tensor(by_hand, dtype=torch.float32))


@pytest.fixture(scope="module")
def learner(local_ray: None) -> Any:
    """REINFORCE's, as RLlib makes it, of an agent in a corridor."""
    env = make_world(WORLD)
    card, _ = begin(AgentConfig(), WORLD, interface_of(env), None)
    learn = PolicyGradientConfig(algorithm="reinforce", entropy=0.1, value_weight=0.25)
    rollout = RolloutConfig(batch_steps=64, minibatch_steps=32, worlds=2)
    algorithm = make_algorithm(algorithm_config(WORLD, card, learn, rollout, Placement()))
    group: Any = algorithm.learner_group
    yield group._learner
    algorithm.stop()


def batch_of(count: int, padded: int) -> dict[str, Any]:
    torch.manual_seed(0)
    mask = torch.ones(count + padded, dtype=torch.bool)
    mask[count:] = False
    return {
        Columns.OBS: torch.randint(0, 256, (count + padded, 1, 36, 40, 3), dtype=torch.uint8),
        Columns.ACTIONS: torch.randint(0, 2, (count + padded,)),
        Columns.LOSS_MASK: mask,
        Postprocessing.ADVANTAGES: torch.randn(count + padded),
        Postprocessing.VALUE_TARGETS: torch.randn(count + padded),
    }


def test_the_loss_of_reinforce_is_that_of_the_steps_that_were_taken(learner: Any):
    batch, module = batch_of(6, padded=2), learner.module["default_policy"].unwrapped()
    config = learner.config.get_config_for_module("default_policy")
    loss = learner.compute_loss_for_module(
        module_id="default_policy",
        config=config,
        batch=batch,
        fwd_out=module.forward_train(batch),
    )
    with torch.no_grad():
        logits = module._forward(batch)[Columns.ACTION_DIST_INPUTS][:6].double()
        values = module.compute_values(batch)[:6].double()
    probabilities = logits.softmax(dim=1).numpy()
    expected = 0.0
    for row in range(6):  # not the padding
        chosen = probabilities[row, int(batch[Columns.ACTIONS][row])]
        advantage = float(batch[Postprocessing.ADVANTAGES][row])
        error = float(values[row]) - float(batch[Postprocessing.VALUE_TARGETS][row])
        entropy = -(probabilities[row] * np.log(probabilities[row])).sum()
        expected += (-np.log(chosen) * advantage + 0.25 * error**2 - 0.1 * entropy) / 6
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_reinforce_is_that_of_the_policy_and_the_value(learner: Any):
    batch, module = batch_of(6, padded=2), learner.module["default_policy"].unwrapped()
    config = learner.config.get_config_for_module("default_policy")
    fwd_out = module.forward_train(batch)
    module.zero_grad()
    learner.compute_loss_for_module(
        module_id="default_policy", config=config, batch=batch, fwd_out=fwd_out
    ).backward()
    with torch.no_grad():
        chances = fwd_out[Columns.ACTION_DIST_INPUTS][:6].softmax(dim=1)
        taken = torch.nn.functional.one_hot(batch[Columns.ACTIONS][:6], 2)
        advantages = batch[Postprocessing.ADVANTAGES][:6, None]
        entropy = -(chances * chances.log()).sum(dim=1, keepdim=True)
        by_policy = advantages * (chances - taken)
        by_entropy = 0.1 * chances * (chances.log() + entropy)
        errors = fwd_out[Columns.EMBEDDINGS][:6] - batch[Postprocessing.VALUE_TARGETS][:6]
    found = module.policy.policy.bias.grad, module.policy.value.bias.grad
    torch.testing.assert_close(found[0], (by_policy + by_entropy).mean(dim=0))
    torch.testing.assert_close(found[1], 0.25 * 2 * errors.mean()[None])
