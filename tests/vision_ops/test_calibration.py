"""Calibrated thresholds do on other people what they promise, or the data is called too small."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.synthetic_people import POPULATIONS, Population, highest_of_galleries
from vision_ops.faces.calibration import Calibration, calibrate, isotonic, load, save
from vision_ops.faces.search_errors import SearchErrors, Tails, chance_of_maximum, sizes
from vision_ops.metrics.scores import COSINE, ScoreGrid
from vision_ops.metrics.verification import VerificationAccumulator


def calibrated(population: Population, num_people: int, seed: int) -> Calibration:
    """From two pictures of each person: one in the gallery, one looked for."""
    faces = population.draw(num_people, 2, seed)
    pairs = VerificationAccumulator()
    searches = SearchErrors(COSINE, num_people - 1)
    for start in range(0, num_people, 500):
        probes = faces[start : start + 500, 1]
        scores = probes @ faces[:, 0].T
        same = np.arange(num_people) == start + np.arange(len(probes))[:, None]
        pairs.update(scores, same)
        searches.update(scores[~same].reshape(len(probes), -1), np.ones(len(probes)))
    return calibrate(
        COSINE, pairs.genuine, pairs.impostor, {1.0: searches},
        embedder="sha256:e1", num_people=num_people,
    )  # fmt: skip


def test_held_out_searches_alarm_as_often_as_was_wanted() -> None:
    population = POPULATIONS["uneven"]
    found = calibrated(population, 1200, seed=1)
    held = highest_of_galleries(population, (100, 1000), 1500, 4000, seed=900)
    for size, highest in held.items():
        for wanted in (0.1, 0.03):
            rate = np.mean(highest >= found.threshold_for_fpir(wanted, size))
            assert wanted / 2 < rate < wanted * 2, (size, wanted, rate)


def test_probabilities_that_crowd_below_one_are_calibrated_too() -> None:
    population, num_people = POPULATIONS["uneven"], 400
    faces = population.draw(num_people, 2, seed=1)

    def scores(probes: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """As a sigmoid gives them that is sure of most it says."""
        return (1 / (1 + np.exp(-12 * (probes @ gallery.T - 0.1)))).astype(np.float32)

    grid = ScoreGrid(low=0.0, high=1.0, step_bits=20)
    searches = SearchErrors(grid, num_people - 1)
    found = scores(faces[:, 1], faces[:, 0])
    others = found[~np.eye(num_people, dtype=bool)].reshape(num_people, -1)
    searches.update(others, np.ones(num_people))
    wanted, thresholds = searches.tables()[num_people - 1]
    assert min(wanted) <= 0.05
    assert max(thresholds) < 1
    held = population.draw(3 * num_people, 2, seed=900)
    probes, gallery = held[num_people - 1 :, 1], held[: num_people - 1, 0]
    highest = scores(probes, gallery).max(axis=1)
    for rate, threshold in zip(wanted, thresholds, strict=True):
        if rate >= 0.05:
            assert rate / 2 < np.mean(highest >= threshold) < rate * 2, rate


@pytest.mark.slow
@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("seed", [1, 2])
def test_held_out_searches_in_galleries_of_ten_thousand_alarm_as_often(
    name: str, seed: int
) -> None:
    population = POPULATIONS[name]
    found = calibrated(population, 3500, seed)
    held = highest_of_galleries(population, (100, 1000, 10_000), 4000, 20_000, seed=900)
    for size, highest in held.items():
        for wanted in (0.1, 0.03, 0.01):
            rate = np.mean(highest >= found.threshold_for_fpir(wanted, size))
            assert wanted / 2 < rate < wanted * 2, (size, wanted, rate)


def test_the_formula_of_independent_scores_is_wrong_where_people_differ() -> None:
    population = POPULATIONS["very uneven"]
    found = calibrated(population, 1200, seed=1)
    highest = highest_of_galleries(population, (1000,), 1500, 4000, seed=900)[1000]
    naive = found.threshold_for_far(1 - 0.9 ** (1 / 1000))
    assert np.mean(highest >= naive) < 0.05  # 0.1 was wanted: half the alarms, and so more misses
    assert 0.05 < np.mean(highest >= found.threshold_for_fpir(0.1, 1000)) < 0.2


def test_what_the_data_cannot_say_is_refused() -> None:
    found = calibrated(POPULATIONS["even"], 200, seed=1)
    assert found.threshold_for_fpir(0.05, 40) < found.threshold_for_fpir(0.05, 199)
    for fpir, size in ((0.04, 100), (0.05, 250), (0.1, 10_000), (0.5, 2_500)):
        with pytest.raises(ValueError, match="insufficient: calibrated on searches by 200 people"):
            found.threshold_for_fpir(fpir, size)
    with pytest.raises(ValueError, match="insufficient: calibrated on 39,800 impostor pairs"):
        found.threshold_for_far(1e-5)
    for far in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            found.threshold_for_far(far)
    with pytest.raises(ValueError, match="gallery_size 0"):
        found.threshold_for_fpir(0.1, 0)
    with pytest.raises(ValueError, match="faces_per_person 0.5: below 1"):
        found.threshold_for_fpir(0.1, 9, 0.5)


def test_thresholds_rise_with_the_gallery_and_with_care() -> None:
    found = calibrated(POPULATIONS["uneven"], 400, seed=3)
    for thresholds in (found.far, *found.searches[0].thresholds):
        assert list(thresholds.rates) == sorted(thresholds.rates, reverse=True)
        assert list(thresholds.thresholds) == sorted(thresholds.thresholds)
    last = -1.0
    for size in (1, 2, 5, 30, 79, 80, 81, 300, 900):
        threshold = found.threshold_for_fpir(0.2, size)
        assert threshold >= last
        last = threshold
    assert found.threshold_for_fpir(0.2, 1) == pytest.approx(found.threshold_for_far(0.2), abs=0.01)


def test_far_thresholds_are_those_of_the_impostors() -> None:
    scores = np.arange(1000) / 1000
    pairs = VerificationAccumulator()
    pairs.update(scores, np.zeros(1000, bool))
    pairs.update(np.array([0.99]), np.array([True]))
    found = calibrate(COSINE, pairs.genuine, pairs.impostor, {}, embedder="x", num_people=2)
    for far, wanted in ((0.1, 0.9), (0.01, 0.99), (0.001, 0.999)):
        assert np.mean(scores >= found.threshold_for_far(far)) == pytest.approx(far)
        assert found.threshold_for_far(far) == pytest.approx(wanted, abs=0.001)
    assert found.searches == ()
    with pytest.raises(ValueError, match="insufficient.*can tell none"):
        found.threshold_for_fpir(0.1, 10)


def test_chances_of_the_maximum_are_those_of_all_galleries() -> None:
    scores = [0.9, 0.7, 0.4, 0.3, 0.1]
    galleries = list(combinations(scores, 3))
    for j, chance in enumerate(chance_of_maximum(5, 3)):
        share = np.mean([max(gallery) == scores[j] for gallery in galleries])
        assert chance == pytest.approx(share)
    assert chance_of_maximum(5, 5).tolist() == pytest.approx([1])
    assert chance_of_maximum(5, 1).tolist() == pytest.approx([0.2] * 5)
    assert sum(chance_of_maximum(3000, 100)) == pytest.approx(1, abs=1e-8)
    assert sizes(40) == [1, 2, 3, 6, 10, 18, 32, 40]


def test_tails_recover_a_population_of_known_tails() -> None:
    rng = np.random.default_rng(5)
    level = rng.uniform(0.1, 0.3, 3000)
    scale = 0.02 + 0.1 * (level - 0.1)  # exponential above the level: S(t) = exp(-(t - l) / s)
    scores = level[:, None] + scale[:, None] * rng.exponential(size=(3000, 1000))
    tops = -np.sort(-scores, axis=1)[:, :17]
    tails = Tails(tops, np.ones(3000), 1000)
    for size in (1000, 10_000):
        for rate, threshold in zip((0.1, 0.01), tails.thresholds(size, [0.1, 0.01]), strict=True):
            share = np.exp(-(threshold - level) / scale)
            true = np.mean(1 - (1 - np.minimum(share, 1)) ** size)
            assert rate / 1.35 < true < rate * 1.35


def test_each_person_weighs_the_same_however_many_pictures_there_are() -> None:
    rng = np.random.default_rng(6)
    scores = rng.normal(0, 0.1, (40, 60)).astype(np.float32)
    once, often = SearchErrors(COSINE, 60), SearchErrors(COSINE, 60)
    once.update(scores, np.ones(40))
    often.update(np.repeat(scores[:1], 30, axis=0), np.full(30, 1 / 30))
    often.update(scores[1:], np.ones(39))
    assert often.num_people == pytest.approx(40)
    for size, (rates, thresholds) in once.tables().items():
        assert often.tables()[size][0] == rates
        np.testing.assert_allclose(often.tables()[size][1], thresholds, atol=0.02)
    with pytest.raises(ValueError, match="gallery has 60 people"):
        once.update(scores[:, :50], np.ones(40))


def test_probability_rises_and_tells_the_share_of_genuine_pairs() -> None:
    rng = np.random.default_rng(7)
    pairs = VerificationAccumulator()
    genuine, impostor = rng.normal(0.5, 0.15, 50_000), rng.normal(0.1, 0.15, 400_000)
    pairs.update(genuine.clip(-1, 1), np.ones(50_000, bool))
    pairs.update(impostor.clip(-1, 1), np.zeros(400_000, bool))
    found = calibrate(COSINE, pairs.genuine, pairs.impostor, {}, embedder="x", num_people=9)
    at = np.linspace(-0.2, 0.8, 21)
    same, other = (np.exp(-(((at - mean) / 0.15) ** 2) / 2) for mean in (0.5, 0.1))
    np.testing.assert_allclose(found.probability(at), same / (same + other), atol=0.04)
    assert (np.diff(found.probability(np.linspace(-1, 1, 999))) >= 0).all()
    assert 0 < found.probability(np.array(-1.0)) < 1e-4
    assert 1 - 1e-4 < found.probability(np.array(1.0)) < 1
    assert len(found.scores) <= 200


def test_isotonic_on_paper() -> None:
    grid = ScoreGrid(low=0.0, high=1.0, step_bits=2)  # never, 0, 1/4, 1/2, 3/4, 1
    genuine, impostor = np.array([0, 0, 1, 0, 2, 1]), np.array([0, 2, 0, 2, 0, 0])
    scores, values = isotonic(grid, genuine, impostor)
    # in weights of 1/4: 0, then 1/4 and 1/2 are out of order and share (1 + 0) / (1 + 2), then 1
    assert scores == (0.125, 0.375, 0.625, 0.875, 1.125)
    assert values == pytest.approx((0.5 / 5, 1 / 3, 1 / 3, 0.9, 0.9))


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = calibrated(POPULATIONS["even"], 60, seed=2)
    save(found, tmp_path / "calibration.json")
    assert load(tmp_path / "calibration.json") == found
    assert json.loads(found.to_json())["embedder"] == "sha256:e1"
    (tmp_path / "other.json").write_text('{"embedder": "x"}')
    with pytest.raises(ValueError, match=r"other.json: no calibration.json"):
        load(tmp_path / "other.json")
    (tmp_path / "broken.json").write_text("[")
    with pytest.raises(ValueError, match=r"broken.json: no calibration.json"):
        load(tmp_path / "broken.json")
