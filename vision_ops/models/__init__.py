"""Networks by name: ours, torchvision's, timm's, and any function that returns one.

    build("residual", num_classes=10)
    build("mobilefacenet", 128), build("iresnet50", 512)    # of faces: E numbers, their embedding
    build("torchvision:resnet50", num_classes=1000)
    build("timm:resnet50", num_classes=1000)
    build("my_package.nets:tiny", num_classes=3)
    build("cnn_gru:torchvision:resnet18", num_classes=5)    # of clips, see `cnn_rnn`
    build("localizer:torchvision:squeezenet1_1", num_classes=3)             # and a box
    build("torchvision_detection:fasterrcnn_resnet50_fpn", num_classes=90)  # several objects
    build("face_detector:mtcnn", num_classes=0)     # run by `vision_ops.faces.detect`
    build("style_transform:32", num_classes=2)      # of pictures in two styles, width 32
    build("adain:torchvision:vgg19/relu4_1", 0)     # in the style of any picture
    build("unet:64x8", num_classes=0)               # of pictures from pictures, 8 times halved
    build("dcgan:64x32", 100)                       # of 32 px from 100 numbers of noise, width 64
    build("policy:tiles:11x11x5/1", 3)              # what steers an agent, see `policy`

The embedding of a picture is what goes into the classifier: the input of the network's last
nn.Linear or nn.Conv2d (in order of registration; every torchvision and timm classifier registers
its head last), averaged over the positions where it is a map. That of a face is what a network made
for faces gives, see `logits_and_embeddings`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.card import (
    ADAIN,
    DCGAN,
    DETECTOR,
    LOCALIZER,
    POLICY,
    POLICY_GRU,
    STYLE_TRANSFORM,
    UNET,
)
from vision_ops.clips import CLIP_NETWORKS
from vision_ops.faces import FACE_DETECTOR
from vision_ops.models.adain import build_adain
from vision_ops.models.airbench import Airbench
from vision_ops.models.cnn_rnn import CnnRnn
from vision_ops.models.convnet import convnet_1d, convnet_2d, convnet_3d
from vision_ops.models.dcgan import DcganGenerator, parse_dcgan
from vision_ops.models.detection import build_detector
from vision_ops.models.external import build_function, build_timm, build_torchvision
from vision_ops.models.feature_map import MapEncoder
from vision_ops.models.iresnet import BLOCKS, IResNet
from vision_ops.models.localizer import Localizer
from vision_ops.models.mobilefacenet import MobileFaceNet
from vision_ops.models.mtcnn import Mtcnn
from vision_ops.models.policy import build_policy, split_policy
from vision_ops.models.residual import Residual
from vision_ops.models.resnet20 import Resnet20
from vision_ops.models.retinaface import RetinaFace
from vision_ops.models.style_transform import build_style_transform
from vision_ops.models.textures import Textures
from vision_ops.models.tutorial import Cnn224, CnnCifar10
from vision_ops.models.unet import build_unet
from vision_ops.models.views import VIEW_ENCODERS

NETWORKS: dict[str, Callable[[int, str, int], nn.Module]] = {
    "cnn_224": Cnn224,
    "cnn_cifar10": CnnCifar10,
    "convnet_1d": convnet_1d,
    "convnet_2d": convnet_2d,
    "convnet_3d": convnet_3d,
    "fast_cifar10": Airbench,
    "residual": Residual,
    "resnet20": Resnet20,
    "textures": Textures,
}
FACE_NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "mobilefacenet": MobileFaceNet,
    **{name: partial(IResNet, blocks) for name, blocks in BLOCKS.items()},
}
"""what takes aligned faces: their outputs are an embedding of so many numbers"""
FACE_DETECTORS: dict[str, Callable[[], nn.Module]] = {
    f"{FACE_DETECTOR}mtcnn": Mtcnn,
    f"{FACE_DETECTOR}retinaface": RetinaFace,
}


def without_head(model: nn.Module) -> tuple[nn.Module, int]:
    """The same network with its last layer taken out, and how long an embedding it then gives."""
    head = head_of(model)
    name = next(name for name, module in model.named_modules() if module is head)
    if not name:
        raise ValueError(f"{type(model).__name__}: is one layer, nothing is left without it")
    model.set_submodule(name, nn.Identity())
    return model, head.in_features if isinstance(head, nn.Linear) else head.in_channels


@runtime_checkable
class GivesBoth(Protocol):
    """A network that has a way of its own to give logits and embeddings (an ONNX file has)."""

    def logits_and_embeddings(self, images: Tensor) -> tuple[Tensor, Tensor]: ...


@runtime_checkable
class BeginsFromData(Protocol):
    """A network of which some first weights are set by pictures that it will learn from."""

    num_begin: int
    """pictures that it wants for that"""

    def begin(self, images: Tensor) -> None: ...


def build(network: str, num_classes: int, activation: str = "relu", channels: int = 3) -> nn.Module:
    """A network by name, freshly initialised, for inputs of so many channels.

    `activation` chooses among relu, sigmoid, tanh in networks of ours; others are what they are,
    and asking for a change there is refused. Raises ValueError for what does not exist.
    """
    if network in FACE_DETECTORS:
        return FACE_DETECTORS[network]()
    if network.startswith(ADAIN):
        encoder = partial(build, num_classes=1, activation=activation, channels=channels)
        return build_adain(network.removeprefix(ADAIN), encoder)
    if network.startswith(UNET):
        _refuse_changes(network, activation, channels)
        return build_unet(network.removeprefix(UNET))
    if num_classes < 1:
        raise ValueError(f"num_classes {num_classes}: must be at least 1")
    if network in NETWORKS:
        return NETWORKS[network](num_classes, activation, channels)
    family, colon, name = network.partition(":")
    if network in FACE_NETWORKS:
        _refuse_changes(network, activation, channels)
        return FACE_NETWORKS[network](num_classes)
    if not (colon and family and name):
        raise ValueError(
            f"network {network!r}: not one of {', '.join(NETWORKS | FACE_NETWORKS)}, "
            "torchvision:NAME, timm:NAME, module:function, torchvision_detection:NAME, or "
            "cnn_gru:, cnn_lstm:, cnn_mean:, localizer: and one of these; style_transform:WIDTH, "
            "adain:ENCODER/LAYER, unet:WIDTHxDEPTH, dcgan:WIDTHxSIZE, tiles:ROWSxCOLUMNSxPIXELS, "
            "nature:HEIGHTxWIDTH, policy: and policy_gru:ENCODER/FRAMES"
        )
    if f"{family}:" in VIEW_ENCODERS:
        return VIEW_ENCODERS[f"{family}:"](name, num_classes, activation, channels)
    if f"{family}:" in (POLICY, POLICY_GRU):
        encoder = build(split_policy(network)[0], num_classes, activation, channels)
        return build_policy(*without_head(encoder), network, num_classes)
    if family in CLIP_NETWORKS:
        encoder = build(name, num_classes, activation, channels)
        if isinstance(encoder, BeginsFromData):
            raise ValueError(f"network {network}: {name} begins from pictures, and looks both ways")
        return CnnRnn(*without_head(encoder), num_classes, family.removeprefix("cnn_"))
    if f"{family}:" == LOCALIZER:
        encoder = build(name, num_classes, activation, channels)
        return Localizer(MapEncoder(encoder, head_of(encoder)), num_classes)
    _refuse_changes(network, activation, channels)
    if f"{family}:" == STYLE_TRANSFORM:
        return build_style_transform(name, num_classes)
    if f"{family}:" == DCGAN:
        return DcganGenerator(num_classes, *parse_dcgan(name))
    if family == "torchvision":
        return build_torchvision(name, num_classes)
    if family == "timm":
        return build_timm(name, num_classes)
    if f"{family}:" == DETECTOR:
        return build_detector(name, num_classes)
    return build_function(network, num_classes)


def _refuse_changes(network: str, activation: str, channels: int) -> None:
    if activation != "relu":
        raise ValueError(f"activation {activation!r}: only {', '.join(NETWORKS)} can change it")
    if channels != 3:
        raise ValueError(f"network {network}: takes 3 channels, the input has {channels}")


def head_of(model: nn.Module) -> nn.Linear | nn.Conv2d:
    """The classifier's last layer: the last nn.Linear or nn.Conv2d. Raises ValueError if none."""
    heads = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not heads:
        raise ValueError(f"{type(model).__name__}: has no nn.Linear and no nn.Conv2d")
    return heads[-1]


