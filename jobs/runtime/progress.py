"""What a person sees while a run goes on: a live line at a terminal, elsewhere a log line."""

import logging
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

logger = logging.getLogger(__name__)

LOG_EVERY_S = 30.0
SPEED_WINDOW_S = 30.0
BOUND_FROM_S = 10.0
"""seconds of work from which a person is told what bounds it: before, it is the start"""


def set_up_logging(verbose: bool = False) -> None:
    """Log lines of Argus to standard error, once per process; others only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(handler)
    root.setLevel(logging.INFO if verbose else logging.WARNING)
    for name in ("__main__", "jobs", "vision_ops", "cluster"):
        logging.getLogger(name).setLevel(logging.INFO)


def rate_text(rate: float) -> str:
    """A number of things a second, to two digits where they are few."""
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.2g}"


class Progress:
    """Rows done, rows/s, failed rows and the time left, from what the plan knows.

    The share done is of rows where the plan knows them all, else of stored bytes.
    """

    def __init__(
        self,
        total_rows: int,
        total_bytes: int,
        describe: "Callable[[Progress], str] | None" = None,
    ) -> None:
        self.describe = describe or _rows
        self.total_rows = total_rows
        self.total_bytes = total_bytes
        self.rows = self.failed = self.bytes = 0
        self.start = self.logged = time.monotonic()
        self.history: list[tuple[float, float]] = [(self.start, 0.0)]
        console = Console(stderr=True)
        self.live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
            self.live.update(Text("starting"))
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def add(self, rows: int, failed: int, num_bytes: int) -> None:
        """Count a finished slice, and show."""
        self.rows += rows
        self.failed += failed
        self.bytes += num_bytes
        now = time.monotonic()
        self.history.append((now, self.share))
        while len(self.history) > 2 and self.history[1][0] < now - SPEED_WINDOW_S:
            self.history.pop(0)
        if self.live:
            self.live.update(Text(str(self)))
        elif now - self.logged >= LOG_EVERY_S:
            self.logged = now
            logger.info("%s", self)

    def stand_at(self, rows: int) -> None:
        """What is done is this much, by no work of now: it counts for no speed.

        More by an earlier attempt, or less where a part was lost.
        """
        self.rows = rows
        self.history = [(self.history[-1][0], self.share)]

    @property
    def share(self) -> float:
        """Part of the work that is done, 0..1."""
        if self.total_rows > 0:
            return self.rows / self.total_rows
        return self.bytes / self.total_bytes if self.total_bytes else 1.0

    @property
    def speed(self) -> float:
        """Part of the work done a second, in the last half minute."""
        (then, before), (now, share) = self.history[0], self.history[-1]
        return (share - before) / (now - then) if now > then else 0.0

    @property
    def seconds_left(self) -> float:
        """Time to the end at that speed."""
        return (1 - self.share) / self.speed if self.speed else 0.0

    def __str__(self) -> str:
        return self.describe(self)


def _rows(progress: Progress) -> str:
    seconds = time.monotonic() - progress.start
    total = f"/{progress.total_rows:,}" if progress.total_rows >= 0 else ""
    rate = progress.rows / seconds if seconds else 0.0
    return (
        f"{progress.share:4.0%}  {progress.rows:,}{total} rows  {rate_text(rate)} rows/s  "
        f"{progress.failed:,} failed  {clock(progress.seconds_left)} left"
    )


def decoding_line(progress: Progress) -> str:
    """Where the decoding before a training stands, which counts slices."""
    return (
        f"decoding  {progress.share:4.0%}  {progress.rows:,}/{progress.total_rows:,} slices  "
        f"{clock(progress.seconds_left)} left"
    )


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
