"""Passes of a training in bfloat16 where that is faster, and gradients shared between workers."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from jobs.runtime.learner import Learner, Place, Training, phases_of
from jobs.runtime.storage import Storage, join

logger = logging.getLogger(__name__)

PRECISION = "checkpoints/precision.json"
"""what `auto` chose, for every later attempt"""
TIMED_STEPS = 3
WORTH = 0.95
"""part of fp32's time that bf16 may take at most to be chosen"""

Sample = Callable[[int], Mapping[str, Tensor]]
Step = Callable[[Mapping[str, Tensor]], object]


class Mixed(nn.Module):
    """A network whose forward pass is in bfloat16 where torch holds that safe; answers in float32.

    Micikevicius et al. (2018), with bfloat16, whose range needs no scaling of the loss.
    """

    def __init__(self, network: nn.Module, device_type: str) -> None:
        super().__init__()
        self.network = network
        self.device_type = device_type

    def forward(self, *inputs: Any) -> Any:
        with torch.autocast(self.device_type, torch.bfloat16):
            found = self.network(*inputs)
        return tree_map(lambda each: each.float() if isinstance(each, Tensor) else each, found)


def shared_network(network: nn.Module, place: Place, precision: str) -> nn.Module:
    """The network as training goes through it; its gradients are those of all workers."""
    passed = Mixed(network, place.device.type) if precision == "bf16" else network
    if place.num_workers == 1:
        return passed
    devices = [place.device] if place.device.type == "cuda" else None
    return DistributedDataParallel(passed, device_ids=devices)


def settle_precision(training: Training, place: Place, sample: Sample) -> str:
    """fp32 or bf16, the same in every worker and every attempt.

    `auto` is timed by the first worker on some steps of learners of its own, and holds for every
    worker: bf16 where all of them have it. Raises ValueError where bf16 is asked for on hardware
    that lacks it.
    """
    tried = precisions(training, place.device)
    if training.config.precision != "auto":
        return tried[0]
    able = len(tried) > 1
    if place.num_workers > 1:
        found = [able] * place.num_workers
        torch.distributed.all_gather_object(found, able)
        able = all(found)
    chosen: list[str] = [""]
    if place.rank == 0:
        chosen = [kept_precision(training, able) or _timed(training, place, sample, able)]
    if place.num_workers > 1:
        torch.distributed.broadcast_object_list(chosen)
    return chosen[0]


def precisions(training: Training, device: torch.device) -> tuple[str, ...]:
    """What is asked for; with `auto` all that this hardware has.

    Raises ValueError where bf16 is asked for on hardware that lacks it.
    """
    asked, able = training.config.precision, has_bf16(device)
    if asked == "bf16" and not able:
        raise ValueError(f"training.precision bf16: this {device.type} computes in fp32 only")
    if asked != "auto":
        return (asked,)
    return ("fp32", "bf16") if able else ("fp32",)


def timed_phases(
    learner: Learner, place: Place, precision: str, seconds_of: Callable[[Step], float]
) -> list[tuple[float, float]]:
    """Parts of all steps, of sum 1, and what `seconds_of` says of a step of each in a precision."""
    learner.distribute(partial(shared_network, place=place, precision=precision))
    return [(part, seconds_of(learner.step)) for part in phases_of(learner)]


def mean_seconds(phases: Sequence[tuple[float, float]]) -> float:
    """Of a step, over all phases."""
    return sum(part * seconds for part, seconds in phases)


def faster(seconds: Mapping[str, float]) -> str:
    """The precision to take, by the seconds of a step: bf16 where it is worth it."""
    return "bf16" if seconds.get("bf16", 1e9) <= WORTH * seconds["fp32"] else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 at its hardware's own speed."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def read_precision(run_uri: str, storage: Storage) -> dict[str, Any]:
    """What `auto` chose, and the ms of a step by precision; nothing where it chose nothing."""
    try:
        return json.loads(storage.read(join(run_uri, PRECISION)))
    except FileNotFoundError:
        return {}


def kept_precision(training: Training, able: bool) -> str:
    """What `auto` chose in an earlier attempt; empty where there was none.

    Where it was bf16 and the hardware of this attempt is not `able`, fp32 is kept from here on:
    emulated, bf16 is many times slower, and weights are in fp32 either way.
    """
    kept = read_precision(training.run_uri, training.storage)
    if kept.get("precision") == "bf16" and not able:
        logger.warning(
            "precision: bf16 was the faster where this training began; here is hardware that "
            "computes in fp32 only, and so does the training from here on"
        )
        kept |= {"precision": "fp32", "begun_in": "bf16"}
        training.put(PRECISION, json.dumps(kept).encode())
    return kept.get("precision", "")


def _timed(training: Training, place: Place, sample: Sample, able: bool) -> str:
    batch = sample(training.config.batch_size // place.num_workers)
    alone = Place(device=place.device)
    seconds = {}
    for precision in ("fp32", "bf16") if able else ("fp32",):
        learner = training.make_learner(place.device)
        phases = timed_phases(learner, alone, precision, partial(_seconds_of, batch=batch))
        seconds[precision] = mean_seconds(phases)
    chosen = faster(seconds)
    told = {name: round(1000 * value, 3) for name, value in seconds.items()}
    logger.info("precision: %s; ms of a step: %s", chosen, told)
    training.put(PRECISION, json.dumps({"precision": chosen, "step_ms": told}).encode())
    return chosen


def _seconds_of(step: Step, batch: Mapping[str, Tensor]) -> float:
    """Of the fastest of some steps behind the first, which allocates."""
    laps = []
    for _ in range(1 + TIMED_STEPS):
        start = time.perf_counter()
        step(batch)
        laps.append(time.perf_counter() - start)
    return min(laps[1:])
