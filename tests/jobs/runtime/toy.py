"""A decoder and an operator small enough to do by hand, for tests of the engine."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.runtime.bulk import apply
from jobs.runtime.drawn import IMAGE_URI, IMAGE_URIS
from jobs.runtime.plan import Plan, make_plan
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.storage import Storage, StorageConfig
from jobs.runtime.work import Work

SHAPE = (2, 2, 3)
COLUMNS = pa.schema(
    [
        ("mean", pa.float32()),
        ("words", pa.list_(pa.string())),
        ("embedding", pa.list_(pa.float32(), 2)),
    ]
)


@dataclass(frozen=True)
class ToyDecoder:
    """The first byte is the value; `kill` ends the process, `hang` stops it for 1000 s and `slow`
    for 0.4, `bad` fails.
    """

    shape: tuple[int, ...] = SHAPE
    dtype: np.dtype = np.dtype(np.uint8)
    suffixes: tuple[str, ...] = (".jpg",)
    extent: tuple[int, ...] = (3, 5)

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        if data.startswith(b"kill"):
            os._exit(9)
        if data.startswith(b"hang"):
            time.sleep(1000)
        if data.startswith(b"slow"):
            time.sleep(0.4)
        if data.startswith(b"bad"):
            return "not an image: bad bytes 123"
        out[:] = data[0]
        return ""


@dataclass(frozen=True)
class ToyConfig:
    weights: str
    pause_s: float = 0.0


class ToyOperator:
    """Mean of the pixels plus the number in its weights file."""

    def __init__(self, config: ToyConfig, callers: int = 1) -> None:
        self.config = config
        self.bias = int(Path(config.weights).read_text())

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels = batch["pixels"]
        assert pixels.dtype == np.uint8
        assert not pixels.flags.writeable
        if np.any(pixels == ord("!")):
            raise TypeError("a bug in the operator")
        time.sleep(self.config.pause_s)
        mean = pixels.reshape(len(pixels), -1).mean(axis=1).astype(np.float32) + self.bias
        words = np.array([["x", str(int(value))] for value in mean], dtype=object)
        return {"mean": mean, "words": words, "embedding": np.stack([mean, -mean], axis=1)}


class DyingOperator(ToyOperator):
    """Its process ends when it sees a `!`, as one does that is out of memory."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if np.any(batch["pixels"] == ord("!")):
            os._exit(9)
        return super().__call__(batch)


class MistakenOperator(ToyOperator):
    """A library of its refuses what it is given when it sees a `!`."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if np.any(batch["pixels"] == ord("!")):
            raise ValueError("cannot reshape that")
        return super().__call__(batch)


class RegroupingOperator(ToyOperator):
    """The same of pictures of several batches together, six at a time."""

    def regrouped(
        self, batches: Iterator[dict[str, np.ndarray]]
    ) -> Iterator[dict[str, np.ndarray]]:
        sizes: list[int] = []
        held = np.zeros((0, *SHAPE), np.uint8)
        for batch in batches:
            assert (batch["pixels"][:, 0, 0, 0] != 0).all(), "pixels that nobody decoded"
            held = np.concatenate([held, batch["pixels"]])
            sizes.append(len(batch["pixels"]))
            while sizes and len(held) >= max(sizes[0], 6):
                size = sizes.pop(0)
                yield self.of(held[:size])
                held = held[size:]
        for size in sizes:
            yield self.of(held[:size])
            held = held[size:]

    def of(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        pixels.flags.writeable = False
        return self({"pixels": pixels})


def make_pictures(folder: Path, count: int, special: dict[int, bytes] | None = None) -> Path:
    """`count` files whose first byte is a letter; `special` replaces some."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        data = (special or {}).get(i, bytes([97 + i % 26]) * 10)
        (folder / f"{i:04}.png").write_bytes(data)
    return folder


def run_toy(
    source: str | Path,
    out: str | Path,
    resources: Resources,
    *,
    storage: StorageConfig | None = None,
    retry_failed: bool = False,
    pause_s: float = 0.0,
    draw: Callable[[bytes, Mapping[str, Any]], bytes] | None = None,
    draw_each: Callable[[str, Mapping[str, Any]], Mapping[str, bytes]] | None = None,
    archives: bool = False,
    operator: Callable[[ToyConfig, int], Any] = ToyOperator,
) -> tuple[Plan, Run]:
    """One attempt at a run over `source`, in slices of ten rows."""
    weights = Path(os.environ["ARGUS_CACHE"]) / "toy-weights.txt"
    weights.write_text("1000")
    opened = Storage(storage)
    origin = Origin(source=Source(uri=str(source), slice_rows=10), storage=opened)
    columns = COLUMNS.append(pa.field(IMAGE_URI, pa.string())) if draw else COLUMNS
    if draw_each:
        columns = COLUMNS.append(pa.field(IMAGE_URIS, pa.list_(pa.string())))
    work = Work(
        decoder=ToyDecoder(),
        operator=operator,
        config=ToyConfig(str(weights), pause_s),
        columns=columns,
        files={"weights": str(weights)},
        metadata={"weights": "toy"},
        batch_size=resources.batch_size or 32,
        draw=draw,
        draw_each=draw_each,
        archives=archives,
    )
    identity = {"data": origin.source}
    with Run.open(str(out), job="toy", config=resources, identity=identity, storage=opened) as run:
        plan = make_plan(origin, run, retry_failed=retry_failed)
        apply(run, plan, work, resources)
        run.finish()
    return plan, run


def rows_of(run: Run) -> list[dict[str, object]]:
    """All rows of a run by id."""
    rows = [row for batch in run.results() for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: row["id"])
