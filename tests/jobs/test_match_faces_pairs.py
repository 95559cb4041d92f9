"""Verification of pairs, and heads of similarity, over runs of known embeddings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.match_faces import main
from jobs.pictures.faces.matching.requests import (
    Enrol,
    Identify,
    SearchResources,
    Similarity,
    Verify,
)
from jobs.runtime.run import Run
from tests.jobs.test_match_faces import calibration, rows_of
from tests.made_faces import (
    EMBEDDER,
    MadeFace,
    MadeImage,
    faceless,
    failed,
    make_faces_run,
    make_people,
)
from vision_ops.faces.head_scorer import HeadScorer
from vision_ops.faces.heads import make_head, save_head
from vision_ops.faces.search import nearest, score_pairs

KINDS = ("cosine", "squared_l2", "weighted_l1", "chi_square")


@pytest.fixture
def people(tmp_path: Path) -> dict[str, MadeImage]:
    """Three people, three pictures each, by id; one failed, one has no face, one has two."""
    images = make_people(3, 3, size=32)
    images[7], images[8] = failed(images[7]), faceless(images[8])
    small = MadeFace(embedding=images[0].faces[0].embedding, box=(0, 0, 9, 9))
    images[4] = replace(images[4], faces=[small, *images[4].faces])
    make_faces_run(tmp_path / "run", images)
    return {image.id: image for image in images}


def verified(tmp_path: Path, pairs: str, **changes: object) -> list[dict]:
    (tmp_path / "pairs.csv").write_text(pairs)
    asked = Verify(
        run=str(tmp_path / "run"), pairs=str(tmp_path / "pairs.csv"), out=str(tmp_path / "out"),
        similarity=Similarity(threshold=0.5),
    )  # fmt: skip
    run = main(replace(asked, **changes))
    assert isinstance(run, Run)
    assert run.manifest["status"] == "done"
    return pa.Table.from_batches(list(run.results())).to_pylist()


def cosine(a: MadeFace, b: MadeFace) -> float:
    return float(np.float32(a.embedding.astype(np.float64) @ b.embedding.astype(np.float64)))


def test_each_pair_gets_its_similarity_and_a_verdict_or_the_reason_why_not(
    tmp_path: Path, people: dict[str, MadeImage]
):
    one, other = people["person_000/000.png"], people["person_001/000.png"]
    rows = verified(
        tmp_path,
        "a,b\nperson_000/000.png,person_000/001.png\nperson_000/000.png,person_001/000.png\n"
        "person_000/000.png,person_002/001.png\nperson_002/002.png,person_000/000.png\n"
        "person_000/000.png,nobody.png\n",
    )
    assert [row["same"] for row in rows] == [True, False, None, None, None]
    assert rows[0]["similarity"] == cosine(one.faces[0], people["person_000/001.png"].faces[0])
    assert rows[1]["similarity"] == cosine(one.faces[0], other.faces[0])
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "failed", "failed"]
    assert "picture failed: person_002/001.png" in rows[2]["error"]
    assert "no face was found" in rows[3]["error"]
    assert rows[4]["error"] == "no row or face of the run: nobody.png"
    assert {row["truth"] for row in rows} == {None}
    assert "Not compared" in (tmp_path / "out/report/index.html").read_text()


def test_of_several_faces_the_chosen_one_stands_for_the_picture_or_the_one_that_is_named(
    tmp_path: Path, people: dict[str, MadeImage]
):
    pairs = (
        "a,b,same\nperson_000/000.png,person_001/001.png,0\n"
        "person_000/000.png,person_001/001.png#face0,1\n"
        "person_000/000.png,person_001/001.png#face1,0\n"
    )
    one, two = people["person_000/000.png"], people["person_001/001.png"]
    scores = [cosine(one.faces[0], face) for face in two.faces]
    rows = verified(tmp_path, pairs)
    assert [row["similarity"] for row in rows] == [scores[1], scores[0], scores[1]]
    assert [row["same"] for row in rows] == [row["truth"] for row in rows] == [False, True, False]
    surest = verified(tmp_path, pairs, choice="surest", out=str(tmp_path / "surest"))
    assert surest[0]["similarity"] == scores[0]
    assert "100.00%" in (tmp_path / "out/report/index.html").read_text()


def test_pairs_of_lfw_find_their_pictures_by_name(tmp_path: Path):
    images = make_people(2, 2)
    names = ["Ada_0001", "Ada_0002", "Bob_0001", "Bob_0002"]
    named = [
        replace(image, id=f"lfw/{name[:3]}/{name}.jpg")
        for image, name in zip(images, names, strict=True)
    ]
    make_faces_run(tmp_path / "run", named)
    text = "1\t2\nAda\t1\t2\nBob\t1\t2\nAda\t1\tBob\t1\nAda\t2\tBob\t2\n"
    rows = verified(tmp_path, text)
    assert [row["truth"] for row in rows] == [row["same"] for row in rows]
    assert [row["truth"] for row in rows] == [True, True, False, False]
    assert rows[3]["a"] == "Ada_0002"


def test_a_calibration_gives_threshold_and_probability(
    tmp_path: Path, people: dict[str, MadeImage]
):
    known = tmp_path / "calibration.json"
    known.write_bytes(calibration().to_json())
    asked = Similarity(calibration=str(known))
    pairs = "a,b\nperson_000/000.png,person_000/001.png\nperson_000/000.png,person_001/000.png\n"
    rows = verified(tmp_path, pairs, similarity=asked, far=0.001)
    for row in rows:
        assert row["probability"] == pytest.approx((row["similarity"] + 1) / 2, rel=1e-6)
        assert row["same"] == (row["similarity"] >= 0.3)
    with pytest.raises(ValueError, match="far 1e-09: insufficient"):
        verified(tmp_path, pairs, similarity=asked, far=1e-9)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a,b\n", "no pairs"),
        ("a,b\nx.png,y.png\n", "no pair can be compared: 1 x no row or face of the run: x.png"),
        ("who,whom\n1,2\n", "columns"),
        ("a,b\nx.png,\n", "one without a or b"),
    ],
)
def test_lists_that_are_no_pairs_are_refused(
    tmp_path: Path, people: dict[str, MadeImage], text: str, match: str
):
    with pytest.raises(ValueError, match=match):
        verified(tmp_path, text)
    absent = Verify(
        run=str(tmp_path / "run"),
        pairs=str(tmp_path / "absent.csv"),
        similarity=Similarity(threshold=0.5),
    )
    with pytest.raises(ValueError, match="absent.csv: not there"):
        main(absent)


def test_the_same_list_again_is_done_and_another_is_refused(
    tmp_path: Path, people: dict[str, MadeImage]
):
    pairs = "a,b\nperson_000/000.png,person_000/001.png\n"
    assert verified(tmp_path, pairs) == verified(tmp_path, pairs)
    with pytest.raises(ValueError, match="choose another --out"):
        verified(tmp_path, pairs.replace("person_000/001", "person_001/001"))


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_head_the_nearest_are_those_of_the_head_in_float64(kind: str):
    images = make_people(40, 2, size=48, noise=0.8)
    gallery = np.stack([image.faces[0].embedding for image in images[::2]])
    probes = np.stack([image.faces[0].embedding for image in images[1::2]])
    scorer = HeadScorer(make_head(kind, 48))
    found = nearest(probes, gallery, 5, scorer)
    rows, columns = (each.ravel() for each in np.indices((40, 40)))
    exact = score_pairs(probes, gallery, rows, columns, scorer).reshape(40, 40)
    order = np.argsort(-exact, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(found.places, order)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(exact, order, axis=1))
    rough = scorer.block(probes, gallery)
    assert np.abs(rough - exact).max() <= scorer.margin(48) < 1e-3


def test_a_trained_head_names_people_and_one_of_another_embedder_is_refused(tmp_path: Path):
    images = make_people(5, 3, size=32)
    make_faces_run(tmp_path / "run", images)
    main(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g"), per_person=1))
    head = make_head("weighted_l1", 32)
    head.embedder = EMBEDDER
    save_head(tmp_path / "head.safetensors", head, 32)
    asked = Identify(
        run=str(tmp_path / "run"), gallery=str(tmp_path / "g"), out=str(tmp_path / "out"),
        similarity=Similarity(head=str(tmp_path / "head.safetensors"), threshold=0.05),
        resources=SearchResources(engine="inline"),
    )  # fmt: skip
    run = main(asked)
    assert isinstance(run, Run)
    rows = rows_of(run)
    assert (rows["match"] == rows["truth"]).all()
    assert rows[rows["enrolled"]]["similarity"].min() > 0.99
    head.embedder = "0f" * 32
    save_head(tmp_path / "head.safetensors", head, 32)
    with pytest.raises(ValueError, match=f"{'0f' * 32}.*{EMBEDDER}"):
        main(replace(asked, out=str(tmp_path / "other")))
    absent = replace(asked.similarity, head="absent")
    with pytest.raises(ValueError, match="head 'absent': no such file; or one of"):
        main(replace(asked, similarity=absent))
    beyond = replace(asked.similarity, threshold=1.5)
    head.embedder = EMBEDDER
    save_head(tmp_path / "head.safetensors", head, 32)
    with pytest.raises(ValueError, match="threshold 1.5: weighted_l1 is of 0 to 1"):
        main(replace(asked, similarity=beyond, out=str(tmp_path / "beyond")))
