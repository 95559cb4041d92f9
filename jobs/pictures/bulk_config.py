"""What every bulk job is asked for, and every job that runs one."""

from dataclasses import dataclass, field

from jobs.runtime.resources import Resources
from jobs.runtime.storage import StorageConfig
from vision_ops.decode import DecodeConfig


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
