"""Episodes played through by a policy, many at a time, in this process and without Ray."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import numpy as np
import torch

from jobs.navigation.agent import decide
from jobs.navigation.env import WorldConfig, make_world, unshaped
from jobs.navigation.shortest import shortest_actions
from vision_ops.card import Card
from vision_ops.models.policy import Policy

AT_ONCE = 32
"""worlds that are acted in at a time, and rows of a policy's passes, filled up with zeros: of fewer
rows a row has other last bits, and with them an episode could be another one"""


class Thought(NamedTuple):
    """What a mind makes of what it sees."""

    probabilities: np.ndarray
    """pi(action | state), float64 (B, K), each row sums to 1"""
    values: np.ndarray
    """V(state), float64 (B,); not a number where the mind has none"""
    memory: np.ndarray
    """float32 (B, M)"""


Mind = Callable[[np.ndarray, np.ndarray], Thought]
"""called with uint8 (B, F, H, W, 3) and with what is remembered, float32 (B, M)"""


class Move(NamedTuple):
    """What is done next, and by what."""

    action: int
    probabilities: np.ndarray
    """float64 (K,)"""
    value: float


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
    def think(seen: np.ndarray, memory: np.ndarray) -> Thought:
        count = len(seen)
        kept = torch.from_numpy(filled_up(memory)).to(device)
        decision = decide(policy, card, torch.from_numpy(filled_up(seen))[:, None], kept)
        parts = (decision.logits[:, 0], decision.value[:, 0], decision.memory)
        logits, values, kept = (part[:count].cpu().numpy() for part in parts)
        return Thought(softmax(logits), values.astype(np.float64), kept)

    return think, policy.memory_size


def random_mind(num_actions: int) -> tuple[Mind, int]:
    """Each action as likely as the others, whatever is seen."""

    def think(seen: np.ndarray, memory: np.ndarray) -> Thought:
        shape = len(seen), num_actions
        return Thought(np.full(shape, 1 / num_actions), np.full(shape[0], np.nan), memory)

    return think, 0


def softmax(logits: np.ndarray) -> np.ndarray:
    """float (B, K) -> float64 (B, K): a few numbers, for which torch would wake all its threads."""
    parts = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return parts / parts.sum(axis=1, keepdims=True)


def filled_up(rows: np.ndarray) -> np.ndarray:
    """The rows and zeros, as many as make their number a multiple of AT_ONCE."""
    missing = -len(rows) % AT_ONCE
    return np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])


def play(
    mind: tuple[Mind, int], world: WorldConfig, seeds: Sequence[int], *, greedy: bool
) -> list[Episode]:
    """The episodes of these seeds, in their order: see `Arena.play`."""
    with closing(Arena(world)) as arena:
        return arena.play(mind, seeds, greedy=greedy)


def choose(chances: np.ndarray, random: np.random.Generator, *, greedy: bool) -> int:
    """An action of the probabilities (K,)."""
    if greedy:
        return int(chances.argmax())
    return int(min(np.searchsorted(chances.cumsum(), random.random()), len(chances) - 1))


class Table:
    """A world, its rewards without shaping, and the episode that goes on in it."""

    def __init__(self, world: WorldConfig) -> None:
        self.world = world.name
        self.env: gymnasium.Env = make_world(unshaped(world))

    def begin(self, waiting: Iterator[int], seeds: Sequence[int], memory_size: int) -> bool:
        """The next episode that waits; False where none does."""
        self.number = next(waiting, -1)
        if self.number < 0:
            return False
        self.start(seeds[self.number], memory_size)
        return True

    def start(self, seed: int, memory_size: int) -> None:
        """The episode of a seed."""
        self.seed = seed
        self.memory = np.zeros(memory_size, np.float32)
        self.random = np.random.default_rng(seed)
        self.rewards: list[float] = []
        self.actions: list[int] = []
        self.is_over = self.success = False
        self.seen, info = self.env.reset(options={"episode": seed})
        self.shortest = int(info.get("shortest", shortest_actions(self.env)))

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


Watch = Callable[[Table, Move | None], None]
"""called before each action, and at the end of each episode with None"""


class Arena:
    """Worlds of a kind, kept for one episode after another; several threads may play in it."""

    def __init__(self, world: WorldConfig) -> None:
        self.world = world
        self.free: deque[Table] = deque()

    def play(
        self,
        mind: tuple[Mind, int],
        seeds: Sequence[int],
        *,
        greedy: bool,
        watch: Watch | None = None,
    ) -> list[Episode]:
        """The episodes of these seeds, in their order.

        Greedy: always the most probable action, the first of equals; else one by the probabilities,
        drawn from a generator of the episode's seed, so that an episode does not hang on which
        others are played beside it. Raises RuntimeError, naming the seed, where a world does.
        """
        think, memory_size = mind
        waiting = iter(range(len(seeds)))
        done: dict[int, Episode] = {}
        tables = [self._table() for _ in range(min(AT_ONCE, len(seeds)))]
        try:
            going = [table for table in tables if table.begin(waiting, seeds, memory_size)]
            while going:
                thought = think(
                    np.stack([table.seen for table in going]),
                    np.stack([table.memory for table in going]),
                )
                for table, chances, value, kept in zip(going, *thought, strict=True):
                    action = choose(chances, table.random, greedy=greedy)
                    if watch:
                        watch(table, Move(action, chances, float(value)))
                    table.memory = kept
                    if table.act(action):
                        done[table.number] = table.episode()
                        if watch:
                            watch(table, None)
                going = [t for t in going if not t.is_over or t.begin(waiting, seeds, memory_size)]
        finally:
            self.free.extend(tables)
        return [done[number] for number in range(len(seeds))]

    def _table(self) -> Table:
        try:
            return self.free.pop()
        except IndexError:
            return Table(self.world)

    def close(self) -> None:
        """Close the worlds that nobody plays in."""
        while self.free:
            self.free.pop().env.close()
