"""A measurement of ceilings as a page, as JSON and as a few lines of text."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict

from jobs.runtime.ceilings.limits import Ceiling, Machine, Outcome, Stage, cores_per_gpu
from jobs.runtime.report import charts
from jobs.runtime.report.bulk import COLUMNS, Summary, about, title_of
from jobs.runtime.report.page import Chart, Figure, Section, Table, page
from jobs.runtime.run import Run

STAGES: dict[Stage, str] = {
    "fetch": "reading",
    "decode": "decoding",
    "forward": "network",
    "write": "writing",
}
GPU_RATES = (500, 1_000, 2_000, 5_000, 10_000, 20_000)
LITTLE = 0.75
"""share of the ceiling below which something besides the stages is to be looked for"""


def to_json(outcome: Outcome) -> bytes:
    """metrics.json: what was measured, and what follows from it."""
    found = outcome.limits
    numbers = {
        "verdict": outcome.verdict,
        "bound": found.bound,
        "rate": outcome.rate,
        "ceiling": found.ceiling,
        "share": outcome.share,
        "limits": {stage: getattr(found, stage) for stage in STAGES} | {"compute": found.compute},
        "cost_per_million": {
            "achieved": outcome.cost(outcome.rate),
            "ceiling": outcome.cost(found.ceiling),
        },
        "decode_per_core": outcome.decode_per_core,
        "cores_per_gpu": _cores_per_gpu(outcome),
        **asdict(outcome),
    }
    return json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False).encode()


def _cores_per_gpu(outcome: Outcome) -> float | None:
    """Cores that keep one of these GPUs busy; None where there is none."""
    if not outcome.machine.gpus:
        return None
    return cores_per_gpu(outcome.decode_per_core, outcome.limits.forward / outcome.machine.gpus)


def text_of(outcome: Outcome) -> str:
    """A table of all ceilings and the verdict below it, for a terminal."""
    head = ("stage", "what", "how", "images/s", "core-ms", "as fp32")
    rows = [head, *(_text_row(c) for c in outcome.ceilings if not c.refused)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i > 2 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", outcome.verdict, ""])


def _text_row(ceiling: Ceiling) -> tuple[str, ...]:
    return (
        STAGES[ceiling.stage],
        ceiling.name,
        ceiling.how,
        _rate(ceiling.rate),
        f"{ceiling.core_ms:.2f}" if ceiling.core_ms else "",
        f"{ceiling.agreement:.1%}" if ceiling.agreement >= 0 else "",
    )


def page_of(run: Run, pipeline: Run, outcome: Outcome) -> bytes:
    """The page; `pipeline` is the run whose rate was taken."""
    sections = [
        _bound(outcome),
        _network(outcome),
        _others(outcome),
        _balance(outcome),
        _cost(outcome),
        *_failures(pipeline, outcome),
        *about(run),
    ]
    return page(title_of(run), pipeline.uri, _figures(outcome), sections)


def _figures(outcome: Outcome) -> list[Figure]:
    machine, ceiling = outcome.machine, outcome.limits.ceiling
    steady = "images, once it runs" if outcome.is_steady else "images, start included"
    precision, _, back_end = outcome.network.partition(" ")
    notes = {"decode": outcome.mode, "forward": f"{precision} on {back_end}"}
    bound = outcome.limits.bound
    ray = f"{machine.start_s:.1f} s more to start Ray" if machine.start_s else "in this process"
    figures = [
        Figure(name="Achieved", value=f"{_rate(outcome.rate)}/s", note=steady),
        Figure(name="Ceiling", value=f"{_rate(ceiling)}/s", note="by the stages alone"),
        Figure(name="Of the ceiling", value=f"{outcome.share:.0%}"),
        Figure(name="Bound by", value=STAGES[bound], note=notes.get(bound, "")),
        Figure(name="First part after", value=f"{outcome.first_part_s:.1f} s", note=ray),
        Figure(
            name="Cost per million",
            value=_price(outcome.cost(outcome.rate)),
            note=f"at {outcome.price_per_hour:g} an hour, any currency",
        ),
    ]
    if failed := outcome.counts["failed"]:
        note = f"of {outcome.counts['read']:,} that went through"
        figures.append(Figure(name="Failed rows", value=f"{failed:,}", note=note, bad=True))
    return figures


def _bound(outcome: Outcome) -> Section:
    found, machine = outcome.limits, outcome.machine
    place = f"{machine.cpus} cores" + (f" and {machine.gpus} GPUs" if machine.gpus else "")
    text = f"On {place} this is {outcome.verdict}. "
    if found.shared:
        text += (
            "Decoding and the network share the cores: the ceiling is the number of cores by the "
            "CPU time of both. "
        )
    else:
        text += "The network runs on GPUs: the ceiling is the slowest stage. "
    if machine.is_busy:
        text += (
            f"Others were at work on this machine (load {machine.load:.1f} before the start): "
            "figures are lower than they could be, and vary. "
        )
    if outcome.share > 1:
        text += "More than the ceiling: less was left for the stages while they were measured."
    elif outcome.share < LITTLE:
        text += (
            "Much is missing: too few rows for the number of actors (--rows), other work on this "
            "machine, or the cost of moving rows between the stages."
        )
    rows = [
        (STAGES[stage], round(getattr(found, stage)), outcome.rate / getattr(found, stage))
        for stage in STAGES
    ]
    both = ("decoding and network", round(found.compute), outcome.rate / found.compute)
    table = Table(
        columns=("stage", "images/s if alone", "reached of it"),
        rows=[*rows, both] if found.shared else rows,
        title="What each stage would let through",
        bars=frozenset({2}) if all(row[2] <= 1 for row in [*rows, both]) else frozenset(),
    )
    return Section(title="What bounds it", text=text, charts=_time_chart(outcome), tables=[table])


def _time_chart(outcome: Outcome) -> list[Chart]:
    """Where the CPU time of an image goes."""
    own, cpus = outcome.own, outcome.machine.cpus
    micros: dict[Stage, float] = {
        "fetch": min(c.core_ms for c in own if c.stage == "fetch") * 1e3,
        "decode": 0.0 if outcome.decodes_on_gpus else 1e6 / outcome.decode_per_core,
        "forward": cpus * 1e6 / outcome.limits.forward if outcome.limits.shared else 0.0,
        "write": min(c.core_ms for c in own if c.stage == "write") * 1e3,
    }
    used = {STAGES[stage]: round(value) for stage, value in micros.items() if value}
    svg = charts.bars(list(used), list(used.values()))
    told = "Microseconds of one core for one image: measured alone, with all cores at it."
    return [Chart(title="CPU time of an image", svg=svg, caption=told)]


def _network(outcome: Outcome) -> Section:
    tried = [c for c in outcome.ceilings if c.stage == "forward"]
    agreements = {c.name: c.agreement for c in tried if c.agreement >= 0}
    rows = [
        (
            f"{c.name} (this run)" if c.name == outcome.network else c.name,
            c.how,
            round(c.rate),
            round(1e3 * c.core_ms) if c.core_ms else "–",
            f"{agreements[c.name]:.1%}" if c.name in agreements else "–",
        )
        for c in tried
        if not c.refused
    ]
    table = Table(
        columns=("network", "run by", "images/s", "core-µs an image", "labels as fp32"),
        rows=rows,
        note="Labels are compared with those of fp32 over exactly decoded pixels.",
    )
    tables = [table]
    refused = {c.name: c.refused for c in tried if c.refused} | dict(outcome.not_taken)
    if refused:
        tables.append(Table(columns=("not taken", "because"), rows=list(refused.items())))
    return Section(title="The network alone", tables=tables)


def _others(outcome: Outcome) -> Section:
    """Decoding, reading and writing."""

    def of(stage: Stage) -> list[Ceiling]:
        return [c for c in outcome.ceilings if c.stage == stage]

    reading = Table(
        title="Reading",
        columns=("format", "by", "images/s", "MB/s", "core-µs an image"),
        rows=[(*_named(c), round(c.megabytes_per_s), round(1e3 * c.core_ms)) for c in of("fetch")],
        note="Rows are read more than once; a disk's second answer comes from memory.",
    )
    decoding = Table(
        title="Decoding",
        columns=("mode", "by", "images/s", "core-µs an image"),
        rows=[
            (*_named(c), round(1e3 * c.core_ms) if c.core_ms else "–")
            for c in of("decode")
            if not c.refused
        ],
    )
    writing = Table(
        title="Writing",
        columns=("what", "by", "images/s", "parts/s", "core-µs an image"),
        rows=[(*_named(c), round(c.parts_per_s), round(1e3 * c.core_ms)) for c in of("write")],
    )
    return Section(title="The other stages alone", tables=[decoding, reading, writing])


def _named(ceiling: Ceiling) -> tuple[str, str, int]:
    return ceiling.name, ceiling.how, round(ceiling.rate)


def _balance(outcome: Outcome) -> Section:
    """Cores that keep GPUs busy."""
    per_core = outcome.decode_per_core
    text = (
        f"One core decodes {_rate(per_core)} images/s ({outcome.core_mode}): "
        f"a GPU that infers m images/s wants m / {_rate(per_core)} cores. "
    )
    cores = _cores_per_gpu(outcome)
    if cores is not None:
        there = outcome.machine.cpus / outcome.machine.gpus
        text += f"One GPU here wants {cores:,.1f} cores; there are {there:,.1f} for each."
    rows = [(f"{rate:,} images/s", math.ceil(cores_per_gpu(per_core, rate))) for rate in GPU_RATES]
    table = Table(columns=("a GPU of", "wants cores"), rows=rows)
    return Section(title="Cores for a GPU", text=text, tables=[table])


def _cost(outcome: Outcome) -> Section:
    ceiling = outcome.limits.ceiling
    rows = [
        ("as reached", round(rate), _price(outcome.cost(rate)))
        if rate == outcome.rate
        else ("at the ceiling", round(rate), _price(outcome.cost(rate)))
        for rate in (outcome.rate, ceiling)
    ]
    text = (
        f"A million images at {outcome.price_per_hour:g} an hour for all of it "
        "(--price-per-hour), in the currency of that price."
    )
    table = Table(columns=("rate", "images/s", "cost"), rows=rows)
    return Section(title="Cost of a million images", text=text, tables=[table])


def _failures(pipeline: Run, outcome: Outcome) -> Iterator[Section]:
    rows = "" if outcome.source_rows < 0 else f" of the source's {outcome.source_rows:,}"
    facts = {
        "machine": "; ".join(_machine(outcome.machine)),
        "rows sampled": f"{outcome.sampled:,}{rows}",
        "of these no picture": f"{sum(outcome.causes.values()):,}",
        "rows through the pipeline": f"{outcome.counts['read']:,} in {outcome.num_parts:,} parts",
        "of these failed": f"{outcome.counts['failed']:,}",
        "time of the pipeline": f"{outcome.wall_s:,.1f} s",
        "where its workers were busy": str(pipeline.manifest.get("bound", "")),
    }
    if 0 <= outcome.source_rows < outcome.counts["read"]:
        facts["rows through the pipeline"] += ", the source read again and again"
    yield Section(title="What was measured", facts=facts)
    if outcome.counts["failed"]:
        summary = Summary()
        summary.add_all(pipeline.results(COLUMNS))
        yield Section(title="Failed rows of the pipeline", tables=[summary.causes.table()])


def _machine(machine: Machine) -> Iterator[str]:
    yield f"{machine.cpus} cores, {machine.gpus} GPUs, {machine.nodes} nodes"
    yield f"load {machine.load:.1f} before the start"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _price(price: float) -> str:
    return f"{price:,.2f}" if price >= 0.1 else f"{price:.2g}"
