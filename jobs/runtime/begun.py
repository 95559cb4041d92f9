"""What a training began with: a later attempt at it learns from the same, or says why it cannot.

examples.parquet   a row per example of both sides, in their order: side, id, digest
"""

import logging
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.runtime.checkpoints import STATE
from jobs.runtime.examples import Examples
from jobs.runtime.run import Run

logger = logging.getLogger(__name__)

EXAMPLES = "examples.parquet"
SCHEMA = pa.schema([("side", pa.string()), ("id", pa.string()), ("digest", pa.uint64())])
NAMED_IDS = 8


def as_begun(run: Run, sides: Mapping[str, Examples]) -> dict[str, Examples]:
    """The examples of each side that the training began with; the first attempt notes them.

    Which pictures a step learns from follows from how many there are. One that could not be decoded
    then stays left out. Raises ValueError where one that was learnt from is no longer there, or
    cannot be decoded now.
    """
    if not (run.storage.stat(run.path(EXAMPLES)) and run.storage.stat(run.path(STATE))):
        _note(run, sides)
        return dict(sides)
    with run.storage.open_input(run.path(EXAMPLES)) as file:
        known = pq.read_table(file)
    return {
        side: _as_known(examples, known.filter(pc.field("side") == side))
        for side, examples in sides.items()
    }


def _note(run: Run, sides: Mapping[str, Examples]) -> None:
    tables = [
        pa.table([[side] * len(examples), examples.ids, examples.digests], schema=SCHEMA)
        for side, examples in sides.items()
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
    run.put(EXAMPLES, sink.getvalue())


def _as_known(examples: Examples, known: pa.Table) -> Examples:
    """Those of the examples that are known."""
    ids = np.array(known["id"].to_pylist(), np.str_)
    gone = ids[~np.isin(ids, examples.ids)]
    if len(gone):
        named = ", ".join(gone[:NAMED_IDS]) + f" and {len(gone) - NAMED_IDS} more" * (
            len(gone) > NAMED_IDS
        )
        raise ValueError(
            f"data: {len(gone):,} examples that this training began with are no longer there, or "
            f"cannot be decoded now: {named}; the same command continues it once they are back"
        )
    if len(examples) > len(ids):
        added = examples.ids[~np.isin(examples.ids, ids)]
        logger.warning(
            "%d rows could not be decoded when this training began, and stay left out: %s",
            len(added), ", ".join(added[:NAMED_IDS]),
        )  # fmt: skip
        examples = examples.take(np.isin(examples.ids, ids))
    changed = examples.ids[examples.digests != known["digest"].to_numpy()]
    if len(changed):
        logger.warning(
            "%d examples are decoded to other values than when this training began, the first: %s",
            len(changed), changed[0],
        )  # fmt: skip
    return examples
