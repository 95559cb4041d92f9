"""Measure what bounds a classification of these images with these weights on this machine.

    python -m jobs.benchmark --data.uri photos --op.weights w.safetensors --out runs/benchmark
    python -m jobs.benchmark --data.uri s3://b/in --op.weights w.safetensors --rows 20000

reads    what classify would: a sample for each stage alone, then about --rows rows through it all

writes   metrics.json                every number, of the latest measurement
         report/index.html           ceilings by stage, what was reached of them, what it costs
         pipeline/<time>/results/    rows of that time's run; each call measures anew in its own
"""

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from jobs.pictures.bulk_config import PipelineConfig, decide_resources
from jobs.pictures.classification import PASSES_PER_CALL, make_work
from jobs.pictures.network import choose_network, facts, make_request, sample_for
from jobs.pictures.opening import open_source
from jobs.runtime import bulk
from jobs.runtime.ceilings import stages
from jobs.runtime.ceilings.forward import forward
from jobs.runtime.ceilings.limits import Ceiling, Outcome, steady_rate
from jobs.runtime.command import run_command
from jobs.runtime.plan import Plan, make_plan
from jobs.runtime.report import ceilings as report
from jobs.runtime.resources import joins_cluster, local_cpus
from jobs.runtime.run import Run
from jobs.runtime.sources import MOST_ROWS
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage, absolute
from jobs.runtime.trial import SampleSource, call_once, sample_of
from vision_ops.card import check_names
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import Decoder, make_decoder
from vision_ops.inputs import Inputs
from vision_ops.operators.classify import ClassifierConfig
from vision_ops.precision import PASS_SIZE
from vision_ops.precision.choose import (
    GPU_PASSES,
    Candidate,
    Sample,
    agreement,
    faster_candidates,
    fp32_candidate,
)
from vision_ops.precision.verdicts import Request, Verdict, has_gpu
from vision_ops.weights import Resolved, resolve

logger = logging.getLogger(__name__)

PARTS_PER_CORE = 8
"""slices that an actor gets at least, where the source can be cut so: the rate is judged by them"""


@dataclass(frozen=True, kw_only=True)
class Config(PipelineConfig):
    """Find out what bounds a run."""

    data: Source = field(default_factory=lambda: Source(uri="runs/make_samples/digits/test"))
    """where the images are"""
    op: ClassifierConfig = field(default_factory=ClassifierConfig)
    """what is done to each batch"""
    out: str = "runs/benchmark"
    """run directory, local path or s3:// URI"""
    rows: int = 2_000
    """rows that go through the pipeline, about; a source of fewer is read again and again"""
    seconds: float = 3.0
    """how long each stage is measured in each way"""
    price_per_hour: float = 1.0
    """what the machine, or the whole cluster, costs an hour, in any currency"""

    def __post_init__(self) -> None:
        for name in ("rows", "seconds", "price_per_hour"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)}, must be above 0")


def main(config: Config) -> Run:
    """Measure, write metrics.json and the report, say the result, and return the run."""
    storage = Storage(config.storage)
    weights = resolve(config.op.weights, storage.fetch, accept_licence=config.accept_licence)
    check_names(weights.card, f"op.weights {config.op.weights}")
    same = identity(config, weights)
    begin = partial(Run.open, job="benchmark", config=config, identity=same, storage=storage)
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    origin = open_source(finer(config), storage, config.decode, weights.card.preprocess)
    with begin(config.out) as run, begin(run.path("pipeline", now)) as pipeline:
        plan = make_plan(origin, pipeline)
        config = replace(config, resources=decide_resources(config, plan.rows))
        outcome = measure(config, weights, pipeline, plan)
        pipeline.note(status="done")
        run.laps.update(pipeline.laps)
        run.note(weights=facts(weights))
        run.put("metrics.json", report.to_json(outcome))
        run.put("report/index.html", report.page_of(run, pipeline, outcome))
        run.finish(counts=outcome.counts, report=run.path("report", "index.html"))
    sys.stdout.write(report.text_of(outcome))
    return run


