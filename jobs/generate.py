"""Make pictures of noise, each by its number: one result row per picture.

    python -m jobs.generate                            # by what train_gan learnt
    python -m jobs.generate --weights s3://b/dcgan.safetensors --count 1000 --seed 7 --out s3://b/out

reads    a generator's checkpoint

writes   images/<number>.png      the picture of a number: the same whatever the count, of one seed
         results/part-*.parquet   id (the number), uri (the checkpoint), truth, status, stage,
                                  error, seed, image_uri, height_px, width_px
         report/index.html        a sheet of the first pictures

The same command goes on where it was broken off; a larger --count makes those that are missing.
"""

import sys
from dataclasses import dataclass, field, replace

import tyro

from jobs.pictures.generating import make_work, write_page
from jobs.pictures.network import facts
from jobs.runtime import bulk
from jobs.runtime.command import run_command
from jobs.runtime.dry_run import describe
from jobs.runtime.plan import plan_numbers
from jobs.runtime.resources import Resources, decide_engine
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage, StorageConfig
from vision_ops.operators.generate import GeneratorConfig, check_dreams
from vision_ops.weights import resolve


@dataclass(frozen=True, kw_only=True)
class Config:
    """Make pictures of noise."""

    weights: str = "runs/train_gan/checkpoints/best.safetensors"
    """checkpoint of a generator, as train_gan writes it"""
    count: int = 64
    """pictures that there are to be"""
    seed: int = 0
    """of the noise: another seed, other pictures"""
    resources: Resources = field(default_factory=Resources)
    """how it is run: how fast, how patient; never changes a result"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""
    accept_licence: bool = False
    """use weights whose licence forbids commercial use"""
    dry_run: bool = False
    """say what would be done, and leave nothing; some inputs or steps may be timed"""
    out: str = "runs/generate"
    """run directory, local path or s3:// URI"""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count {self.count}: must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}: must not be negative")


def main(config: Config) -> Run:
    """Make the pictures, write the report, and return the finished run."""
    storage = Storage(config.storage)
    weights = resolve(config.weights, storage.fetch, accept_licence=config.accept_licence)
    check_dreams(weights.card, config.weights)
    op = GeneratorConfig(weights=config.weights, seed=config.seed)
    origin = Origin(source=Source(uri=config.weights), storage=storage)
    opened = Run.open(
        config.out,
        job="generate",
        config=config,
        identity={"weights": weights.sha256, "seed": config.seed},
        storage=storage,
    )
    with opened as run:
        plan = plan_numbers(origin, run, config.count, write=not config.dry_run)
        resources = decide_engine(config.resources, plan.rows)
        if resources.placement == "auto":
            resources = replace(resources, placement="together")  # there is nothing to read
        work = make_work(op, resources, weights)
        if config.dry_run:
            sys.stdout.write(describe(run, plan, work, resources))
            return run
        if bulk.is_done(run, plan, resources):
            return run
        run.note(weights=facts(weights))
        bulk.apply(run, plan, work, resources)
        page = write_page(run)
        run.lap("report")
        run.finish(report=page)
    return run


def parse(arguments: list[str]) -> Config:
    """The options of the command line."""
    return tyro.cli(Config, args=arguments, prog="python -m jobs.generate", description=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
