"""The job that says what bounds a run: its arithmetic, and what it leaves."""

import json
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.benchmark import Config, finer, main
from jobs.make_samples import digits
from jobs.runtime.ceilings.forward import forward
from jobs.runtime.ceilings.limits import (
    Ceiling,
    Limits,
    Machine,
    Outcome,
    Part,
    cores_per_gpu,
    cost_per_million,
    limits,
    steady_rate,
)
from jobs.runtime.ceilings.stages import bounded, reading
from jobs.runtime.command import exit_code
from jobs.runtime.plan import Plan, make_plan
from jobs.runtime.report.ceilings import text_of
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage
from jobs.runtime.trial import sample_of
from tests.untrained import save_untrained
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.operators.classify import ClassifierConfig
from vision_ops.preprocess import Preprocess

INLINE = Resources(engine="inline", max_failed_fraction=1.0)


def ceilings(forward_rate: float = 100.0, forward_core_ms: float = 20.0) -> list[Ceiling]:
    """Of a machine with two cores, where all of them decode 400 images/s."""
    return [
        Ceiling(stage="fetch", name="files", how="1 reader", rate=900, core_ms=0.1),
        Ceiling(stage="fetch", name="files", how="4 readers", workers=4, rate=3000, core_ms=0.1),
        Ceiling(stage="decode", name="fast", how="1", rate=250, core_ms=4),
        Ceiling(stage="decode", name="fast", how="2", workers=2, rate=400, core_ms=5),
        Ceiling(stage="forward", name="fp32 torch", how="1", rate=20, core_ms=50),
        Ceiling(stage="forward", name="int8 openvino", how="1", rate=60, core_ms=16),
        Ceiling(
            stage="forward",
            name="int8 openvino",
            how="2",
            threads=2,
            rate=forward_rate,
            core_ms=forward_core_ms,
            agreement=0.995,
        ),
        Ceiling(stage="forward", name="bf16 openvino", how="", refused="this CPU has fp32, int8"),
        Ceiling(stage="write", name="parts", how="1 writer", rate=5000, core_ms=0.01),
    ]


def outcome(machine: Machine, found: list[Ceiling], rate: float) -> Outcome:
    return Outcome(
        machine=machine,
        ceilings=found,
        mode="fast",
        network="int8 openvino",
        not_taken={},
        sampled=100,
        causes={},
        source_rows=100,
        counts={"read": 2000, "ok": 2000, "failed": 0},
        num_parts=20,
        rate=rate,
        is_steady=True,
        first_part_s=1.0,
        wall_s=25.0,
        price_per_hour=1.0,
    )


def test_on_cpus_decoding_and_network_share_the_cores():
    found = outcome(Machine(cpus=2, gpus=0), ceilings(), rate=72.0)
    # 5 ms and 20 ms of a core for each image, two cores: 2000 / 25
    assert found.limits.ceiling == pytest.approx(80)
    assert found.limits.bound == "forward"
    assert found.decode_per_core == pytest.approx(200)
    assert found.share == pytest.approx(0.9)
    assert found.verdict == (
        "bound by the network (int8 on openvino): 72 img/s of a ceiling of 80 (90%)"
    )


def test_on_more_cores_than_were_measured_the_ceiling_grows_with_them():
    small, large = (limits(Machine(cpus=n, gpus=0), _own(ceilings())) for n in (2, 64))
    assert large.compute == pytest.approx(32 * small.compute)
    assert large.fetch == small.fetch
    assert limits(Machine(cpus=64, gpus=0, nodes=4), _own(ceilings())).fetch == 4 * small.fetch


def test_on_gpus_the_slowest_stage_is_the_ceiling():
    on_gpu = ceilings(forward_rate=2000.0, forward_core_ms=0.0)
    found = outcome(Machine(cpus=16, gpus=2), on_gpu, rate=2400.0)
    assert found.limits == Limits(fetch=3000, decode=3200, forward=4000, write=5000, shared=False)
    assert found.limits.bound == "fetch"
    assert replace(found.limits, fetch=9000).bound == "decode"
    assert replace(found.limits, fetch=9000, decode=4500).bound == "forward"
    assert found.share == pytest.approx(0.8)


