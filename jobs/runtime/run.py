"""The run directory: manifest, fingerprint, results, and which slices are done.

    <out>/manifest.json  plan.parquet  results/part-<slice_id>.parquet  report/index.html  ...

The same command over the same directory continues; another request is refused with the fields
that differ. Done is what the list of part names says: a part is put whole, after all it refers to.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.runtime.storage import Entry, Storage, absolute, join

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PLAN = "plan.parquet"
WORK = ("results", "images", "checkpoints", "metrics.jsonl")
"""what slices and epochs leave; with none of it a refused request leaves nothing at all"""
NUM_NAMED = 6
"""fields that a refusal names"""
READS_IN_FLIGHT = 16
"""parts that are read at a time"""
BYTES_IN_FLIGHT = 64_000_000
"""of stored parts that are read ahead"""
BATCH_ROWS = 1 << 16
VERSIONED = ("argus", "ray", "torch", "torchvision", "pyarrow", "pillow", "numpy")


class TooManyFailedError(Exception):
    """More rows failed than the request allows; finished parts stay. Exit code 3."""


class Run:
    """One run directory, local or on S3."""

    def __init__(self, uri: str, storage: Storage, manifest: dict[str, Any]) -> None:
        self.uri = uri
        self.storage = storage
        self.manifest = manifest
        self.laps: dict[str, float] = {}
        """seconds of this attempt by what they went to, in order; see `lap`"""
        self.lapped = time.monotonic()
        self.written: set[str] = set()
        """URIs that this process put, here or in a folder of `below`"""

    @classmethod
    def load(cls, uri: str, storage: Storage) -> "Run":
        """A run that exists, to read from. Raises ValueError where there is none."""
        uri = absolute(uri)
        manifest = _read_manifest(uri, storage)
        if manifest is None:
            raise ValueError(
                f"{uri}: no run directory (it has no {MANIFEST}); a job's --out makes one"
            )
        return cls(uri, storage, manifest)

    @classmethod
    @contextmanager
    def open(
        cls, out: str, *, job: str, config: Any, identity: Mapping[str, Any], storage: Storage
    ) -> Iterator["Run"]:
        """The run directory of this request, new or to be continued.

        `identity` is what can change a result; its hash is the fingerprint. Raises ValueError where
        the directory belongs to another request, naming the fields that differ. Once noted, the
        manifest says `running` inside the block; `finish` makes it `done`, anything else that
        ends the block leaves `interrupted`. A first attempt that is refused before it did any work
        leaves nothing: the request that is right may have the same directory.
        """
        uri = absolute(out)
        described = {"job": job, **_plain(identity)}
        known = _read_manifest(uri, storage)
        if known is not None:
            _refuse_other(uri, known, described, _plain(config))
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        manifest = {
            "job": job,
            "fingerprint": fingerprint(described),
            "identity": described,
            "config": _plain(config),
            "versions": versions(),
            "created": known["created"] if known else now,
            "started": now,
            "attempts": (known["attempts"] if known else 0) + 1,
        }
        kept = (
            "counts",
            "seconds",
            "rows_of_attempt",
            "weights",
            "network",
            "bound",
            "status",
            "finished",
            "report",
        )
        run = cls(uri, storage, {**{k: known[k] for k in kept if known and k in known}, **manifest})
        if _is_command():
            run.laps["imports"] = process_age_s()
        try:
            yield run
        except BaseException as ended:
            refused = isinstance(ended, ValueError) or not run.is_written
            if known is None and refused and not isinstance(ended, OSError) and not run._has_work():
                for each in run.written:
                    storage.delete(each)
                run.is_written = False
            raise
        finally:
            if run.is_written and run.manifest.get("status") == "running":
                run.note(status="interrupted")

    is_written = False
    """True once this attempt wrote its manifest"""

    def _has_work(self) -> bool:
        entries = (entry for name in WORK for entry in self._there(name))
        return any(entry.uri not in self.written for entry in entries)

    def _there(self, name: str) -> list[Entry]:
        """A file of the run directory, or those in a folder of it; its name is never a pattern."""
        single = self.storage.stat(self.path(name))
        return [single] if single else self.storage.below(self.path(name))

    def below(self, name: str) -> "Run":
        """A folder of this run with a plan of its own; it is as much a part of the request."""
        inner = Run(self.path(name), self.storage, {"fingerprint": self.fingerprint})
        inner.written = self.written
        return inner

    def lap(self, name: str) -> None:
        """Count the time since the last lap as that of `name`."""
        now = time.monotonic()
        self.laps[name] = self.laps.get(name, 0.0) + now - self.lapped
        self.lapped = now

    @property
    def fingerprint(self) -> str:
        """Hash of everything that can change a result."""
        return self.manifest["fingerprint"]

    def path(self, *names: str) -> str:
        """URI of something in the run directory."""
        return join(self.uri, *names)

    def put(self, name: str, data: bytes | pa.Buffer) -> str:
        """Write one file of the run directory whole; returns its URI."""
        self.storage.put(self.path(name), data)
        self.written.add(self.path(name))
        return self.path(name)

    def put_file(self, name: str, source: Path) -> None:
        """`put` of what a local file holds."""
        self.storage.put_file(self.path(name), source)
        self.written.add(self.path(name))

    def note(self, **fields: Any) -> None:
        """Write fields into the manifest."""
        self.manifest = {**self.manifest, **_plain(fields)}
        self.put(MANIFEST, json.dumps(self.manifest, indent=1, ensure_ascii=False).encode())
        self.is_written = True

    def finish(self, **fields: Any) -> None:
        """Mark the run done, and say where the time went."""
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        laps = {name: round(seconds, 2) for name, seconds in self.laps.items()}
        self.note(status="done", finished=finished, laps=laps, **fields)
        told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in laps.items())
        logger.info("seconds: %s", told)
        if "report" in fields:
            logger.info("report: %s", fields["report"])

    def parts(self) -> list[Entry]:
        """Result files there are, by name; one that a power cut left empty is none."""
        entries = self.storage.below(self.path("results"))
        return [e for e in entries if e.size and e.uri.rpartition("/")[2].startswith("part-")]

    def part_ids(self) -> set[str]:
        """Slices that are done."""
        return {_slice_id(entry.uri) for entry in self.parts()}

    def part_uri(self, slice_id: str) -> str:
        """Where the result of a slice lies."""
        return self.path("results", f"part-{slice_id}.parquet")

    def results(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows, part after part by name, a batch at a time; the next parts are read meanwhile.

        Raises RuntimeError where a part is damaged.
        """
        waiting, flying, held = deque(self.parts()), deque[tuple[int, Future[pa.Table]]](), 0
        pool = ThreadPoolExecutor(READS_IN_FLIGHT)
        try:
            while waiting or flying:
                while waiting and len(flying) < READS_IN_FLIGHT:
                    size = waiting[0].size
                    if flying and held + size > BYTES_IN_FLIGHT:
                        break
                    uri, held = waiting.popleft().uri, held + size
                    flying.append((size, pool.submit(self._read, uri, columns)))
                size, future = flying.popleft()
                yield from future.result().to_batches(max_chunksize=BATCH_ROWS)
                held -= size
        finally:  # who wants no more waits for none of those that are under way
            pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, uri: str, columns: Sequence[str] | None) -> pa.Table:
        with self._part(uri) as file:
            return pq.ParquetFile(file).read(list(columns) if columns else None)

    @contextmanager
    def _part(self, uri: str) -> Iterator[pa.NativeFile]:
        try:
            with self.storage.open_input(uri) as file:
                yield file
        except pa.ArrowInvalid as damage:
            raise RuntimeError(
                f"{uri}: damaged ({damage}); remove it, and the same command makes it anew"
            ) from damage

    def part(self, slice_id: str) -> pa.Table:
        """All rows of a slice that is done. Raises RuntimeError where its part is damaged."""
        return self._read(self.part_uri(slice_id), None)

    def part_counts(self, slice_id: str) -> dict[str, int]:
        """Rows `ok` and `failed` of a part, as its footer says.

        Raises RuntimeError without one, ValueError where it is the part of another request.
        """
        uri = self.part_uri(slice_id)
        with self._part(uri) as file:
            metadata = pq.read_schema(file).metadata or {}
        made_by = metadata.get(b"argus.fingerprint", self.fingerprint.encode()).decode()
        if made_by != self.fingerprint:
            raise ValueError(
                f"out: {uri} was made by another request (fingerprint {made_by}, this one has "
                f"{self.fingerprint}) whose {MANIFEST} is gone; choose another --out"
            )
        return {name: int(metadata[f"argus.{name}".encode()]) for name in ("ok", "failed")}


