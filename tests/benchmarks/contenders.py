"""Who takes part: how each is started, and where it leaves what it found."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.dataset as ds

from tests.benchmarks.figures import Done, read_notes, read_parts
from tests.benchmarks.networks import NetworkFiles

ROOT = Path(__file__).resolve().parents[2]
DAFT_PYTHON = ROOT / ".venv" / "daft" / "bin" / "python"
PRECISIONS = ("auto", "fp32", "bf16", "int8")
NUMBER = re.compile(r"(\d{6})\.(?:jpg|parquet#(\d+))$")


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A recipe in this package."""

    module: str
    variant: str = "documented"
    python: Path = Path(sys.executable)


PEERS: dict[str, Peer] = {
    "ray_recipe": Peer(module="recipe_ray"),
    "daft_recipe": Peer(module="recipe_daft", python=DAFT_PYTHON),
    "daft_benchmark": Peer(module="recipe_daft", variant="benchmark", python=DAFT_PYTHON),
    "daft_ours": Peer(module="recipe_daft", variant="ours", python=DAFT_PYTHON),
    "loader": Peer(module="recipe_loader"),
}
ENGINES: dict[str, tuple[str, ...]] = {
    "argus_inline": ("--resources.engine", "inline"),
    "argus_ray": ("--resources.engine", "ray"),
}
TAKES_PRECISION = ("daft_ours", *ENGINES)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all contenders of a comparison are given."""

    data: Path
    layout: str
    count: int
    network: NetworkFiles


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A peer or an engine of Argus, perhaps at a stated precision."""

    kind: str
    """of PEERS or ENGINES"""
    precision: str = "auto"
    """of PRECISIONS"""

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return self.kind if self.precision == "auto" else f"{self.kind}:{self.precision}"

    @property
    def is_vision_ops(self) -> bool:
        """Whether it runs Argus's network in an engine of others."""
        return self.kind in TAKES_PRECISION and self.kind not in ENGINES

    def command(self, job: Job, out: Path) -> list[str]:
        """The words that start it."""
        if self.kind in ENGINES:
            return self._argus(job, out)
        peer = PEERS[self.kind]
        words = [str(peer.python), "-m", f"tests.benchmarks.{peer.module}"]
        words += ["--data", str(job.data), "--layout", job.layout, "--out", str(out)]
        weights = job.network.compiled(self.precision) if self.is_vision_ops else job.network.state
        words += ["--weights", str(weights)]
        return [*words, "--variant", peer.variant, "--precision", self.precision]

    def done(self, out: Path) -> list[Done]:
        """When which rows were done."""
        return read_parts(out) if self.kind in ENGINES else read_notes(out)

    def labels(self, out: Path) -> dict[int, str]:
        """Photograph number -> the label that was found."""
        folder = out / ("results" if self.kind in ENGINES else "labels")
        rows = ds.dataset(folder, format="parquet").to_table(columns=["id", "label"]).to_pylist()
        return {number_of(row["id"]): row["label"] for row in rows}

    def _argus(self, job: Job, out: Path) -> list[str]:
        words = [sys.executable, "-m", "jobs.classify", "--data.uri", str(job.data)]
        words += ["--op.weights", str(job.network.checkpoint), "--out", str(out)]
        words += ENGINES[self.kind]
        words += ["--data.label", "folder"] if job.layout == "files" else []
        return words + (["--op.precision", self.precision] if self.precision != "auto" else [])


def parse_contender(text: str) -> Contender:
    """`kind` or `kind:precision`. Raises ValueError for what does not exist."""
    kind, _, precision = text.partition(":")
    if kind not in PEERS and kind not in ENGINES:
        raise ValueError(f"contender {text!r}: not one of {', '.join([*PEERS, *ENGINES])}")
    if precision and (precision not in PRECISIONS or kind not in TAKES_PRECISION):
        takers, choice = ", ".join(TAKES_PRECISION), ", ".join(PRECISIONS)
        raise ValueError(f"contender {text!r}: {takers} may be followed by one of :{choice}")
    return Contender(kind=kind, precision=precision or "auto")


def number_of(row_id: str) -> int:
    """The photograph that a row is of: path, `shard.parquet#row` or `shard.tar#member`."""
    found = NUMBER.search(row_id)
    if not found:
        raise ValueError(f"row {row_id!r}: names no photograph")
    return int(found[1]) + int(found[2] or 0)
