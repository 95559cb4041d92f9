"""Learning by rollouts: RLlib's algorithm driven to the end, judged, kept, and gone on with.

What it leaves in the run directory, each file put whole:

checkpoints/{last,best}.safetensors           the policy and its card, at each judgement
checkpoints/{last,best}.encoder.safetensors   its encoder: an ordinary network of pictures
checkpoints/state.pt                          what the next attempt goes on from
metrics.jsonl                                 a line per judgement
"""

import hashlib
import io
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPO

from jobs.navigation.agent import build_of
from jobs.navigation.algorithm import algorithm_config, make_algorithm
from jobs.navigation.env import FIRST_SEED, WorldConfig, unshaped
from jobs.navigation.judging import best_of, describe, judgement
from jobs.navigation.playing import play, policy_mind
from jobs.navigation.policy_gradient import PolicyGradientConfig, RolloutConfig, rest_of
from jobs.navigation.raised import take_what_was_told
from jobs.navigation.resources import NavigationResources, place
from jobs.runtime.checkpoints import LAST, METRICS, STATE
from jobs.runtime.learner import Metrics
from jobs.runtime.progress import Progress, clock
from jobs.runtime.ray_start import start_ray
from jobs.runtime.run import Run
from vision_ops.card import Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.models import build, head_of
from vision_ops.models.policy import Policy, split_policy

logger = logging.getLogger(__name__)

