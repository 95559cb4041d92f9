"""What was learnt from weights of a licence has it, however the network was named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import train_classifier, train_faces, train_localizer
from jobs.embed_faces import Config as EmbedConfig
from jobs.embed_faces import main as embed
from jobs.runtime.checkpoints import BEST
from jobs.runtime.sources.origin import Source
from tests.jobs.test_localize import SMALL as LOCALIZER_SMALL
from tests.jobs.test_localize import shapes, write_shard
from tests.jobs.test_train_classifier import small as small_classifier
from tests.jobs.test_train_classifier import write_photos
from tests.jobs.test_train_faces import SMALL as FACE_SMALL
from tests.jobs.test_train_faces import small as small_faces
from tests.jobs.test_train_faces import write_people
from tests.jobs.test_train_localizer import small as small_localizer
from vision_ops.card import Card, read_card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.models import build, embedding_size
from vision_ops.operators.embed_faces import FacesConfig
from vision_ops.preprocess import Preprocess

LICENCE = "CC-BY-NC-4.0"


def save(path: Path, preprocess: Preprocess, outputs: int, classes: tuple[str, ...] = ()) -> str:
    """Random weights of our residual network, not for commercial use."""
    torch.manual_seed(0)
    network = build("residual", outputs)
    size = outputs
    if classes:
        size = embedding_size(network, (3, preprocess.height_px, preprocess.width_px))
    card = Card(
        network="residual", classes=classes, preprocess=preprocess, licence=LICENCE,
        source="random", embedding_size=size,
    )  # fmt: skip
    save_checkpoint(path, network, card)
    return str(path)


def faces(folder: Path, **model: Any) -> Any:
    weights = save(folder / "nc.safetensors", FACE_SMALL, 8)
    config = small_faces(write_people(folder / "people", 18), folder / "out")
    return replace(config, model=replace(config.model, weights=weights, **model))


def classifier(folder: Path, **model: Any) -> Any:
    seen = Preprocess(height_px=8, width_px=8, resize_px=0)
    weights = save(folder / "nc.safetensors", seen, 3, ("blue", "green", "red"))
    config = small_classifier(write_photos(folder / "photos", per_class=8), folder / "out")
    return replace(config, model=replace(config.model, weights=weights, **model))


def localizer(folder: Path, **model: Any) -> Any:
    weights = save(folder / "nc.safetensors", LOCALIZER_SMALL, 2, ("a", "b"))
    (folder / "shapes").mkdir()
    write_shard(folder / "shapes" / "x.parquet", shapes(16, seed=1))
    config = small_localizer(folder / "shapes", folder / "out")
    return replace(config, model=replace(config.model, weights=weights, **model))


JOBS = {
    "faces": (faces, train_faces.main),
    "classifier": (classifier, train_classifier.main),
    "localizer": (localizer, train_localizer.main),
}


@pytest.mark.parametrize("job", JOBS)
def test_a_network_that_was_named_has_the_licence_of_its_start(job: str, tmp_path: Path):
    make, train = JOBS[job]
    asked = make(tmp_path, licence="MIT" if job == "localizer" else "unknown")
    one_epoch = replace(asked, training=replace(asked.training, epochs=1))
    with pytest.raises(ValueError, match=f"{LICENCE}.*--accept-licence"):
        train(one_epoch)

    train(replace(one_epoch, accept_licence=True))

    card = read_card(tmp_path / "out" / BEST)
    assert LICENCE in card.licence
    if job == "faces":  # and so whoever uses it is asked too
        data = Source(uri=str(tmp_path / "people"), label="folder")
        op = FacesConfig(weights=str(tmp_path / "out" / BEST), detector="none")
        with pytest.raises(ValueError, match=f"{LICENCE}.*--accept-licence"):
            embed(EmbedConfig(data=data, op=op, out=str(tmp_path / "embedded")))
