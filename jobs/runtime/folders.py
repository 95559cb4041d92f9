"""The files below a local folder, in order."""

import errno
import os
import stat
from collections.abc import Iterator

NOWHERE = (errno.ENOENT, errno.ELOOP)


def files_below(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every regular file with its state, in order of their paths; none where there is no folder.

    Links are followed, but not into a folder that they lie in: its files would come again and
    again. Bytes of names that are no UTF-8 stand as `\\xe9`. Raises OSError for a folder that may
    not be read.
    """
    top = os.fsencode(folder)
    if os.path.isdir(top):
        yield from _below(top, frozenset())


def _below(
    folder: bytes, above: frozenset[tuple[int, int]]
) -> Iterator[tuple[str, os.stat_result]]:
    told = os.stat(folder)
    if (told.st_dev, told.st_ino) in above:
        return
    above |= {(told.st_dev, told.st_ino)}
    for shown, name in _named(folder):
        path = os.path.join(folder, name)
        try:
            if shown.endswith("/"):
                yield from _below(path, above)
                continue
            told = os.stat(path)
        except OSError as error:
            if error.errno not in NOWHERE:
                raise
            continue  # gone since, or a link that leads nowhere
        if stat.S_ISREG(told.st_mode):
            yield path.decode(errors="backslashreplace"), told


def _named(folder: bytes) -> list[tuple[str, bytes]]:
    """What lies in a folder, as it is shown and as it is named, in order; folders end in /."""
    named: list[tuple[str, bytes]] = []
    with os.scandir(folder) as found:
        for each in found:
            shown = each.name.decode(errors="backslashreplace")
            named.append((f"{shown}/" if _is_folder(each) else shown, each.name))
    return sorted(named)


def _is_folder(found: os.DirEntry[bytes]) -> bool:
    try:
        return found.is_dir()
    except OSError:  # a link that leads to itself
        return False
