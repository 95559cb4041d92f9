"""How an agent learns, in our words; and the one place that says it in RLlib's."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import gymnasium
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune.registry import register_env

from jobs.navigation.env import WorldConfig, make_world
from jobs.navigation.learners import ReinforceLearner
from jobs.navigation.module import ModuleConfig, module_spec
from vision_ops.card import Card

REGISTERED = "rllib-single-agent-env-v0"
"""Gymnasium's name of what RLlib's env runners make"""
WINDOW = 100
"""episodes of a mean that is told while learning"""


@dataclass(frozen=True, kw_only=True)
class PolicyGradientConfig:
    """By which policy gradient an agent learns, and with which weights."""

    algorithm: Literal["ppo", "reinforce"] = "ppo"
    """ppo: proximal policy optimisation with a clipped objective (Schulman et al. 2017, eq. 7);
    reinforce: plain policy gradient with the value as baseline (Williams 1992), which takes each
    batch once and as a whole"""
    learning_rate: float = 1e-3
    """of Adam, at the start"""
    last_learning_rate: float = 1e-4
    """at the last step; linear between"""
    discount: float = 0.99
    """gamma: what a reward a step later is worth"""
    gae_lambda: float = 0.95
    """of generalised advantage estimation (Schulman et al. 2016, eq. 16): 0 trusts the value of
    the next state, 1 the rewards seen; reinforce has 1"""
    clip: float = 0.2
    """epsilon of PPO: an action's probability gains nothing by changing by more than this part"""
    entropy: float = 0.01
    """weight of the policy's entropy, which keeps it trying, at the start"""
    last_entropy: float = 0.002
    """at the last step; linear between"""
    value_weight: float = 0.5
    """of the value's squared error beside the policy's loss"""
    clip_norm: float = 0.5
    """longest gradient that is followed as it is; 0: any"""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "last_learning_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"learn.{name} {getattr(self, name)}: must be between 0 and 1")
        for name in ("discount", "gae_lambda", "clip"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"learn.{name} {getattr(self, name)}: must be above 0, at most 1")
        for name in ("entropy", "last_entropy", "value_weight", "clip_norm"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"learn.{name} {getattr(self, name)}: must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How much is learnt, from how much at once, and on what it is judged."""

    steps: int = 120_000
    """actions that the agent takes while learning, over all worlds together"""
    batch_steps: int = 2_048
    """steps between two updates of the policy"""
    minibatch_steps: int = 256
    """of PPO: steps of one gradient"""
    passes: int = 4
    """of PPO: times that a batch is gone through"""
    worlds: int = 16
    """that each env runner acts in at a time"""
    evaluate_every: int = 20_480
    """steps after which it is judged, greedily, on episodes kept from learning"""
    evaluate_episodes: int = 100
    """of each such judgement"""
    target_success: float = 0.99
    """of two judgements in a row, at which learning ends early; above 1: never"""
    seed: int = 0
    """of first weights, rooms and actions"""

    def __post_init__(self) -> None:
        counts = ("steps", "batch_steps", "minibatch_steps", "passes", "worlds")
        for name in (*counts, "evaluate_every", "evaluate_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} {getattr(self, name)}: must be at least 1")
        if self.minibatch_steps > self.batch_steps:
            raise ValueError(
                f"training.minibatch_steps {self.minibatch_steps}: at most batch_steps, "
                f"{self.batch_steps}"
            )
        if self.seed < 0:
            raise ValueError(f"training.seed {self.seed}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an algorithm's parts run: all in this process, if nothing else is said."""

    env_runners: int = 0
    """processes that act in worlds; 0: this one does"""
    cpus_per_env_runner: float = 1.0
    learners: int = 0
    """processes that share each batch's gradient; 0: this one learns"""
    gpus_per_learner: float = 0.0
    max_restarts: int = 0
    """times that lost env runners are replaced"""


class Tell(RLlibCallback):
    """Notes of every episode whether it reached what the world is about."""

    def on_episode_end(self, *, episode: Any, metrics_logger: Any = None, **kwargs: Any) -> None:
        """Called by an env runner."""
        reached = episode.get_infos(-1).get("success", False)
        metrics_logger.log_value("success", float(reached), reduce="mean", window=WINDOW)


def make_algorithm(
    world: WorldConfig,
    card: Card,
    learn: PolicyGradientConfig,
    rollout: RolloutConfig,
    placement: Placement,
    *,
    frozen: bool = False,
) -> PPO:
    """RLlib's algorithm for an agent of this card in this world; Ray is up."""
    register_env("argus_world", _make_env)
    gymnasium.registry.pop(
        REGISTERED, None
    )  # a second algorithm of a process would be warned of it
    reinforce = learn.algorithm == "reinforce"
    spec = module_spec(ModuleConfig(card=card, frozen=frozen))
    config = (
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
            train_batch_size_per_learner=rollout.batch_steps // max(1, placement.learners),
            minibatch_size=None if reinforce else rollout.minibatch_steps,
            num_epochs=1 if reinforce else rollout.passes,
        )
        .rl_module(rl_module_spec=spec)
        .callbacks(Tell)
        .debugging(seed=rollout.seed, log_level="ERROR")
        .fault_tolerance(
            restart_failed_env_runners=True, max_num_env_runner_restarts=placement.max_restarts
        )
        .reporting(metrics_num_episodes_for_smoothing=WINDOW)
    )
    return cast(PPO, config.build_algo())


def _make_env(context: Any) -> gymnasium.Env:
    return make_world(context["world"])
