"""Where tensors are computed."""

import torch


def pick_device() -> torch.device:
    """The GPU that this process may use, else the CPU. Ray shows an actor only its own GPUs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
