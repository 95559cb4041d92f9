"""SIGKILL at a random moment, then the same command again: the rows of an undisturbed run."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.classify import Config, main
from jobs.make_samples import digits
from jobs.runtime.resources import Resources
from jobs.runtime.sources.origin import Source
from tests.jobs.killed import VICTIMS, Attempt
from tests.untrained import save_untrained
from vision_ops.operators.classify import ClassifierConfig

SHARD_ROWS, SLICE_ROWS = 120, 15


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Attempt:
    """A classify run over 600 digits in five shards."""
    root = tmp_path_factory.mktemp("killed")
    for name, data in digits(seed=0):
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        rows = pq.read_table(pa.BufferReader(data))[:SHARD_ROWS]
        pq.write_table(rows, root / "in" / name, row_group_size=SLICE_ROWS)
    weights = save_untrained(root / "w.safetensors", size_px=64)
    data = Source(uri=str(root / "in"), slice_rows=SLICE_ROWS)
    op = ClassifierConfig(weights=weights)
    inline = Resources(engine="inline")
    main(Config(data=data, op=op, resources=inline, out=str(root / "undisturbed")))
    options = ["--data.uri", data.uri, "--data.slice-rows", str(SLICE_ROWS)]
    options += ["--op.weights", op.weights]
    return Attempt(job="jobs.classify", options=options, undisturbed=root / "undisturbed")


@pytest.mark.parametrize(
    ("victim", "seed"),
    [
        ("driver", 0),
        pytest.param("actor", 0, marks=pytest.mark.slow),
        *(
            pytest.param(victim, seed, marks=pytest.mark.slow)
            for seed in range(1, 11)
            for victim in VICTIMS
        ),
    ],
)
def test_a_killed_run_repeated_ends_with_the_same_bytes(
    attempt: Attempt, tmp_path: Path, victim: str, seed: int, local_ray: None
):
    rows = attempt.assert_survives(tmp_path / "out", victim, seed)
    assert len(set(rows["id"].to_pylist())) == rows.num_rows == 5 * SHARD_ROWS
