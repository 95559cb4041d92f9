"""Train an agent that sees pictures and finds its way, by policy gradients, on Ray's RLlib.

    python -m jobs.train_navigation                         # rooms of our own, seen from above
    python -m jobs.train_navigation door_key                # a preset: DoorKey-5x5 of MiniGrid
    python -m jobs.train_navigation rooms_from_the_eye      # others: four_rooms
    python -m jobs.train_navigation --world.name Empty-8x8 --agent.memory gru --out s3://b/agent

learns   in rooms drawn from seeds; what it is judged by, and tested on, are rooms of other seeds

writes   checkpoints/best.safetensors           policy and value, with their card; of the judgement
                                                with the most success
         checkpoints/last.safetensors           of the last one
         checkpoints/{best,last}.encoder.safetensors   the encoder: an ordinary network of pictures,
                                                whose classes are the actions
         metrics.jsonl                          a line per judgement on seeds kept back: step,
                                                success, return, length, spl; of learning (train_):
                                                the same; policy_loss, vf_loss, entropy
         report/index.html                      curves, what chance and the shortest path reach,
                                                films of the best and of the worst episode

The same command goes on from the last checkpoint: with its weights and optimisers, in other rooms
than an undisturbed run would see. What is finished goes on as another run, by `--agent.weights`.
"""

import hashlib
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from jobs.navigation.agent import AgentConfig, begin
from jobs.navigation.env import FIRST_SEED, WorldConfig, tried
from jobs.navigation.film import film_section
from jobs.navigation.judging import best_of, describe, judgement
from jobs.navigation.layouts import RoomsConfig
from jobs.navigation.pages import write_training_page
from jobs.navigation.playing import play, policy_mind, random_mind
from jobs.navigation.policy_gradient import PolicyGradientConfig, RolloutConfig
from jobs.navigation.resources import NavigationResources
from jobs.pictures.presets import parse_preset
from jobs.runtime.checkpoints import BEST, read_metrics
from jobs.runtime.command import run_command
from jobs.runtime.learner import Metrics
from jobs.runtime.report.page import Section
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage, StorageConfig
from vision_ops.card import Card
from vision_ops.checkpoint import load_checkpoint
from vision_ops.models.policy import Policy
from vision_ops.weights import Resolved, resolve

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train an agent that finds its way by what it sees."""

    world: WorldConfig = field(default_factory=WorldConfig)
    """where it acts, and what it sees of it"""
    agent: AgentConfig = field(default_factory=AgentConfig)
    """what it sees with, and whether it remembers"""
    learn: PolicyGradientConfig = field(default_factory=PolicyGradientConfig)
    """by which policy gradient"""
    training: RolloutConfig = field(default_factory=RolloutConfig)
    """how much, from how much at once, and on what it is judged"""
    resources: NavigationResources = field(default_factory=NavigationResources)
    """how it is run: how fast, how patient"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""
    accept_licence: bool = False
    """start from weights whose licence forbids commercial use"""
    dry_run: bool = False
    """say what would be done, and leave nothing; some inputs or steps may be timed"""
    films: int = 2
    """episodes that the report shows, filmed by the best policy; 0: none"""
    out: str = "runs/train_navigation"
    """run directory, local path or s3:// URI"""

    def __post_init__(self) -> None:
        if self.films < 0:
            raise ValueError(f"films {self.films}: must not be negative")


def rooms() -> Config:
    """One room with boxes in the way, seen from above: three minutes on two cores."""
    return Config()


def four_rooms() -> Config:
    """Four rooms of 13 x 13 cells, seen six cells far: what was seen must be remembered."""
    return Config(
        world=WorldConfig(rooms=RoomsConfig(size=13, num_rooms=4, shaping=1.0)),
        agent=AgentConfig(memory="gru"),
        training=RolloutConfig(steps=400_000),
        out="runs/train_four_rooms",
    )


def door_key() -> Config:
    """MiniGrid's DoorKey-5x5: fetch the key, open the door, walk to the goal."""
    return Config(
        world=WorldConfig(name="DoorKey-5x5"),
        training=RolloutConfig(steps=150_000),
        out="runs/train_door_key",
    )


def rooms_from_the_eye() -> Config:
    """One room with boxes, as it looks from where the agent stands: it must remember."""
    return Config(
        agent=AgentConfig(memory="gru"),
        world=WorldConfig(rooms=RoomsConfig(view="eye", shaping=1.0)),
        training=RolloutConfig(steps=200_000),
        out="runs/train_rooms_from_the_eye",
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "rooms": rooms,
    "four_rooms": four_rooms,
    "door_key": door_key,
    "rooms_from_the_eye": rooms_from_the_eye,
}


