"""Files of faces that OpenCV publishes, by short names: which may be used for anything.

yunet    finds faces (Wu, Peng and Yu 2023), MIT
sface    an embedding of an aligned face (Zhong et al. 2021), Apache-2.0
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from vision_ops.card import CARD_KEY, Card, card_to_json, sha256_file, write_whole
from vision_ops.faces.transforms import FACE_TRANSFORMS
from vision_ops.weights.face_detectors import YUNET, convert_detector

HUB = "https://huggingface.co"
"""where they lie; another place that answers alike is named by $HF_ENDPOINT"""


@dataclass(frozen=True, kw_only=True)
class FaceFile:
    """One published ONNX file."""

    name: str
    repository: str
    file_name: str
    sha256_prefix: str
    """all of it, as OpenCV's model zoo states it in a Git LFS pointer"""
    licence: str
    places: tuple[Path, ...] = ()
    """other programs keep it nowhere in common"""

    @property
    def url(self) -> str:
        """Where it is fetched from."""
        endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        return f"{endpoint}/{self.repository}/resolve/main/{self.file_name}"


FACE_FILES = {
    "yunet": FaceFile(
        name="yunet",
        repository="opencv/face_detection_yunet",
        file_name="face_detection_yunet_2023mar.onnx",
        sha256_prefix="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        licence="MIT",
    ),
    "sface": FaceFile(
        name="sface",
        repository="opencv/face_recognition_sface",
        file_name="face_recognition_sface_2021dec.onnx",
        sha256_prefix="0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        licence="Apache-2.0",
    ),
}


def make_face_checkpoint(file: FaceFile, state: Path, out: Path) -> Card:
    """The published file with its card. Raises ValueError where it does not run."""
    source = f"{HUB}/{file.repository}"
    if file.name == "yunet":
        return convert_detector(YUNET, [state], file.licence, source, out)
    from vision_ops.models.onnx_file import OnnxNetwork, with_metadata  # of the extra

    preprocess = FACE_TRANSFORMS["sface"]
    numbers = OnnxNetwork(state, "cpu")(torch.zeros(1, *preprocess.network_shape))
    card = Card(
        network="onnx",
        classes=(),
        preprocess=preprocess,
        licence=file.licence,
        source=source,
        parent=sha256_file(state),
        embedding_size=numbers.shape[1],
    )
    write_whole(out, with_metadata(state, {CARD_KEY: card_to_json(card)}))
    return card