def logits_and_embeddings(
    model: nn.Module, images: Float[Tensor, "B *input"], *, is_embedder: bool = False
) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B E"]]:
    """Both in one forward pass; the embedding as the module says, not yet normalised.

    What an embedder of faces gives is its embedding: both are that.
    """
    if is_embedder:
        embedding = model(images)
        return embedding, embedding
    if isinstance(model, GivesBoth):
        return model.logits_and_embeddings(images)
    seen: list[Tensor] = []
    hook = head_of(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        logits = model(images)
    finally:
        hook.remove()
    if not seen:
        raise ValueError(f"{type(model).__name__}: its last layer took no part in the forward pass")
    return logits, averaged(seen[-1])


def embed(model: nn.Module, images: Float[Tensor, "B *input"]) -> Float[Tensor, "B E"]:
    """The penultimate features of each picture, not yet normalised."""
    return logits_and_embeddings(model, images)[1]


def embedding_size(model: nn.Module, shape: Sequence[int]) -> int:
    """E, found by one input of zeros of this shape, (3, H, W) for pictures.

    The model's training mode is left as it was.
    """
    was_training = model.training
    parameter = next(model.parameters(), torch.empty(0))
    model.eval()
    with torch.inference_mode():
        zeros = torch.zeros(1, *shape, device=parameter.device)
        size = embed(model, zeros).shape[1]
    model.train(was_training)
    return size


def in_fast_layout(model: nn.Module) -> nn.Module:
    """The same model with its kernels in the memory order in which pictures are convolved fastest.

    channels_last; networks that convolve volumes, or nothing of four axes, stay as they are.
    """
    if any(parameter.ndim == 5 for parameter in model.parameters()):
        return model
    return model.to(memory_format=torch.channels_last)


def averaged(features: Tensor) -> Tensor:
    """(B, E) from (B, E), or from a map (B, E, h, w); tokens (B, N, E) are averaged as well."""
    if features.ndim == 2:
        return features
    return features.mean(dim=1) if features.ndim == 3 else features.flatten(2).mean(dim=2)