MODULE = "default_policy"
"""RLlib's name of the one module"""
LAST_ENCODER = LAST.replace(".safetensors", ".encoder.safetensors")
LEARNT = ("policy_loss", "vf_loss", "entropy", "vf_explained_var")
"""of RLlib's learner, told of each judgement"""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is learnt, in which world, by what."""

    world: WorldConfig
    card: Card
    learn: PolicyGradientConfig
    rollout: RolloutConfig
    resources: NavigationResources
    start: Mapping[str, torch.Tensor]
    """first weights of the policy; empty: fresh ones"""
    frozen: bool
    """the encoder stays as it is"""


def learn(run: Run, lesson: Lesson) -> list[Metrics]:
    """Learn to the end, from where the last attempt stood; a line per judgement.

    Starts or joins Ray. Raises ValueError where it has not what the resources ask for, and what the
    world raises.
    """
    start_ray(lesson.resources.ray)
    take_what_was_told()  # of an earlier training
    run.lap("start")
    pupil = Pupil(run, lesson)
    try:
        pupil.go_on()
    finally:
        pupil.algorithm.stop()
    return pupil.history


class Pupil:
    """One attempt at learning."""

    def __init__(self, run: Run, lesson: Lesson) -> None:
        self.run, self.lesson = run, lesson
        kept = load_state(run)
        self.history: list[Metrics] = kept.get("history", [])
        self.begun_at: int = kept.get("step", 0)
        self.seconds: float = kept.get("seconds", 0.0)
        self.judged: str = kept.get("judged", "")
        """sha256 of the last checkpoint, at the last judgement that counts"""
        self.step = self.begun_at
        if kept:
            logger.info("going on from step %s", f"{self.begun_at:,}")
            self._put_best()
        self.told: Metrics = {}
        learn = rest_of(lesson.learn, self.begun_at / lesson.rollout.steps)
        rollout = lesson.rollout
        # of a seed of its own: each attempt would meet the rooms of the first one again
        left = replace(
            rollout,
            steps=max(1, rollout.steps - self.begun_at),
            seed=rollout.seed + self.begun_at,
        )
        have, free = ray.cluster_resources(), ray.available_resources()
        cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
        placement = place(lesson.resources, cpus, gpus, free.get("CPU", 0.0))
        config = algorithm_config(
            lesson.world, lesson.card, learn, left, placement, frozen=lesson.frozen
        )
        self.algorithm: PPO = make_algorithm(config)
        if kept:
            set_learner(self.algorithm, as_arrays(kept["learner"]))
        elif lesson.start:
            weights = {f"policy.{name}": value.numpy() for name, value in lesson.start.items()}
            set_learner(self.algorithm, {"rl_module": {MODULE: weights}})
        run.lap("building")

    def go_on(self) -> None:
        """Learn until the steps are done or the target is reached."""
        rollout = self.lesson.rollout
        self.since = self.kept = time.monotonic()
        with Progress(rollout.steps, 0, self._line) as progress:
            progress.rows = self.step
            progress.history = [(progress.start, progress.share)]
            while self.step < rollout.steps and not self.is_enough:
                result = self._train()
                before = self.step
                sampled = result.get("num_env_steps_sampled_lifetime", before - self.begun_at)
                self.step = self.begun_at + int(sampled)
                self.told = told_of(result)
                progress.add(min(self.step, rollout.steps) - before, 0, 0)
                every, last = rollout.evaluate_every, self.step >= rollout.steps
                if self.step // every > before // every or last:
                    self._judge()
                if time.monotonic() - self.kept > self.lesson.resources.checkpoint_every_s:
                    self._keep()
        self.run.lap("learning")

    def _train(self) -> dict[str, Any]:
        try:
            result = self.algorithm.train()
        except RuntimeError as failure:
            if failure.args or failure.__cause__ is None:
                raise
            raise failure.__cause__ from None  # what a world raised: RLlib's own says nothing
        if told := take_what_was_told():
            raise RuntimeError(told)
        return result

    @property
    def is_enough(self) -> bool:
        """Whether the last two judgements reached the target."""
        target = self.lesson.rollout.target_success
        return len(self.history) > 1 and all(m["success"] >= target for m in self.history[-2:])

    def _judge(self) -> None:
        """Play episodes kept from learning; put checkpoints, metrics and state."""
        rollout = self.lesson.rollout
        policy = policy_of(self.algorithm, self.lesson.card)
        seeds = range(
            FIRST_SEED["validation"], FIRST_SEED["validation"] + rollout.evaluate_episodes
        )
        played = play(policy_mind(policy, self.lesson.card), self.lesson.world, seeds, greedy=True)
        self._count()
        judged = {"step": self.step, **judgement(played), **self.told, "seconds": self.seconds}
        self.history.append(judged)
        files = checkpoint_files(policy, self.lesson.card)
        for name, data in files.items():
            self.run.put(name, data)
        self.judged = hashlib.sha256(files[LAST]).hexdigest()
        lines = [json.dumps(line) + "\n" for line in self.history]
        self.run.put(METRICS, "".join(lines).encode())
        self._keep()  # with it the judgement counts as done
        self._put_best()
        logger.info("%s", describe(judged, rollout.steps))

    def _put_best(self) -> None:
        """Let the last checkpoints be the best where they are; again where a kill prevented it."""
        if not self.history or best_of(self.history) is not self.history[-1]:
            return
        files = {name: self.run.storage.read(self.run.path(name)) for name in (LAST, LAST_ENCODER)}
        # else a kill left those of a judgement that does not count
        if hashlib.sha256(files[LAST]).hexdigest() == self.judged:
            for name, data in files.items():
                self.run.put(name.replace("last", "best"), data)

    def _keep(self) -> None:
        self._count()
        learner = learner_state(self.algorithm)
        state = {"rl_module": weights_of(learner), "optimizer": as_tensors(learner["optimizer"])}
        data = io.BytesIO()
        kept = {"learner": state, "history": self.history, "judged": self.judged}
        torch.save({**kept, "step": self.step, "seconds": self.seconds}, data)
        self.run.put(STATE, data.getvalue())
        self.kept = time.monotonic()

    def _count(self) -> None:
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now

    def _line(self, progress: Progress) -> str:
        parts = [f"{progress.share:4.0%}", f"{self.step:,}/{progress.total_rows:,} steps"]
        if "train_success" in self.told:
            learns = f"as it learns: success {self.told['train_success']:.0%}"
            if self.lesson.world == unshaped(self.lesson.world):  # else the return holds shaping
                learns += f", return {self.told['train_return']:.2f}"
            parts.append(learns)
        if self.history:
            last = self.history[-1]
            told = f"success {last['success']:.0%}, return {last['return']:.2f}"
            parts.append(f"seeds kept back: {told}")
        steps_per_s = progress.speed * progress.total_rows
        return "  ".join(
            [*parts, f"{steps_per_s:,.0f} steps/s", f"{clock(progress.seconds_left)} left"]
        )


def told_of(result: Mapping[str, Any]) -> Metrics:
    """What RLlib tells of a batch: of the last episodes, and of the learner."""
    names = {"episode_return_mean": "return", "success": "success", "episode_len_mean": "length"}
    # neither is there where all env runners were lost before their first episode
    runners, learner = result.get("env_runners", {}), result.get("learners", {}).get(MODULE, {})
    told = {f"train_{ours}": runners.get(theirs) for theirs, ours in names.items()}
    told |= {name: learner.get(name) for name in LEARNT}
    return {n: float(value) for n, value in told.items() if value is not None and value == value}


def policy_of(algorithm: PPO, card: Card) -> Policy:
    """A copy of the policy as it stands at the learner."""
    policy = build_of(card)
    weights = weights_of(learner_state(algorithm))[MODULE]
    policy.load_state_dict({name.removeprefix("policy."): t for name, t in weights.items()})
    return policy.eval()


def learner_state(algorithm: PPO) -> dict[str, Any]:
    """Of the first learner: `rl_module` and `optimizer`, arrays and numbers."""
    assert algorithm.learner_group is not None, "a stopped algorithm"
    return algorithm.learner_group.get_state(components=["learner"])["learner"]


def weights_of(state: Mapping[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """Of each module of a learner's state; RLlib has made numbers of tensors of no axis."""
    return {
        name: {key: torch.as_tensor(np.asarray(value)) for key, value in weights.items()}
        for name, weights in state["rl_module"].items()
    }


