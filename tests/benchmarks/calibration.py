"""Do calibrated thresholds keep their promise on other people? Held-out FPIR by size of gallery.

    python -m tests.benchmarks.calibration [--num-people 1000 3500] [--faces 4]

Calibrates on people who do not exist (see tests/synthetic_people.py), two pictures of each, and
searches for 10,000 others in galleries of 100, 1,000 and 10,000 more others. Prints the achieved
FPIR over the wanted one: 1 is right; and beside it that of 1 - (1 - FMR)^N, which takes scores
for independent. With --faces galleries hold templates of so many pictures, as many of each person
are calibrated on, and beside it stands what the thresholds of single pictures do.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro

from tests.jobs.test_match_faces_templates import evaluated
from tests.synthetic_people import POPULATIONS, highest_of_galleries
from tests.vision_ops.test_calibration import calibrated

SIZES = (100, 1_000, 10_000)
WANTED = (0.1, 0.03, 0.01)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    num_people: tuple[int, ...] = (1_000, 3_500)
    """people that are calibrated on"""
    seeds: tuple[int, ...] = (1, 2)
    num_probes: int = 10_000
    """people who are looked for in vain"""
    faces: int = 1
    """pictures of a template"""


def main(config: Config) -> None:
    """Print the ratios."""
    say = print  # noqa: T202
    say("population, people, seed: gallery of", *(f"{size:,} at {WANTED}" for size in SIZES))
    for name, population in POPULATIONS.items():
        held = highest_of_galleries(
            population, SIZES, config.num_probes, 20_000, seed=900, faces=(config.faces,)
        )
        for num in config.num_people:
            for seed in config.seeds:
                if config.faces > 1:
                    found = evaluated(population, num, config.faces, seed)
                else:
                    found = calibrated(population, num, seed)
                own, other = [], []
                for size, highest in held.items():
                    for fpir in WANTED:
                        by = found.threshold_for_fpir
                        own.append(ratio(highest, fpir, by, fpir, size, config.faces))
                        if config.faces > 1:
                            other.append(ratio(highest, fpir, by, fpir, size))
                        else:
                            fmr = 1 - (1 - fpir) ** (1 / size)
                            other.append(ratio(highest, fpir, found.threshold_for_far, fmr))
                beside = "single" if config.faces > 1 else "independent"
                say(name, num, seed, "calibrated", *own, f"| {beside}", *other)


def ratio(
    highest: np.ndarray, wanted: float, threshold: Callable[..., float], *arguments: float
) -> str:
    """Achieved over wanted; a dash where the calibration calls its data insufficient."""
    try:
        return f"{np.mean(highest >= threshold(*arguments)) / wanted:.2f}"
    except ValueError:
        return "-"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
