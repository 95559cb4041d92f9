"""Before a run: a sample of its own images, and one call where its actors will be.

A job judges by the sample how its operator is best run, and keeps the answer in the manifest.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jobs.runtime.decoding import Decoder, GuardedDecoder
from jobs.runtime.plan import Plan, load_files
from jobs.runtime.resources import Resources, joins_cluster
from jobs.runtime.run import Run
from jobs.runtime.slices import Slice
from jobs.runtime.sources import read_slice
from jobs.runtime.sources.origin import Origin

NUM_SLICES = 16
"""slices that the sample is taken from, spread evenly over the plan"""
NUM_JUDGED = 200
NUM_CALIBRATION = 128
BATCH_ROWS = 64

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class SampleSource:
    """Where a sample is read from; small, and picklable to where it is read."""

    origin: Origin
    folder: str
    """of its plan.parquet"""
    slices: tuple[Slice, ...]
    timeout_s: float
    """for one image to be decoded"""
    shared: Mapping[str, str]
    """what must be there wherever it is read, see `Plan.shared`"""

    @property
    def name(self) -> str:
        """Hash of what decides which images these are."""
        ids = "\0".join(piece.slice_id for piece in self.slices)
        told = f"{NUM_JUDGED} {NUM_CALIBRATION} {ids}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def pictures(self, usual: Decoder, exact: Decoder) -> tuple[np.ndarray, ...]:
        """Three arrays (B, *shape): judged by `usual`, the same by `exact`, calibration.

        What is no picture is left out. With few images the judged ones come first: there may be
        none to calibrate by.
        """
        judged, calibration = self._read()
        pairs = zip(self._decode(usual, judged), self._decode(exact, judged), strict=True)
        both = [(u, e) for u, e in pairs if u is not None and e is not None]
        others = [each for each in self._decode(usual, calibration) if each is not None]
        columns = [u for u, _ in both], [e for _, e in both], others
        empty = np.zeros((0, *usual.shape), usual.dtype)
        return tuple(np.stack(column) if column else empty for column in columns)

    def _read(self) -> tuple[list[bytes], list[bytes]]:
        """Files to judge by and others to calibrate by, in turns from each slice."""
        each = -(-(NUM_JUDGED + NUM_CALIBRATION) // max(len(self.slices), 1))
        judged: list[bytes] = []
        calibration: list[bytes] = []
        for piece in self.slices:
            whole = load_files(self.folder, self.origin.storage, piece)
            good = (row for row in read_slice(self.origin, whole) if not row.error)
            for number, row in enumerate(islice(good, each)):
                wanted = calibration if number % 5 in (1, 3) else judged  # 2 of 5, as 128 of 328
                wanted.append(bytes(row.data))
        return judged[:NUM_JUDGED], calibration[:NUM_CALIBRATION]

    def _decode(self, decoder: Decoder, blobs: Sequence[bytes]) -> list[np.ndarray | None]:
        """Pixels of each file, None where it is no picture; in a child process, as in the run."""
        pictures: list[np.ndarray | None] = []
        with closing(GuardedDecoder(decoder, self.timeout_s)) as guard:
            for start in range(0, len(blobs), BATCH_ROWS):
                guard.submit(blobs[start : start + BATCH_ROWS])
                decoded = guard.result()
                pairs = zip(decoded.pixels, decoded.errors, strict=True)
                pictures += [None if reason else picture.copy() for picture, reason in pairs]
        return pictures


def sample_of(plan: Plan, resources: Resources) -> SampleSource:
    """The sample of a plan: the same for every attempt at it."""
    count = min(NUM_SLICES, len(plan.slices))
    places = np.linspace(0, len(plan.slices) - 1, count).round().astype(int) if count else []
    return SampleSource(
        origin=plan.origin,
        folder=plan.folder,
        slices=tuple(plan.slices[place] for place in dict.fromkeys(places)),
        timeout_s=resources.decode_timeout_s,
        shared=plan.shared,
    )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How the operator of a run is best run."""

    verdict: Mapping[str, Any]
    """what was chosen and why, as the manifest has it"""
    path: Path
    """the file that actors load, on this machine"""


def settle(
    run: Run,
    resources: Resources,
    *,
    recall: Callable[[], Choice | None],
    try_out: Callable[[Mapping[str, str]], Choice],
    files: Mapping[str, str],
    shared: Mapping[str, str],
    told: str = "trying how it runs best here, once for these weights and images",
) -> Choice:
    """Choose once a run directory; later attempts keep the choice, and the very same file.

    `recall` tells at once what an earlier trial on this machine found. `try_out` finds out, in
    seconds or a minute (then `told` is said before), and is called where the actors will be, with
    the paths of `files` there. Raises ValueError where not every node has `shared`.
    """
    known = run.manifest.get("network")
    if known:
        run.lap("network")
        return Choice(verdict=known["verdict"], path=run.storage.fetch(run.path(known["file"])))
    here = resources.engine == "inline" or not joins_cluster()
    found = recall() if here else None
    if found is None:
        if told:
            logger.info("network: %s", told)
        verdict, name, data = call_once(
            partial(_with_bytes, try_out), resources, files, shared=shared
        )
    else:
        verdict, name, data = _with_bytes(lambda _: found, files)
    path = run.storage.fetch(run.put(f"network/{name}", data))
    run.note(network={"verdict": verdict, "file": f"network/{name}"})
    run.lap("network")
    return Choice(verdict=verdict, path=path)


def call_once(
    function: Callable[[Mapping[str, str]], Answer],
    resources: Resources,
    files: Mapping[str, str],
    *,
    shared: Mapping[str, str] | None = None,
) -> Answer:
    """`function(files)` on a machine of the run's kind: here, or as one task of Ray.

    `files` are paths by name; a task on another node gets those of its copies. Raises ValueError
    where a path of `shared`, by the option it was given with, is not on every node.
    """
    if resources.engine == "inline":
        return function(files)
    from jobs.runtime.ray_engine import call_on_ray

    return call_on_ray(function, resources, files, shared or {})


def _with_bytes(
    try_out: Callable[[Mapping[str, str]], Choice], files: Mapping[str, str]
) -> tuple[Mapping[str, Any], str, bytes]:
    choice = try_out(files)
    return choice.verdict, choice.path.name, choice.path.read_bytes()
