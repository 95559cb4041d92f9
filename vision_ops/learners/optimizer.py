"""How weights follow a gradient: optimisers and schedules, the same for every learner."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

FIRST_RATE = 1 / 25
"""of the highest, at the start of a warm-up"""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights follow the gradient."""

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """adamw: decay apart from the gradient; adam; sgd: with Nesterov momentum"""
    learning_rate: float = 3e-3
    """the highest of the schedule"""
    vector_rate: float = 1.0
    """learning rate of biases and norms, as a multiple of that of the other weights"""
    momentum: float = 0.9
    """of SGD; the first beta of Adam and AdamW"""
    schedule: Literal["cosine", "one_cycle", "linear", "steps", "constant"] = "one_cycle"
    """after the warm-up: cosine to 0; one_cycle: the warm-up is a cosine too; linear to 0; steps: a
    tenth from half of all steps on, a hundredth from three quarters on; constant"""
    warmup: float = 0.2
    """first part of all steps, 0..1, in which the rate rises from 1/25 of the highest"""
    weight_decay: float = 0.05
    """pull of weight matrices towards 0 (L2); biases and norms are left alone"""
    l1: float = 0.0
    """added to the loss: this times the sum of the absolute values of the same weights"""
    clip_norm: float = 5.0
    """longest gradient that is followed as it is; 0: any"""
    ema_decay: float = 0.0
    """above 0: what is evaluated and saved is a moving average of the weights, e.g. 0.99"""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "vector_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} {getattr(self, name)}: must be above 0")
        for name in ("warmup", "ema_decay", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name} {getattr(self, name)}: must be 0 or more, below 1")
        for name in ("weight_decay", "clip_norm", "l1"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name} {getattr(self, name)}: must be 0 or more")


def make_optimizer(network: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimiser of a network; weight decay on matrices and kernels alone."""
    kernels = matrices(network)
    known = set(map(id, kernels))
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
    vectors = config.learning_rate * config.vector_rate
    groups = [
        {"params": kernels, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0, "lr": vectors},
    ]
    if config.optimizer == "sgd":
        return SGD(
            groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0
        )
    kind = {"adamw": AdamW, "adam": Adam}[config.optimizer]
    return kind(groups, lr=config.learning_rate, betas=(config.momentum, 0.999))


def matrices(network: nn.Module) -> list[nn.Parameter]:
    """What learns of a network's matrices and kernels: neither biases nor scales of norms.

    A scale may have axes of length 1 (ConvNeXt), or be one of several to choose from: modules say
    so by a true `is_norm`.
    """
    norms = (m.parameters() for m in network.modules() if getattr(m, "is_norm", False))
    scales = {id(parameter) for each in norms for parameter in each}
    return [
        p
        for p in network.parameters()
        if p.requires_grad and id(p) not in scales and p.ndim > 1 and p.numel() > p.shape[0]
    ]


def rate(step: int, num_steps: int, config: OptimConfig) -> float:
    """Part of the highest learning rate at a step, 0..1 (one_cycle: Smith and Topin 2018)."""
    warm = config.warmup * num_steps
    if step < warm:
        part = step / warm
        if config.schedule == "one_cycle":
            part = (1 - math.cos(math.pi * part)) / 2
        return FIRST_RATE + (1 - FIRST_RATE) * part
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "steps":
        return 0.1 ** ((step >= num_steps / 2) + (step >= 3 * num_steps / 4))
    part = min(1.0, (step - warm) / max(1.0, num_steps - warm))
    return 1 - part if config.schedule == "linear" else (1 + math.cos(math.pi * part)) / 2
