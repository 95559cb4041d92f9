"""Episodes played through by a policy, many at a time, in this process and without Ray."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch

from jobs.navigation.agent import decide
from jobs.navigation.env import WorldConfig, make_world, unshaped
from jobs.navigation.shortest import shortest_actions
from vision_ops.card import Card
from vision_ops.models.policy import Policy

AT_ONCE = 32
"""worlds that are acted in at a time"""
Probabilities = np.ndarray
"""float64 (B, K), each row sums to 1"""
Mind = Callable[[np.ndarray, np.ndarray], tuple[Probabilities, np.ndarray]]
"""uint8 (B, F, H, W, 3) and what is remembered, float32 (B, M): what to do, and what to remember"""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode, from its first view to its end."""

    seed: int
    success: bool
    total: float
    """return: the sum of its rewards, not discounted"""
    length: int
    """actions taken"""
    shortest: int
    """fewest actions that would do; -1: not known"""
    actions: tuple[int, ...]


def policy_mind(policy: Policy, card: Card) -> tuple[Mind, int]:
    """What a policy thinks, and M."""
    policy.eval()
    device = next(policy.parameters()).device

    @torch.inference_mode()
    def think(seen: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept = torch.from_numpy(memory).to(device)
        decision = decide(policy, card, torch.from_numpy(seen)[:, None], kept)
        probabilities = decision.logits[:, 0].double().softmax(dim=1)
        return probabilities.cpu().numpy(), decision.memory.cpu().numpy()

    return think, policy.memory_size


def random_mind(num_actions: int) -> tuple[Mind, int]:
    """Each action as likely as the others, whatever is seen."""

    def think(seen: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full((len(seen), num_actions), 1 / num_actions), memory

    return think, 0


def play(
    mind: tuple[Mind, int], world: WorldConfig, seeds: Sequence[int], *, greedy: bool
) -> list[Episode]:
    """The episodes of these seeds, in their order.

    Greedy: always the most probable action, the first of equals; else one by the probabilities,
    drawn from a generator of the episode's seed, so that an episode does not hang on which others
    are played beside it.
    """
    waiting = iter(range(len(seeds)))
    tables = [Table(world, mind[1]) for _ in range(min(AT_ONCE, len(seeds)))]
    done: dict[int, Episode] = {}
    try:
        going = [table for table in tables if table.begin(waiting, seeds)]
        while going:
            probabilities, memory = mind[0](
                np.stack([table.seen for table in going]),
                np.stack([table.memory for table in going]),
            )
            for table, chances, kept in zip(going, probabilities, memory, strict=True):
                table.memory = kept
                if table.act(choose(chances, table.random, greedy=greedy)):
                    done[table.number] = table.episode()
            going = [t for t in going if not t.is_over or t.begin(waiting, seeds)]
    finally:
        for table in tables:
            table.env.close()
    return [done[number] for number in range(len(seeds))]


def choose(chances: np.ndarray, random: np.random.Generator, *, greedy: bool) -> int:
    """An action of the probabilities (K,)."""
    if greedy:
        return int(chances.argmax())
    return int(min(np.searchsorted(chances.cumsum(), random.random()), len(chances) - 1))


class Table:
    """A world, its rewards without shaping, and the episode that goes on in it."""

    def __init__(self, world: WorldConfig, memory_size: int) -> None:
        self.env: gymnasium.Env = make_world(unshaped(world))
        self.memory_size = memory_size

    def begin(self, waiting: Iterator[int], seeds: Sequence[int]) -> bool:
        """The next episode that waits; False where none does."""
        self.number = next(waiting, -1)
        if self.number < 0:
            return False
        self.start(seeds[self.number])
        return True

    def start(self, seed: int) -> None:
        """The episode of a seed."""
        self.seed = seed
        self.seen, info = self.env.reset(options={"episode": seed})
        self.shortest = int(info.get("shortest", shortest_actions(self.env)))
        self.memory = np.zeros(self.memory_size, np.float32)
        self.random = np.random.default_rng(seed)
        self.rewards: list[float] = []
        self.actions: list[int] = []
        self.is_over = self.success = False

    def act(self, action: int) -> bool:
        """One step; whether it was the last."""
        self.seen, reward, terminated, truncated, info = self.env.step(action)
        self.rewards.append(float(reward))
        self.actions.append(action)
        self.is_over = bool(terminated or truncated)
        self.success = bool(info.get("success", False))
        return self.is_over

    def episode(self) -> Episode:
        """What came of it."""
        return Episode(
            seed=self.seed,
            success=self.success,
            total=sum(self.rewards),
            length=len(self.actions),
            shortest=self.shortest,
            actions=tuple(self.actions),
        )