def main(config: Config) -> Run:
    """Train, or go on training, and return the finished run."""
    storage = Storage(config.storage)
    start = None
    if name := config.agent.weights:
        start = resolve(name, storage.fetch, accept_licence=config.accept_licence)
    interface = tried(config.world)
    card, first = begin(config.agent, config.world, interface, start)
    opened = Run.open(
        config.out,
        job="train_navigation",
        config=config,
        identity=identity(config, start),
        storage=storage,
    )
    with opened as run:
        if config.dry_run:
            sys.stdout.write(describe_plan(run, config, card))
            return run
        if run.manifest.get("status") == "done":
            best = best_of(read_metrics(run.uri, storage))
            told = describe(best, config.training.steps)
            logger.info("%s: already trained: %s", run.path(BEST), told)
            return run
        train(run, config, card, first)
    return run


def train(run: Run, config: Config, card: Card, first: Mapping[str, Tensor]) -> None:
    """Learn to the end, and say what came out."""
    from jobs.navigation.training import Lesson, learn  # RLlib: seconds that a refusal does without

    lesson = Lesson(
        world=config.world,
        card=card,
        learn=config.learn,
        rollout=config.training,
        resources=config.resources,
        start=first,
        frozen=config.agent.frozen,
    )
    run.note(status="running", weights=about(card))
    history = learn(run, lesson)
    best = best_of(history)
    beside = beside_the_agent(config, card)
    report = write_training_page(run, history, beside, filmed(run, config, card))
    run.lap("report")
    sha256 = hashlib.sha256(run.storage.read(run.path(BEST))).hexdigest()
    run.finish(weights={**about(card), "path": BEST, "sha256": sha256}, metrics=best, report=report)
    logger.info("%s: %s", run.path(BEST), describe(best, config.training.steps))


def judged_seeds(config: Config) -> range:
    """Of the episodes that the agent is judged by while it learns."""
    first = FIRST_SEED["validation"]
    return range(first, first + config.training.evaluate_episodes)


def beside_the_agent(config: Config, card: Card) -> Metrics:
    """What chance reaches in the same episodes, and the mean of the shortest paths, if known."""
    mind = random_mind(len(card.classes))
    played = play(mind, config.world, judged_seeds(config), greedy=False)
    shortest = [each.shortest for each in played]
    known = {"shortest": sum(shortest) / len(shortest)} if min(shortest) > 0 else {}
    return judgement(played) | known


def filmed(run: Run, config: Config, card: Card) -> Section | None:
    """What the best policy does in rooms kept from learning, well and badly."""
    if not config.films:
        return None
    policy, _ = load_checkpoint(run.storage.fetch(run.path(BEST)), "cpu")
    assert isinstance(policy, Policy)
    mind = policy_mind(policy, card)
    played = play(mind, config.world, judged_seeds(config), greedy=True)
    section = film_section(run, mind, config.world, card.classes, played, config.films)
    run.lap("films")
    return section


def identity(config: Config, start: Resolved | None) -> dict[str, object]:
    """What can change a result: the run's fingerprint covers it."""
    agent = replace(config.agent, weights=start.sha256 if start else "")
    return {
        "world": config.world,
        "agent": agent,
        "learn": config.learn,
        "training": config.training,
    }


def about(card: Card) -> dict[str, object]:
    """What the manifest says of the policy."""
    return {"network": card.network, "classes": card.classes, "preprocess": card.preprocess}


def describe_plan(run: Run, config: Config, card: Card) -> str:
    """What would be trained. Starts no Ray, writes nothing."""
    _, height, width, _ = tried(config.world).shape
    lines = {
        "run directory": f"{run.uri} ({run.manifest.get('status', 'not begun')})",
        "world": f"{config.world.name}, {config.world.frames} x {height} x {width} pixels",
        "actions": ", ".join(card.classes),
        "policy": card.network,
        "algorithm": config.learn.algorithm,
        "steps": f"{config.training.steps:,} in batches of {config.training.batch_steps:,}",
    }
    width = max(map(len, lines))
    return "".join(f"{name:<{width}}  {value}\n" for name, value in lines.items())


def parse(arguments: list[str]) -> Config:
    """A preset's name, where there is one, and options that change its values."""
    return parse_preset(arguments, PRESETS, prog="python -m jobs.train_navigation", text=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
