"""Enrol, remove, identify and cluster end to end, over runs of known embeddings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.match_faces import main
from jobs.pictures.faces.labelled import Choice
from jobs.pictures.faces.matching import clustering, identification
from jobs.pictures.faces.matching.enrolment import Enrolment
from jobs.pictures.faces.matching.requests import (
    Cluster,
    Enrol,
    Identify,
    Remove,
    SearchResources,
    Show,
    Similarity,
)
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage, StorageConfig
from tests.made_faces import (
    EMBEDDER,
    MadeFace,
    MadeImage,
    calibration,
    draw_faces,
    faceless,
    failed,
    make_faces_run,
    make_people,
)
from vision_ops.faces import gallery as gallery_module
from vision_ops.faces.calibration import Thresholds
from vision_ops.faces.gallery import Gallery
from vision_ops.faces.people import EnrolledFace, template

THRESHOLD = 0.5
INLINE = SearchResources(engine="inline")


def at(threshold: float | None, **others: str) -> Similarity:
    return Similarity(threshold=threshold, **others)


def rows_of(run: Run) -> Any:
    rows = pa.Table.from_batches(list(run.results()), pq.read_schema(run.parts()[0].uri))
    return rows.to_pandas().sort_values("id", ignore_index=True)


def identified(config: Identify) -> Any:
    run = main(config)
    assert isinstance(run, Run)
    assert run.manifest["status"] == "done"
    return rows_of(run)


def enrolled(config: Enrol) -> Enrolment:
    result = main(config)
    assert isinstance(result, Enrolment)
    return result


@pytest.fixture
def people(tmp_path: Path) -> list[MadeImage]:
    """Six people, four pictures each; the run `tmp_path/run` holds them, with some that fail."""
    images = make_people(6, 4, size=32)
    images[5], images[9], images[13] = failed(images[5]), faceless(images[9]), failed(images[13])
    make_faces_run(tmp_path / "run", images)
    return images


def request(tmp_path: Path, **changes: object) -> Identify:
    asked = Identify(
        run=str(tmp_path / "run"), gallery=str(tmp_path / "g"), out=str(tmp_path / "identified"),
        similarity=at(THRESHOLD), resources=INLINE,
    )  # fmt: skip
    return replace(asked, **changes)


def test_one_picture_a_person_is_enough_and_every_image_is_accounted_for(
    tmp_path: Path, people: list[MadeImage]
):
    made = enrolled(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g"), per_person=1))
    assert (made.change.added, len(made.change.people_added)) == (6, 6)
    assert made.images == {
        "failed": 2, "faceless": 1, "without_truth": 0, "low_quality": 0,
        "beyond_per_person": 15, "offered": 6,
    }  # fmt: skip
    best = {}
    for image in people:
        for face in image.faces:
            best[image.truth] = max(best.get(image.truth, 0.0), face.quality)
    taken = Gallery.load(str(tmp_path / "g"), Storage())
    qualities = {
        person: table["faces"][0]["quality"]
        for name in taken.parts
        for table in pd.read_parquet(tmp_path / "g" / "people" / name).to_dict("records")
        for person in [table["person"]]
    }
    assert qualities == best

    rows = identified(request(tmp_path))
    assert sorted(set(rows["image"])) == sorted(image.id for image in people)
    assert len(rows) == len(people)  # one face an image, or one row for none
    bad = rows[rows["status"] == "failed"]
    assert set(bad["id"]) == {people[5].id, people[13].id}
    assert set(bad["error"]) == {"truncated PNG: no end"}
    none = rows[(rows["status"] == "ok") & rows["face"].isna()]
    assert list(none["id"]) == [people[9].id]
    assert none[["match", "similarity", "probability"]].isna().all(axis=None)
    good = rows[rows["face"].notna()]
    assert (good["match"] == good["truth"]).all()
    assert good["enrolled"].sum() == 6
    counts = Run.load(str(tmp_path / "identified"), Storage()).manifest["counts"]
    assert {k: counts[k] for k in ("read", "failed", "faceless", "faces", "right")} == {
        "read": 24, "failed": 2, "faceless": 1, "faces": 21, "right": 15,
    }  # fmt: skip


def test_the_nearest_people_are_those_of_a_plain_loop_and_strangers_are_unknown(tmp_path: Path):
    images = make_people(9, 3, size=16, noise=0.9, seed=4)
    make_faces_run(tmp_path / "known", images[:18])
    make_faces_run(tmp_path / "run", images, source_uri="/others", num_parts=4)
    gallery = str(tmp_path / "g")
    enrolled(Enrol(run=str(tmp_path / "known"), gallery=gallery))
    rows = identified(request(tmp_path, k=4)).set_index("image")
    own: dict[str, list[EnrolledFace]] = {}
    for image in images[:18]:
        face = image.faces[0]
        made = EnrolledFace(
            id=f"{image.id}#face0", run="", quality=face.quality, embedding=face.embedding
        )
        own.setdefault(str(image.truth), []).append(made)
    templates = {name: template(faces).astype(np.float64) for name, faces in own.items()}
    for image in images:
        probe = image.faces[0].embedding.astype(np.float64)
        ranked = sorted((-np.float32(probe @ each), name) for name, each in templates.items())
        row = rows.loc[image.id]
        assert list(row["top_people"]) == [name for _, name in ranked[:4]]
        assert list(row["top_similarities"]) == [-score for score, _ in ranked[:4]]
        assert row["similarity"] == -ranked[0][0]
        named = -ranked[0][0] >= np.float32(THRESHOLD)
        assert row["match"] == ranked[0][1] if named else pd.isna(row["match"])
    assert not rows["enrolled"].any()  # another run's faces, though the ids are the same
    assert rows["match"].isna().any()
    assert rows["match"].notna().any()


def test_a_photo_of_several_enrols_the_largest_face_or_the_surest(
    tmp_path: Path,
):
    axes = np.eye(8, dtype=np.float32)
    sure = MadeFace(embedding=axes[0], box=(0, 0, 20, 20), confidence=0.99)
    large = MadeFace(embedding=axes[1], box=(20, 0, 90, 90), confidence=0.9)
    make_faces_run(tmp_path / "run", [MadeImage(id="a.jpg", truth="Ada", faces=[sure, large])])
    choices: dict[Choice, np.ndarray] = {"largest": axes[1], "surest": axes[0]}
    for choice, wanted in choices.items():
        gallery = str(tmp_path / choice)
        made = enrolled(Enrol(run=str(tmp_path / "run"), gallery=gallery, choice=choice))
        assert (made.change.added, made.several_faces) == (1, 1)
        assert Gallery.load(gallery, Storage()).templates().embeddings.tolist() == [wanted.tolist()]
        again = enrolled(
            Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g"), choice=choice)
        )
        assert again.change.replaced == (choice == "surest")  # the same gallery, chosen otherwise
        people = Gallery.load(str(tmp_path / "g"), Storage()).templates()
        assert people.embeddings.tolist() == [wanted.tolist()]
    rows = identified(request(tmp_path, gallery=str(tmp_path / "largest")))
    assert list(rows["id"]) == ["a.jpg#face0", "a.jpg#face1"]
    assert list(rows["match"].isna()) == [True, False]
    assert list(rows["enrolled"]) == [False, True]
    assert np.stack(rows["box"].to_list()).tolist() == [[0, 0, 20, 20], [20, 0, 90, 90]]


def test_labels_of_a_file_stand_above_the_truth_and_a_corrected_one_moves_the_face(
    tmp_path: Path, people: list[MadeImage]
):
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\nperson_000/000.png,Ada\nperson_000/001.png,Bob\n")
    asked = Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g"), labels=str(labels))
    made = enrolled(asked)
    assert made.change.people_added == ("Ada", "Bob")
    assert made.images["without_truth"] == 21 - 2
    assert made.labels_without_row == 0
    labels.write_text("id,label\nperson_000/000.png,Ada\nperson_000/001.png,Ada\n")
    made = enrolled(asked)
    assert (made.change.moved, made.change.people_removed) == (1, ("Bob",))
    labels.write_text(labels.read_text() + "person_000/0.png,Eve\n")
    again = enrolled(asked)
    assert (again.change.unchanged, again.labels_without_row) == (2, 1)


def test_poor_faces_stay_out(tmp_path: Path, people: list[MadeImage]):
    made = enrolled(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g"), min_quality=0.7))
    good = sum(face.quality >= 0.7 for image in people for face in image.faces)
    assert 0 < made.change.added == good < 21
    assert made.images["low_quality"] == 21 - good


def test_someone_removed_is_unknown_from_then_on(tmp_path: Path, people: list[MadeImage]):
    asked = Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g"))
    enrolled(asked)
    main(Remove(gallery=asked.gallery, person=("person_003",)))
    rows = identified(request(tmp_path)).set_index("id")
    gone = rows[rows["truth"] == "person_003"]
    assert gone["match"].isna().all()
    assert not gone["enrolled"].any()
    assert "person_003" not in {name for names in rows["top_people"].dropna() for name in names}
    with pytest.raises(ValueError, match="person 'person_003': nobody of that name"):
        main(Remove(gallery=asked.gallery, person=("person_003",)))
    main(Remove(gallery=asked.gallery, id=("person_001/000.png",)))
    with pytest.raises(ValueError, match="gallery_content was"):
        main(request(tmp_path))


def test_show_names_the_embedder_and_the_people(
    tmp_path: Path, people: list[MadeImage], capsys: pytest.CaptureFixture[str]
):
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g")))
    lines = main(Show(gallery=str(tmp_path / "g"), people=True))
    assert isinstance(lines, dict)
    assert (lines["people"], lines["faces"], lines["licence"]) == ("6", "21", "MIT")
    assert lines["embedder"] == f"sha256:{EMBEDDER}"
    assert lines["  person_002"] == "3"
    assert "person_005" in capsys.readouterr().out


def results_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "results").iterdir()}


class Killed(BaseException):
    """Stands for the signal that ends a process."""


@pytest.mark.parametrize("word", ["identify", "cluster"])
def test_a_run_that_was_killed_is_finished_by_the_same_command_to_the_same_bytes(
    tmp_path: Path, people: list[MadeImage], monkeypatch: pytest.MonkeyPatch, word: str
):
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g"), per_person=1))
    module = identification if word == "identify" else clustering

    def asked(out: str) -> Identify | Cluster:
        if word == "identify":
            return request(tmp_path, out=str(tmp_path / out))
        run, out = str(tmp_path / "run"), str(tmp_path / out)
        return Cluster(run=run, out=out, similarity=at(THRESHOLD))

    main(asked("undisturbed"))
    put: Callable[..., None] = module.put_part
    with monkeypatch.context() as patch:

        def put_or_die(run: Run, name: str, *rest: object) -> None:
            if run.parts():
                raise Killed
            put(run, name, *rest)

        patch.setattr(module, "put_part", put_or_die)
        with pytest.raises(Killed):
            main(asked("killed"))
    assert len(results_of(tmp_path / "killed")) == 1
    run = main(asked("killed"))
    assert isinstance(run, Run)
    assert (run.manifest["status"], run.manifest["counts"]["read"]) == ("done", 24)
    assert results_of(tmp_path / "killed") == results_of(tmp_path / "undisturbed")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed/results").iterdir()}
    main(asked("killed"))
    assert before == {path: path.stat().st_mtime_ns for path in before}  # done: nothing is redone


def test_rows_that_were_retried_since_are_identified_anew(tmp_path: Path, people: list[MadeImage]):
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g"), per_person=1))
    assert identified(request(tmp_path))["status"].eq("failed").sum() == 2
    whole = make_people(6, 4, size=32)
    whole[9] = people[9]
    make_faces_run(tmp_path / "run", whole)
    rows = identified(request(tmp_path))
    assert len(rows) == 24
    assert rows["status"].eq("ok").all()


def test_another_request_for_the_same_directory_is_refused(tmp_path: Path, people: list[MadeImage]):
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g")))
    main(request(tmp_path))
    with pytest.raises(ValueError, match="threshold was 0.5, now 0.6"):
        main(request(tmp_path, similarity=at(0.6)))
    with pytest.raises(ValueError, match="k was 5, now 2"):
        main(request(tmp_path, k=2))


def test_without_a_threshold_or_calibration_nobody_is_named_unless_that_is_asked_for(
    tmp_path: Path, people: list[MadeImage], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # where runs/evaluate_faces holds no calibration
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g")))
    for asked in (
        request(tmp_path, similarity=at(None)),
        Cluster(run=str(tmp_path / "run"), out=str(tmp_path / "c")),
    ):
        with pytest.raises(ValueError, match="threshold: none given.*--threshold X"):
            main(asked)
    assert not (tmp_path / "identified").exists()
    rows = identified(request(tmp_path, similarity=at(None), similarity_only=True))
    assert rows["match"].isna().all()
    assert rows["similarity"].notna().sum() == 21
    (tmp_path / "runs/evaluate_faces").mkdir(parents=True)
    (tmp_path / "runs/evaluate_faces/calibration.json").write_bytes(calibration().to_json())
    rows = identified(request(tmp_path, similarity=at(None), out=str(tmp_path / "by evaluate")))
    assert rows["match"].notna().any()


def test_a_calibration_says_threshold_and_probability_at_the_size_of_the_gallery(
    tmp_path: Path, people: list[MadeImage]
):
    made, known = tmp_path / "calibration.json", calibration()
    made.write_bytes(known.to_json())
    gallery = str(tmp_path / "g")
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=gallery, calibration=str(made)))
    rows = identified(request(tmp_path, similarity=at(None)))
    run = Run.load(str(tmp_path / "identified"), Storage())
    threshold = run.manifest["threshold"]["value"]
    assert threshold == known.threshold_for_fpir(0.01, 6)
    alone, thousand = known.searches[0].thresholds
    assert alone.at(0.01) < threshold < thousand.at(0.01)
    faces = rows[rows["face"].notna()]
    assert (faces["match"].notna() == (faces["similarity"] >= np.float32(threshold))).all()
    np.testing.assert_allclose(faces["probability"], (faces["similarity"] + 1) / 2, rtol=1e-6)
    given = identified(request(tmp_path, out=str(tmp_path / "given")))
    assert given["probability"].notna().sum() == 21  # a threshold of one's own, and probabilities
    with pytest.raises(ValueError, match="fpir 0.0001.*insufficient"):
        main(request(tmp_path, similarity=at(None), fpir=1e-4, out=str(tmp_path / "x")))


def test_the_usual_false_alarms_give_way_to_what_a_calibration_can_tell(
    tmp_path: Path, people: list[MadeImage], caplog: pytest.LogCaptureFixture
):
    known = calibration()
    cut = [
        Thresholds(rates=each.rates[:1], thresholds=each.thresholds[:1])
        for each in known.searches[0].thresholds
    ]
    few = replace(known, searches=(replace(known.searches[0], thresholds=tuple(cut)),))
    made = tmp_path / "calibration.json"
    made.write_bytes(few.to_json())
    gallery = str(tmp_path / "g")
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=gallery, calibration=str(made)))
    identified(request(tmp_path, similarity=at(None)))
    threshold = Run.load(str(tmp_path / "identified"), Storage()).manifest["threshold"]["value"]
    assert threshold == few.threshold_for_fpir(few.least_fpir(6), 6)
    assert "fpir: 0.01 cannot be told in a gallery of 6" in caplog.text


def test_what_is_of_another_embedder_is_refused_with_both_named(
    tmp_path: Path, people: list[MadeImage]
):
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g")))
    make_faces_run(tmp_path / "other", people, embedder="0f" * 32)
    other = str(tmp_path / "other")
    named = f"(?s){EMBEDDER}.*{'0f' * 32}"
    for asked in (Enrol(run=other, gallery=str(tmp_path / "g")), request(tmp_path, run=other)):
        with pytest.raises(ValueError, match=named):
            main(asked)
    made = tmp_path / "calibration.json"
    made.write_bytes(calibration("0f" * 32).to_json())
    with pytest.raises(ValueError, match=f"{'0f' * 32}.*{EMBEDDER}"):
        main(request(tmp_path, similarity=at(None, calibration=str(made))))
    with pytest.raises(ValueError, match=f"{'0f' * 32}.*{EMBEDDER}"):
        main(
            replace(
                Enrol(run=str(tmp_path / "run")), calibration=str(made), gallery=str(tmp_path / "g")
            )
        )


def test_requests_that_cannot_be_met_say_what_is_missing(tmp_path: Path, people: list[MadeImage]):
    gallery = str(tmp_path / "g")
    with pytest.raises(ValueError, match="gallery .*there is none"):
        main(request(tmp_path))
    with pytest.raises(ValueError, match="no run directory.*jobs.embed_faces"):
        main(Enrol(run=str(tmp_path / "nowhere"), gallery=gallery))
    make_faces_run(tmp_path / "begun", people, finished=False)
    with pytest.raises(ValueError, match="not finished .interrupted.*jobs.embed_faces --out"):
        main(Enrol(run=str(tmp_path / "begun"), gallery=gallery))
    nameless = [replace(image, truth=None) for image in people]
    make_faces_run(tmp_path / "nameless", nameless)
    with pytest.raises(ValueError, match="nobody to enrol: 2 failed, 1 faceless, 21 without truth"):
        main(Enrol(run=str(tmp_path / "nameless"), gallery=gallery))
    assert not (tmp_path / "g").exists()
    empty = [faceless(image) for image in people]
    make_faces_run(tmp_path / "empty", empty, size=32)
    with pytest.raises(ValueError, match="no face"):
        main(Enrol(run=str(tmp_path / "empty"), gallery=gallery))
    with pytest.raises(ValueError, match="no face was found in any"):
        main(Cluster(run=str(tmp_path / "empty"), out=str(tmp_path / "c"), similarity=at(0.5)))
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=gallery))
    main(Remove(gallery=gallery, person=tuple(f"person_00{k}" for k in range(6))))
    with pytest.raises(ValueError, match="nobody is enrolled"):
        main(request(tmp_path))
    with pytest.raises(ValueError, match="k: 0"):
        request(tmp_path, k=0)
    with pytest.raises(ValueError, match="nobody named"):
        Remove(gallery=gallery)


def test_a_run_without_a_face_is_identified_to_rows_of_nobody(
    tmp_path: Path, people: list[MadeImage]
):
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g")))
    make_faces_run(tmp_path / "empty", [faceless(image) for image in people], size=32)
    make_faces_run(tmp_path / "none", [], size=32)
    rows = identified(request(tmp_path, run=str(tmp_path / "empty")))
    assert (len(rows), rows["face"].notna().sum()) == (24, 0)
    none = request(tmp_path, run=str(tmp_path / "none"), out=str(tmp_path / "i"))
    assert len(identified(none)) == 0
    assert Run.load(none.out, Storage()).manifest["counts"]["read"] == 0


def test_k_beyond_the_gallery_names_everyone(tmp_path: Path, people: list[MadeImage]):
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g")))
    rows = identified(request(tmp_path, k=50))
    assert {len(names) for names in rows["top_people"].dropna()} == {6}


def test_unlabelled_faces_become_people_with_their_pictures_in_the_report(tmp_path: Path):
    images = make_people(4, 5, size=64, noise=0.4, seed=2)
    alone = replace(make_people(1, 1, size=64, seed=8)[0], id="x/alone.png")
    images = [replace(image, truth=None) for image in [*images[:17], alone, failed(images[19])]]
    draw_faces(tmp_path / "in", images)
    make_faces_run(tmp_path / "run", images, pictures=tmp_path / "in")
    for method in ("average", "dbscan"):
        out = tmp_path / method
        run = main(
            Cluster(run=str(tmp_path / "run"), out=str(out), similarity=at(0.5), method=method)
        )
        assert isinstance(run, Run)
        rows = rows_of(run)
        found = rows.groupby("person")["image"].agg(lambda ids: sorted(i[:10] for i in ids))
        assert found.to_dict() == {
            f"person {k + 1:04d}": [f"person_00{k}"] * count for k, count in enumerate((5, 5, 5, 2))
        }
        assert list(rows[rows["person"].isna()]["image"]) == ["person_003/004.png", "x/alone.png"]
        counts = run.manifest["counts"]
        assert (counts["people"], counts["nobody"], counts["failed"]) == (4, 1, 1)
        page = (out / "report/index.html").read_text()
        assert page.count("data:image/jpeg") == 18
        assert "person 0004: 2 faces" in page


def test_the_report_of_an_identification_shows_faces_and_says_how_right_it_was(tmp_path: Path):
    images = make_people(5, 3, size=32, seed=1)
    draw_faces(tmp_path / "in", images)
    make_faces_run(tmp_path / "run", images, pictures=tmp_path / "in")
    gallery = str(tmp_path / "g")
    enrolled(Enrol(run=str(tmp_path / "run"), gallery=gallery, per_person=1))
    main(Remove(gallery=gallery, person=("person_004",)))
    identified(request(tmp_path))
    page = (tmp_path / "identified/report/index.html").read_text()
    assert "the right name" in page
    assert "not enrolled, and unknown" in page
    assert page.count("data:image/jpeg") == 12 + 3


def test_galleries_and_runs_may_lie_on_s3(bucket: str, s3: StorageConfig):
    storage = Storage(s3)
    images = make_people(3, 2)
    make_faces_run(f"{bucket}/run", images, storage=storage)
    asked = Enrol(run=f"{bucket}/run", gallery=f"{bucket}/g", storage=s3, per_person=1)
    assert enrolled(asked).change.added == 3
    found = main(
        Identify(
            run=asked.run,
            gallery=asked.gallery,
            out=f"{bucket}/out",
            similarity=at(THRESHOLD),
            resources=INLINE,
            storage=s3,
        )  # fmt: skip
    )
    assert isinstance(found, Run)
    rows = pa.Table.from_batches(list(found.results()))
    assert rows["match"].to_pylist() == rows["truth"].to_pylist()


def test_on_ray_shards_of_the_gallery_give_the_bytes_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
):
    monkeypatch.setattr(gallery_module, "PART_PEOPLE", 4)
    images = make_people(19, 2, size=16, noise=0.9)
    twins = [replace(each, id=f"twin/{each.id}", truth=f"a {each.truth}") for each in images[:8]]
    make_faces_run(tmp_path / "run", [*images, *twins])
    made = enrolled(Enrol(run=str(tmp_path / "run"), gallery=str(tmp_path / "g")))
    assert len(made.gallery.parts) == 6
    main(request(tmp_path))
    on_ray = SearchResources(engine="ray", actors=2)
    main(request(tmp_path, resources=on_ray, out=str(tmp_path / "on ray")))
    assert results_of(tmp_path / "on ray") == results_of(tmp_path / "identified")