def identity(config: Config, weights: Resolved) -> dict[str, object]:
    """What is measured: another request wants another directory."""
    op = replace(config.op, weights=weights.sha256)
    data = replace(config.data, uri=absolute(config.data.uri))
    return {"data": data, "op": op, "decode": config.decode}


def finer(config: Config) -> Source:
    """The source in slices so small that every actor gets several of the rows that are run.

    On a cluster, whose size is not known yet, they stay as they are.
    """
    if joins_cluster() and config.resources.engine != "inline":
        return config.data
    wanted = config.rows // (PARTS_PER_CORE * local_cpus(config.resources))
    rows = max(wanted // PASS_SIZE, 1) * PASS_SIZE  # a pass that is not full costs as much
    return replace(config.data, slice_rows=min(rows, config.data.slice_rows or MOST_ROWS))


def measure(config: Config, weights: Resolved, run: Run, plan: Plan) -> Outcome:
    """The stages alone, then the pipeline, in a run directory of its own.

    Raises ValueError where the sample holds no picture.
    """
    machine = stages.machine_of(config.resources, lambda: int(has_gpu()))
    source = sample_of(plan, config.resources)
    alone = partial(call_once, resources=config.resources, files={}, shared=source.shared)
    logger.info("reading and decoding alone")
    preprocess = weights.card.preprocess
    decoders = decoders_of(config.decode, preprocess, machine.gpus)
    used, seconds, cpus = config.decode.mode, config.seconds, machine.cpus
    sampled = alone(lambda _: stages.reading(source, decoders, used, seconds, cpus))
    run.lap("reading and decoding alone")
    request = make_request(config.op, config.decode, weights, source)
    choice = choose_network(run, config.resources, request, config.decode, source)
    verdict = Verdict(**choice.verdict)
    network = f"{verdict.precision} {verdict.back_end}"
    logger.info("the network alone; the run uses %s", verdict)
    trial = partial(networks, request, config.decode, source, network, seconds, cpus)
    forwards = call_once(trial, config.resources, {"weights": request.weights})
    run.lap("the network alone")
    todo = stages.bounded(plan, config.rows)
    begun = time.time()
    work = make_work(config.op, config.decode, config.resources, weights, choice)
    counts = bulk.apply(run, todo, work, config.resources)
    parts = stages.parts_of(run)
    logger.info("writing alone")
    writes = alone(lambda _: stages.writing(run, seconds, cpus))
    run.lap("writing alone")
    steady = steady_rate(parts)
    wall_s = run.manifest["seconds"]["wall"]
    return Outcome(
        machine=machine,
        ceilings=[*sampled.ceilings, *forwards, *writes],
        mode=config.decode.mode,
        network=network,
        not_taken=verdict.refused,
        sampled=sampled.rows,
        causes=sampled.causes,
        source_rows=plan.rows,
        counts=counts,
        num_parts=len(parts),
        rate=steady or counts["read"] / wall_s,
        is_steady=steady > 0,
        first_part_s=max(min(part.time_s for part in parts) - begun, 0.0),
        wall_s=wall_s,
        price_per_hour=config.price_per_hour,
    )


def decoders_of(decode: DecodeConfig, preprocess: Inputs, gpus: int) -> dict[str, Decoder]:
    """Those of all modes that can be had."""
    modes = ("fast", "exact")
    decoders = {mode: make_decoder(replace(decode, mode=mode), preprocess) for mode in modes}
    try:
        if gpus or decode.mode == "cuda":
            decoders["cuda"] = make_decoder(replace(decode, mode="cuda"), preprocess)
    except ValueError as missing:
        logger.info("%s", missing)
    return decoders


def networks(
    request: Request,
    decode: DecodeConfig,
    source: SampleSource,
    chosen: str,
    seconds: float,
    num_cpus: int,
    files: Mapping[str, str],
) -> list[Ceiling]:
    """The network alone, in every way that it can be run on this node."""
    request = replace(request, weights=files["weights"])
    sample = sample_for(request, decode, source)
    refused: dict[str, str] = {}
    wanted = replace(request, precision="auto")
    plain = fp32_candidate(wanted, refused)
    faster = faster_candidates(wanted, plain, sample, refused)
    found = [plain, Candidate(precision="fp32", path=Path(request.weights)), *faster]
    candidates = list(dict.fromkeys(found))
    if has_gpu():
        ceilings = list(on_gpu(candidates, sample, seconds))
    else:
        cores = min(num_cpus, len(os.sched_getaffinity(0)))
        ceilings = list(on_cpu(candidates, chosen, sample, seconds, cores))
    told = [
        Ceiling(stage="forward", name=name, how="", refused=why) for name, why in refused.items()
    ]
    return [*ceilings, *told]


def on_cpu(
    candidates: Sequence[Candidate], chosen: str, sample: Sample, seconds: float, cores: int
) -> Iterator[Ceiling]:
    """By threads of one process; the chosen network also as actors run it, a thread each."""
    block = np.resize(sample.judged, (PASS_SIZE, *sample.judged.shape[1:]))
    judge = Judge(sample)
    for candidate in candidates:
        ways = [(1, 1), (1, cores)] if cores > 1 else [(1, 1)]
        if cores > 1 and candidate.name == chosen:
            ways.append((cores, 1))
        for processes, threads in ways:
            done = forward(
                candidate.open,
                block,
                seconds,
                processes=processes,
                threads=threads,
                judged=judge.pictures if processes == 1 and threads == cores else (),
            )
            told = stages.times(threads, "thread")
            if processes > 1:
                told = f"{stages.times(processes, 'process', 'es')} of {told}"
            yield Ceiling(
                stage="forward",
                name=candidate.name,
                how=told,
                workers=processes,
                threads=threads,
                rate=done.rate,
                core_ms=1e3 * processes * threads / done.rate if done.rate else 0.0,
                agreement=judge.agreement(done.answers),
                refused=done.refused,
            )


def on_gpu(candidates: Sequence[Candidate], sample: Sample, seconds: float) -> Iterator[Ceiling]:
    """By batch size; compiled networks only at the size that was best without."""
    judge = Judge(sample)
    best: dict[str, tuple[float, int]] = {}
    plain = [c for c in candidates if not c.compiled]
    compiled = [replace(c, compiled=True) for c in plain if c.name.endswith(" torch")]
    for candidate in [*plain, *compiled]:
        sizes = [best[candidate.precision][1]] if candidate.compiled else GPU_PASSES
        for size in sizes:
            block = np.resize(sample.judged, (PASSES_PER_CALL * size, *sample.judged.shape[1:]))
            make = partial(candidate.open, size)
            done = forward(make, block, seconds, judged=judge.pictures)
            best.setdefault(candidate.precision, (0.0, size))
            best[candidate.precision] = max(best[candidate.precision], (done.rate, size))
            yield Ceiling(
                stage="forward",
                name=candidate.name,
                how=f"passes of {size}",
                rate=done.rate,
                agreement=judge.agreement(done.answers),
                refused=done.refused,
            )
            if done.refused:
                break


class Judge:
    """Compares labels with those of the first network, which is fp32, over exact pixels."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.truth: np.ndarray | None = None

    @property
    def pictures(self) -> list[np.ndarray]:
        """What the next network is asked."""
        return [self.sample.judged, *([self.sample.exact] if self.truth is None else [])]

    def agreement(self, answers: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
        """Share of the same labels; -1 where nothing was asked."""
        if not answers:
            return -1.0
        if self.truth is None:
            self.truth = answers[1][0]
        return agreement(answers[0][0], self.truth)


def parse(arguments: list[str]) -> Config:
    """The options of the command line."""
    return tyro.cli(Config, args=arguments, prog="python -m jobs.benchmark", description=__doc__)


if __name__ == "__main__":
    run_command(lambda arguments: main(parse(arguments)), sys.argv[1:])
