"""The labelled data of a training, read and decoded: what it learns from, what it validates on."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from jobs.pictures.opening import open_source
from jobs.runtime.examples import Examples, ReaderArgs, refuse_shared_groups, validation_part
from jobs.runtime.learner import TrainingConfig
from jobs.runtime.plan import Plan, make_plan
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import StorageConfig
from jobs.runtime.training import (
    TrainingResources,
    decide_engine,
    read_examples,
    refuse_too_large,
)
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.inputs import Inputs


class Model(Protocol):
    """The part of a model's config that its data depend on."""

    @property
    def preprocess(self) -> Inputs: ...


@dataclass(frozen=True, kw_only=True)
class TrainingJobConfig:
    """What every training from labels is asked for; its own Config adds how it learns."""

    data: Source
    """labelled images to learn from"""
    validation: Source = field(default_factory=lambda: Source(uri=""))
    """labelled images to choose the best epoch by; without uri: a part of the data"""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """how bytes become pixels"""
    model: Model
    """which network"""
    training: TrainingConfig
    """how long, on how many at once"""
    resources: TrainingResources = field(default_factory=TrainingResources)
    """how it is run: how fast, how patient"""
    storage: StorageConfig = field(default_factory=StorageConfig)
    """how S3 is reached"""
    out: str
    """run directory, local path or s3:// URI"""
    accept_licence: bool = False
    """start from weights whose licence forbids commercial use"""
    dry_run: bool = False
    """say what would be done, and leave nothing; some inputs or steps may be timed"""


Request = TypeVar("Request", bound=TrainingJobConfig)


def make_reading(request: TrainingJobConfig, plan: Plan) -> ReaderArgs:
    """How a source is read and decoded."""
    return ReaderArgs(
        origin=plan.origin,
        folder=plan.folder,
        decoder=make_decoder(request.decode, request.model.preprocess),
        timeout_s=request.resources.decode_timeout_s,
    )


def plan_data(run: Run, request: TrainingJobConfig, *, write: bool = True) -> list[Plan]:
    """The plans of the data and, where there is one, of the validation source. Need no Ray."""
    plans = [plan_source(run, request, "data", write=write)]
    if request.validation.uri:
        plans.append(plan_source(run.below("validation"), request, "validation", write=write))
    return plans


def with_engine(request: Request) -> Request:
    """The request with the engine decided."""
    return replace(request, resources=decide_engine(request.resources))


def read_data(
    request: TrainingJobConfig, plans: Sequence[Plan], *, whole_classes: bool = False
) -> tuple[Examples, Examples]:
    """Examples to learn from and to validate on, of a request whose engine is decided.

    Raises ValueError where they do not fit, TooManyFailedError where too many cannot be decoded.
    `whole_classes`: each class is on one side alone, as if it were the group of its examples.
    """
    readings = [make_reading(request, plan) for plan in plans]
    refuse_too_large(plans, readings[0].decoder, request.resources)
    found = [
        read_examples(plan, reading, request.resources)
        for plan, reading in zip(plans, readings, strict=True)
    ]
    escape: dict[str, str] = {}
    if whole_classes:
        found = [replace(each, groups=each.truths) for each in found]
        escape = {"escape": ""}
    if len(found) == 2:
        refuse_shared_groups(found[0], found[1], **escape)
        return found[0], found[1]
    asked = request.training
    kept = validation_part(found[0], asked.validation_fraction, asked.seed, **escape)
    return found[0].take(~kept), found[0].take(kept)


def plan_source(run: Run, request: TrainingJobConfig, name: str, *, write: bool = True) -> Plan:
    """The slices of a source, the same in each attempt: a training does not change its data."""
    if request.decode.mode == "cuda":
        raise ValueError("decode.mode cuda: a training decodes once, on CPUs; fast or exact")
    source = request.data if name == "data" else request.validation
    origin = open_source(source, run.storage, request.decode, request.model.preprocess)
    return make_plan(origin, run, may_grow=False, write=write)
