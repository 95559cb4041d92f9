"""Decoding in a child process, so that a file which crashes or hangs a decoder costs one row.

Encoded bytes and decoded arrays travel through shared memory, only lengths and reasons through a
pipe, a message a batch: woken for every image, the parent spent 4 % of a core on it. Which image
the child is at, and since when, stands in shared memory too. While the child decodes one batch, the
parent is free to run the network on the one before.
"""

import mmap
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

NUM_SLOTS = 2
"""batches in flight: one being decoded, one being used"""
SHARED_FOLDER = "/dev/shm"
"""where memory of several processes lies, if it has SHARED_ROOM bytes: Docker gives it 64 MB"""
SHARED_ROOM = 1 << 30
START_TIMEOUT_S = 120.0
NUM_STARTS = 3
"""of a child that is killed while it starts, for want of memory perhaps"""
LEAVE_S = 10.0
"""for a child to end by itself, once its pipe is closed"""
ANSWER_EVERY_S = 0.5
"""work that a child's death may cost: it answers for a batch as a whole, or after so long"""
MARK = struct.Struct("=qqd")
"""where the child is: number of the message, index of the image, time.monotonic() of its begin"""


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


@runtime_checkable
class DecodesMany(Protocol):
    """A decoder that is at its best with several images at once: on a GPU."""

    num_together: int
    """images that are best decoded at once"""

    @property
    def usual(self) -> Decoder:
        """Decodes what is left, image by image; and all, once something ended the process."""
        ...

    def open(self) -> None:
        """Make ready, once a process. Raises RuntimeError where its device is missing."""
        ...

    def many(self, files: Sequence[bytes], out: np.ndarray) -> list[tuple[int, ...] | None]:
        """Decode into `out`; returns the extent of each image, None where it is left."""
        ...


class Answer(NamedTuple):
    """What became of one image."""

    error: str
    seconds: float
    extent: tuple[int, ...]


class Sent(NamedTuple):
    """A message to the child: images of one batch, from the first that is still to be tried."""

    number: int
    slot: int
    sizes: list[int]
    first: int
    answer_every_s: float


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
            folder = SHARED_FOLDER if _has_room(SHARED_FOLDER) else None
            handle, name = tempfile.mkstemp(prefix="argus-", dir=folder)
            os.unlink(name)
        self.handle = handle
        self.map: mmap.mmap | None = None

    def at_least(self, size: int) -> mmap.mmap:
        """The mapping, grown to `size` bytes. Older views of it stay valid."""
        if self.map is None or len(self.map) < size:
            size = max(size, mmap.PAGESIZE)
            if os.fstat(self.handle).st_size < size:
                self._grow(size)
            self.map = mmap.mmap(self.handle, size)
        return self.map

    def _grow(self, size: int) -> None:
        """Take memory for all of it: what is only promised may be missing when it is written to."""
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.handle, 0, size)
            else:
                os.ftruncate(self.handle, size)
        except OSError as full:
            raise RuntimeError(
                f"no room for {size / 1e6:,.0f} MB of images between processes ({full}): give "
                f"{SHARED_FOLDER} more (docker run --shm-size=2g) or set TMPDIR to a larger disk"
            ) from full

    def array(self, count: int, decoder: Decoder) -> np.ndarray:
        """The first bytes as an array of `count` decoded images."""
        memory = self.at_least(count * decoded_bytes(decoder))
        values = count * int(np.prod(decoder.shape))
        return np.frombuffer(memory, decoder.dtype, values).reshape(count, *decoder.shape)

    def close(self) -> None:
        """Free the file; views live on until they are dropped."""
        os.close(self.handle)


def _has_room(folder: str) -> bool:
    """Whether a folder may be written to, and batches of several decoders fit."""
    try:
        told = os.statvfs(folder)
    except OSError:
        return False
    return os.access(folder, os.W_OK) and told.f_bavail * told.f_frsize >= SHARED_ROOM


