"""Published networks on photographs of real people, from detector to who is who."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import embed_faces, evaluate
from jobs.match_faces import main as match_faces
from jobs.pictures.faces.matching.requests import (
    Cluster,
    Enrol,
    Identify,
    SearchResources,
    Similarity,
)
from jobs.pictures.faces.verified import VerificationEvaluation
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from tests.benchmarks import faces_end_to_end as plain
from vision_ops.decode import DecodeConfig
from vision_ops.faces.transforms import FACE_TRANSFORMS
from vision_ops.operators.embed_faces import FacesConfig
from vision_ops.weights.convert import Origin, convert
from vision_ops.weights.face_detectors import convert_detector

pytestmark = pytest.mark.slow
INLINE = Resources(engine="inline", actors=1)
SEARCH = SearchResources(engine="inline")
SAME = 0.4
"""cosine from which on two faces are one person's; strangers of these photographs reach 0.3"""
PEOPLE = {
    "kit_harington": "kit", "johnsnow_test": "kit", "alex_lacamoire": "alex", "bit": "obama",
    "obama_partial_face": "obama", "rose_leslie": "rose",
}  # fmt: skip
"""who is in a photograph, where neither its folder nor its name says it"""
SEVERAL = {"kit_with_rose": {"kit", "rose"}, "obama_and_biden": {"obama", "biden", "nobody"}}
"""nobody: she is in no other photograph"""


def person_of(path: Path) -> str:
    """Who is in a photograph of one person."""
    known = path.parent.parent.name == "train"
    name = path.parent.name if known else path.stem.strip("0123456789")
    return PEOPLE.get(name, name)


@pytest.fixture(scope="module")
def detector(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("detector") / "retinaface.safetensors"
    state = shared_data / "weights" / "retinaface-mobilenet0.25-landmarks.pth"
    convert_detector("face_detector:retinaface", [state], "MIT", "published", path)
    return str(path)


@pytest.fixture(scope="module")
def embedder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("embedder") / "mobilefacenet.safetensors"
    origin = Origin(
        network="mobilefacenet", classes=(), preprocess=FACE_TRANSFORMS["mobilefacenet"],
        licence="Apache-2.0", source="foamliu",
    )  # fmt: skip
    convert(shared_data / "weights" / "mobilefacenet-128d.pt", origin, path)
    return str(path)


@pytest.fixture(scope="module")
def press(
    shared_data: Path, detector: str, embedder: str, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """The press photographs, embedded."""
    out = tmp_path_factory.mktemp("press")
    return embed_faces.main(
        embed_faces.Config(
            data=Source(uri=str(shared_data / "faces" / "photos")),
            op=FacesConfig(weights=embedder, detector=detector),
            decode=DecodeConfig(mode="exact"),
            resources=INLINE,
            out=str(out / "embedded"),
        )
    )


def test_embeddings_are_those_of_a_plain_script_of_one_picture_and_face_at_a_time(
    press: Run, shared_data: Path, detector: str, embedder: str
):
    photos = shared_data / "faces" / "photos"
    config = plain.Config(photos=photos, detector=detector, embedder=embedder, copies=1)
    wanted = plain.run_plain(config)["faces"]
    assert isinstance(wanted, dict)
    cosines = []
    for batch in press.results(("id", "faces")):
        for row in batch.to_pylist():
            assert len(row["faces"]) == len(wanted[row["id"]]), row["id"]
            for face, other in zip(row["faces"], wanted[row["id"]], strict=True):
                cosines.append(np.dot(face["embedding"], other))
    assert len(cosines) == 26
    assert min(cosines) > 0.9999


def test_everybody_in_the_press_photographs_is_found_and_put_together(press: Run, tmp_path: Path):
    assert press.manifest["counts"] == {"read": 23, "ok": 23, "failed": 0}
    similarity = Similarity(threshold=SAME)
    run = match_faces(Cluster(run=press.uri, out=str(tmp_path / "people"), similarity=similarity))
    assert isinstance(run, Run)
    groups: dict[str, set[str]] = {}
    several: dict[str, set[str]] = {}
    for batch in run.results(("image", "person")):
        for row in batch.to_pylist():
            path, group = Path(row["image"]), row["person"] or "nobody"
            if path.stem in SEVERAL:
                several.setdefault(path.stem, set()).add(group)
            else:
                groups.setdefault(person_of(path), set()).add(group)
    assert set(groups) == {"obama", "biden", "kit", "rose", "alex"}
    people = {next(iter(found)): person for person, found in groups.items()}
    assert [len(found) for found in groups.values()] == [1] * 5, groups  # one group a person
    assert len(people) == 5, groups  # and one person a group
    for photo, wanted in SEVERAL.items():
        assert {people.get(group, group) for group in several[photo]} == wanted, photo


def test_who_is_in_a_press_photograph_is_said_by_one_picture_of_each(
    press: Run, shared_data: Path, tmp_path: Path
):
    photos = shared_data / "faces" / "photos"
    rows = ["id,label"]
    for path in sorted((photos / "examples/knn_examples/train").rglob("*.jp*g")):
        rows.append(f"{path.relative_to(photos)},{person_of(path)}")
    labels, gallery = tmp_path / "labels.csv", str(tmp_path / "g")
    labels.write_text("\n".join(rows))
    match_faces(Enrol(run=press.uri, gallery=gallery, labels=str(labels), per_person=1))
    similarity = Similarity(threshold=SAME)
    out = str(tmp_path / "named")
    run = match_faces(
        Identify(run=press.uri, gallery=gallery, out=out, similarity=similarity, resources=SEARCH)
    )
    assert isinstance(run, Run)
    outcomes: Counter[str] = Counter()
    for batch in run.results(("image", "match", "enrolled")):
        for row in batch.to_pylist():
            path = Path(row["image"])
            wanted = SEVERAL.get(path.stem, {person_of(path)})
            if row["enrolled"]:
                continue
            right = (row["match"] or "nobody") in wanted
            outcomes["right" if right else "missed" if row["match"] is None else "wrong"] += 1
    assert outcomes == {"right": 21}, outcomes  # 26 faces, five of them enrolled


def test_small_grey_pictures_of_forty_people_are_told_apart(
    shared_data: Path, detector: str, embedder: str, tmp_path: Path
):
    """ORL's 40 people with 10 pictures each, enlarged from 23 x 28 px: the README's figures."""
    for path in sorted((shared_data / "faces" / "orl").glob("s*/*.pgm")):
        target = tmp_path / "in" / path.parent.name / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            size = image.width * 4, image.height * 4
            image.resize(size, Image.Resampling.BICUBIC).save(target)
    run = embed_faces.main(
        embed_faces.Config(
            data=Source(uri=str(tmp_path / "in"), label="folder"),
            op=FacesConfig(weights=embedder, detector=detector),
            resources=INLINE,
            out=str(tmp_path / "embedded"),
        )
    )
    found = evaluate.main(evaluate.Config(run=run.uri, out=str(tmp_path / "judged")))
    assert isinstance(found, VerificationEvaluation)
    assert found.searches is not None
    assert found.folds is not None
    by_far = {point.target_far: point for point in found.pairs.points}
    assert found.counts["faceless"] == 0
    assert found.searches.whole.rank(1) == pytest.approx(0.969, abs=0.01)
    assert found.folds.mean == pytest.approx(0.967, abs=0.01)
    assert found.pairs.auc == pytest.approx(0.993, abs=0.003)
    assert by_far[0.01].tar == pytest.approx(0.893, abs=0.02)
    assert by_far[0.001].tar == pytest.approx(0.762, abs=0.03)
    assert by_far[1e-6].insufficient
