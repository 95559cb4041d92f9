"""Batches of P people with K pictures each, and the whole of a batch that several workers share."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed
from jaxtyping import Int64, Shaped
from torch import Tensor

from vision_ops.augment import Draws


def draw_people(
    targets: Int64[np.ndarray, " N"],
    people: int,
    pictures: int,
    num_batches: int,
    random: np.random.Generator,
) -> Int64[np.ndarray, "S B"]:
    """Indices of S batches of `people` different people with `pictures` each, person by person.

    People come in turns, and so do the pictures of each: none again before all were there, as far
    as whole batches and persons allow. One with fewer pictures than asked for is seen again in the
    same batch. Raises ValueError for fewer people than a batch wants.
    """
    order = np.argsort(targets, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(targets[order])) + 1)
    if len(members) < people or not len(targets):
        raise ValueError(f"{len(members)} people: a batch wants {people} different ones")
    each = [_in_turns(of_one, pictures, random) for of_one in members]
    turns = _in_turns(np.arange(len(members)), people, random)
    batches = [
        np.concatenate([next(each[person]) for person in next(turns)]) for _ in range(num_batches)
    ]
    return np.stack(batches)


def _in_turns(
    items: Int64[np.ndarray, " N"], count: int, random: np.random.Generator
) -> Iterator[Int64[np.ndarray, " C"]]:
    """For ever `count` of the items, different ones where there are as many."""
    while True:
        shuffled = random.permutation(items)
        if len(items) < count:
            yield np.resize(shuffled, count)
        for first in range(0, len(items) - count + 1, count):
            yield shuffled[first : first + count]


class _Joined(torch.autograd.Function):
    """Every worker's rows, in the order of the whole batch; gradients come back to one's own."""

    @staticmethod
    def forward(ctx, own: Tensor, rank: int, num_workers: int) -> Tensor:  # pyright: ignore
        ctx.rank, ctx.num_workers = rank, num_workers
        parts = [torch.empty_like(own) for _ in range(num_workers)]
        torch.distributed.all_gather(parts, own.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore
        # each worker goes back through its own rows alone, and the mean over workers is taken then
        return grad[ctx.rank :: ctx.num_workers] * ctx.num_workers, None, None


def whole_batch(own: Shaped[Tensor, "b *rest"], draws: Draws) -> Shaped[Tensor, "B *rest"]:
    """The rows of all workers in the batch's order, of which this one has every n-th.

    Differentiable: with a loss of the whole batch, the same in each worker, the mean of the
    workers' gradients (as DistributedDataParallel takes it) is the gradient of one process.
    """
    if draws.num_workers == 1:
        return own
    return _Joined.apply(own, draws.rank, draws.num_workers)  # pyright: ignore