def test_decoding_on_gpus_grows_with_these_and_cores_are_judged_by_the_fast_mode():
    on_gpu = [
        *ceilings(forward_rate=2000.0, forward_core_ms=0.0),
        Ceiling(stage="decode", name="cuda", how="1", rate=3000, on_gpu=True),
        Ceiling(stage="decode", name="cuda", how="2", workers=2, rate=5000, on_gpu=True),
    ]
    by_cpus = outcome(Machine(cpus=4, gpus=3), on_gpu, rate=2400.0)
    by_gpus = replace(by_cpus, mode="cuda")
    assert (by_cpus.limits.decode, by_gpus.limits.decode) == (800, 15_000)
    assert (by_cpus.limits.forward, by_gpus.limits.forward) == (6000, 6000)
    assert (by_cpus.decodes_on_gpus, by_gpus.decodes_on_gpus) == (False, True)
    assert (by_gpus.core_mode, by_gpus.decode_per_core) == ("fast", pytest.approx(200))
    assert re.search(r"cuda +2 +5,000$", text_of(by_gpus), re.MULTILINE)  # no time of a core


def test_the_slowest_of_reading_and_writing_bounds_a_fast_computation():
    slow = Limits(fetch=50, decode=1000, forward=1000, write=40, shared=True)
    assert (slow.compute, slow.ceiling, slow.bound) == (500, 40, "write")
    assert replace(slow, write=60).bound == "fetch"
    assert replace(slow, fetch=501, write=501, decode=999).bound == "decode"


def test_cores_for_a_gpu_and_cost_by_hand():
    assert cores_per_gpu(decode_per_core=200, forward_per_gpu=3000) == 15
    assert cost_per_million(rate=1000 / 3.6, price_per_hour=1.0) == pytest.approx(1.0)
    assert cost_per_million(rate=100, price_per_hour=2.5) == pytest.approx(2.5 * 1e4 / 3600)


def test_steady_rate_leaves_out_the_start_and_tells_where_it_cannot():
    steady = [Part(time_s=100 + i, rows=30) for i in range(20)]
    late = [Part(time_s=50, rows=30), *steady]  # a minute of warming up behind the first part
    assert steady_rate(steady) == pytest.approx(30)
    assert steady_rate(late[::-1]) == pytest.approx(30)
    assert steady_rate(steady[:4]) == 0
    assert steady_rate([Part(time_s=7, rows=30)] * 20) == 0
    assert steady_rate([]) == 0


def test_the_text_has_a_line_for_each_ceiling_and_the_verdict():
    text = text_of(outcome(Machine(cpus=2, gpus=0), ceilings(), rate=72.0))
    lines = text.splitlines()
    assert len(lines) == 1 + 8 + 2
    assert lines[7].split() == ["network", "int8", "openvino", "2", "100", "20.00", "99.5%"]
    assert lines[-1].startswith("bound by the network")


def _own(found: list[Ceiling]) -> list[Ceiling]:
    return outcome(Machine(cpus=2, gpus=0), found, rate=1.0).own


def test_processes_answer_and_are_timed_together():
    pixels = np.array([[1.0, 2.0, 3.0]])
    make = partial(partial, np.divmod, 7.0)  # a "network" of any process that has numpy
    done = forward(make, pixels, 0.05, processes=2, judged=[pixels, pixels + 1])
    answers = [(logits.tolist(), features.tolist()) for logits, features in done.answers]
    assert answers == [([[7, 3, 2]], [[0, 1, 1]]), ([[3, 2, 1]], [[1, 1, 3]])]
    assert done.rate > 0
    assert not done.refused


def test_what_a_network_refuses_is_told_and_a_dead_process_is_an_error():
    make: Any = partial(int, "ten")
    refused = forward(make, np.zeros((2, 3)), 0.05).refused
    assert refused == "invalid literal for int() with base 10: 'ten'"
    with pytest.raises(RuntimeError, match=r"died \(3\)"):
        forward(partial(os._exit, 3), np.zeros((2, 3)), 0.05)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained network over 32-pixel images."""
    return save_untrained(tmp_path_factory.mktemp("weights") / "w.safetensors", size_px=32)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """120 digits as files, one truncated, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("digits")
    shard = next(data for name, data in digits(seed=0) if "test" in name)
    for row in pq.read_table(pa.BufferReader(shard)).slice(0, 120).to_pylist():
        (folder / f"{row['id']}.png").write_bytes(row["image"])
    first = sorted(folder.iterdir())[0]
    first.write_bytes(first.read_bytes()[:60])
    (folder / "notes.txt").write_text("no picture")
    return str(folder)


def make_config(pictures: str, weights: str, out: Path) -> Config:
    return Config(
        data=Source(uri=pictures),
        op=ClassifierConfig(weights=weights),
        resources=INLINE,
        out=str(out),
        rows=480,
        seconds=0.1,
        price_per_hour=3.6,
    )


def plan_of(pictures: str, out: Path, slice_rows: int = 32) -> Plan:
    source = Source(uri=pictures, slice_rows=slice_rows)
    origin = Origin(source=source, storage=Storage())
    with Run.open(str(out), job="t", config={}, identity={}, storage=Storage()) as run:
        return make_plan(origin, run)


