"""Decoding in a child process, so that a file which crashes or hangs a decoder costs one row.

Encoded bytes and decoded arrays travel through shared memory, only lengths and reasons through a
pipe. While the child decodes one batch, the parent is free to run the network on the one before.
"""

import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NamedTuple, Protocol

import numpy as np

NUM_SLOTS = 2
"""batches in flight: one being decoded, one being used"""
START_TIMEOUT_S = 120.0


class Decoder(Protocol):
    """Bytes of one image (clip, signal, volume) to an array of one fixed shape and type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is decoded."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Its type: uint8 where it can be."""
        ...

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the files that it decodes, lower case, with their dot."""
        ...

    @property
    def extent(self) -> tuple[int, ...]:
        """Shape of what was decoded last, upright, before it was fitted: (H, W) of a picture."""
        ...

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        """Decode into `out`; returns "" or why it could not. Raises nothing for bad bytes."""
        ...


class Decoded(NamedTuple):
    """A batch of images that were tried."""

    pixels: np.ndarray
    """(B, *shape) of the decoder's type, read-only; valid until the second next `submit`"""
    errors: list[str]
    """a reason per image, "" where it was decoded"""
    extents: list[tuple[int, ...]]
    """of each image, () where it was not decoded"""


def decoded_bytes(decoder: Decoder) -> int:
    """Memory that one decoded image takes."""
    return int(np.prod(decoder.shape)) * np.dtype(decoder.dtype).itemsize


class Shared:
    """Memory of two processes: an unlinked file in /dev/shm (or the temporary folder), mapped."""

    def __init__(self, handle: int | None = None) -> None:
        if handle is None:
            folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
            handle, name = tempfile.mkstemp(prefix="argus-", dir=folder)
            os.unlink(name)
        self.handle = handle
        self.map: mmap.mmap | None = None

    def at_least(self, size: int) -> mmap.mmap:
        """The mapping, grown to `size` bytes. Older views of it stay valid."""
        if self.map is None or len(self.map) < size:
            size = max(size, mmap.PAGESIZE)
            if os.fstat(self.handle).st_size < size:
                os.ftruncate(self.handle, size)
            self.map = mmap.mmap(self.handle, size)
        return self.map

    def array(self, count: int, decoder: Decoder) -> np.ndarray:
        """The first bytes as an array of `count` decoded images."""
        memory = self.at_least(count * decoded_bytes(decoder))
        values = count * int(np.prod(decoder.shape))
        return np.frombuffer(memory, decoder.dtype, values).reshape(count, *decoder.shape)

    def close(self) -> None:
        """Free the file; views live on until they are dropped."""
        os.close(self.handle)


