"""Networks that others wrote: torchvision's and timm's classifiers, and any function of a module.

Always without weights: those come from a checkpoint, through `vision_ops.weights`.
"""

import importlib
from types import ModuleType

from torch import nn

AUXILIARY = ("googlenet", "inception_v3")
"""torchvision's networks with side classifiers; built without, as torchvision evaluates them"""


def build_torchvision(name: str, num_classes: int) -> nn.Module:
    """A torchvision classifier, for example `resnet50`. Raises ValueError for an unknown name."""
    from torchvision import models  # two seconds; only who names one of its networks pays

    names = models.list_models(module=models)
    if name not in names:
        raise ValueError(f"torchvision:{name}: no such classifier; there are {', '.join(names)}")
    options = {"aux_logits": False, "init_weights": False} if name in AUXILIARY else {}
    return models.get_model(name, weights=None, num_classes=num_classes, **options)


def build_timm(name: str, num_classes: int) -> nn.Module:
    """A timm classifier, for example `resnet50` or `resnet50.a1_in1k`. Raises ValueError."""
    timm = import_timm()
    if not timm.is_model(name):
        close = timm.list_models(f"{name[:6]}*")
        raise ValueError(f"timm:{name}: no such network; near it: {', '.join(close) or 'none'}")
    return timm.create_model(name, pretrained=False, num_classes=num_classes)


def import_timm() -> ModuleType:
    """The package timm. Raises ValueError, with the command, where it is not installed."""
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as missing:
        raise ValueError("timm networks need timm: pip install -e '.[timm]'") from missing


def build_function(reference: str, num_classes: int) -> nn.Module:
    """What `module:function` returns when called with num_classes.

    This runs code of an installed module: name only what you trust. Raises ValueError when there
    is no such module or function, or when it returns no nn.Module.
    """
    module_name, _, function_name = reference.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ModuleNotFoundError, AttributeError) as missing:
        raise ValueError(f"network {reference}: {missing}") from missing
    network = function(num_classes)
    if not isinstance(network, nn.Module):
        raise ValueError(f"network {reference}: returned {type(network).__name__}, no nn.Module")
    return network
