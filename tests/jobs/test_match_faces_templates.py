"""Templates of several faces: strangers score higher, and thresholds know by how much."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.match_faces import main
from jobs.pictures.faces.judged import judge_searches
from jobs.pictures.faces.labelled import LabelledFaces
from jobs.pictures.faces.matching.requests import Enrol, Identify, SearchResources
from jobs.pictures.faces.similarity import open_similarity
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage
from tests.made_faces import EMBEDDER, calibration, make_faces_run, make_people, searches
from tests.synthetic_people import POPULATIONS, Population, highest_of_galleries
from vision_ops.faces.calibration import Calibration, calibrate
from vision_ops.metrics.scores import COSINE

HELD = {"num_probes": 1500, "num_people": 4000, "seed": 900}


def evaluated(population: Population, num_people: int, faces_each: int, seed: int) -> Calibration:
    """The calibration of an evaluation of people with so many faces each."""
    drawn = population.draw(num_people, faces_each, seed)
    embeddings = drawn.reshape(-1, drawn.shape[-1])
    num = len(embeddings)
    faces = LabelledFaces(
        ids=[f"{k:06d}" for k in range(num)], places=np.zeros(num, np.int32),
        boxes=np.zeros((num, 4), np.float32), quality=np.full(num, 0.8, np.float32),
        embeddings=embeddings, people=np.repeat(np.arange(num_people), faces_each),
        names=[f"{k:05d}" for k in range(num_people)], without_face={}, counts=Counter(),
    )  # fmt: skip
    similarity = open_similarity("cosine", EMBEDDER, embeddings.shape[1], Storage())
    judged = judge_searches(faces, similarity, "first")
    assert judged is not None
    counts = np.zeros(COSINE.size, np.int64)
    counts[-1] = 1  # of pairs none is asked here
    return calibrate(
        COSINE, counts, counts, judged.errors, embedder="sha256:e1", num_people=num_people
    )


@pytest.mark.parametrize(
    "name", ["very uneven", *(pytest.param(n, marks=pytest.mark.slow) for n in ("uneven", "even"))]
)
def test_strangers_are_named_as_often_as_wanted_whatever_the_templates_are_of(name: str) -> None:
    population = POPULATIONS[name]
    found = evaluated(population, 600, 4, seed=1)
    assert [each.faces_per_person for each in found.searches] == pytest.approx([1, 2, 4])
    for faces in ((1,), (3,), (10,), (1, 10)):
        mean = len(faces) / sum(1 / each for each in faces)
        held = highest_of_galleries(population, (100, 1000), faces=faces, **HELD)
        for size, highest in held.items():
            for wanted in (0.1, 0.03):
                rate = np.mean(highest >= found.threshold_for_fpir(wanted, size, mean))
                assert wanted / 2 < rate < wanted * 2, (faces, size, wanted, rate)
                if faces == (10,) and name == "very uneven":  # by the threshold of one face
                    alone = np.mean(highest >= found.threshold_for_fpir(wanted, size))
                    assert alone > 1.5 * rate, (size, wanted, alone)


def test_of_more_faces_than_were_calibrated_the_line_is_drawn_on() -> None:
    population = POPULATIONS["uneven"]
    found = evaluated(population, 600, 3, seed=1)
    assert found.most_faces == pytest.approx(3)
    held = highest_of_galleries(population, (100,), faces=(12,), **HELD)[100]
    rate = np.mean(held >= found.threshold_for_fpir(0.1, 100, 12))
    assert 0.05 < rate < 0.2
    assert np.mean(held >= found.threshold_for_fpir(0.1, 100, 3)) > rate
    falling = replace(
        found, searches=(found.searches[-1], replace(found.searches[0], faces_per_person=4.0))
    )  # more faces, lower scores: nothing that a line should be trusted with
    assert falling.threshold_for_fpir(0.1, 100, 12) == falling.threshold_for_fpir(0.1, 100, 4)


def test_people_of_few_faces_and_of_many_are_one_gallery() -> None:
    population = POPULATIONS["even"]
    some = evaluated(population, 100, 2, seed=3)
    assert [each.faces_per_person for each in some.searches] == pytest.approx([1, 2])
    assert some.num_searched == 100
    assert some.threshold_for_fpir(0.2, 90, 1.5) == pytest.approx(
        some.threshold_for_fpir(0.2, 90) / 3 + some.threshold_for_fpir(0.2, 90, 2) * 2 / 3
    )


def test_identify_asks_for_the_threshold_of_its_gallerys_templates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = make_people(6, 4, size=32)[3:]  # of the first person one picture
    make_faces_run(tmp_path / "run", images)
    known = replace(calibration(), searches=(searches(0.42), searches(0.52, 2.0)))
    gallery, told = str(tmp_path / "g"), tmp_path / "calibration.json"
    asked = Identify(
        run=str(tmp_path / "run"), gallery=gallery, resources=SearchResources(engine="inline"),
        out=str(tmp_path / "identified"),
    )  # fmt: skip
    told.write_bytes(known.to_json())
    main(Enrol(run=str(tmp_path / "run"), gallery=gallery, calibration=str(told)))
    mean = 6 / (5 / 4 + 1)  # five people of four faces, one of one
    threshold = threshold_of(main(asked))
    assert threshold == known.threshold_for_fpir(0.01, 6, mean) > known.threshold_for_fpir(0.01, 6)
    assert "are of 2.67 faces (harmonic mean), calibrated were up to 2:" in caplog.text
    caplog.clear()
    told.write_bytes(calibration().to_json())
    main(Enrol(run=str(tmp_path / "run"), gallery=gallery, calibration=str(told)))
    one = main(replace(asked, out=str(tmp_path / "by one")))
    assert threshold_of(one) == known.threshold_for_fpir(0.01, 6)
    assert "calibrated were up to 1: its threshold is that of one" in caplog.text


def threshold_of(run: object) -> float:
    assert isinstance(run, Run)
    return run.manifest["threshold"]["value"]
