"""Playing episodes by number as the engine's work: greedily, by the probabilities, and at random.

Number n is episode n // 3 of the test part, played by POLICIES[n % 3]: so that more episodes are
more numbers, and those played before stay.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from jobs.navigation.env import FIRST_SEED, WorldConfig
from jobs.navigation.playing import (
    AT_ONCE,
    Arena,
    Episode,
    Mind,
    Thought,
    filled_up,
    random_mind,
    softmax,
)
from jobs.runtime.resources import Resources
from jobs.runtime.work import Work
from vision_ops.card import Card, sha256_file
from vision_ops.checkpoint import load_checkpoint
from vision_ops.device import pick_device
from vision_ops.metrics.navigation import path_efficiency
from vision_ops.models.policy import Policy
from vision_ops.noise import DecodeNumber, Noise
from vision_ops.normalize import normalize
from vision_ops.precision.forward import open_forward
from vision_ops.weights import Resolved

Batch = dict[str, np.ndarray]
POLICIES = ("greedy", "sampled", "random")
"""the agent's most probable action; one by its probabilities; any, each as likely as the others"""
EPISODES_PER_CALL = 64
COLUMNS = pa.schema(
    [
        ("policy", pa.string()),
        ("seed", pa.int64()),
        ("success", pa.bool_()),
        ("return", pa.float64()),
        ("length", pa.int32()),
        ("shortest", pa.int32()),
        ("spl", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class PlayConfig:
    """Which agent plays, and where."""

    weights: str
    """checkpoint of a policy"""
    world: WorldConfig = field(default_factory=WorldConfig)


class Player:
    """Play the episode of each number.

    reads   pixels    int64    (B, 1)   numbers, see above
    adds    policy    str      (B,)     greedy, sampled or random
            seed      int64    (B,)     of the episode: the world's reset by it is all its chance
            success   bool     (B,)
            return    float64  (B,)     sum of the rewards, not discounted
            length    int32    (B,)     actions taken
            shortest  int32    (B,)     fewest actions that would do; none where not known
            spl       float64  (B,)     success * shortest / max(length, shortest); none likewise
    drops   pixels, extent

    Passes of the network are of one size always, and chance is each episode's own: an episode is
    the same whatever else is asked for. So many threads as `callers` says may call it.
    """

    def __init__(self, config: PlayConfig, callers: int = 1) -> None:
        """Raises ValueError for a checkpoint that is no policy."""
        policy, card = load_checkpoint(config.weights, pick_device())
        if not isinstance(policy, Policy):
            raise ValueError(f"weights {config.weights}: {card.network} is no policy")
        self.arena = Arena(config.world)
        self.mind = _swift_mind(policy, card, sha256_file(config.weights)[:16], callers)
        self.chance = random_mind(len(card.classes))

    def __call__(self, batch: Batch) -> Batch:
        numbers = batch["pixels"][:, 0]
        played: list[Episode | None] = [None] * len(numbers)
        for style, policy in enumerate(POLICIES):
            places = np.flatnonzero(numbers % len(POLICIES) == style).tolist()
            seeds = [seed_of(int(numbers[place])) for place in places]
            mind = self.chance if policy == "random" else self.mind
            found = self.arena.play(mind, seeds, greedy=policy == "greedy")
            for place, episode in zip(places, found, strict=True):
                played[place] = episode
        return _columns([POLICIES[n % len(POLICIES)] for n in numbers.tolist()], played)


def seed_of(number: int) -> int:
    """The seed of a number's episode."""
    return FIRST_SEED["test"] + number // len(POLICIES)


def make_work(op: PlayConfig, resources: Resources, weights: Resolved) -> Work:
    """The work of a run."""
    return Work(
        decoder=DecodeNumber(Noise()),
        operator=Player,
        config=op,
        columns=COLUMNS,
        files={"weights": str(weights.path)},
        metadata={
            "weights": f"{weights.source} sha256:{weights.sha256}",
            "licence": weights.card.licence,
            "world": op.world.name,
        },
        batch_size=resources.batch_size or EPISODES_PER_CALL,
    )


def _columns(policies: list[str], played: list[Episode | None]) -> Batch:
    episodes = [each for each in played if each is not None]
    spl = [
        path_efficiency(
            np.array([each.success]), np.array([each.shortest]), np.array([each.length])
        )
        if each.shortest > 0
        else None
        for each in episodes
    ]
    return {
        "policy": np.array(policies, object),
        "seed": np.array([each.seed for each in episodes], np.int64),
        "success": np.array([each.success for each in episodes], bool),
        "return": np.array([each.total for each in episodes], np.float64),
        "length": np.array([each.length for each in episodes], np.int32),
        "shortest": np.array([s if (s := e.shortest) > 0 else None for e in episodes], object),
        "spl": np.array(spl, object),
    }


class _Step(nn.Module):
    """A policy for one step: pixels (B, F, H, W, 3) and, with one, its memory."""

    def __init__(self, policy: Policy, card: Card) -> None:
        super().__init__()
        self.policy, self.preprocess = policy, card.preprocess

    def forward(self, seen: Tensor, memory: Tensor | None = None) -> tuple[Tensor, ...]:
        """Logits (B, K), values (B,); memory (B, M) where there is one."""
        frames = normalize(seen[:, None], self.preprocess, seen.device)
        kept = torch.zeros(len(seen), 0, device=seen.device) if memory is None else memory
        decision = self.policy(frames, kept)
        told = (decision.logits[:, 0], decision.value[:, 0])
        return told if memory is None else (*told, decision.memory)


def _swift_mind(policy: Policy, card: Card, name: str, callers: int) -> tuple[Mind, int]:
    """What a policy thinks, at its fastest, and M. Several threads may ask it."""
    frames, size = policy.num_frames, policy.memory_size
    device = next(policy.parameters()).device
    example = torch.zeros((AT_ONCE, frames, *card.preprocess.shape), dtype=torch.uint8).to(device)
    others = [torch.zeros(AT_ONCE, size, device=device)] if size else []
    forward = open_forward(
        _Step(policy, card).eval(), f"{name}-agent", example, others=others, callers=callers
    )

    @torch.inference_mode()
    def think(seen: np.ndarray, memory: np.ndarray) -> Thought:
        count, asked = len(seen), [torch.from_numpy(filled_up(seen)).to(device)]
        if size:
            asked.append(torch.from_numpy(filled_up(memory)).to(device))
        logits, values, *kept = (part[:count].cpu().numpy() for part in forward(*asked))
        return Thought(softmax(logits), values.astype(np.float64), kept[0] if kept else memory)

    return think, size
