"""What bounds a run, from what its stages do alone: arithmetic only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Stage = Literal["fetch", "decode", "forward", "write"]
SKIPPED = 0.2
"""share of the rows that ends before the steady rate is judged: actors start, files are cold"""
MIN_STEADY_PARTS = 4


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run has at its disposal: this machine, or a cluster."""

    cpus: int
    gpus: int
    nodes: int = 1
    start_s: float = 0.0
    """seconds that Ray took to start"""
    load: float = 0.0
    """processes that wanted a core of this machine in the minute before"""

    @property
    def is_busy(self) -> bool:
        """Whether others work here: every figure is then lower than it could be, and shakier."""
        return self.load > max(1.0, 0.5 * self.cpus)


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """A stage alone, in one way of doing it."""

    stage: Stage
    name: str
    """what is done: the source's format, the decode mode, the network as it is run"""
    how: str
    """by how many, how much at once"""
    workers: int = 1
    """at once: threads that read or write, processes that decode or infer"""
    threads: int = 1
    """of each worker"""
    rate: float = 0.0
    """images/s of all workers together"""
    core_ms: float = 0.0
    """CPU time of an image; 0: not meaningful (on a GPU)"""
    on_gpu: bool = False
    """pictures are decoded on one GPU: more of these do more, more cores do not"""
    megabytes_per_s: float = 0.0
    parts_per_s: float = 0.0
    agreement: float = -1.0
    """share of top-1 labels that are those of fp32 over exact pixels; -1: not judged"""
    refused: str = ""
    """why it could not be measured"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """When a part was put, and what it holds."""

    time_s: float
    rows: int


def steady_rate(parts: Sequence[Part]) -> float:
    """Rows/s after the first fifth of the rows; 0 where too few parts came after it to tell."""
    ordered = sorted(parts, key=lambda part: part.time_s)
    rows = np.cumsum([part.rows for part in ordered])
    if not len(rows) or not rows[-1]:
        return 0.0
    first = int(np.searchsorted(rows, SKIPPED * rows[-1]))
    elapsed = ordered[-1].time_s - ordered[first].time_s
    if len(ordered) - 1 - first < MIN_STEADY_PARTS or elapsed <= 0:
        return 0.0
    return float(rows[-1] - rows[first]) / elapsed


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Images/s that each stage would let through if it had the machine to itself."""

    fetch: float
    decode: float
    forward: float
    write: float
    shared: bool
    """the network runs on the cores that decode"""

    @property
    def compute(self) -> float:
        """Decoding and network together: side by side, or in turns on the same cores."""
        if self.shared:
            return 1 / (1 / self.decode + 1 / self.forward)
        return min(self.decode, self.forward)

    @property
    def ceiling(self) -> float:
        """Images/s that no arrangement of these stages exceeds."""
        return min(self.fetch, self.compute, self.write)

    @property
    def bound(self) -> Stage:
        """The stage that is worth making faster; of two that share the cores the costlier."""
        if self.compute > self.ceiling:
            return "fetch" if self.fetch <= self.write else "write"
        return "decode" if self.decode <= self.forward else "forward"


def limits(machine: Machine, ceilings: Sequence[Ceiling]) -> Limits:
    """What the whole machine allows, from the cheapest way of each stage among `ceilings`.

    These must all be of the same decode mode and the same network. CPU stages scale with the cores,
    reading and writing with the nodes, a network on GPUs and decoding on GPUs with the GPUs.
    """

    def best(stage: Stage) -> float:
        of_stage = [c for c in ceilings if c.stage == stage]
        on_gpus = (stage == "forward" and machine.gpus) or any(c.on_gpu for c in of_stage)
        if stage in ("fetch", "write") or on_gpus:
            times = machine.gpus if on_gpus else machine.nodes
            return times * max(c.rate for c in of_stage)
        return machine.cpus * _per_core(of_stage)

    return Limits(
        fetch=best("fetch"),
        decode=best("decode"),
        forward=best("forward"),
        write=best("write"),
        shared=not machine.gpus,
    )


def _per_core(ceilings: Sequence[Ceiling]) -> float:
    """Images/s of one core while all are at it, in the cheapest way."""
    all_cores = max(c.workers * c.threads for c in ceilings)
    return 1e3 / min(c.core_ms for c in ceilings if c.workers * c.threads == all_cores)


def cores_per_gpu(decode_per_core: float, forward_per_gpu: float) -> float:
    """CPU cores that decode as fast as one GPU infers; both in images/s."""
    return forward_per_gpu / decode_per_core


def cost_per_million(rate: float, price_per_hour: float) -> float:
    """Price of a million images at so many images/s, in the currency of the price."""
    return price_per_hour / 3600 * 1e6 / rate


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A whole measurement."""

    machine: Machine
    ceilings: Sequence[Ceiling]
    """of every stage, in every way tried"""
    mode: str
    """name of the run's own decode ceilings"""
    network: str
    """name of the run's own forward ceilings"""
    not_taken: Mapping[str, str]
    """why the run does not use other networks, by name"""
    sampled: int
    """rows that the stages were measured on"""
    causes: Mapping[str, int]
    """those of them that gave no picture, by cause"""
    source_rows: int
    """rows of the source; -1: not known"""
    counts: Mapping[str, int]
    """rows that went through the pipeline: read, ok, failed"""
    num_parts: int
    rate: float
    """images/s of the pipeline"""
    is_steady: bool
    """after its start; False: too few parts to tell, the start is included"""
    first_part_s: float
    """from the call to the first part put"""
    wall_s: float
    price_per_hour: float

    @property
    def own(self) -> list[Ceiling]:
        """The ceilings of the very decode mode and network that were run."""
        named = {"decode": self.mode, "forward": self.network}
        return [c for c in self.ceilings if not c.refused and named.get(c.stage, c.name) == c.name]

    @property
    def limits(self) -> Limits:
        """What each stage would let through."""
        return limits(self.machine, self.own)

    @property
    def share(self) -> float:
        """Part of the ceiling that the pipeline reached."""
        return self.rate / self.limits.ceiling

    @property
    def decodes_on_gpus(self) -> bool:
        """Whether the run's pictures are decoded there."""
        return any(c.on_gpu for c in self.own)

    @property
    def core_mode(self) -> str:
        """Decode mode by which cores are judged: the run's, or fast where that wants none."""
        return "fast" if self.decodes_on_gpus else self.mode

    @property
    def decode_per_core(self) -> float:
        """Images/s that a core decodes in `core_mode`."""
        decoding = [c for c in self.ceilings if c.stage == "decode" and not c.refused]
        return _per_core([c for c in decoding if c.name == self.core_mode])

    @property
    def bound(self) -> str:
        """The stage that bounds it, in words."""
        precision, _, back_end = self.network.partition(" ")
        return {
            "fetch": "reading",
            "decode": f"decoding ({self.mode})",
            "forward": f"the network ({precision} on {back_end})",
            "write": "writing",
        }[self.limits.bound]

    @property
    def verdict(self) -> str:
        """All in one sentence."""
        return (
            f"bound by {self.bound}: {self.rate:,.0f} img/s of a ceiling of "
            f"{self.limits.ceiling:,.0f} ({self.share:.0%})"
        )

    def cost(self, rate: float) -> float:
        """Price of a million images at so many images/s."""
        return cost_per_million(rate, self.price_per_hour)
