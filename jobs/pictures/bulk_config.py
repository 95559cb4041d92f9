"""What every bulk job is asked for, and every job that runs one."""

from dataclasses import dataclass, field, replace

from jobs.runtime.resources import Resources, decide_engine, joins_cluster
from jobs.runtime.storage import StorageConfig
from vision_ops.decode import DecodeConfig
from vision_ops.precision.verdicts import has_gpu


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """How images go through a network."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """how bytes become pixels"""
    resources: Resources = field(default_factory=Resources)
    """how it is run: how fast, how patient; never changes a result"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""
    accept_licence: bool = False
    """use weights whose licence forbids commercial use"""


@dataclass(frozen=True, kw_only=True)
class BulkConfig(PipelineConfig):
    """A job's own Config adds where its images are, what is done to them, and where rows go."""

    retry_failed: bool = False
    """do again the slices that hold failed rows"""
    dry_run: bool = False
    """say what would be done, and leave nothing; some inputs or steps may be timed"""


def decide_resources(config: PipelineConfig, rows: int) -> Resources:
    """With the engine decided, and where pictures are decoded, for a plan of so many rows.

    Raises ValueError where they are to be decoded on GPUs and cannot be.
    """
    resources = decide_engine(config.resources, rows)
    if config.decode.mode != "cuda":
        return resources
    if resources.placement == "apart":
        raise ValueError(
            "resources.placement apart: with decode.mode cuda the actor that has the GPU decodes"
        )
    if not resources.gpus_per_actor:
        raise ValueError("resources.gpus_per_actor 0: decode.mode cuda decodes on GPUs")
    here = resources.engine == "inline" or not joins_cluster()
    if here and not has_gpu():
        raise ValueError("decode.mode cuda: there is no GPU here; fast and exact need none")
    actors = resources.actors
    if resources.engine == "inline":  # each slice at a time would have a decoder on this GPU
        actors = actors or 1
    return replace(resources, placement="together", actors=actors)
