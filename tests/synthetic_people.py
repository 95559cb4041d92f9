"""Embeddings of people who do not exist, as uneven as real ones: wolves, groups, bad pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Population:
    """Where people lie on the sphere, and how far their pictures are from them.

    Directions differ in variance, six groups of unequal size lie closer together, some people are
    nearer to everybody than others ("wolves"), and the worse a picture the more it is drawn to one
    direction that all bad pictures share.
    """

    size: int = 128
    decay: float = 0.6
    """variance of direction k is k^-decay; 0: all alike"""
    group: float = 0.35
    wolf: float = 0.12
    quality: bool = True

    def draw(self, num_people: int, num_faces: int, seed: int) -> np.ndarray:
        """float32 (N, faces, E), unit L2; other seeds are other people of the same population."""
        fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
        variance = np.arange(1, self.size + 1.0) ** -self.decay
        groups, wolf, bad = (_unit(fixed.normal(size=(n, self.size))) for n in (6, 1, 1))
        people = rng.normal(size=(num_people, self.size)) * np.sqrt(variance / variance.sum())
        member = rng.choice(6, num_people, p=(0.4, 0.25, 0.15, 0.1, 0.07, 0.03))
        people += self.group * groups[member]
        people += self.wolf * rng.gamma(2.0, 1.0, (num_people, 1)) * wolf
        people = _unit(people)[:, None]
        shape = (num_people, num_faces, self.size)
        spread = 0.55 * np.exp(0.35 * rng.normal(size=(*shape[:2], 1)))
        faces = people + spread * rng.normal(size=shape) / np.sqrt(self.size)
        if self.quality:
            faces += 0.7 * np.clip(spread - 0.55, 0, 1) * bad
        return _unit(faces).astype(np.float32)


POPULATIONS = {
    "uneven": Population(),
    "very uneven": Population(group=0.6, wolf=0.25),
    "even": Population(group=0.0, wolf=0.0, quality=False, decay=0.0),
}


def highest_of_galleries(
    population: Population,
    sizes: tuple[int, ...],
    num_probes: int,
    num_people: int,
    seed: int,
    faces: Sequence[int] = (1,),
) -> dict[int, np.ndarray]:
    """By size of gallery: the highest score of each probe in up to 20 galleries without it.

    float32 (probes, galleries), of people of other seeds than `draw` is used with elsewhere.
    `faces`: how many the template of a person is of, dealt out by turns.
    """
    drawn = population.draw(num_people, max(faces), seed)
    counts = np.resize(faces, num_people)
    used = np.arange(max(faces)) < counts[:, None]
    people = _unit((drawn * used[:, :, None]).sum(axis=1))
    probes = population.draw(num_probes, 1, seed + 1)[:, 0]
    found: dict[int, list[np.ndarray]] = {size: [] for size in sizes}
    for start in range(0, num_probes, 500):
        scores = probes[start : start + 500] @ people.T
        for size, parts in found.items():
            whole = scores[:, : num_people // size * size].reshape(len(scores), -1, size)
            parts.append(whole[:, :20].max(axis=2))
    return {size: np.concatenate(parts) for size, parts in found.items()}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
