"""How a job is run: how fast, how patient. Nothing here changes a result."""

import os
from dataclasses import dataclass, replace
from typing import Literal

FEW_ROWS = 10_000
"""below, Ray's start (5 s on two cores) is a good part of the work"""
MAX_TURNS = 8
"""slices that one process infers at a time; each wants a decoder process"""
GPUS_SEEN = "CUDA_VISIBLE_DEVICES"
"""where CUDA reads which GPUs a process may use; empty: none"""
Engine = Literal["ray", "inline"]
Placement = Literal["together", "apart"]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """How a bulk job is run; never changes a result."""

    engine: Literal["auto", "ray", "inline"] = "auto"
    """ray: actors, here or on a cluster; inline: this process; auto: inline for fewer rows than
    repay Ray's start, where no cluster is named"""
    placement: Literal["auto", "together", "apart"] = "auto"
    """together: an actor reads, decodes and infers; apart: CPU tasks decode for (GPU) actors;
    auto: apart with GPUs, else together"""
    actors: int = 0
    """operator actors; 0: one per GPU, without GPUs as many as fit the CPUs; inline: slices that
    are inferred at a time, 1 for a debugger"""
    cpus_per_actor: float = 1.0
    """CPUs that an actor without GPU reserves"""
    gpus_per_actor: float = 1.0
    """GPUs that an actor reserves where the cluster has any; 0: stay on CPUs"""
    batch_size: int = 0
    """images per call of the operator; 0: 32 on CPUs, on GPUs as many as measure best"""
    max_failed_fraction: float = 0.01
    """more failed rows than this end the run with exit code 3; judged from 100 rows on"""
    num_cpus: int = 0
    """CPUs of a local Ray; 0: all of this machine"""
    decode_timeout_s: float = 60.0
    """an image that takes longer to decode is a failed row"""
    verbose: bool = False
    """show Ray's own messages and start its dashboard"""

    def __post_init__(self) -> None:
        for name in ("batch_size", "actors", "num_cpus"):
            if getattr(self, name) < 0:
                raise ValueError(f"resources.{name}: {getattr(self, name)}, must not be negative")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ValueError(
                f"resources.max_failed_fraction: {self.max_failed_fraction}, must be in 0..1"
            )
        if self.cpus_per_actor <= 0 or self.gpus_per_actor < 0 or self.decode_timeout_s <= 0:
            raise ValueError("resources: cpus_per_actor and decode_timeout_s must be above 0")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The actors of a run, and what each reserves."""

    placement: Placement
    actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    threads: int
    """of each actor: all together they use the CPUs, none is left idle or fought for"""

    @property
    def turns(self) -> int:
        """Slices that an actor infers at a time: on CPUs one a core, on a GPU one."""
        return 1 if self.gpus_per_actor else min(MAX_TURNS, self.threads)

    def __str__(self) -> str:
        each = f"{self.cpus_per_actor:g} CPU" + (
            f" and {self.gpus_per_actor:g} GPU" if self.gpus_per_actor else ""
        )
        threads = f"{self.threads} thread" + ("s" if self.threads > 1 else "")
        return f"{self.actors} actors of {each}, {threads}, decode {self.placement}"


def make_pool(resources: Resources, cpus: float, gpus: float) -> Pool:
    """The actor pool for a machine or cluster of these CPUs and GPUs.

    Raises ValueError, with the numbers, where the pool does not fit or leaves no CPU to the read
    tasks of `apart`: Ray Data would wait for ever.
    """
    on_gpu = gpus > 0 and resources.gpus_per_actor > 0
    placement = resources.placement
    if placement == "auto":
        placement = "apart" if on_gpu else "together"
    per_actor = 0.0 if on_gpu and placement == "apart" else resources.cpus_per_actor
    room = cpus - (1 if placement == "apart" else 0)
    fits = int(room / per_actor) if per_actor else int(gpus / resources.gpus_per_actor)
    if on_gpu:
        fits = min(fits, int(gpus / resources.gpus_per_actor))
    actors = resources.actors or fits
    if actors > fits or actors < 1:
        kept = ", one CPU kept for reading" if placement == "apart" else ""
        raise ValueError(
            f"resources.actors: {actors or 'none'} of {per_actor:g} CPU"
            + (f" and {resources.gpus_per_actor:g} GPU" if on_gpu else "")
            + f" each do not fit {cpus:g} CPUs and {gpus:g} GPUs{kept}; at most {max(fits, 0)} do"
        )
    return Pool(
        placement=placement,
        actors=actors,
        cpus_per_actor=per_actor,
        gpus_per_actor=resources.gpus_per_actor if on_gpu else 0.0,
        threads=max(1, int(cpus / actors)),
    )


def decide_engine(resources: Resources, rows: int) -> Resources:
    """The same with `auto` decided, for a plan of so many rows (-1: not known).

    Where GPUs are not wanted, this process and a Ray that it starts see none from here on.
    """
    if not resources.gpus_per_actor:
        os.environ[GPUS_SEEN] = ""
    if resources.engine != "auto":
        return resources
    inline = 0 <= rows < FEW_ROWS and not joins_cluster()
    return replace(resources, engine="inline" if inline else "ray")


def inline_turns(resources: Resources) -> int:
    """Slices that the inline engine infers at a time: one per core, while there are few."""
    return resources.actors or min(MAX_TURNS, local_cpus(resources))


def local_cpus(resources: Resources) -> int:
    """CPUs that a local Ray would have."""
    return resources.num_cpus or len(os.sched_getaffinity(0))


def joins_cluster() -> bool:
    """True where a cluster is named by the environment."""
    return bool(os.environ.get("RAY_ADDRESS"))
