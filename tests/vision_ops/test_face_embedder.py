"""Faces of whole pictures: graded by the pixels that were seen, embedded in full passes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.utils.hooks import RemovableHandle

from tests.untrained import save_embedder
from vision_ops.card import Card, read_card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.faces import FacePreprocess
from vision_ops.faces.align import template
from vision_ops.learners.faces import FaceLearner, FaceLearnerConfig, FaceModelConfig
from vision_ops.losses.metric import TripletConfig
from vision_ops.models import build
from vision_ops.normalize import normalize
from vision_ops.operators.embed_faces import Batch, FacesConfig
from vision_ops.operators.face_embedders import FaceEmbedder
from vision_ops.precision import PASS_SIZE
from vision_ops.precision.torch_network import TorchNetwork

SIZE = 24
LONGEST = 160


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> FaceEmbedder:
    weights = save_embedder(tmp_path_factory.mktemp("weights") / "w.safetensors", SIZE)
    return FaceEmbedder(FacesConfig(weights=weights, detector="given", longest_px=LONGEST))


def face(eyes_px: float, x: float = 40.0, y: float = 30.0) -> tuple[Any, Any, float]:
    """Box, landmarks and confidence of one whose eyes are so far apart."""
    points = template(112).numpy()
    points = (points - points[0]) * eyes_px / np.linalg.norm(points[1] - points[0]) + (x, y)
    low, high = points.min(axis=0), points.max(axis=0)
    return [*(low - eyes_px), *(high + eyes_px)], points.ravel().tolist(), 0.9


def batch_of(picture: Image.Image, extent: tuple[int, int], *faces: list[Any]) -> Batch:
    """One picture as often as there are lists of faces, as it lies on a canvas."""
    pixels = np.zeros((len(faces), LONGEST, LONGEST, 3), np.uint8)
    shown = np.asarray(picture)
    pixels[:, : shown.shape[0], : shown.shape[1]] = shown
    column = np.empty(len(faces), object)
    column[:] = faces
    return {"pixels": pixels, "extent": np.array([extent] * len(faces), np.int32), "faces": column}


def photograph() -> Image.Image:
    """160 x 107."""
    return Image.fromarray(load_sample_image("china.jpg")).resize((LONGEST, 107))


def test_a_face_is_as_large_as_it_was_seen_whatever_the_original_had(embedder: FaceEmbedder):
    picture = photograph()
    scale = 20
    box, points, confidence = face(9.0)
    within = [np.array(box) * scale, (np.array(points) + 0.5) * scale - 0.5]
    original = [(*(values.tolist() for values in within), confidence)]

    reduced = embedder(batch_of(picture, (107 * scale, LONGEST * scale), original))
    as_it_is = embedder(batch_of(picture, (107, LONGEST), [face(9.0)]))
    larger = embedder(batch_of(picture, (107, LONGEST), [face(30.0)]))

    (seen,), (plain,), (large,) = (each["faces"][0] for each in (reduced, as_it_is, larger))
    np.testing.assert_allclose(seen["landmarks"], original[0][1], rtol=1e-4)  # of the original
    np.testing.assert_allclose(seen["embedding"], plain["embedding"], atol=1e-3)
    assert seen["quality"] == pytest.approx(plain["quality"], rel=0.01)
    assert seen["quality"] < 0.9 * large["quality"]


def counting(embedder: FaceEmbedder, passes: list[int]) -> RemovableHandle:
    """Have the size of every pass of the network noted."""
    network = embedder.embedder.network
    assert isinstance(network, TorchNetwork)
    return network.both.register_forward_hook(lambda _, seen, __: passes.append(len(seen[0])))


def test_neither_a_crowd_nor_pictures_of_nobody_cost_passes(embedder: FaceEmbedder):
    """70 faces of 200 pictures fill as many passes as 70 of one: three."""
    picture, one = photograph(), face(12.0)
    nobody: list[Any] = []
    crowd = [batch_of(picture, (107, LONGEST), [one] * 70)]
    alone = [batch_of(picture, (107, LONGEST), *([[one]] * 7 + [nobody] * 13)) for _ in range(10)]
    passes: list[int] = []
    hook = counting(embedder, passes)
    counts = []
    try:
        for calls in (crowd, alone):
            passes.clear()
            results = list(embedder.regrouped(iter(calls)))
            assert sum(len(faces) for each in results for faces in each["faces"]) == 70
            assert len(results) == len(calls)
            counts.append(list(passes))
    finally:
        hook.remove()
    assert counts == [[PASS_SIZE] * 3] * 2


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 33])
def test_what_is_left_at_the_end_is_one_pass_more(embedder: FaceEmbedder, kept: int):
    passes: list[int] = []
    hook = counting(embedder, passes)
    calls = [batch_of(photograph(), (107, LONGEST), [face(12.0)]) for _ in range(kept)]
    try:
        (*results,) = embedder.regrouped(iter(calls))
    finally:
        hook.remove()
    assert len(results) == kept
    assert len(passes) == -(-kept // PASS_SIZE)


def test_a_backbone_of_timm_embeds_as_it_does_alone(tmp_path: Path):
    torch.manual_seed(0)
    preprocess = FacePreprocess(height_px=64, width_px=64)
    card = Card(
        network="timm:test_resnet", classes=(), preprocess=preprocess, licence="none",
        source="random", embedding_size=16,
    )  # fmt: skip
    network = build("timm:test_resnet", 16)
    save_checkpoint(tmp_path / "w.safetensors", network, card)
    assert read_card(tmp_path / "w.safetensors").is_embedder
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    embedder = FaceEmbedder(FacesConfig(weights=str(tmp_path / "w.safetensors"), detector="none"))
    found = embedder({"pixels": crops, "extent": np.full((3, 2), 64, np.int32)})
    with torch.inference_mode():
        raw = network.eval()(normalize(crops, preprocess, "cpu")).numpy()
    assert raw.shape == (3, 16)
    for (face,), wanted in zip(found["faces"], raw, strict=True):
        assert face["embedding"] @ wanted / np.linalg.norm(wanted) > 0.9999
    model = FaceModelConfig(
        network="timm:test_resnet", embedding_size=16, preprocess=preprocess,
        weights=str(tmp_path / "w.safetensors"),
    )  # fmt: skip
    learner = FaceLearner(
        FaceLearnerConfig(
            model=model, people=2, batch_people=2, num_steps=4,
            loss=TripletConfig(pictures_per_person=2),
        )
    )  # fmt: skip
    batch = {
        "pixels": torch.from_numpy(np.concatenate([crops, crops[:1]])),
        "target": torch.tensor([0, 0, 1, 1]),
        "row": torch.arange(4),
    }
    assert np.isfinite([learner.step(batch)["objective"] for _ in range(2)]).all()
