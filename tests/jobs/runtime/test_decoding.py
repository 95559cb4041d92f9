import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.runtime.decoding import GuardedDecoder
from tests.jobs.runtime.toy import ToyDecoder
from vision_ops.arrays import as_shared


@pytest.fixture
def guard():
    decoder = GuardedDecoder(ToyDecoder(), timeout_s=1.5)
    yield decoder
    decoder.close()


def test_a_file_that_kills_the_decoder_costs_itself_and_no_other(guard: GuardedDecoder):
    guard.submit([b"a", b"kill", b"b", b"kill", b"bad"])
    guard.submit([b"c"])

    pixels, reasons, extents = guard.result()

    assert extents == [(3, 5), (), (3, 5), (), ()]
    assert reasons == ["", "worker died (exit code 9)", "", "worker died (exit code 9)"] + [
        "not an image: bad bytes 123"
    ]
    assert pixels[[0, 2], 0, 0, 0].tolist() == [ord("a"), ord("b")]
    assert not pixels.flags.writeable
    assert np.shares_memory(as_shared(pixels), pixels)
    assert guard.result()[0][0, 0, 0, 0] == ord("c")


def test_a_file_that_hangs_the_decoder_costs_itself_and_no_other(guard: GuardedDecoder):
    guard.submit([b"hang", b"a"])

    reasons = guard.result().errors

    assert reasons == ["worker hung for 1.5 s and was stopped", ""]


def test_a_batch_that_takes_longer_than_one_image_may_is_no_hang(guard: GuardedDecoder):
    guard.submit([b"slow"] * 6)
    guard.result()
    assert guard.child is not None
    child = guard.child.pid

    guard.submit([b"slow"] * 6)

    assert guard.result().errors == [""] * 6
    assert guard.child.pid == child


def test_an_image_that_hangs_behind_slow_ones_is_the_one_that_is_blamed(guard: GuardedDecoder):
    guard.submit([b"slow", b"slow", b"slow", b"hang", b"bad", b"kill", b"a"])

    errors = guard.result().errors

    assert errors[:3] == ["", "", ""]
    assert errors[3] == "worker hung for 1.5 s and was stopped"
    assert errors[4:] == ["not an image: bad bytes 123", "worker died (exit code 9)", ""]


@dataclass(frozen=True)
class ToyGpu(ToyDecoder):
    """Decodes up to four files together, but what begins with a digit; `broken` ends it."""

    num_together: int = 4
    usual: ToyDecoder = field(default_factory=ToyDecoder)
    ready: list[bool] = field(default_factory=list)

    def open(self) -> None:
        self.ready.append(True)

    def many(self, files: Sequence[bytes], out: np.ndarray) -> list[tuple[int, ...] | None]:
        assert self.ready == [True]
        assert len(files) <= 4
        if b"broken" in files:
            os._exit(7)
        extents: list[tuple[int, ...] | None] = []
        for data, place in zip(files, out, strict=True):
            is_left = data[:1].isdigit() or self(data, place)
            extents.append(None if is_left else (8, 9))
        return extents


def test_what_ends_the_process_of_a_gpu_is_decoded_without():
    files = [b"a", b"1", b"b", b"c", b"d", b"broken", b"bad", b"e", b"f"]
    with closing(GuardedDecoder(ToyGpu(), timeout_s=9)) as guard:
        guard.submit(files)
        guard.submit([b"h"] * 6)
        pixels, errors, extents = guard.result()
        assert errors == ["", "", "", "", "", "", "not an image: bad bytes 123", "", ""]
        good = [k for k in range(9) if k != 6]
        assert [chr(pixels[k, 0, 0, 0]) for k in good] == list("a1bcdbef")
        assert {extents[k] for k in good} == {(3, 5)}  # the process answers for a batch as a whole
        assert guard.result()[2] == [(8, 9)] * 6


def test_what_a_gpu_leaves_is_decoded_one_by_one_and_may_take_its_time():
    with closing(GuardedDecoder(ToyGpu(usual=SlowDecoder()), timeout_s=1.5)) as guard:
        guard.submit([b"a", b"1", b"2", b"b", b"3", b"4", b"5", b"c"])
        pixels, errors, extents = guard.result()
        assert guard.num_sent == 1
    assert errors == [""] * 8
    assert "".join(map(chr, pixels[:, 0, 0, 0])) == "a12b345c"
    assert [extent == (8, 9) for extent in extents] == [k in (0, 3, 7) for k in range(8)]


class SlowDecoder(ToyDecoder):
    def __call__(self, data: bytes, out: np.ndarray) -> str:
        time.sleep(0.4)
        return super().__call__(data, out)