def process_age_s() -> float:
    """Seconds since this process was started (Linux; 0 elsewhere)."""
    try:
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return 0.0


def _is_command() -> bool:
    """Whether this process was started as `python -m jobs.…`, to do one run."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.startswith("jobs.")


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 of a request, by its canonical JSON; 16 hexadecimal digits."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of the libraries that make the results, as they are installed."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a working directory
            found[name] = "not installed"
    return found


def refuse_inside(out: str, source: str) -> None:
    """ValueError where a run directory lies inside its own source and would be read as input."""
    if absolute(out) == source or absolute(out).startswith(source.rstrip("/") + "/"):
        raise ValueError(
            f"out: {out} lies inside data.uri {source}; its results would become input"
        )


def _read_manifest(uri: str, storage: Storage) -> dict[str, Any] | None:
    try:
        return json.loads(storage.read(join(uri, MANIFEST)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError as broken:
        raise ValueError(f"{uri}/{MANIFEST}: not a manifest: {broken}") from broken


def _refuse_other(
    uri: str, known: Mapping[str, Any], wanted: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Raise ValueError where the request differs, field by field as a person gave it."""
    if missing := {"job", "identity", "config", "created", "attempts"} - known.keys():
        raise ValueError(
            f"out: {uri}/{MANIFEST} is of no run: it lacks {', '.join(sorted(missing))}; "
            "choose another --out"
        )
    if known["job"] != wanted["job"]:
        raise ValueError(f"out: {uri} holds a run of {known['job']}; choose another --out")
    before, now = _flat(known["identity"]), _flat(wanted)
    given_before, given_now = _flat(known["config"]), _flat(config)
    fields = []
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) == now.get(name):
            continue
        was, is_now = (given.get(name) for given in (given_before, given_now))
        if was != is_now:
            fields.append(f"{name} was {was!r}, now {is_now!r}")
        elif is_now is None:
            fields.append(f"{name} was {before.get(name)!r}, now {now.get(name)!r}")
        else:  # the same name of something else: a file that was written anew, say
            fields.append(f"{name} {is_now!r} was {before.get(name)}, is now {now.get(name)}")
    if fields:
        more = f"; and {len(fields) - NUM_NAMED} more" if len(fields) > NUM_NAMED else ""
        told = "; ".join(fields[:NUM_NAMED]) + more
        raise ValueError(f"out: {uri} holds another run: {told}; choose another --out")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts as dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    parts = [_flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items()]
    return {key: inner for part in parts for key, inner in part.items()}


def _plain(value: Any) -> Any:
    """Dataclasses and tuples as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return value


def _slice_id(uri: str) -> str:
    return uri.rpartition("/part-")[2].removesuffix(".parquet")