def checkpoint_files(policy: Policy, card: Card) -> dict[str, bytes]:
    """What is put of a policy, by name in the run: itself and its encoder."""
    parts = {LAST: (policy, card), LAST_ENCODER: encoder_of(policy, card)}
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "one.safetensors", {}
        for name, (network, its_card) in parts.items():
            save_checkpoint(path, network, its_card)
            data[name] = path.read_bytes()
        return data


def encoder_of(policy: Policy, card: Card) -> tuple[torch.nn.Module, Card]:
    """The encoder as a network of pictures like any other, its classes the actions.

    Where the policy is a function of one picture alone, so is this network: it names the action
    that the policy would take. Else its head is all zeros: it embeds, and names nothing.
    """
    name, num_frames = split_policy(card.network)
    network = build(name, card.num_outputs, card.activation)
    head = head_of(network)
    place = next(key for key, module in network.named_modules() if module is head)
    state = {key: t for key, t in policy.encoder.state_dict().items()}
    whole = num_frames == 1 and not policy.memory_size
    for part, tensor in head.state_dict().items():
        source = getattr(policy.policy, part)
        state[f"{place}.{part}"] = source.reshape(tensor.shape) if whole else tensor.zero_()
    network.load_state_dict(state)
    return network.eval(), replace(card, network=name, source=f"encoder: {card.source}")


def set_learner(algorithm: PPO, state: Mapping[str, Any]) -> None:
    """Put the learner, and the env runners' weights with it, where a state was taken."""
    group, runners = algorithm.learner_group, algorithm.env_runner_group
    assert group is not None, "a stopped algorithm"
    assert runners is not None, "a stopped algorithm"
    group.set_state({"learner": dict(state)})
    runners.sync_weights(from_worker_or_learner_group=group)


def load_state(run: Run) -> dict[str, Any]:
    """What an earlier attempt kept; empty before it did."""
    try:
        data = run.storage.read(run.path(STATE))
    except FileNotFoundError:
        return {}
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def as_tensors(value: Any) -> Any:
    """Arrays of a nested state as tensors: what `torch.load` reads without unpickling code."""
    return _each(value, np.ndarray | np.generic, lambda array: torch.from_numpy(np.array(array)))


def as_arrays(value: Any) -> Any:
    """The reverse."""
    return _each(value, torch.Tensor, lambda tensor: tensor.numpy())


def _each(value: Any, kind: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _each(inner, kind, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_each(inner, kind, change) for inner in value]
    return value
