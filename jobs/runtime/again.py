"""A slice that is done again for its failed rows: what was good stays where it can be had no more.

Inputs are moved away when they are done with, and a run is repeated with --retry-failed after that.
"""

import numpy as np
import pyarrow as pa


def keep_good(old: pa.Table, new: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows of a slice that was done again, and those among them that are as they were before.

    A row that was good and now failed stays as it was. Where the rows are no longer the same ones
    (a tar that is gone is one failed row, however many it held) all stay as they were, unless
    nothing good would get lost.
    """
    was_good, is_good = (np.asarray(each["status"]) == "ok" for each in (old, new))
    if old.schema.equals(new.schema) and old["id"].equals(new["id"]):
        spared = was_good & ~is_good
        places = np.arange(len(new)) + np.where(spared, len(new), 0)
        return pa.concat_tables([new, old]).take(pa.array(places)), old.filter(pa.array(spared))
    good, still = (
        set(each["id"].filter(pa.array(mask)).to_pylist())
        for each, mask in ((old, was_good), (new, is_good))
    )
    return (new, new.slice(0, 0)) if good <= still else (old, old)
