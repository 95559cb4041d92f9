"""Peers, side by side: the same photographs, network and labels through each of them.

    python -m tests.benchmarks.peers --networks resnet18 --count 2000 --formats files parquet tars
    python -m tests.benchmarks.peers --contenders ray_recipe argus_ray:int8 argus_ray:fp32 loader

Contenders take turns (a b c a b c), each run a fresh process. All figures are taken from outside,
in the same way: from the start of the process to its end, with the CPU time of all that it started.
The steady rate is of the last 80 % of the rows: by batches for the peers, by parts for Argus.

ray_recipe      Ray Data as it documents batch inference        recipe_ray.py
daft_recipe     Daft as it documents it                         recipe_daft.py
daft_benchmark  Daft as in its own published benchmark          recipe_daft.py
daft_ours       Daft's engine, Argus's decoding and network     recipe_daft.py
loader          torch's DataLoader and a loop, as in timm       recipe_loader.py
argus_inline    jobs.classify in one process
argus_ray       jobs.classify on Ray

The last two and daft_ours may be followed by a precision: argus_ray:fp32, argus_ray:int8.

writes   results.json   every run, the medians, the machine and the versions
         table.md       the medians
         rates.png      rates as bars
         logs/          what each run said
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from tests.benchmarks import photographs
from tests.benchmarks.contenders import (
    DAFT_PYTHON,
    ROOT,
    Contender,
    Job,
    parse_contender,
)
from tests.benchmarks.figures import Figures, make_figures
from tests.benchmarks.machine import caption, describe_machine
from tests.benchmarks.networks import make_compiled, make_network
from tests.benchmarks.processes import MARK, Tree, new_mark
from tests.benchmarks.summary import Key, Labels, Outcome, plot, summarise, table

LOOK_EVERY_S = 0.25
LEAVE_S = 10.0
"""Ray's daemons may take that long to follow their driver"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Who is compared, on what."""

    networks: tuple[str, ...] = ("resnet18",)
    """torchvision's names; resnet18, resnet50 and squeezenet1_1 were tried"""
    count: int = 500
    """photographs; below 2,000 the start outweighs all else"""
    formats: tuple[photographs.Layout, ...] = ("parquet",)
    """how the photographs are stored"""
    contenders: tuple[str, ...] = (
        "ray_recipe",
        "daft_recipe",
        "daft_ours",
        "loader",
        "argus_inline",
        "argus_ray",
    )
    """in the order in which they take turns"""
    repeats: int = 3
    """turns of each"""
    timeout_s: float = 1800.0
    """a run that takes longer is ended and has failed"""
    seed: int = 0
    """of the photographs"""
    out: str = "runs/bench"
    """folder of photographs, networks, logs and results"""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A process that was watched to its end."""

    start_s: float
    """seconds since 1970"""
    stop_s: float
    cpu_s: float
    code: int | None
    """exit code; None: it took too long"""


def main(config: Config) -> None:
    """Make what is needed, let everyone run, write and print the results."""
    contenders = [parse_contender(text) for text in config.contenders]
    out = Path(config.out).resolve()
    jobs = make_jobs(config, contenders, out)
    machine = describe_machine(DAFT_PYTHON)
    truth = {number: photographs.label_of(number, config.seed) for number in range(config.count)}
    outcomes: list[Outcome] = []
    found: dict[Key, Labels] = {}
    for repeat in range(config.repeats):
        for (network, layout), job in jobs.items():
            for contender in contenders:
                key = (network, layout, contender.name)
                name = "-".join([*key, str(repeat)]).replace(":", "-")
                outcome, labels = run_once(contender, job, out, name, key, repeat, config.timeout_s)
                found |= {key: labels} if labels else {}
                outcomes.append(outcome)
                tell(outcome)
                write(out, config, machine, outcomes, found, truth)
    sys.stdout.write(table(summarise(outcomes, found, truth)))


def make_jobs(config: Config, contenders: list[Contender], out: Path) -> dict[tuple[str, str], Job]:
    """Photographs and networks, as far as they are not there from an earlier time."""
    jobs: dict[tuple[str, str], Job] = {}
    for network in config.networks:
        files = make_network(network, out / "networks")
        for contender in contenders:
            if contender.is_vision_ops:
                make_compiled(files, contender.precision)
        for layout in config.formats:
            data = photographs.write_photographs(out, layout, config.count, config.seed)
            jobs[network, layout] = Job(data=data, layout=layout, count=config.count, network=files)
    return jobs


def run_once(
    contender: Contender, job: Job, out: Path, name: str, key: Key, repeat: int, timeout_s: float
) -> tuple[Outcome, Labels]:
    """One turn: its outcome, and the labels where it went well."""
    folder, log = out / "runs" / name, out / "logs" / f"{name}.log"
    shutil.rmtree(folder, ignore_errors=True)
    for parent in (folder.parent, log.parent):
        parent.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    ended = watch(contender.command(job, folder), log, timeout_s)
    figures, labels, failure = None, {}, ""
    if ended.code is None:
        failure = f"took longer than {timeout_s:g} s"
    elif ended.code:
        failure = f"exit code {ended.code}: {last_line(log)}"
    else:
        figures, labels, failure = read_results(contender, job, folder, ended)
    outcome = Outcome(
        network=key[0],
        layout=key[1],
        contender=key[2],
        repeat=repeat,
        load=load,
        figures=figures,
        failure=failure,
    )
    return outcome, labels


def read_results(
    contender: Contender, job: Job, folder: Path, ended: Ended
) -> tuple[Figures | None, Labels, str]:
    """Figures, labels and "", or why there are none: it says that it is done, and is not."""
    done = contender.done(folder)
    rows = sum(each.rows for each in done)
    labels = contender.labels(folder) if rows else {}
    if rows != job.count or len(labels) != job.count or None in labels.values():
        return None, {}, f"{rows} rows and {len(labels)} labels of {job.count}"
    return make_figures(done, ended.start_s, ended.stop_s, ended.cpu_s), labels, ""


def watch(command: list[str], log: Path, timeout_s: float) -> Ended:
    """Run a command to its end or its time limit; nothing that it started stays behind."""
    mark = new_mark()
    quiet = {MARK: mark, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    tree = Tree(mark)
    with open(log, "wb") as file:
        start_s = time.time()
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment | quiet, cwd=ROOT
        )
        code: int | None = None
        while code is None and time.time() - start_s < timeout_s:
            tree.look()
            try:
                code = process.wait(LOOK_EVERY_S)
            except subprocess.TimeoutExpired:
                continue
        stop_s = time.time()
        leave_s = LEAVE_S if code is not None else 0.0
        while tree.living() and time.time() - stop_s < leave_s:
            time.sleep(LOOK_EVERY_S)
        tree.end()
        process.wait()
    return Ended(start_s=start_s, stop_s=stop_s, cpu_s=tree.cpu_s, code=code)


def last_line(log: Path) -> str:
    """What a failed run said last."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:120] if lines else "it said nothing"


def tell(outcome: Outcome) -> None:
    """One line for whoever waits."""
    what = outcome.failure
    if figures := outcome.figures:
        steady = f"{figures.steady_rate:.1f}" if figures.steady_rate else "–"
        what = f"{steady} images/s steady, {figures.total_s:.1f} s in all"
    where = f"{outcome.repeat} {outcome.network} {outcome.layout} {outcome.contender}"
    sys.stdout.write(f"{where}: {what}\n")
    sys.stdout.flush()


def write(
    out: Path,
    config: Config,
    machine: dict[str, Any],
    outcomes: list[Outcome],
    found: dict[Key, Labels],
    truth: Labels,
) -> None:
    """Everything so far: a comparison that is broken off leaves what it has."""
    lines = summarise(outcomes, found, truth)
    everything = {
        "config": asdict(config),
        "machine": machine,
        "medians": [asdict(line) for line in lines],
        "runs": [asdict(outcome) for outcome in outcomes],
    }
    (out / "results.json").write_text(json.dumps(everything, indent=1))
    (out / "table.md").write_text(table(lines))
    plot(lines, out / "rates.png", f"{config.count} photographs, {caption(machine)}")


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m tests.benchmarks.peers", description=__doc__))
