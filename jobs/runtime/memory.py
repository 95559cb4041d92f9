"""How much memory this process may still take: the machine's, and what its control groups allow."""

import math
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
MY_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""limit, what is taken, and the name of its droppable file cache in memory.stat; of version 2, 1"""


def free_memory() -> float:
    """Bytes that can be taken without swapping; infinite where the system does not tell.

    In a container what its control group allows counts too. File cache that can be dropped is free.
    """
    return min(_of_machine(), *map(free_in_group, _groups()), math.inf)


def free_in_group(folder: Path) -> float:
    """Bytes that a control group may still take, by its folder; infinite where it has no limit."""
    for limit, taken, cache in FILES:
        try:
            allowed = (folder / limit).read_text().strip()
            if allowed == "max":
                return math.inf
            used = int((folder / taken).read_text())
            lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:
            continue  # it is of the other version, or the root
        return max(0.0, float(int(allowed) - used + int(lines.get(cache, 0))))
    return math.inf


def _of_machine() -> float:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return math.inf
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024.0 * kilobytes[0] if kilobytes else math.inf


def _groups() -> list[Path]:
    """Folders of the groups that this process is in: each, and those around it."""
    try:
        lines = MY_GROUPS.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = GROUPS / "memory" if controllers else GROUPS
        below = top / path.lstrip("/")
        found += [below, *(each for each in below.parents if each.is_relative_to(top))]
    return list(dict.fromkeys(found))
