"""Evaluation of match_faces: who was put together, and who was named, beside who they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.evaluate import Config, main
from jobs.match_faces import main as match_faces
from jobs.pictures.faces.grouped import GroupingEvaluation
from jobs.pictures.faces.matching.requests import Cluster, Enrol, Identify, Similarity
from jobs.pictures.faces.verified import FaceProtocol
from tests.made_faces import MadeImage, faceless, failed, make_faces_run, make_people


def grouped(folder: Path, config: Any) -> GroupingEvaluation:
    """Do a request of match_faces, and evaluate what it wrote."""
    match_faces(config)
    found = main(Config(run=config.out, out=str(folder / f"{Path(config.out).name}_judged")))
    assert isinstance(found, GroupingEvaluation)
    return found


def people_and_others(folder: Path) -> list[MadeImage]:
    """Six people of three pictures; one without a face, one failed, one of two faces."""
    images = make_people(6, 3, noise=0.2, seed=12)
    images[2], images[5] = faceless(images[2]), failed(images[5])
    two = MadeImage(id="pair/000.png", truth="pair", faces=[*images[0].faces, *images[6].faces])
    images += [two, MadeImage(id="nobody/000.png", faces=images[9].faces)]
    make_faces_run(folder / "embed", images)
    return images


def test_groups_of_faces_are_held_against_people(tmp_path: Path) -> None:
    people_and_others(tmp_path)
    run, out = str(tmp_path / "embed"), str(tmp_path / "cluster")
    found = grouped(tmp_path, Cluster(run=run, out=out, similarity=Similarity(threshold=0.7)))
    assert found.groups.pairwise.f1 == found.groups.bcubed.f1 == 1
    assert (found.groups.num_faces, found.groups.num_people) == (16, 6)
    assert found.counts == {
        "read": 21, "evaluated": 16, "failed": 1, "faceless": 1, "without_truth": 1,
        "several_faces": 2, "enrolled": 0,
    }  # fmt: skip
    assert found.named is None
    one = grouped(
        tmp_path,
        Cluster(run=run, out=str(tmp_path / "one"), similarity=Similarity(threshold=-0.99)),
    )
    assert one.groups.pairwise.recall == 1
    pairs = 4 * 3 + 2 * 1  # of four people with three faces and two with two
    assert one.groups.pairwise.precision == pytest.approx(pairs / (16 * 15 / 2))
    told = json.loads((tmp_path / "one_judged" / "metrics.json").read_text())
    assert told["groups"]["pairwise"]["f1"] == one.groups.pairwise.f1
    html = Path(one.report).read_text()
    assert "Groups of several people" in html
    assert "2 several faces" in html


def test_names_from_a_gallery_are_right_wrong_or_unknown(tmp_path: Path) -> None:
    images = people_and_others(tmp_path)
    make_faces_run(tmp_path / "known", images[:12])  # four of the six people
    gallery = str(tmp_path / "gallery")
    match_faces(Enrol(run=str(tmp_path / "known"), gallery=gallery, per_person=1))
    request = Identify(
        run=str(tmp_path / "embed"),
        gallery=gallery,
        out=str(tmp_path / "named"),
        similarity=Similarity(threshold=0.7),
    )
    found = grouped(tmp_path, request)
    assert found.named is not None
    assert found.named["wrong"] == 0
    assert found.named["right"] + found.named["unknown"] == found.counts["evaluated"]
    assert found.named["unknown"] == 6  # of two strangers
    config = Config(run=request.out, out=str(tmp_path / "b"), faces=FaceProtocol(gallery="best"))
    with pytest.raises(ValueError, match="faces: .* of runs of embed_faces, this is one of match"):
        main(config)
