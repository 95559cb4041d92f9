"""One network on its way down: optimiser, schedule, moving average, random draws, and its state."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vision_ops.augment import Draws
from vision_ops.device import keep_memory
from vision_ops.learners.optimizer import OptimConfig, matrices, rate


class Descent:
    """What a learner of one network does the same whatever its loss is.

    `optimizer` is over the parameters of `network` that learn. In the first `frozen` part of the
    steps, 0..1, `head` alone learns. A batch is gone through in `num_passes` pieces.

    On a CPU the process keeps the memory that a step frees for the next one.

    What draws from torch's own generator (dropout, MixUp) differs from worker to worker; what draws
    from `draws` does not.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        config: OptimConfig,
        num_steps: int,
        *,
        seed: int = 0,
        num_passes: int = 1,
        head: nn.Module | None = None,
        frozen: float = 0.0,
    ) -> None:
        if all(parameter.device.type == "cpu" for parameter in network.parameters()):
            keep_memory()
        self.network = network
        self.optimizer = optimizer
        self.config = config
        self.num_passes = num_passes
        self.head = head
        self.frozen = frozen
        self.num_frozen = frozen * num_steps
        self.average = copy.deepcopy(network) if config.ema_decay else None
        self.forward: nn.Module = network
        self.wrap: Callable[[nn.Module], nn.Module] = lambda network: network
        self.learning = [p for p in network.parameters() if p.requires_grad]
        self.kernels = matrices(network)
        self.is_frozen = False
        self.schedule = LambdaLR(optimizer, lambda step: rate(step, num_steps, config))
        self.draws = Draws(generator=torch.Generator().manual_seed(seed))

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network that learns or is evaluated, by name."""
        networks: dict[str, nn.Module] = {"network": self.network}
        return networks | ({"average": self.average} if self.average is not None else {})

    @property
    def evaluated(self) -> nn.Module:
        """What is evaluated and saved."""
        return self.network if self.average is None else self.average

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Share gradients with other processes: forward passes of training go through `wrap`."""
        self.wrap, self.forward = wrap, wrap(self.network)

    def reseed(self, seed: int, rank: int = 0, num_workers: int = 1) -> None:
        """Begin anew what the next step draws. A batch is drawn for as a whole, see `Draws`."""
        self.draws = replace(self.draws, rank=rank, num_workers=num_workers)
        self.draws.generator.manual_seed(seed)
        torch.manual_seed(seed + rank)

    def phases(self) -> Iterator[float]:
        """Parts of all steps, 0..1: those in which the head alone learns, and the others.

        Until the next is asked for every step is of that phase. What was timed so is no training.
        """
        if self.frozen > 0:
            self.num_frozen = math.inf
            yield self.frozen
        if self.frozen < 1:
            self.num_frozen = 0.0
            yield 1 - self.frozen

    def lower(self, count: int, loss: Callable[[slice], Tensor]) -> dict[str, float]:
        """One gradient step on the mean loss of a batch of `count`, `loss(piece)` of each piece.

        Returns what was lowered (before the step), the gradient's norm, and the rate used.
        """
        self.network.train()
        self._freeze()
        self.optimizer.zero_grad(set_to_none=True)
        objective = self._backward(count, loss)
        limit = self.config.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        used = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self._follow()
        return {
            "objective": objective,
            "gradient_norm": float(norm),
            "learning_rate": float(used),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; `torch.load(weights_only=True)` reads it."""
        return {
            **{name: network.state_dict() for name, network in self.networks.items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "generator": self.draws.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; sets torch's own CPU generator too (dropout)."""
        for name, network in self.networks.items():
            network.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        self.draws.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_generator"])

    def _freeze(self) -> None:
        """Let the head alone learn in the first steps; what stands before it is not gone back
        through, and batch norm keeps the statistics that it came with.
        """
        if self.head is None:
            return
        is_frozen = self.schedule.last_epoch < self.num_frozen
        if is_frozen:
            for layer in set(self.network.modules()) - set(self.head.modules()):
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        if is_frozen != self.is_frozen:
            self.is_frozen = is_frozen
            for parameter in self.learning:
                parameter.requires_grad_(not is_frozen)
            for parameter in self.head.parameters():
                parameter.requires_grad_()
            self.forward = self.wrap(self.network)  # it has taken note of what learns

    def _backward(self, count: int, loss: Callable[[slice], Tensor]) -> float:
        """Gradients of the whole batch, added up piece by piece; returns what is minimised.

        Pieces are as large as each other, and of two pictures at least: batch norm wants them.
        """
        objective, pieces = 0.0, min(self.num_passes, max(1, count // 2))
        bounds = [count * number // pieces for number in range(pieces + 1)]
        for first, stop in pairwise(bounds):
            piece = slice(first, stop)
            # workers add up their gradients with the last piece
            alone = getattr(self.forward, "no_sync", nullcontext)
            with nullcontext() if piece.stop == count else alone():
                part = loss(piece) * ((piece.stop - first) / count)
                if self.config.l1 and first == 0:
                    weights = [p.abs().sum() for p in self.kernels]
                    part = part + self.config.l1 * torch.stack(weights).sum()
                part.backward()
            objective += part.item()
        return objective

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the network; faster in the first steps (Polyak with warm-up)."""
        if self.average is None:
            return
        step = self.schedule.last_epoch
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        pairs = (network.state_dict().values() for network in (self.average, self.network))
        for mean, value in zip(*pairs, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def mean_loss(sums: Mapping[str, float]) -> dict[str, float]:
    """Mean `loss` and its standard error, from added sums of loss, its square and `count`."""
    count = sums["count"]
    loss = sums["loss"] / count
    variance = max(0.0, sums["loss_squared"] / count - loss**2)
    return {"loss": loss, "loss_error": math.sqrt(variance / max(1.0, count - 1))}
