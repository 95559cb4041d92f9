"""Reading single images of a finished run again, for the pictures of a report."""

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

from jobs.runtime.plan import read_slices
from jobs.runtime.run import Run
from jobs.runtime.slices import Slice
from jobs.runtime.sources import read_slice, webdataset
from jobs.runtime.sources.origin import Origin, Source
from jobs.runtime.sources.wfdb import record_name
from jobs.runtime.storage import refusal_of

logger = logging.getLogger(__name__)


def read_images(run: Run, ids: Sequence[str]) -> dict[str, bytes]:
    """Original bytes by row id, reading only the files or slices that hold them.

    Rows whose image cannot be read now are left out; where the source is out of reach, all are.
    """
    try:
        return _read_images(run, ids)
    except OSError as gone:  # costs the pictures, not the report
        logger.warning("no pictures in the report: %s", gone)
        return {}


def _read_images(run: Run, ids: Sequence[str]) -> dict[str, bytes]:
    origin = origin_of(run)
    slices = read_slices(run)
    if not slices or not ids:
        return {}
    if slices[0].format == "webdataset":
        return dict(_from_tars(origin, {piece.uri for piece in slices}, ids))
    if slices[0].format == "files":
        pieces = [dataclasses.replace(slices[0], files=tuple(ids))]
    else:
        pieces = list(_holding(origin, slices, ids))
    wanted, found = set(ids), dict[str, bytes]()
    for piece in pieces:
        if len(found) == len(wanted):
            break
        for row in read_slice(origin, piece):
            if row.id in wanted and row.data:
                found[row.id] = row.data
    return found


def _from_tars(origin: Origin, uris: Set[str], ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Row ids and bytes of members, tar after tar."""
    members: defaultdict[str, set[str]] = defaultdict(set)
    for each in ids:
        shard, _, member = each.partition("#")
        members[shard].add(member)
    for uri in sorted(uris):
        shard = origin.name(uri)
        if shard not in members:
            continue
        try:
            for name, data in webdataset.pick(origin, uri, members[shard]):
                yield f"{shard}#{name}", data
        except OSError as error:
            if not refusal_of(error):
                raise


def read_thumbnails(
    run: Run, make: Callable[[bytes], bytes], ids: Sequence[str]
) -> dict[str, bytes]:
    """Small pictures by row id, by `make` of each original; those it refuses are left out."""
    found = {}
    for each, data in read_images(run, ids).items():
        try:
            found[each] = make(data)
        except ValueError as refusal:  # changed since it was classified
            logger.warning("no picture of %s in the report: %s", each, refusal)
    return found


def origin_of(run: Run) -> Origin:
    """The source of a bulk run, from its manifest."""
    described = run.manifest["config"]["data"]
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in described.items()
    }
    return Origin(
        source=Source(**values), storage=run.storage, suffixes=tuple(run.manifest["suffixes"])
    )


def _holding(origin: Origin, slices: Sequence[Slice], ids: Sequence[str]) -> Iterator[Slice]:
    """Slices that can hold these ids: of their shards and, where rows are numbered, ranges."""
    members: defaultdict[str, set[str]] = defaultdict(set)
    for each in ids:
        shard, _, member = each.partition("#")
        members[shard].add(member)
    first: defaultdict[str, int] = defaultdict(int)
    for piece in slices:
        shard = origin.name(piece.uri)
        shard = record_name(shard) if piece.format == "wfdb" else shard
        numbers = range(first[shard], first[shard] + max(piece.rows, 0))
        first[shard] = numbers.stop
        if piece.format == "wfdb":
            holds = shard in members
        else:
            holds = any(m.isdigit() and int(m) in numbers for m in members[shard])
        if holds:
            yield piece
