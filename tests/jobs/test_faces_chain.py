"""What one job of faces writes the next one reads: learnt, embedded, judged, enrolled, named."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs import embed_faces, evaluate, train_faces
from jobs.match_faces import main as match_faces
from jobs.pictures.faces.grouped import GroupingEvaluation
from jobs.pictures.faces.matching.requests import Cluster, Enrol, Identify, SearchResources
from jobs.pictures.faces.verified import FaceProtocol, VerificationEvaluation
from jobs.runtime.checkpoints import BEST
from jobs.runtime.learner import TrainingConfig
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from tests.jobs.test_train_faces import HEAD, small, write_people
from vision_ops.card import sha256_file
from vision_ops.losses.metric import BinaryConfig
from vision_ops.operators.embed_faces import FacesConfig

pytestmark = pytest.mark.slow
INLINE = Resources(engine="inline", actors=1)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedder, and the head that learnt with it, of 80 synthetic people, 12 pixels large."""
    folder = tmp_path_factory.mktemp("learnt")
    people = write_people(folder / "people", 80)
    config = small(people, folder / "out", BinaryConfig(pictures_per_person=2))
    train_faces.main(
        replace(config, training=TrainingConfig(epochs=12, batch_size=32, validation_fraction=0.15))
    )
    return folder / "out"


@pytest.fixture(scope="module")
def embedded(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Faces of 40 people whom it never saw."""
    folder = tmp_path_factory.mktemp("embedded")
    data = Source(uri=str(write_people(folder / "in", 40, pictures=4, seed=5)), label="folder")
    op = FacesConfig(weights=str(learnt / BEST), detector="none")
    config = embed_faces.Config(data=data, op=op, resources=INLINE, out=str(folder / "out"))
    return embed_faces.main(config)


@pytest.mark.parametrize("head", ["cosine", "learnt"])
def test_what_was_learnt_is_embedded_calibrated_enrolled_named_and_judged(
    learnt: Path, embedded: Run, tmp_path: Path, head: str
):
    assert embedded.manifest["embedder"]["sha256"] == sha256_file(learnt / BEST)
    which = "cosine" if head == "cosine" else str(learnt / HEAD)
    judged = evaluate.main(
        evaluate.Config(
            run=embedded.uri, out=str(tmp_path / "judged"), faces=FaceProtocol(head=which)
        )
    )
    assert isinstance(judged, VerificationEvaluation)
    assert judged.searches is not None
    assert judged.pairs.auc > 0.75  # chance is a half
    assert judged.searches.found.rank(1) > 0.15  # and here a fortieth
    calibration = str(tmp_path / "judged" / "calibration.json")
    gallery = str(tmp_path / "g")
    match_faces(Enrol(run=embedded.uri, gallery=gallery, per_person=2, calibration=calibration))
    asked = Identify(run=embedded.uri, gallery=gallery, out=str(tmp_path / "named"))
    similarity = replace(asked.similarity, head=which)
    asked = replace(asked, similarity=similarity, resources=SearchResources(engine="inline"))
    cluster = Cluster(
        run=embedded.uri, out=str(tmp_path / "groups"), far=0.01,
        similarity=replace(similarity, calibration=calibration),
    )  # fmt: skip
    for request in (asked, cluster):
        run = match_faces(request)
        assert isinstance(run, Run)
        assert run.manifest["embedder"]["sha256"] == sha256_file(learnt / BEST)
        found = evaluate.main(evaluate.Config(run=run.uri, out=f"{run.uri}_judged"))
        assert isinstance(found, GroupingEvaluation)
        if request is asked:
            assert found.counts["enrolled"] == 80
            assert found.named is not None
            assert sum(found.named.values()) == 80
            assert found.named["right"] >= 8  # by chance two
        else:
            assert found.counts["evaluated"] == 160
            assert found.groups.bcubed.f1 > 0.1
