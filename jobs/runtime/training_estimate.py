"""What a training would do and take, told before it is done: its `--dry-run`."""

import os
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from jobs.runtime.epochs import make_batch
from jobs.runtime.examples import (
    Examples,
    Pictures,
    ReaderArgs,
    decode_here,
    make_examples,
    rows_of,
)
from jobs.runtime.learner import Learner, Place, Training, num_steps
from jobs.runtime.mixed import (
    Step,
    faster,
    has_bf16,
    mean_seconds,
    read_precision,
    timed_phases,
)
from jobs.runtime.plan import Plan
from jobs.runtime.progress import clock
from jobs.runtime.resources import joins_cluster, local_cpus
from jobs.runtime.run import Run
from jobs.runtime.training import TrainingResources

WARM_UP_STEPS = 2
TIMED_STEPS = 7
TIMED_S = 10.0
"""that steps are timed for, apart from the last"""


def read_sample(plan: Plan, reading: ReaderArgs, count: int) -> Examples:
    """Some `count` examples of slices all over the plan, decoded in this process."""
    each = max(1, max((piece.rows for piece in plan.slices), default=1))
    wanted = min(len(plan.slices), max(2, -(-count // each)))
    places = np.linspace(0, len(plan.slices) - 1, wanted).round().astype(int)
    taken = [plan.slices[place] for place in dict.fromkeys(places.tolist())]
    part = replace(plan, slices=taken)
    blocks = list(decode_here(part, reading, num_readers=1))
    described = [rows_of(block) for block in blocks]
    return make_examples(part, reading.decoder, blocks, described, max_failed_fraction=1.0)


def describe_training(
    run: Run, plans: Sequence[Plan], sample: Training, resources: TrainingResources
) -> str:
    """What a training is and takes, from a `sample` of its examples. Writes nothing.

    `plans` are of the data and, where there is one, of the validation source.
    """
    config, plan, rows = sample.config, plans[0], [plan.rows for plan in plans]
    count = rows[0] if len(plans) > 1 else int(rows[0] * (1 - config.validation_fraction))
    kept = f"{rows[1]:,}" if len(plans) > 1 else f"about {rows[0] - count:,}"
    pictures, size = Pictures(sample.learn), min(config.batch_size, len(sample.learn))
    batch = make_batch(pictures, sample.learn_truth, np.arange(size))
    learner, timed = _timed(sample, batch)
    seconds = {precision: mean_seconds(phases) for precision, phases in timed.items()}
    chosen = faster(seconds) if len(seconds) > 1 else next(iter(seconds))
    numbers = {
        name: sum(p.numel() for p in network.parameters())
        for name, network in learner.networks.items()
    }
    lines = {
        "run directory": f"{run.uri} ({run.manifest.get('status', 'not begun')})",
        "source": f"{plan.origin.uri} as {plan.format}",
        "rows": f"{count:,} to learn from, {kept} kept back to validate on"
        if min(rows) >= 0
        else "counted when they are read",
        "engine": _engine(resources),
        "parameters": ", ".join(f"{count:,} of {name}" for name, count in numbers.items()),
        "learner": f"{_num_bytes(learner.state_dict()) / 1e6:,.1f} MB with its optimiser's state",
    }
    if min(rows) >= 0:
        steps = num_steps(min(count, config.max_examples or count), config)
        lines["images in memory"] = f"{sum(rows) * pictures.num_bytes / 1e6:,.1f} MB"
        lines["steps"] = f"{steps:,} in {config.epochs} epochs"
        lines["estimate"] = f"{clock(steps * seconds[chosen])} of steps in one process"
    told = ", then ".join(f"{1000 * each:,.0f} ms" for _, each in timed[chosen])
    lines["step"] = f"{told} for {size} images in {chosen} on this machine's CPU"
    for precision in timed.keys() - {chosen}:
        lines["step"] += f" ({precision}: {1000 * seconds[precision]:,.0f} ms)"
    held = sum(max(each, 0) for each in rows) * pictures.num_bytes
    lines["memory"] = (
        f"{(_peak_bytes() + held) / 1e9:,.1f} GB: what this process took for a step, and the images"
    )
    width = max(map(len, lines))
    return "".join(f"{name:<{width}}  {value}\n" for name, value in lines.items())


def _timed(
    sample: Training, batch: Mapping[str, Tensor]
) -> tuple[Learner, dict[str, list[tuple[float, float]]]]:
    """A learner behind some steps; phases by the precision that is asked for, or may be chosen."""
    place = Place(device=torch.device("cpu"))
    # on a CPU without bfloat16 what a GPU would do is told by fp32
    able = ("fp32", "bf16") if has_bf16(place.device) else ("fp32",)
    settled = read_precision(sample.run_uri, sample.storage).get("precision")
    wanted = settled or sample.config.precision
    tried = (wanted,) if wanted in able else able if wanted == "auto" else ("fp32",)
    seconds_of = partial(_seconds_of, batch=batch)
    learners = [sample.make_learner(place.device) for _ in tried]
    return learners[0], {
        precision: timed_phases(learner, place, precision, seconds_of)
        for precision, learner in zip(tried, learners, strict=True)
    }


def _engine(resources: TrainingResources) -> str:
    if resources.engine == "inline":
        return "inline: this process"
    workers = f"{resources.num_workers} worker" + "s" * (resources.num_workers > 1)
    if joins_cluster():
        return f"ray: {workers} on the cluster at {os.environ['RAY_ADDRESS']}"
    return f"ray: {workers} on a local Ray of {local_cpus(resources.ray)} CPUs"


def _peak_bytes() -> int:
    """Memory that this process took at most so far; Linux tells it in KiB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _seconds_of(step: Step, batch: Mapping[str, Tensor]) -> float:
    """Median of several steps, after those that warm up; of fewer where one takes long."""
    seconds: list[float] = []
    while len(seconds) < WARM_UP_STEPS + TIMED_STEPS:
        if len(seconds) > WARM_UP_STEPS and sum(seconds) > TIMED_S:
            break
        start = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP_STEPS:])


def _num_bytes(state: object) -> int:
    """Bytes of the tensors of a nested state."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(_num_bytes, state.values()))
    return sum(map(_num_bytes, state)) if isinstance(state, list | tuple) else 0
