"""Measure and film an agent in rooms that it has not seen, beside chance and the shortest path.

    python -m jobs.evaluate_navigation                          # what train_navigation learnt
    python -m jobs.evaluate_navigation --weights s3://b/agent --episodes 10000 --out s3://b/judged
    python -m jobs.evaluate_navigation --world.rooms.obstacles 12    # other rooms than it learnt in
    python -m jobs.evaluate_navigation --weights agent.safetensors --world.name DoorKey-5x5

reads    a run of train_navigation: its best policy, and the world that it learnt in, which options
         of the world change; or a checkpoint of a policy, for the world that the options say

writes   results/part-*.parquet     a row per episode and policy: id, uri, truth, status, stage,
                                    error, policy (greedy, sampled, random), seed, success, return,
                                    length, shortest (fewest actions), spl
         metrics.json               success with its 95 % interval, return, length, SPL by policy
         films/<seed>-<what>.gif    the best and the worst greedy episodes; .mp4 too, where PyAV is
         report/index.html          the table, charts, the films, the seeds of failures

Every episode has a seed of the test part, of which no training has any. The same command goes on
where it was broken off; more --episodes are added to those played. A world that raises an error
ends the run with the seed and the actions that lead there: figures of the episodes that happened
not to raise would be of easier ones.
"""

import json
import logging
import sys
from dataclasses import dataclass, field, replace

import tyro

from jobs.navigation.attention import attention_of
from jobs.navigation.env import FIRST_SEED, WorldConfig, tried, unshaped
from jobs.navigation.evaluating import POLICIES, PlayConfig, Player, make_work
from jobs.navigation.evaluation_page import evaluation_page
from jobs.navigation.figures import all_figures, as_json, read_episodes, text_of, words_of
from jobs.navigation.film import film_section
from jobs.navigation.trained import check_fits, differences, learnt_world, open_agent
from jobs.pictures.network import facts
from jobs.runtime import bulk
from jobs.runtime.command import run_command
from jobs.runtime.dry_run import describe
from jobs.runtime.plan import plan_numbers
from jobs.runtime.resources import Resources, decide_engine
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage, StorageConfig
from vision_ops.weights import Resolved

logger = logging.getLogger(__name__)

MOST_EPISODES = 2**31 - FIRST_SEED["test"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure and film an agent that finds its way by what it sees."""

    weights: str = "runs/train_navigation"
    """run of train_navigation, or checkpoint of a policy"""
    world: WorldConfig = field(default_factory=WorldConfig)
    """where it acts; on the command line what is not said is as the run's agent learnt it"""
    episodes: int = 200
    """that there are to be, of each policy"""
    films: int = 4
    """greedy episodes that are filmed: half of them the best, half the worst"""
    attention: bool = False
    """show in films which parts of what is seen speak for the action that is taken"""
    resources: Resources = field(default_factory=Resources)
    """how it is run: how fast, how patient; never changes a result"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""
    accept_licence: bool = False
    """use weights whose licence forbids commercial use"""
    dry_run: bool = False
    """say what would be done, and leave nothing; some inputs or steps may be timed"""
    out: str = "runs/evaluate_navigation"
    """run directory, local path or s3:// URI"""

    def __post_init__(self) -> None:
        if not 0 < self.episodes <= MOST_EPISODES:
            raise ValueError(f"episodes {self.episodes}: must be at least 1, at most 2^29")
        if self.films < 0:
            raise ValueError(f"films {self.films}: must not be negative")


def main(config: Config) -> Run:
    """Play the episodes, film some, write the report, and return the finished run."""
    storage = Storage(config.storage)
    weights = open_agent(config.weights, storage, accept_licence=config.accept_licence)
    check_fits(weights.card, config.weights, config.world, tried(config.world))
    origin = Origin(source=Source(uri=config.weights), storage=storage)
    opened = Run.open(
        config.out,
        job="evaluate_navigation",
        config=config,
        identity={"weights": weights.sha256, "world": unshaped(config.world)},
        storage=storage,
    )
    with opened as run:
        count = config.episodes * len(POLICIES)
        plan = plan_numbers(origin, run, count, write=not config.dry_run)
        resources = decide_engine(config.resources, plan.rows)
        if resources.placement == "auto":
            resources = replace(resources, placement="together")  # there is nothing to read
        op = PlayConfig(weights=str(weights.path), world=config.world)
        work = make_work(op, resources, weights)
        if config.dry_run:
            sys.stdout.write(describe(run, plan, work, resources))
            return run
        if bulk.is_done(run, plan, resources):
            return run
        run.note(weights=facts(weights))
        bulk.apply(run, plan, work, resources)
        finish(run, config, weights)
    return run


def finish(run: Run, config: Config, weights: Resolved) -> None:
    """Say what came out: table, metrics, films, page."""
    played = read_episodes(run.results())
    figures = all_figures(played)
    run.put("metrics.json", json.dumps(as_json(figures), indent=1).encode())
    player = Player(PlayConfig(weights=str(weights.path), world=config.world))
    actions, greedy = weights.card.classes, played["greedy"]
    attention = attention_of(player.mind) if config.attention else None
    films = film_section(run, player.mind, config.world, actions, greedy, config.films, attention)
    run.lap("films")
    notes = [*other_world(config), *words_of(figures)]
    page = evaluation_page(run, played, figures, films, " ".join(notes))
    report = run.put("report/index.html", page)
    run.lap("report")
    run.finish(metrics=as_json(figures), report=report)
    for line in (*notes, *text_of(figures)):
        logger.info("%s", line)


def other_world(config: Config) -> list[str]:
    """In what the world differs from the one that the agent learnt in, in a sentence; none where it
    does not, or nobody knows."""
    learnt = learnt_world(config.weights, Storage(config.storage))
    changed = differences(learnt, config.world) if learnt else []
    return [f"Not the world that it learnt in: {'; '.join(changed)}."] if changed else []


def parse(arguments: list[str]) -> Config:
    """The options of the command line, on the world that the run's agent learnt in."""

    def read(default: Config) -> Config:
        return tyro.cli(
            Config,
            default=default,
            args=arguments,
            prog="python -m jobs.evaluate_navigation",
            description=__doc__,
        )

    asked = read(Config())
    learnt = learnt_world(asked.weights, Storage(asked.storage))
    return read(replace(Config(), world=learnt)) if learnt else asked


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
