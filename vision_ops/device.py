"""Where tensors are computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def pick_device() -> torch.device:
    """The GPU that this process may use, else the CPU. Ray shows an actor only its own GPUs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def one_thread() -> Iterator[None]:
    """Work of torch on the CPU by this thread alone: how many share it may change last bits."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
