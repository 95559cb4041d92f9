"""torchvision's detectors by name: several objects in a picture, each with class, score and box.

torchvision_detection:fasterrcnn_resnet50_fpn
torchvision_detection:ssdlite320_mobilenet_v3_large
"""

from jaxtyping import Float
from torch import Tensor, nn

from vision_ops.card import DETECTOR

FROZEN_NORM = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
"""published with batch norm that is constant, of epsilon 0"""
UNLIKELY = 1e-6
"""the score of a class of which nothing was found"""
Found = dict[str, Tensor]


class Detector(nn.Module):
    """A detector of torchvision over normalised pictures of one size, for inference.

    images  float  (B, 3, H, W), 0..1: mean and size are the detector's own, so its card says
            mean 0, std 1, scale 255
    found   for each picture boxes (N, 4) px, labels int64 (N,) in 1..K, scores (N,) 0..1, falling
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Found]:
        return self.network(list(images))

    def logits_and_embeddings(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """The log of each class' highest score, and these scores: what is in a picture at all."""
        scores = images.new_full((len(images), self.num_classes), UNLIKELY)
        for row, found in zip(scores, self(images), strict=True):
            row.scatter_reduce_(0, found["labels"] - 1, found["scores"], "amax")
        return scores.log(), scores


def detectors() -> list[str]:
    """Names of torchvision's detectors; its key points of people are left out."""
    from torchvision import models  # two seconds; only who names one of its networks pays

    return [n for n in models.list_models(module=models.detection) if not n.startswith("keyp")]


def build_detector(name: str, num_classes: int) -> Detector:
    """A torchvision detector, for example `retinanet_resnet50_fpn_v2`. Raises ValueError."""
    from torchvision import models

    if name not in detectors():
        raise ValueError(f"{DETECTOR}{name}: no such detector; there are {', '.join(detectors())}")
    network = models.get_model(
        name, weights=None, weights_backbone=None, num_classes=num_classes + 1
    )
    if name in FROZEN_NORM:
        freeze_norms(network)
    return Detector(network, num_classes)


def freeze_norms(network: nn.Module, eps: float = 0.0) -> None:
    """Make every batch norm the constant one that published weights were learnt with."""
    from torchvision.ops import FrozenBatchNorm2d

    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, FrozenBatchNorm2d(module.num_features, eps))


def coco_classes() -> tuple[str, ...]:
    """Names of the outputs of detectors learnt from COCO; `unused N` where the number has none."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]  # 0 is the background
    return tuple(f"unused {k}" if n == "N/A" else n for k, n in enumerate(names, start=1))
