"""A job as a command: log lines, the cause of an error first, and the exit code.

0 done   2 bad request   3 too many failed rows   1 anything else
"""

import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn, TypeVar

from jobs.runtime.progress import set_up_logging
from jobs.runtime.run import TooManyFailedError

logger = logging.getLogger(__name__)

Config = TypeVar("Config")

BAD_REQUEST = 2
TOO_MANY_FAILED = 3


def run_command(main: Callable[[Config], object], config: Config) -> NoReturn:
    """Call `main(config)` as the command line does, and exit."""
    set_up_logging()
    sys.excepthook = tell_cause_first
    signal.signal(signal.SIGTERM, _interrupt)
    code = 1
    try:
        try:
            code = exit_code(main, config)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `--help | head`: whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nor is the rest missed when Python ends
    sys.exit(code)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends a run as Ctrl-C does; a second one ends it at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}")


def exit_code(main: Callable[[Config], object], config: Config) -> int:
    """What the command ends with. A bug or an outage is not caught: see `tell_cause_first`."""
    try:
        main(config)
    except ValueError as refusal:
        logger.error("bad request: %s", refusal)
        return BAD_REQUEST
    except TooManyFailedError as refusal:
        logger.error("%s", refusal)
        return TOO_MANY_FAILED
    except FloatingPointError as diverged:  # says itself what would help: no repetition
        logger.error("%s", diverged)
        return 1
    except KeyboardInterrupt as stopped:
        told = str(stopped) or "interrupted"
        logger.error("%s; the same command continues where it stopped", told)
        return 1
    return 0


def tell_cause_first(
    kind: type[BaseException], failure: BaseException, trace: TracebackType | None
) -> None:
    """Hook for what nobody caught (exit code 1): the cause in a line, the trace in a file."""
    with tempfile.NamedTemporaryFile("w", prefix="argus-", suffix=".log", delete=False) as file:
        file.write("".join(traceback.format_exception(kind, failure, trace)))
    logger.error("%s: %s", kind.__name__, failure)
    logger.error("trace in %s; the same command continues where it stopped", file.name)
