"""What a training leaves in its run directory, each file put whole by the first worker.

checkpoints/{last,best}.safetensors   weights with their card, after each epoch; what a learner has
                                      beside them: {last,best}.head.safetensors
checkpoints/state.pt                  what the next attempt goes on from, also within an epoch
metrics.jsonl                         a line per epoch
tensorboard/                          the same as events, if asked for
"""

import io
import json
import posixpath
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from jobs.runtime.learner import Learner, Metrics, State, Training
from jobs.runtime.storage import Storage, join

LAST = "checkpoints/last.safetensors"
BEST = "checkpoints/best.safetensors"
STATE = "checkpoints/state.pt"
METRICS = "metrics.jsonl"


def put_weights(training: Training, learner: Learner, history: list[Metrics]) -> None:
    """Put the checkpoints of an epoch: last, and best where it is."""
    with tempfile.TemporaryDirectory() as folder:
        learner.save(Path(folder) / posixpath.basename(LAST))
        files = {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}
    is_best = best_of(history, training.config.patience) is history[-1]
    for name, data in files.items():
        training.put(f"checkpoints/{name}", data)
        if is_best:
            training.put(f"checkpoints/{name.replace('last', 'best', 1)}", data)


def put_state(training: Training, learner: Learner, state: State) -> None:
    """Put what the next attempt goes on from: with it, steps and epochs count as done."""
    data = io.BytesIO()
    torch.save({"learner": learner.state_dict(), **vars(state)}, data)
    training.put(STATE, data.getvalue())


def best_of(history: Sequence[Metrics], patience: int = 0) -> Metrics:
    """The last epoch within one standard error of the lowest loss on images kept back.

    The lowest of many noisy values is partly luck; what the schedule brought to its end is not.
    With `patience` training ends where that loss has risen: there it is the last of the lowest.
    """
    lowest = min(history, key=lambda metrics: metrics["loss"])
    error = 0.0 if patience else lowest.get("loss_error", 0.0)
    return [metrics for metrics in history if metrics["loss"] <= lowest["loss"] + error][-1]


def load_state(training: Training, learner: Learner) -> State:
    """Put the learner where state.pt was taken; returns the rest of what was kept."""
    try:
        data = training.storage.read(join(training.run_uri, STATE))
    except FileNotFoundError:
        return State(history=[], sums={})
    kept = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    learner.load_state_dict(kept.pop("learner"))
    return State(**kept)


def write_metrics(training: Training, history: list[Metrics]) -> None:
    """metrics.jsonl, whole."""
    lines = [json.dumps(metrics) + "\n" for metrics in history]
    training.put(METRICS, "".join(lines).encode())


def put_events(training: Training, metrics: Metrics) -> None:
    """An epoch's metrics as a file of TensorBoard events, put whole: a repetition replaces it."""
    from tensorboardX import SummaryWriter  # for those who ask

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for name, value in metrics.items():
                writer.add_scalar(name, value, int(metrics["step"]))
        (file,) = Path(folder).iterdir()
        name = f"tensorboard/events.out.tfevents.{int(metrics['epoch']):06}"
        training.put(name, file.read_bytes())


def read_metrics(run_uri: str, storage: Storage) -> list[Metrics]:
    """The lines of metrics.jsonl; none before the first epoch."""
    try:
        text = storage.read(join(run_uri, METRICS))
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]
