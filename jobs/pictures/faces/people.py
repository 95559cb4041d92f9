"""Examples by person: who can be learnt from, and the order in which a training sees them."""

import logging
from dataclasses import dataclass

import numpy as np

from jobs.runtime.examples import Examples
from jobs.runtime.learner import Shuffled, TrainingConfig, steps_per_epoch
from vision_ops.learners.people import draw_people

logger = logging.getLogger(__name__)

LEAST_VALIDATED = 4
"""people to validate on: two halves, each with a pair that is genuine and one that is not"""


@dataclass(frozen=True)
class PeopleOrder:
    """Batches of P people with K pictures each; an epoch takes as many pictures as there are.

    Evaluated beside those kept back are all pictures of as many people.
    """

    targets: np.ndarray
    """int64 (N,): whose each example is"""
    pictures_per_person: int
    """K; 0: pictures are drawn whosever they are"""
    num_compared: int
    """people evaluated beside those kept back"""

    def batches(self, count: int, config: TrainingConfig, epoch: int) -> np.ndarray:
        """See `jobs.runtime.learner.Order`."""
        if not self.pictures_per_person:
            return Shuffled().batches(count, config, epoch)
        people = config.batch_size // self.pictures_per_person
        random = np.random.default_rng([config.seed, epoch])
        steps = steps_per_epoch(count, config)
        return draw_people(self.targets, people, self.pictures_per_person, steps, random)

    def compared(self, count: int, wanted: int, seed: int) -> np.ndarray:
        """See `jobs.runtime.learner.Order`; people with one picture tell nothing here."""
        people, counts = np.unique(self.targets, return_counts=True)
        able = people[counts > 1]
        chosen = np.random.default_rng([seed, count]).permutation(able)[: self.num_compared]
        return np.flatnonzero(np.isin(self.targets, chosen))


def with_several(examples: Examples, name: str) -> Examples:
    """Those of people with two pictures or more; the others are counted and said."""
    people, index, counts = np.unique(examples.truths, return_inverse=True, return_counts=True)
    alone = counts[index] < 2
    if alone.any():
        logger.warning(
            "%s: %d of %d people have one picture and are left out: a genuine pair takes two (%s)",
            name, alone.sum(), len(people), ", ".join(examples.ids[alone][:5]),
        )  # fmt: skip
    return examples.take(~alone)


def refuse_few(learn: Examples, validate: Examples, num_people: int, config: str) -> None:
    """Raise ValueError where there are not `num_people` to learn from, or too few to validate on.

    `config` says what wants so many.
    """
    found = len(set(learn.truths.tolist()))
    if found < num_people:
        raise ValueError(f"data: {found} people to learn from; {config} wants {num_people}")
    kept = len(set(validate.truths.tolist()))
    if kept < LEAST_VALIDATED:
        raise ValueError(
            f"data: {kept} people with several pictures are kept back, and {found} learnt from; "
            f"{LEAST_VALIDATED} are needed: raise --training.validation-fraction, or name a "
            "--validation.uri"
        )
