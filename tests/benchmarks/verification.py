"""What judging 15 million impostor pairs takes: seconds and peak memory, beside scikit-learn.

    python -m tests.benchmarks.verification [--num-faces 5500]

All pairs of faces of people who do not exist, compared and counted as `jobs.evaluate` does; then
the same scores in arrays, as scikit-learn's roc_curve wants them. Each in a process of its own;
memory is what a process has at its peak above what it had after its imports.
"""

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tyro
from sklearn.metrics import roc_auc_score, roc_curve

from tests.synthetic_people import POPULATIONS
from vision_ops.faces.comparisons import cosine, genuine_pairs, impostor_pairs
from vision_ops.metrics.verification import VerificationAccumulator

FACES_A_PERSON = 2
FARS = (1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    num_faces: int = 5_500
    """faces, two of each person"""
    only: Literal["both", "counted", "arrays"] = "both"
    """one way, in this process"""


def main(config: Config) -> None:
    """Print both."""
    if config.only != "both":
        print(json.dumps(measure(config)))  # noqa: T201
        return
    for way in ("counted", "arrays"):
        command = [sys.executable, "-m", "tests.benchmarks.verification"]
        command += ["--num-faces", str(config.num_faces), "--only", way]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        print(way, json.loads(told.stdout))  # noqa: T201


def measure(config: Config) -> dict[str, object]:
    """One way: pairs, seconds, MB, AUC and TAR at FARS."""
    drawn = POPULATIONS["uneven"].draw(config.num_faces // FACES_A_PERSON, FACES_A_PERSON, seed=1)
    faces = drawn.reshape(-1, drawn.shape[-1])
    people = np.repeat(np.arange(len(drawn)), FACES_A_PERSON)
    del drawn
    before, start = peak_mb(), time.monotonic()
    told = counted(faces, people) if config.only == "counted" else arrays(faces, people)
    return told | {
        "seconds": round(time.monotonic() - start, 1),
        "peak_mb": round(peak_mb() - before),
    }


def counted(faces: np.ndarray, people: np.ndarray) -> dict[str, object]:
    """By blocks, on the grid."""
    found = VerificationAccumulator()
    for pairs in genuine_pairs(faces, people, cosine):
        found.update(pairs.scores, np.ones(len(pairs.scores), bool))
    for pairs in impostor_pairs(faces, people, cosine, 10**12):
        found.update(pairs.scores, np.zeros(len(pairs.scores), bool))
    result = found.result(FARS)
    tars = [round(point.tar, 6) for point in result.points]
    return {"impostors": result.num_impostor, "auc": round(result.auc, 8), "tar": tars}


def arrays(faces: np.ndarray, people: np.ndarray) -> dict[str, object]:
    """All scores at once, by scikit-learn."""
    a, b = np.tril_indices(len(faces), -1)
    scores, same = (faces @ faces.T)[a, b], people[a] == people[b]
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    tars = [round(float(tar[np.searchsorted(far, rate, side="right") - 1]), 6) for rate in FARS]
    auc = round(float(roc_auc_score(same, scores)), 8)
    return {"impostors": int((~same).sum()), "auc": auc, "tar": tars}


def peak_mb() -> float:
    """Peak of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