def test_of_files_that_are_decoded_together_one_that_kills_or_hangs_costs_itself():
    files = [b"a", b"b", b"kill", b"c", b"d", b"hang", b"bad", b"e", b"f", b"g"]
    with closing(GuardedDecoder(ToyGpu(), timeout_s=1.5)) as guard:
        guard.submit(files)
        guard.submit([b"h"] * 6)
        pixels, errors, extents = guard.result()
        assert errors[2] == "worker died (exit code 9)"
        assert errors[5] == "worker hung for 1.5 s and was stopped"
        assert errors[6] == "not an image: bad bytes 123"
        good = [k for k, error in enumerate(errors) if not error]
        assert good == [0, 1, 3, 4, 7, 8, 9]
        assert [chr(pixels[k, 0, 0, 0]) for k in good] == list("abcdefg")
        assert [extents[k] for k in good] == [(3, 5)] * 7
        assert guard.result().errors == [""] * 6


def test_a_decoder_killed_from_outside_costs_nothing(guard: GuardedDecoder):
    guard.submit([b"a"])
    guard.result()
    assert guard.child is not None
    os.kill(guard.child.pid, signal.SIGKILL)

    guard.submit([b"b", b"c"])

    assert guard.result().errors == ["", ""]


def test_a_decoder_that_cannot_start_says_why():
    guard = GuardedDecoder(lambda data, out: "", timeout_s=1)  # pyright: ignore
    guard.decoder = Unloadable()
    with pytest.raises(RuntimeError, match="no decoder here"):
        guard.submit([b"a"])
    guard.close()


def test_a_child_that_is_killed_while_it_starts_is_started_anew(tmp_path: Path):
    with closing(GuardedDecoder(KilledAtFirst(str(tmp_path / "once")), timeout_s=9)) as guard:
        guard.submit([b"a"])
        assert guard.result().errors == [""]
        assert (tmp_path / "once").exists()
    refused = pytest.raises(RuntimeError, match=r"did not start: worker died .SIGKILL")
    with closing(GuardedDecoder(KilledAtFirst("/"))) as guard, refused:
        guard.submit([b"a"])


class KilledAtFirst(ToyDecoder):
    """Ends the child that unpickles it, until the file is there; it never is at `/`."""

    def __init__(self, path: str) -> None:
        super().__init__()
        object.__setattr__(self, "path", path)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return start_or_die, (vars(self)["path"],)


def start_or_die(path: str) -> ToyDecoder:
    if not Path(path).is_file():
        if path != "/":
            Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return ToyDecoder()


class Unloadable:
    """Pickles here, fails in the child."""

    shape = (1, 1, 3)
    dtype = np.dtype(np.uint8)
    suffixes = ()
    extent = ()

    def __call__(self, data: bytes, out: np.ndarray) -> str:
        return ""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise ImportError('no decoder here')",)


@settings(max_examples=8)
@given(st.lists(st.lists(st.integers(0, 90), max_size=9), max_size=6), st.integers(1, 9000))
def test_batches_of_any_sizes_come_back_in_order(batches: list[list[int]], size: int):
    with closing(GuardedDecoder(ToyDecoder(), timeout_s=30)) as guard:
        waiting = list[list[int]]()
        for batch in [*batches, []]:
            guard.submit([bytes([first]) * (size + first) for first in batch])
            waiting.append(batch)
            if len(waiting) == 2:  # as many as may be under way
                pixels, reasons, _ = guard.result()
                assert pixels[:, -1, -1, -1].tolist() == waiting.pop(0)
                assert not any(reasons)


def test_batches_that_nobody_waits_for_any_more_are_not_waited_for(guard: GuardedDecoder):
    guard.submit([b"a", b"hang"])
    guard.submit([b"b"])
    guard.abandon()

    guard.submit([b"c"])

    pixels, errors, _ = guard.result()
    assert (pixels[0, 0, 0, 0], errors) == (ord("c"), [""])


def test_a_child_that_hangs_does_not_outlive_a_parent_that_was_killed():
    started = [sys.executable, "-c", ORPHAN]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.exists()
        parent.kill()
    for _ in range(600):
        try:
            if " Z " in (child / "stat").read_text():  # it ended, and nobody asked how
                return
        except OSError:
            return
        time.sleep(0.1)
    os.kill(int(child.name), signal.SIGKILL)
    raise AssertionError("the child still hangs")


ORPHAN = """
import time
from jobs.runtime.decoding import GuardedDecoder
from tests.jobs.runtime.toy import ToyDecoder
from vision_ops.arrays import as_shared

guard = GuardedDecoder(ToyDecoder(), timeout_s=1)
guard.submit([b"a", b"hang"])
print(guard.child.pid, flush=True)
time.sleep(60)
"""


def test_memory_that_is_not_there_is_said_before_it_is_written_to():
    """Else whoever writes to it dies (SIGBUS): the child with a good image, or its parent."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(GuardedDecoder(ToyDecoder())) as guard:
        guard.submit([b"a"])
        guard.result()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, usual[1]))
        try:
            with pytest.raises(RuntimeError, match=r"no room for 3 MB of images .*--shm-size"):
                guard.submit([bytes(3_000_000)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        guard.submit([b"b"])
        assert guard.result().errors == [""]
