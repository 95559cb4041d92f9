"""Read-only memory for libraries that copy what they may not write to."""

import mmap
import pickle

import numpy as np
import pytest

from vision_ops.arrays import as_shared


def test_a_view_that_is_guarded_is_shared_and_stays_guarded():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    guarded = pixels.view()
    guarded.flags.writeable = False
    shared = as_shared(guarded[1:])
    assert np.shares_memory(shared, pixels)
    assert shared.flags.writeable
    assert not guarded.flags.writeable
    assert np.array_equal(shared, pixels[1:])
    assert as_shared(pixels) is pixels


def test_memory_of_another_process_is_shared():
    memory = mmap.mmap(-1, 4096)
    pixels = np.frombuffer(memory, np.uint8, 24).reshape(2, 12)
    pixels.flags.writeable = False
    assert np.shares_memory(as_shared(pixels), pixels)


@pytest.mark.parametrize("kind", ["owned", "bytes", "pickled"])
def test_memory_that_may_not_be_written_to_is_copied(kind: str):
    pixels = np.arange(24, dtype=np.uint8)
    if kind == "bytes":
        pixels = np.frombuffer(pixels.tobytes(), np.uint8)
    elif kind == "pickled":
        data = pickle.dumps(pixels, protocol=5, buffer_callback=(buffers := []).append)
        pixels = pickle.loads(data, buffers=[memoryview(each.raw().tobytes()) for each in buffers])
    pixels.flags.writeable = False
    copy = as_shared(pixels[3:])
    assert not np.shares_memory(copy, pixels)
    assert copy.flags.writeable
    assert np.array_equal(copy, pixels[3:])
