"""Heads by their kind, or by the file of a trained one."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from jobs.runtime.storage import Storage, absolute
from vision_ops.faces.heads import AffineHead, WeightedHead, load_head, make_head


def open_head(
    head: str, kinds: Iterable[str], embedder: str, size: int, storage: Storage
) -> tuple[AffineHead | WeightedHead, str]:
    """A head, and the sha256 of its file; empty for one of `kinds`, which has none.

    embedder   sha256 of the embedder whose embeddings, of `size` numbers, will be compared
    Raises ValueError for what is no head, and for one of another embedder.
    """
    kinds = tuple(kinds)
    if head in kinds:
        return make_head(head, size), ""
    try:
        path = storage.fetch(absolute(head))
        opened = load_head(path)
    except FileNotFoundError as missing:
        raise ValueError(f"head {head!r}: no such file; or one of {', '.join(kinds)}") from missing
    if opened.embedder and opened.embedder.removeprefix("sha256:") != embedder:
        raise ValueError(
            f"head {head}: trained for embeddings of {opened.embedder}, these are of "
            f"sha256:{embedder}"
        )
    return opened, hashlib.sha256(Path(path).read_bytes()).hexdigest()