class GuardedDecoder:
    """Decodes batches in a child process that may die.

    An image on which the child died or took longer than `timeout_s` is tried once more in a fresh
    child (the first death may have had another cause), and is then given up with a reason.
    """

    def __init__(self, decoder: Decoder, timeout_s: float = 60.0) -> None:
        self.decoder = decoder
        self.timeout_s = timeout_s
        self.slots = [(Shared(), Shared()) for _ in range(NUM_SLOTS)]
        self.queue: deque[tuple[int, list[int]]] = deque()
        self.next_slot = 0
        self.busy_s = 0.0
        """seconds that children spent on images so far"""
        self.child: subprocess.Popen[bytes] | None = None
        self.pipe: Connection | None = None

    def submit(self, blobs: Sequence[bytes]) -> None:
        """Give a batch to the child; at most two may be under way."""
        if len(self.queue) == NUM_SLOTS:
            raise RuntimeError("two batches are under way: take a result first")
        slot, self.next_slot = self.next_slot, (self.next_slot + 1) % NUM_SLOTS
        sizes = [len(blob) for blob in blobs]
        memory = self.slots[slot][0].at_least(sum(sizes))
        offset = 0
        for blob in blobs:
            memory[offset : offset + len(blob)] = blob
            offset += len(blob)
        self.slots[slot][1].at_least(len(blobs) * decoded_bytes(self.decoder))
        self.queue.append((slot, sizes))
        self._send(slot, sizes, 0)

    def result(self) -> Decoded:
        """What became of the batch that was submitted first."""
        slot, sizes = self.queue[0]
        errors: list[str] = []
        extents: list[tuple[int, ...]] = []
        deaths = 0
        while len(errors) < len(sizes):
            answer = self._receive()
            if answer is None:
                deaths += 1
                reason = self._bury()
                if deaths == 2:
                    errors.append(reason)
                    extents.append(())
                    deaths = 0
                self._resend(len(errors))
            else:
                errors.append(answer[0])
                self.busy_s += answer[1]
                extents.append(answer[2])
                deaths = 0
        self.queue.popleft()
        pixels = self.slots[slot][1].array(len(sizes), self.decoder)
        pixels.flags.writeable = False
        return Decoded(pixels, errors, extents)

    def close(self) -> None:
        """End the child."""
        if self.child is not None:
            self.child.kill()
            self._bury()
        for pair in self.slots:
            for shared in pair:
                shared.close()

    def _send(self, slot: int, sizes: list[int], first: int) -> None:
        if self.pipe is None:
            self._start()
        assert self.pipe is not None
        try:
            self.pipe.send((slot, sizes, first))
        except (BrokenPipeError, ConnectionResetError):
            return  # `result` finds it dead and sends again

    def _resend(self, done: int) -> None:
        """After a death: the rest of the oldest batch, and the batch behind it."""
        for number, (slot, sizes) in enumerate(self.queue):
            self._send(slot, sizes, done if number == 0 else 0)

    def _receive(self) -> tuple[str, float, tuple[int, ...]] | None:
        """The next reason, the seconds it took and the extent; None where the child is gone."""
        if self.pipe is None:
            return None
        try:
            if not self.pipe.poll(self.timeout_s):
                return None
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None

    def _bury(self) -> str:
        """Make sure the child is gone; says how it ended."""
        child, self.child = self.child, None
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None
        if child is None:
            return "worker died"
        try:
            code = child.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            return f"worker hung for {self.timeout_s:g} s and was stopped"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"worker died ({name})"

    def _start(self) -> None:
        ours, theirs = Pipe()
        handles = [shared.handle for pair in self.slots for shared in pair]
        numbers = [str(handle) for handle in (theirs.fileno(), *handles)]
        with tempfile.TemporaryFile() as said:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "jobs.runtime.decoding", *numbers],
                pass_fds=[theirs.fileno(), *handles],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
            theirs.close()
            self.pipe = ours
            try:
                ours.send_bytes(pickle.dumps(self.decoder))
                ready = ours.poll(START_TIMEOUT_S) and ours.recv() == "ready"
            except (EOFError, ConnectionError):
                ready = False
            if not ready:
                reason = self._bury()
                said.seek(0)
                trace = said.read().decode(errors="replace")[-2000:]
                raise RuntimeError(f"the decoder process did not start: {reason}\n{trace}")


def serve(pipe: Connection, handles: Sequence[int]) -> None:
    """The child: decode what the parent sends, until the pipe closes.

    It answers with a reason, the seconds it took and the extent, per image.
    """
    slots = [(Shared(handles[i]), Shared(handles[i + 1])) for i in range(0, len(handles), 2)]
    decoder: Decoder = pickle.loads(pipe.recv_bytes())
    pipe.send("ready")
    while True:
        try:
            slot, sizes, first = pipe.recv()
        except EOFError:
            return
        memory = slots[slot][0].at_least(sum(sizes))
        pixels = slots[slot][1].array(len(sizes), decoder)
        offset = sum(sizes[:first])
        for number in range(first, len(sizes)):
            data = memory[offset : offset + sizes[number]]
            offset += sizes[number]
            start = time.perf_counter()
            reason = decoder(data, pixels[number])
            extent = () if reason else tuple(decoder.extent)
            try:
                pipe.send((reason, time.perf_counter() - start, extent))
            except BrokenPipeError:
                return


def _main() -> None:
    """`python -m jobs.runtime.decoding PIPE HANDLES...`: started by GuardedDecoder alone."""
    serve(Connection(int(sys.argv[1])), [int(handle) for handle in sys.argv[2:]])


if __name__ == "__main__":
    _main()
