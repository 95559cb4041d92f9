"""What every bulk job is asked for."""

from dataclasses import dataclass, field

from jobs.runtime.resources import Resources
from jobs.runtime.storage import StorageConfig
from vision_ops.decode import DecodeConfig


@dataclass(frozen=True, kw_only=True)
class BulkConfig:
    """A job's own Config adds where its images are, what is done to them, and where rows go."""

    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """how bytes become pixels"""
    resources: Resources = field(default_factory=Resources)
    """how it is run: how fast, how patient; never changes a result"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""
    accept_licence: bool = False
    """use weights whose licence forbids commercial use"""
    retry_failed: bool = False
    """do again the slices that hold failed rows"""
    dry_run: bool = False
    """say what would be done, and do nothing"""
