"""How an agent learns, in our words. Light: a command is understood without RLlib."""

from dataclasses import dataclass, replace
from typing import Literal


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
    """actions that the agent takes while learning, over all worlds together, in whole batches;
    another number is another run"""
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


def rest_of(learn: PolicyGradientConfig, done: float) -> PolicyGradientConfig:
    """The schedules from where they stand when this part of the steps, 0..1, is done."""
    share = min(done, 1.0)
    rate = learn.learning_rate + share * (learn.last_learning_rate - learn.learning_rate)
    entropy = learn.entropy + share * (learn.last_entropy - learn.entropy)
    return replace(learn, learning_rate=rate, entropy=entropy)
