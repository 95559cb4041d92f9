"""A network alone, in fresh processes of a given number of threads.

Light on purpose: the processes import this, and what they are to run.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np

Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
END_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Forwarded:
    """What as many fresh processes with the same network did."""

    answers: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    """logits and features of each array that was to be judged"""
    rate: float = 0.0
    """images/s of all together"""
    refused: str = ""


def forward(
    make: Callable[[], Network],
    pixels: np.ndarray,
    seconds: float,
    *,
    processes: int = 1,
    threads: int = 1,
    judged: Sequence[np.ndarray] = (),
) -> Forwarded:
    """`make()(pixels)` again and again in fresh processes of so many threads each.

    Threads are settled when a library is loaded, hence the processes. `make` must be picklable by
    name. What it or its first calls refuse by a ValueError or RuntimeError is an answer.
    """
    job = pickle.dumps((make, pixels, list(judged), seconds))
    with ExitStack() as stack:
        pipes = [stack.enter_context(_child(threads)) for _ in range(processes)]
        for pipe in pipes:
            pipe.send_bytes(job)
        ready = [pipe.recv() for pipe in pipes]
        if refusals := [each for each in ready if isinstance(each, str)]:
            return Forwarded(refused=refusals[0])
        for pipe in pipes:
            pipe.send("go")
        return Forwarded(answers=ready[0], rate=sum(pipe.recv() for pipe in pipes))


@contextmanager
def _child(threads: int) -> Iterator[Connection]:
    """The pipe of a process that serves one `forward`. RuntimeError where it dies."""
    ours, theirs = Pipe()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "jobs.runtime.ceilings.forward", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        theirs.close()
        try:
            yield ours
        except (EOFError, ConnectionError) as broken:
            code = child.wait(END_TIMEOUT_S)
            said.seek(0)
            told = said.read().decode(errors="replace")[-2000:]
            raise RuntimeError(
                f"a process that tried the network died ({code})\n{told}"
            ) from broken
        finally:
            child.kill()
            child.wait()
            ours.close()


def serve(pipe: Connection) -> None:
    """The child of `forward`: answers, then images/s once it is told to go."""
    make, pixels, judged, seconds = pickle.loads(pipe.recv_bytes())
    try:
        network = make()
        answers = [network(each) for each in judged]
        for _ in range(2):  # allocates, compiles
            network(pixels)
    except (ValueError, RuntimeError) as refusal:
        pipe.send((str(refusal).strip().splitlines() or [type(refusal).__name__])[-1][:300])
        return
    pipe.send(answers)
    pipe.recv()
    start, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        network(pixels)
        done += len(pixels)
    pipe.send(done / elapsed)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
