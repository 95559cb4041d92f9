"""How well a grouping of faces agrees with who they are."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Precision, recall and their harmonic mean; 0..1."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """2 P R / (P + R); 0 where both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True, kw_only=True)
class ClusteringResult:
    """The numbers of a grouping."""

    pairwise: Agreement
    """over pairs of faces: of those put together, how many show one person, and the reverse. A
    share of no pairs at all is 1: nothing was put together wrongly"""
    bcubed: Agreement
    """mean over faces (Bagga & Baldwin 1998): of the faces in its cluster, itself among them, the
    share of its person; of the faces of its person, the share in its cluster"""
    num_faces: int
    num_people: int
    num_clusters: int
    """a face in no cluster is one of its own"""
    num_alone: int
    """faces in no cluster"""


class ClusteringAccumulator:
    """Counts faces by person and cluster: memory grows with their combinations, not the faces."""

    def __init__(self) -> None:
        self.cells: Counter[tuple[str, str]] = Counter()
        self.alone: Counter[str] = Counter()

    def update(self, people: Sequence[str], clusters: Sequence[str | None]) -> None:
        """Add faces: who each is, and the name of its cluster; None or "": it is in none."""
        for person, cluster in zip(people, clusters, strict=True):
            if cluster:
                self.cells[person, cluster] += 1
            else:
                self.alone[person] += 1

    def result(self) -> ClusteringResult:
        """The numbers. ValueError where there are no faces."""
        people, clusters = Counter(self.alone), Counter[str]()
        for (person, cluster), count in self.cells.items():
            people[person] += count
            clusters[cluster] += count
        num_alone, num_faces = self.alone.total(), people.total()
        if not num_faces:
            raise ValueError("clustering: no faces whose person is known")
        counts, of_person, of_cluster = (
            np.array(values, np.float64)
            for values in (
                list(self.cells.values()),
                [people[person] for person, _ in self.cells],
                [clusters[cluster] for _, cluster in self.cells],
            )
        )
        precise = (counts**2 / of_cluster).sum() + num_alone
        complete = (counts**2 / of_person).sum()
        complete += sum(count / people[person] for person, count in self.alone.items())
        together, true = _pairs(clusters.values()), _pairs(people.values())
        both = _pairs(self.cells.values())
        return ClusteringResult(
            pairwise=Agreement(
                precision=both / together if together else 1.0, recall=both / true if true else 1.0
            ),
            bcubed=Agreement(precision=precise / num_faces, recall=complete / num_faces),
            num_faces=num_faces,
            num_people=len(people),
            num_clusters=len(clusters) + num_alone,
            num_alone=num_alone,
        )


def _pairs(counts: Iterable[int]) -> int:
    return sum(n * (n - 1) // 2 for n in counts)