def test_a_plan_is_cut_down_evenly_and_a_small_one_repeated(pictures: str, tmp_path: Path):
    plan = plan_of(pictures, tmp_path / "run", slice_rows=10)
    assert plan.rows == 121
    fewer = bounded(plan, 40)
    assert 30 <= fewer.rows <= 50
    assert fewer.slices[0] == plan.slices[0]
    assert fewer.slices[-1] == plan.slices[-1]
    more = bounded(plan, 500)
    assert more.rows == 4 * 121
    assert len({piece.slice_id for piece in more.todo}) == len(more.todo) == 4 * 13


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_decoder_that_does_not_start_is_told_unless_it_is_the_runs_own(
    pictures: str, tmp_path: Path
):
    source = sample_of(plan_of(pictures, tmp_path / "out"), INLINE)
    decoders = {
        mode: make_decoder(DecodeConfig(mode=mode), Preprocess()) for mode in ("fast", "cuda")
    }
    found = reading(source, decoders, "fast", seconds=0.1, num_cpus=1).ceilings
    told = {c.name: c for c in found if c.stage == "decode"}
    assert told["fast"].rate > 0
    assert told["cuda"].refused.endswith("decode.mode cuda: this process has no GPU")
    with pytest.raises(RuntimeError, match="this process has no GPU"):
        reading(source, decoders, "cuda", seconds=0.1, num_cpus=1)


def test_slices_are_fine_enough_for_the_rate_to_be_judged(pictures: str, weights: str):
    config = make_config(pictures, weights, Path("unused"))
    for rows, cpus, expected in ((2000, 2, 96), (100, 2, 32), (1_000_000, 2, 512), (2000, 1, 224)):
        resources = replace(INLINE, num_cpus=cpus)
        assert finer(replace(config, rows=rows, resources=resources)).slice_rows == expected


def test_job_leaves_consistent_numbers_and_a_page(
    pictures: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = make_config(pictures, weights, tmp_path / "out")
    run = main(config)
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    html = (tmp_path / "out" / "report" / "index.html").read_text()
    said = capsys.readouterr().out

    assert run.manifest["status"] == "done"
    assert numbers["counts"] == {"read": 484, "ok": 476, "failed": 8}  # twice four times
    assert numbers["sampled"] == 121
    assert sum(numbers["causes"].values()) == 2
    assert numbers["ceiling"] == pytest.approx(
        min(numbers["limits"][name] for name in ("fetch", "compute", "write"))
    )
    assert numbers["share"] == pytest.approx(numbers["rate"] / numbers["ceiling"])
    assert numbers["cost_per_million"]["achieved"] == pytest.approx(1000 / numbers["rate"])
    measured = [c for c in numbers["ceilings"] if not c["refused"]]
    assert {c["stage"] for c in measured} == {"fetch", "decode", "forward", "write"}
    assert {c["name"] for c in measured if c["stage"] == "decode"} == {"fast", "exact"}
    assert {"fp32 torch", "fp32 openvino"} <= {c["name"] for c in measured}
    assert all(c["rate"] > 0 for c in measured)
    assert said.splitlines()[-1] == numbers["verdict"]
    assert numbers["verdict"] in html
    assert re.search(r"truncated PNG|corrupt PNG", html)
    (measured,) = (tmp_path / "out" / "pipeline").iterdir()
    assert len(list((measured / "results").iterdir())) == numbers["num_parts"] == 16
    assert not list(measured.glob("scratch/*"))


@pytest.mark.slow
def test_a_second_call_measures_anew_beside_the_first(pictures: str, weights: str, tmp_path: Path):
    config = make_config(pictures, weights, tmp_path / "out")
    found = []
    for attempt in (1, 2):
        assert main(config).manifest["attempts"] == attempt
        found.append((tmp_path / "out" / "metrics.json").read_bytes())
    assert found[0] != found[1]
    results = list((tmp_path / "out" / "pipeline").glob("*/results"))
    assert [len(list(each.iterdir())) for each in results] == [16, 16]


@pytest.mark.parametrize("name", ["rows", "seconds", "price_per_hour"])
def test_impossible_values_are_refused(name: str):
    with pytest.raises(ValueError, match=f"{name}: 0"):
        replace(Config(), **{name: 0})


def test_a_source_without_a_picture_is_a_bad_request(weights: str, tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.jpg", "c.txt"):
        (folder / name).write_bytes(b"no picture")
    config = make_config(str(folder), weights, tmp_path / "out")
    with pytest.raises(ValueError, match=r"data\.uri: none of the 3 rows sampled from .*in is a"):
        main(config)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert exit_code(main, replace(config, data=Source(uri=str(tmp_path / "gone")))) == 2
