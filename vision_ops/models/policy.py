"""What an agent decides with: a network of pictures, a memory if asked for, a policy and a value.

policy:tiles:11x11x5/1        what is seen now decides
policy:nature:48x64/4         the last four pictures do
policy_gru:residual/1         and what a GRU kept of all before
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.card import POLICY, POLICY_GRU

MEMORY = 128
"""units of the GRU"""


class Decision(NamedTuple):
    """What a policy makes of what it sees."""

    logits: Float[Tensor, "*steps K"]
    """of the actions: their softmax is the policy pi(action | state)"""
    value: Float[Tensor, "*steps"]
    """V(state): the return that is expected from here on"""
    memory: Float[Tensor, "B M"]
    """after the last step; M is 0 without one"""


class Policy(nn.Module):
    """Policy and value of what is seen: pi(action | state) and V(state).

    frames  float    (B, T, F, 3, H, W)   T steps of F pictures each, the newest last, normalised
    memory  float    (B, M)               zeros at the start of an episode
    result  Decision                      logits (B, T, K), value (B, T), memory (B, M)

    Each of the F pictures goes through the encoder alone, their features stand one behind the
    other: Mnih et al. (2015) stack the channels instead, but then no network of single pictures,
    trained by a classification, could be the encoder. Policy and value share it (Mnih et al. 2016,
    sec. 5.1). The policy's first weights are a hundredth of the usual: at first each action is as
    likely as the others (Andrychowicz et al. 2021, sec. 3.2).

    The encoder is always in eval mode: with batch norm or dropout the probability of an action
    would hang on what else is in the batch, and the ratio of PPO on chance. A `frozen` one learns
    nothing either.
    """

    def __init__(
        self, encoder: nn.Module, size: int, num_actions: int, num_frames: int, *, gru: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder.eval()
        self.num_frames = num_frames
        self.is_frozen = False
        seen = size * num_frames
        self.gru = nn.GRU(seen, MEMORY, batch_first=True) if gru else None
        self.value = nn.Linear(MEMORY if gru else seen, 1)
        self.policy = nn.Linear(MEMORY if gru else seen, num_actions)
        with torch.no_grad():
            self.policy.weight.mul_(0.01)
            self.policy.bias.zero_()
            self.value.bias.zero_()

    @property
    def memory_size(self) -> int:
        """M: numbers that are kept from step to step; 0 without memory."""
        return MEMORY if self.gru else 0

    def freeze(self) -> None:
        """From now on the encoder stays as it is."""
        self.is_frozen = True
        self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> "Policy":
        """As nn.Module has it, but for the encoder: see the class."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(
        self, frames: Float[Tensor, "B T F C H W"], memory: Float[Tensor, "B M"]
    ) -> Decision:
        """See the class."""
        seen = self.encoder(frames.flatten(0, 2))  # (B T F, E), or a map of it
        seen = seen.flatten(2).mean(dim=2) if seen.ndim == 4 else seen
        seen = seen.unflatten(0, frames.shape[:3]).flatten(2)  # (B, T, F E)
        if self.gru:
            seen, last = self.gru(seen, memory[None].contiguous())
            memory = last[0]
        return Decision(self.policy(seen), self.value(seen)[..., 0], memory)


def build_policy(encoder: nn.Module, size: int, network: str, num_actions: int) -> Policy:
    """The policy of a name, around its encoder without head, which gives `size` numbers."""
    _, num_frames = split_policy(network)
    return Policy(encoder, size, num_actions, num_frames, gru=network.startswith(POLICY_GRU))


def split_policy(network: str) -> tuple[str, int]:
    """Encoder's name and number of frames of a policy's name. Raises ValueError for another."""
    family = POLICY_GRU if network.startswith(POLICY_GRU) else POLICY
    encoder, slash, frames = network.removeprefix(family).rpartition("/")
    if not (network.startswith(family) and slash and encoder and frames.isdigit() and int(frames)):
        raise ValueError(
            f"network {network}: wanted {family}ENCODER/FRAMES, e.g. {family}tiles:7x7x8/1"
        )
    return encoder, int(frames)
