"""A generator and a discriminator that learn from each other, by turns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vision_ops.augment import Draws
from vision_ops.learners.descent import Descent
from vision_ops.learners.optimizer import OptimConfig, make_optimizer
from vision_ops.losses.adversarial import AdversarialConfig, discriminator_loss, generator_loss

Pictures = Float[Tensor, "B 3 H W"]


class Adversaries:
    """Both networks, each with an optimiser of its own.

    A discriminator takes any number of batches in one call, and gives logits of each: that is one
    pass to those who share its gradients.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        optim: OptimConfig,
        loss: AdversarialConfig,
        num_steps: int,
        *,
        seed: int = 0,
    ) -> None:
        self.loss = loss
        self.generator = Descent(
            generator, make_optimizer(generator, optim), optim, num_steps, seed=seed
        )
        rate = optim.learning_rate * loss.discriminator_rate
        other = replace(optim, learning_rate=rate, ema_decay=0.0)
        self.discriminator = Descent(
            discriminator, make_optimizer(discriminator, other), other, num_steps, seed=seed
        )

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Every network that learns or is evaluated, by name."""
        return {
            f"{name}{'' if part == 'network' else f'_{part}'}": network
            for name, descent in self._both()
            for part, network in descent.networks.items()
        }

    @property
    def draws(self) -> Draws:
        """Random numbers of a step."""
        return self.generator.draws

    @property
    def evaluated(self) -> nn.Module:
        """The generator that is evaluated and saved."""
        return self.generator.evaluated

    def distribute(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Share gradients with other processes: forward passes of training go through `wrap`."""
        for _, descent in self._both():
            descent.distribute(wrap)

    def reseed(self, seed: int, rank: int = 0, num_workers: int = 1) -> None:
        """Begin anew what the next step draws."""
        for _, descent in self._both():
            descent.reseed(seed, rank, num_workers)

    def step(
        self,
        given: Tensor,
        real: Pictures,
        *,
        shown: Callable[[Pictures], Tensor] = lambda pictures: pictures,
        beside: Callable[[Pictures], Tensor] | None = None,
    ) -> dict[str, float]:
        """A step of the discriminator on real pictures and those made of what is `given`, then one
        of the generator on how the discriminator, as it is then, takes the same pictures.

        `shown` says what the discriminator is shown of pictures, `beside` what the generator
        lowers beside: a number. Returns, before the step: `objective` (all that the generator
        lowers), the two adversarial losses, the discriminator's `real_accuracy` and
        `made_accuracy` (shares of patches taken for what they are), norms of gradients, the rate.
        """
        self.generator.network.train()
        self.discriminator.network.train()
        made = self.generator.forward(given)
        kind, found = self.loss.adversarial, {}

        def told_apart(_: slice) -> Tensor:
            on_real, on_made = self.discriminator.forward(shown(real), shown(made.detach()))
            found["real_accuracy"] = (on_real > 0).float().mean().item()
            found["made_accuracy"] = (on_made < 0).float().mean().item()
            return discriminator_loss(on_real, on_made, kind).mean()

        def taken_for_real(_: slice) -> Tensor:
            with self._only_watched():
                (logits,) = self.discriminator.forward(shown(made))
            adversarial = generator_loss(logits, kind).mean()
            found["generator_loss"] = adversarial.item()
            return adversarial if beside is None else adversarial + beside(made)

        judged = self.discriminator.lower(len(real), told_apart)
        lowered = self.generator.lower(len(real), taken_for_real)
        found["discriminator_loss"] = judged["objective"]
        found["discriminator_gradient_norm"] = judged["gradient_norm"]
        return {**lowered, **found}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; `torch.load(weights_only=True)` reads it."""
        return {name: descent.state_dict() for name, descent in self._both()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for name, descent in self._both():
            descent.load_state_dict(state[name])

    def _both(self) -> tuple[tuple[str, Descent], ...]:
        return (("generator", self.generator), ("discriminator", self.discriminator))

    @contextmanager
    def _only_watched(self) -> Iterator[None]:
        """Passes through the discriminator that leave it no gradients, and none to be shared."""
        alone = getattr(self.discriminator.forward, "no_sync", nullcontext)
        parameters = list(self.discriminator.network.parameters())
        for each in parameters:
            each.requires_grad_(False)
        try:
            with alone():
                yield
        finally:
            for each in parameters:
                each.requires_grad_()


def usual_optim() -> OptimConfig:
    """How both learn in Radford et al. (2016, sec. 4) and Isola et al. (2017, sec. 3.3).

    A momentum above 0.5 lets the two swing around each other.
    """
    return OptimConfig(
        optimizer="adam",
        learning_rate=2e-4,
        momentum=0.5,
        schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
    )


def refuse_pieces(num_passes: int) -> None:
    """Raise ValueError where a batch is to be gone through in pieces."""
    if num_passes != 1:
        raise ValueError(
            f"training.num_passes {num_passes}: a made picture is seen by both networks in one "
            "step; a smaller training.batch_size, or more workers, save memory"
        )


def as_images(pixels: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """sRGB 0..255 -> -1..1, channels first; the memory order stays."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def as_pixels(images: Float[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B H W 3"]:
    """The reverse, rounded."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
