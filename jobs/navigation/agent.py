"""What an agent is made of: its policy's card, and the weights that it begins with."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from jobs.navigation.env import Interface, WorldConfig
from vision_ops.card import POLICY, POLICY_GRU, Card, check_names, check_size
from vision_ops.checkpoint import load_checkpoint
from vision_ops.models import build, embedding_size, in_fast_layout, without_head
from vision_ops.models.policy import Decision, Policy, split_policy
from vision_ops.normalize import normalize
from vision_ops.preprocess import Preprocess
from vision_ops.views import NATURE, TILES
from vision_ops.weights import Resolved

SMALLEST_NATURE_PX = 36


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """What an agent sees with, and whether it remembers."""

    network: str = "auto"
    """encoder of what is seen: tiles:…, nature:…, or any network of pictures by name; auto: that
    of `weights`, else tiles for worlds drawn in tiles, and nature for others"""
    memory: Literal["none", "gru"] = "none"
    """gru: what was seen before is remembered (Cho et al. 2014)"""
    weights: str = ""
    """checkpoint to begin with: a policy, or a classifier, whose last layer is left out"""
    frozen: bool = False
    """the encoder stays as `weights` has it; only what decides learns"""

    def __post_init__(self) -> None:
        if self.frozen and not self.weights:
            raise ValueError("agent.frozen: an encoder of fresh weights would see nothing")


def begin(
    agent: AgentConfig, world: WorldConfig, interface: Interface, start: Resolved | None
) -> tuple[Card, dict[str, Tensor]]:
    """The policy's card, and the weights it begins with (none: fresh ones).

    Raises ValueError where network, weights and world do not fit each other.
    """
    network, preprocess = (
        agent.network,
        Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize_px=0),
    )
    if start is not None:
        found, preprocess = _encoder_name(start.card, agent.weights), start.card.preprocess
        assert isinstance(preprocess, Preprocess)
        if network not in ("auto", found):
            raise ValueError(f"agent.network {network}: agent.weights {agent.weights} is {found}")
        network = found
    elif network == "auto":
        network = usual_encoder(world, interface)
    _, height, width, _ = interface.shape
    family = POLICY_GRU if agent.memory == "gru" else POLICY
    policy = f"{family}{network}/{world.frames}"
    preprocess = replace(preprocess, height_px=height, width_px=width, resize_px=0)
    try:
        check_size(network, preprocess)
        with torch.random.fork_rng(devices=[]):
            size = embedding_size(build(network, 1), (3, height, width))
        card = Card(
            network=policy,
            classes=interface.actions,
            preprocess=preprocess,
            licence=start.card.licence if start else "unknown",
            source=f"trained in {world.name}",
            parent=start.sha256 if start else "",
            embedding_size=size,
        )
    except (ValueError, RuntimeError) as wrong:
        raise ValueError(
            f"agent.network {network}: does not fit world.name {world.name}, seen as pictures of "
            f"{height} x {width} pixels: {wrong}"
        ) from wrong
    return card, _first_weights(card, start) if start else {}


def usual_encoder(world: WorldConfig, interface: Interface) -> str:
    """What `auto` is for a world."""
    _, height, width, _ = interface.shape
    tile = world.tile_px
    if world.name == "rooms":
        tile = world.rooms.tile_px if world.rooms.view == "above" else 0
    elif ":" in world.name:
        tile = 0
    if tile:
        return f"{TILES}{height // tile}x{width // tile}x{tile}"
    if min(height, width) < SMALLEST_NATURE_PX:
        return "convnet_2d"
    return f"{NATURE}{height}x{width}"


def _encoder_name(card: Card, weights: str) -> str:
    if card.is_policy:
        return split_policy(card.network)[0]
    check_names(card, f"agent.weights {weights}")
    if not isinstance(card.preprocess, Preprocess) or card.network == "onnx":
        raise ValueError(f"agent.weights {weights}: {card.network} is no network of pictures")
    return card.network


def _first_weights(card: Card, start: Resolved) -> dict[str, Tensor]:
    """Of the whole policy where it is the same with the same actions, else of the encoder alone."""
    network, found = load_checkpoint(start.path, "cpu")
    if isinstance(network, Policy):
        if found.network == card.network and found.classes == card.classes:
            return dict(network.state_dict())
        encoder = network.encoder
    else:
        encoder, _ = without_head(network)
    with torch.random.fork_rng(devices=[]):
        policy = build(card.network, card.num_outputs, card.activation)
    encoder_state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    return {**policy.state_dict(), **encoder_state}


def build_of(card: Card) -> Policy:
    """The policy of a card, with fresh weights."""
    policy = build(card.network, card.num_outputs, card.activation)
    assert isinstance(policy, Policy)
    policy.encoder = in_fast_layout(policy.encoder)
    return policy


def decide(policy: Policy, card: Card, seen: Tensor, memory: Tensor) -> Decision:
    """What a policy makes of uint8 (B, T, F, H, W, 3) and what it remembers, (B, M)."""
    return policy(normalize(seen, card.preprocess, memory.device), memory)