class GuardedDecoder:
    """Decodes batches in a child process that may die.

    An image on which the child died or took longer than `timeout_s` is tried once more in a fresh
    child (the first death may have had another cause), and is then given up with a reason.
    """

    def __init__(self, decoder: Decoder, timeout_s: float = 60.0) -> None:
        self.decoder = decoder
        self.timeout_s = timeout_s
        self.slots = [(Shared(), Shared()) for _ in range(NUM_SLOTS)]
        self.mark = Shared()
        self.queue: deque[Sent] = deque()
        self.num_sent = 0
        self.next_slot = 0
        self.busy_s = 0.0
        """seconds that children spent on images so far"""
        self.child: subprocess.Popen[bytes] | None = None
        self.pipe: Connection | None = None
        self.is_hung = False
        """whether the child was waited for in vain"""

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
        self.queue.append(self._send(slot, sizes))

    def result(self) -> Decoded:
        """What became of the batch that was submitted first."""
        slot, sizes = self.queue[0].slot, self.queue[0].sizes
        answers: list[Answer] = []
        suspect = -1
        while len(answers) < len(sizes):
            received = self._receive()
            if received:
                answers += received
                continue
            fatal = max(len(answers), self._begun()[0])
            reason = self._bury()
            if fatal == suspect:  # from the first death on every image was answered for at once
                answers.append(Answer(reason, 0.0, ()))
            suspect = fatal
            self._resend(len(answers))
        self.queue.popleft()
        self.busy_s += sum(answer.seconds for answer in answers)
        pixels = self.slots[slot][1].array(len(sizes), self.decoder)
        pixels.flags.writeable = False
        errors, _, extents = zip(*answers, strict=True) if answers else ((), (), ())
        return Decoded(pixels, list(errors), list(extents))

    def abandon(self) -> None:
        """Give up the batches that are under way; the child, which is at one of them, goes too."""
        if self.queue:
            self._end_child()
        self.queue.clear()

    def _end_child(self) -> None:
        if self.child is not None:
            self.child.kill()
            self._bury()

    def close(self) -> None:
        """End the child."""
        self._end_child()
        for shared in (self.mark, *chain(*self.slots)):
            shared.close()

    def _send(
        self, slot: int, sizes: list[int], first: int = 0, answer_every_s: float = ANSWER_EVERY_S
    ) -> Sent:
        if self.pipe is None:
            self._start()
        assert self.pipe is not None
        self.num_sent += 1
        sent = Sent(self.num_sent, slot, sizes, first, answer_every_s)
        with suppress(BrokenPipeError, ConnectionResetError):  # `result` finds it dead
            self.pipe.send(tuple(sent))
        return sent

    def _resend(self, done: int) -> None:
        """After a death: the rest of the oldest batch, image by image, and the batch behind it."""
        oldest, *others = self.queue
        self.queue = deque([self._send(oldest.slot, oldest.sizes, done, 0.0)])
        self.queue.extend(self._send(each.slot, each.sizes) for each in others)

    def _receive(self) -> list[Answer]:
        """The next answers of the oldest batch; none where the child is gone, or hangs."""
        if self.pipe is None:
            return []
        try:
            patience = self.timeout_s
            while not self.pipe.poll(patience):
                index, start = self._begun()
                patience = start + self.timeout_s - time.monotonic()
                if index < 0 or patience <= 0:
                    self.is_hung = True
                    return []
            return [Answer(*answer) for answer in self.pipe.recv()]
        except (EOFError, OSError):  # it may die in the middle of a message
            return []

    def _begun(self) -> tuple[int, float]:
        """The image of the oldest batch that the child began last, and when; -1 for none."""
        number, index, start = MARK.unpack_from(self.mark.at_least(MARK.size))
        return (index, start) if number == self.queue[0].number else (-1, 0.0)

    def _bury(self) -> str:
        """Make sure the child is gone; says how it ended."""
        child, self.child = self.child, None
        if self.pipe is not None:
            self.pipe.close()
            self.pipe = None
        if child is None:
            return "worker died"
        if self.is_hung:
            child.kill()
        with suppress(subprocess.TimeoutExpired):  # torch and a GPU take a while to end
            child.wait(LEAVE_S)
        if self.is_hung:
            return f"worker hung for {self.timeout_s:g} s and was stopped"
        if child.returncode is None:
            child.kill()
            with suppress(subprocess.TimeoutExpired):  # a driver may hold it for ever
                child.wait(LEAVE_S)
        code = -signal.SIGKILL if child.returncode is None else child.returncode
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"worker died ({name})"

    def _start(self) -> None:
        """Start the child; anew where a signal ends it before it is ready: that was no image."""
        for left in reversed(range(NUM_STARTS)):
            said = self._try_start()
            if not said:
                return
            if not left or not said.startswith("worker died (SIG"):
                raise RuntimeError(f"the decoder process did not start: {said}")

    def _try_start(self) -> str:
        """Start the child; "" or why it is not there."""
        ours, theirs = Pipe()
        handles = [shared.handle for shared in (self.mark, *chain(*self.slots))]
        numbers = [str(handle) for handle in (theirs.fileno(), *handles)]
        last_s = str(2 * self.timeout_s)
        with tempfile.TemporaryFile() as said:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "jobs.runtime.decoder_process", last_s, *numbers],
                pass_fds=[theirs.fileno(), *handles],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,  # Ctrl-C is the parent's to handle
            )
            theirs.close()
            self.pipe, self.is_hung = ours, False
            try:
                ours.send_bytes(pickle.dumps(self.decoder))
                self.is_hung = not ours.poll(START_TIMEOUT_S)
                ready = not self.is_hung and ours.recv() == "ready"
            except (EOFError, ConnectionError):
                ready = False
            if ready:
                return ""
            reason = self._bury()
            said.seek(0)
            trace = said.read().decode(errors="replace")[-2000:]
            return f"{reason}\n{trace}"
