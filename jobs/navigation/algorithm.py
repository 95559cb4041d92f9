"""How an agent learns, in RLlib's words: the one place that says it."""

from typing import Any, cast

import gymnasium
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune.registry import register_env

from jobs.navigation.env import WorldConfig, make_world
from jobs.navigation.learners import ReinforceLearner
from jobs.navigation.module import ModuleConfig, module_spec
from jobs.navigation.policy_gradient import PolicyGradientConfig, RolloutConfig
from jobs.navigation.raised import Telling
from jobs.navigation.resources import Placement
from vision_ops.card import Card

REGISTERED = "rllib-single-agent-env-v0"
"""Gymnasium's name of what RLlib's env runners make"""
SEEDS_APART = 1_000_003
"""between the seeds that RLlib gets for two of ours"""
RESTART_DELAY_S = 2.0
"""after which a lost env runner is there again"""
WINDOW = 100
"""episodes of a mean that is told while learning"""


class Tell(RLlibCallback):
    """Notes of every episode whether it reached what the world is about."""

    def on_episode_end(self, *, episode: Any, metrics_logger: Any = None, **kwargs: Any) -> None:
        """Called by an env runner."""
        reached = episode.get_infos(-1).get("success", False)
        metrics_logger.log_value("success", float(reached), reduce="mean", window=WINDOW)


def make_algorithm(config: PPOConfig) -> PPO:
    """RLlib's algorithm of an `algorithm_config`; Ray is up."""
    register_env("argus_world", _make_env)
    # else a second algorithm of a process is warned of
    gymnasium.registry.pop(REGISTERED, None)
    return cast(PPO, config.build_algo())


def algorithm_config(
    world: WorldConfig,
    card: Card,
    learn: PolicyGradientConfig,
    rollout: RolloutConfig,
    placement: Placement,
    *,
    frozen: bool = False,
) -> PPOConfig:
    """How an agent of this card learns in this world, in RLlib's fields."""
    reinforce, share = learn.algorithm == "reinforce", max(1, placement.learners)
    spec = module_spec(ModuleConfig(card=card, frozen=frozen))
    return (
        PPOConfig()
        .environment("argus_world", env_config={"world": world}, disable_env_checking=True)
        .env_runners(
            num_env_runners=placement.env_runners,
            num_cpus_per_env_runner=placement.cpus_per_env_runner,  # pyright: ignore[reportArgumentType]
            num_envs_per_env_runner=rollout.worlds,
            sample_timeout_s=600.0,
        )
        .learners(
            num_learners=placement.learners,
            num_gpus_per_learner=placement.gpus_per_learner,
            learner_class=ReinforceLearner if reinforce else None,
        )
        .training(
            lr=[[0, learn.learning_rate], [rollout.steps, learn.last_learning_rate]],
            gamma=learn.discount,
            lambda_=1.0 if reinforce else learn.gae_lambda,
            clip_param=learn.clip,
            use_kl_loss=False,
            vf_loss_coeff=learn.value_weight,
            vf_clip_param=float("inf"),
            entropy_coeff=cast(Any, [[0, learn.entropy], [rollout.steps, learn.last_entropy]]),
            grad_clip=learn.clip_norm or None,
            grad_clip_by="global_norm",
            train_batch_size_per_learner=rollout.batch_steps // share,
            minibatch_size=None if reinforce else max(1, rollout.minibatch_steps // share),
            num_epochs=1 if reinforce else rollout.passes,
        )
        .rl_module(rl_module_spec=spec)
        .callbacks(Tell)
        # its worlds count on from it, so those of two neighbours would meet the same rooms
        .debugging(seed=rollout.seed * SEEDS_APART % 2**31, log_level="ERROR")
        .fault_tolerance(
            restart_failed_env_runners=True,
            max_num_env_runner_restarts=placement.max_restarts,
            delay_between_env_runner_restarts_s=RESTART_DELAY_S,
        )
        .reporting(metrics_num_episodes_for_smoothing=WINDOW)
    )


def _make_env(context: Any) -> gymnasium.Env:
    env = make_world(context["world"], stream=context.worker_index)
    return Telling(env) if context.worker_index else env
