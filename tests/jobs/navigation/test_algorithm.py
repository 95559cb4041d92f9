"""Our words in RLlib's: what each field becomes, where parts run, streams of rooms, modules."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig

from jobs.navigation.agent import AgentConfig, begin
from jobs.navigation.algorithm import algorithm_config
from jobs.navigation.env import WorldConfig, make_world, tried
from jobs.navigation.learners import ReinforceLearner
from jobs.navigation.module import ModuleConfig, module_spec
from jobs.navigation.policy_gradient import PolicyGradientConfig, RolloutConfig, rest_of
from jobs.navigation.resources import NavigationResources, Placement, place

WORLD = WorldConfig(name="tests.jobs.navigation.worlds:corridor")
LEARN = PolicyGradientConfig(
    learning_rate=0.01,
    last_learning_rate=0.002,
    discount=0.9,
    gae_lambda=0.8,
    clip=0.3,
    entropy=0.04,
    last_entropy=0.01,
    value_weight=0.7,
    clip_norm=0.6,
)
ROLLOUT = RolloutConfig(steps=1_000, batch_steps=600, minibatch_steps=60, passes=3, worlds=7)


def made(learn: PolicyGradientConfig, placement: Placement) -> PPOConfig:
    card, _ = begin(AgentConfig(), WORLD, tried(WORLD), None)
    return algorithm_config(WORLD, card, learn, ROLLOUT, placement)


def test_each_of_our_fields_is_one_of_rllibs():
    placement = Placement(
        env_runners=3, cpus_per_env_runner=2.0, learners=2, gpus_per_learner=0.5, max_restarts=9
    )
    told = made(LEARN, placement)
    wanted = {
        "lr": [[0, 0.01], [1_000, 0.002]],
        "entropy_coeff": [[0, 0.04], [1_000, 0.01]],
        "gamma": 0.9,
        "lambda_": 0.8,
        "clip_param": 0.3,
        "vf_loss_coeff": 0.7,
        "grad_clip": 0.6,
        "grad_clip_by": "global_norm",
        "use_kl_loss": False,
        "train_batch_size_per_learner": 300,
        "minibatch_size": 30,
        "num_epochs": 3,
        "num_env_runners": 3,
        "num_cpus_per_env_runner": 2.0,
        "num_envs_per_env_runner": 7,
        "num_learners": 2,
        "num_gpus_per_learner": 0.5,
        "max_num_env_runner_restarts": 9,
        "restart_failed_env_runners": True,
    }
    assert {name: getattr(told, name) for name in wanted} == wanted


def test_reinforce_takes_each_batch_once_and_whole_and_trusts_the_rewards_seen():
    told = made(replace(LEARN, algorithm="reinforce", clip_norm=0), Placement())
    assert (told.lambda_, told.num_epochs, told.minibatch_size) == (1.0, 1, None)
    assert told.learner_class is ReinforceLearner
    assert told.grad_clip is None


def test_schedules_go_on_from_where_they_stood():
    rest = rest_of(LEARN, 0.25)
    assert rest.learning_rate == pytest.approx(0.008)
    assert rest.entropy == pytest.approx(0.0325)
    assert (rest.last_learning_rate, rest.last_entropy) == (0.002, 0.01)
    assert rest_of(LEARN, 1.5).learning_rate == pytest.approx(0.002)


def rooms_of(stream: int, seed: int) -> list[int]:
    """The seeds of the first episodes that a world of an env runner meets."""
    env = make_world(WORLD, stream)
    first = env.reset(seed=seed)[1]["seed"]
    return [first, *(env.reset()[1]["seed"] for _ in range(5))]


def test_no_two_worlds_of_all_env_runners_meet_the_same_rooms():
    # RLlib gives world i of env runner k the seed k + i
    met = [rooms_of(stream, stream + world) for stream in range(4) for world in range(5)]
    assert len({room for rooms in met for room in rooms}) == 4 * 5 * 6
    assert rooms_of(2, 7) == rooms_of(2, 7)


def test_seeds_next_to_each_other_share_no_rooms():
    card, _ = begin(AgentConfig(), WORLD, tried(WORLD), None)
    given = [
        algorithm_config(WORLD, card, LEARN, replace(ROLLOUT, seed=seed), Placement()).seed
        for seed in (0, 1, 2, 2_147_483_648)
    ]
    assert given[0] == 0
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in given)
    apart = [abs((a or 0) - (b or 0)) for a, b in zip(given, given[1:], strict=False)]
    assert min(apart) > 10_000  # worlds of all env runners count on from it


FRESH = """
import sys, torch
from ray.rllib.core.rl_module.rl_module import RLModule
module = RLModule.from_checkpoint(sys.argv[1])
seen = torch.arange(36 * 40 * 3).remainder(256).to(torch.uint8).reshape(1, 1, 36, 40, 3)
decided = module.forward_inference({"obs": seen})["action_dist_inputs"]
print(type(module).__name__, *decided[0].tolist())
"""


def test_a_fresh_process_restores_the_module_by_name(tmp_path: Path):
    card, _ = begin(AgentConfig(), WORLD, tried(WORLD), None)
    spec = module_spec(ModuleConfig(card=card))
    spec.observation_space, spec.action_space = (
        getattr(make_world(WORLD), name) for name in ("observation_space", "action_space")
    )
    torch.manual_seed(5)
    module = spec.build()
    module.save_to_path(tmp_path / "module")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "module")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    name, *logits = done.stdout.split()
    assert name == "PolicyModule"
    seen = torch.arange(36 * 40 * 3).remainder(256).to(torch.uint8).reshape(1, 1, 36, 40, 3)
    wanted = module.forward_inference({"obs": seen})["action_dist_inputs"][0]
    assert [float(each) for each in logits] == pytest.approx(wanted.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("fields", "cpus", "told"),
    [
        ({"env_runners": 3}, 2, "3 env runners of 1 CPU and 0 learners"),
        ({"learners": 1, "gpus_per_learner": 1.0}, 4, "do not fit 4 CPUs and 0 GPUs"),
    ],
)
def test_more_than_the_machine_has_is_refused(fields: dict[str, Any], cpus: int, told: str):
    with pytest.raises(ValueError, match=told):
        place(NavigationResources(**fields), cpus, 0)


@pytest.mark.parametrize(
    ("fields", "cpus", "gpus", "free", "env_runners"),
    [
        ({}, 2, 0, 2, 0),
        ({}, 16, 0, 16, 15),
        ({"learners": 2}, 16, 0, 16, 13),
        ({"learners": 2, "gpus_per_learner": 1.0}, 16, 2, 16, 15),
        ({"cpus_per_env_runner": 2.0}, 16, 0, 16, 7),
        ({}, 64, 0, 9, 8),
        ({}, 64, 0, 0, 0),
    ],
)
def test_env_runners_are_chosen_by_the_cpus_there_are(
    fields: dict[str, Any], cpus: int, gpus: int, free: int, env_runners: int
):
    assert place(NavigationResources(**fields), cpus, gpus, free).env_runners == env_runners
