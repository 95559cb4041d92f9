"""The processes of a contender and the CPU time that they took, whoever their parent is by now.

Ray's workers are children of a daemon and outlive the driver for a moment; what `getrusage` says of
children misses them. A mark in the environment is inherited by all of them.
"""

import os
import signal
import uuid
from dataclasses import dataclass
from pathlib import Path

MARK = "ARGUS_BENCHMARK_RUN"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Times:
    """What a process has used so far."""

    parent: int
    """its number"""
    start_s: float
    """after the machine's start"""
    own_s: float
    """CPU seconds of its own"""
    reaped_s: float
    """CPU seconds of its children that have ended, and of theirs"""


def new_mark() -> str:
    """A value for the environment variable MARK that nobody else has."""
    return uuid.uuid4().hex


def read_times(pid: int) -> Times | None:
    """What /proc says of a process; None where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    own, reaped = (sum(map(int, pair)) / TICKS_PER_S for pair in (fields[11:13], fields[13:15]))
    start_s = int(fields[19]) / TICKS_PER_S
    return Times(parent=int(fields[1]), start_s=start_s, own_s=own, reaped_s=reaped)


class Tree:
    """The processes that carry a mark, their children, and `known` ones besides.

    Children too, because Ray's workers rename themselves and thereby write over the place where
    /proc shows their environment.
    """

    def __init__(self, mark: str, known: tuple[int, ...] = ()) -> None:
        self.mark = f"{MARK}={mark}".encode()
        self._last: dict[int, Times] = {}
        self._others: set[int] = set()
        for pid in known:
            self._note(pid)

    def look(self) -> None:
        """See who is there and note the times; call it often, what ends in between is lost."""
        there = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}
        self._others &= there
        for pid in sorted(there - self._others):
            if pid in self._last or self._belongs(pid):
                self._note(pid)

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all members, as last seen."""
        return sum(times.own_s for times in self._last.values())

    def cpu_s_now(self) -> float:
        """The same from one look: the living, and those whom the living have reaped."""
        self.look()
        return sum(self._last[pid].own_s + self._last[pid].reaped_s for pid in self.living())

    def living(self) -> list[int]:
        """Members that are still there; a number that belongs to somebody else by now is not."""
        self.look()
        now = {pid: read_times(pid) for pid in self._last}
        return [pid for pid, times in now.items() if times and self._is_same(pid, times)]

    def end(self) -> None:
        """Kill every member that is still there."""
        for pid in self.living():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _note(self, pid: int) -> None:
        times = read_times(pid)
        if times and (pid not in self._last or self._is_same(pid, times)):
            self._last[pid] = times

    def _is_same(self, pid: int, times: Times) -> bool:
        return times.start_s == self._last[pid].start_s

    def _belongs(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False
        times = read_times(pid)
        if times is None:
            return False
        belongs = self.mark in environment or times.parent in self._last
        if not belongs and any(environment):  # none: it is just being started
            self._others.add(pid)
        return belongs
