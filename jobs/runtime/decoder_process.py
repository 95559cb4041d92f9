"""The child process in which `jobs.runtime.decoding.GuardedDecoder` has images decoded."""

import pickle
import signal
import sys
import time
from collections.abc import Sequence
from itertools import accumulate
from multiprocessing.connection import Connection

from jobs.runtime.decoding import MARK, Decoder, DecodesMany, Shared


def serve(pipe: Connection, handles: Sequence[int], last_s: float) -> None:
    """The child: decode what the parent sends, until the pipe closes.

    It answers with a reason, the seconds it took and the extent per image, of many at a time. An
    image that takes `last_s` ends it: a parent that is alive would have done so before. What is
    decoded together counts as one; after a death nothing of that batch is.
    """
    mark = Shared(handles[0]).at_least(MARK.size)
    slots = [(Shared(handles[i]), Shared(handles[i + 1])) for i in range(1, len(handles), 2)]
    decoder: Decoder = pickle.loads(pipe.recv_bytes())
    together = decoder if isinstance(decoder, DecodesMany) else None
    if together:
        together.open()
        decoder = together.usual
    pipe.send("ready")
    while True:
        try:
            number, slot, sizes, first, answer_every_s = pipe.recv()
        except EOFError:
            return
        memory = slots[slot][0].at_least(sum(sizes))
        pixels = slots[slot][1].array(len(sizes), decoder)
        offsets = [0, *accumulate(sizes)]
        answers: list[tuple[str, float, tuple[int, ...]]] = []
        answered = time.monotonic()
        done: dict[int, tuple[float, tuple[int, ...]]] = {}  # of a group
        for index in range(first, len(sizes)):
            start = time.monotonic()
            MARK.pack_into(mark, 0, number, index, start)
            signal.setitimer(signal.ITIMER_REAL, last_s)
            if together and answer_every_s and (index - first) % together.num_together == 0:
                group = range(index, min(index + together.num_together, len(sizes)))
                files = [memory[offsets[k] : offsets[k + 1]] for k in group]
                extents = together.many(files, pixels[index : group.stop])
                each_s = (time.monotonic() - start) / len(group)
                done = {k: (each_s, e) for k, e in zip(group, extents, strict=True) if e}
                start = time.monotonic()
                MARK.pack_into(mark, 0, number, index, start)
            if index in done:
                end = start
                answers.append(("", *done[index]))
            else:
                reason = decoder(memory[offsets[index] : offsets[index + 1]], pixels[index])
                end = time.monotonic()
                answers.append((reason, end - start, () if reason else tuple(decoder.extent)))
            if index + 1 < len(sizes) and end - answered < answer_every_s:
                continue
            signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                pipe.send(answers)
            except BrokenPipeError:
                return
            answers, answered = [], end


def _main() -> None:
    """`python -m jobs.runtime.decoder_process LAST_S PIPE HANDLES...`: GuardedDecoder starts it."""
    last_s, pipe, *handles = sys.argv[1:]
    serve(Connection(int(pipe)), [int(handle) for handle in handles], float(last_s))


if __name__ == "__main__":
    _main()
