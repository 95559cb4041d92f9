"""A network as the peers know it: torchvision's class and a state dict, without Argus."""

from pathlib import Path

import torch
from torch import nn
from torchvision import models
from torchvision.transforms._presets import ImageClassification


def save_plain(path: Path, network: str, model: nn.Module, classes: tuple[str, ...]) -> None:
    """Write what `load_plain` reads."""
    torch.save({"network": network, "classes": classes, "state": model.state_dict()}, path)


def load_plain(path: str) -> tuple[nn.Module, list[str]]:
    """The network in fp32 and eval mode, as its users make it, and its class names."""
    saved = torch.load(path, weights_only=True)
    model = models.get_model(saved["network"], weights=None, num_classes=len(saved["classes"]))
    model.load_state_dict(saved["state"])
    return model.eval(), list(saved["classes"])


def published_transform() -> ImageClassification:
    """What `weights.transforms()` gives for every network measured here: 256, 224, ImageNet's."""
    return models.ResNet18_Weights.IMAGENET1K_V1.transforms()
