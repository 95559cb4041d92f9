"""Evaluation of embed_faces: real rows, LFW's format of pairs, numbers by scikit-learn."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jobs.evaluate import Config, main
from jobs.pictures.faces.pairs import read_pairs
from jobs.pictures.faces.verified import FaceProtocol, VerificationEvaluation
from jobs.runtime.storage import Storage, StorageConfig
from tests.jobs.browser import open_page
from tests.made_faces import (
    EMBEDDER,
    MadeFace,
    MadeImage,
    draw_faces,
    faceless,
    failed,
    make_faces_run,
    make_people,
    unit,
)
from vision_ops.faces.calibration import load
from vision_ops.faces.heads import make_head, save_head


def evaluate(
    folder: Path, images: Sequence[MadeImage], *, name: str = "evaluate", labels: str = "",
    pictures: Path | None = None, **protocol: Any,
) -> VerificationEvaluation:  # fmt: skip
    """Make a run of these images, if there is none, and evaluate it."""
    if not (folder / "embed").exists():
        make_faces_run(folder / "embed", images, pictures=pictures)
    faces = FaceProtocol(**protocol)
    out = str(folder / name)
    found = main(Config(run=str(folder / "embed"), out=out, labels=labels, faces=faces))
    assert isinstance(found, VerificationEvaluation)
    return found


def vectors(images: Sequence[MadeImage]) -> np.ndarray:
    return np.stack([image.faces[0].embedding for image in images])


def test_all_pairs_are_judged_as_scikit_learn_judges_them(tmp_path: Path) -> None:
    images = make_people(24, 4, noise=1.2, seed=1)
    found = evaluate(tmp_path, images)
    pairs = list(itertools.combinations(range(len(images)), 2))
    a, b = np.array(pairs).T
    embeddings = vectors(images)
    scores = (embeddings[a] * embeddings[b]).sum(axis=1)
    names = np.array([image.truth for image in images])
    same = names[a] == names[b]
    assert (found.pairs.num_genuine, found.pairs.num_impostor) == (same.sum(), (~same).sum())
    assert found.pairs.auc == pytest.approx(roc_auc_score(same, scores), abs=1e-5)
    for point in found.pairs.points[:3]:
        assert point.tar == np.mean(scores[same] >= point.threshold)
        assert point.far == np.mean(scores[~same] >= point.threshold)
    assert found.folds is not None
    assert 0.5 < found.folds.mean < 1
    gallery = np.arange(0, len(images), 4)
    ranks = []
    for k in sorted(set(range(len(images))) - set(gallery)):
        held = embeddings[gallery] @ embeddings[k]
        ranks.append(1 + (held > held[k // 4]).sum())
    assert found.searches is not None
    assert found.searches.found.rank(1) == np.mean(np.array(ranks) == 1)
    assert found.searches.found.rank(5) == np.mean(np.array(ranks) <= 5)
    told = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert told["verification"]["points"][3]["insufficient"]  # 1e-4 of 4,416 impostor pairs
    assert told["identification"]["found"]["rank_1"] == found.searches.found.rank(1)
    lowest = told["hardest"]["genuine"][0]
    assert lowest["score"] == pytest.approx(scores[same].min(), abs=1e-6)
    assert told["hardest"]["impostor"][0]["score"] == pytest.approx(scores[~same].max(), abs=1e-6)


def test_images_without_a_face_are_counted_and_count_both_ways(tmp_path: Path) -> None:
    images = make_people(22, 3, noise=0.3, seed=2)
    images[1], images[5] = faceless(images[1]), failed(images[5])
    stranger = MadeImage(id="stranger/000.png", truth="stranger")
    nobody = MadeImage(id="nobody/000.png", truth=None, faces=images[0].faces)
    found = evaluate(tmp_path, [*images, stranger, nobody])
    counts = found.counts
    assert (counts["read"], counts["failed"], counts["faceless"]) == (68, 1, 2)
    assert (counts["without_truth"], counts["people"], counts["people_without_face"]) == (1, 22, 1)
    # of 22 x 3 genuine pairs each of the two lost images takes two along
    assert (found.pairs.num_genuine, found.pairs_whole.num_genuine) == (62, 66)
    assert counts["genuine_without_face"] == 4
    everyone = 67 * 66 // 2 - 66  # all pairs of 67 images with a truth, less the genuine
    assert found.pairs_whole.num_impostor == everyone
    assert counts["impostor_without_face"] == everyone - found.pairs.num_impostor
    assert found.pairs.points[0].tar == 1
    assert found.pairs_whole.points[0].tar == pytest.approx(62 / 66)
    assert found.searches is not None
    assert (found.searches.found.rank(1), found.searches.found.num_known) == (1, 42)
    assert found.searches.whole.rank(1) == pytest.approx(42 / 44)
    html = Path(found.report).read_text()
    assert "1 failed, 2 faceless" in html
    assert images[1].id in html


def lfw(folder: Path, images: Sequence[MadeImage], num_folds: int, num: int) -> tuple[str, list]:
    """A pairs.txt as LFW's, and its pairs as (id, id, same, fold); images are named as LFW's."""
    rng = np.random.default_rng(0)
    lines, pairs = [f"{num_folds}\t{num}"], []
    by_person: dict[str, list[int]] = {}
    for image in images:
        by_person.setdefault(image.truth or "", []).append(int(image.id[-8:-4]))
    people = sorted(by_person)
    for fold in range(num_folds):
        for _ in range(num):
            name = people[rng.integers(len(people))]
            i, j = rng.choice(by_person[name], 2, replace=False)
            lines.append(f"{name}\t{i}\t{j}")
            pairs.append((f"{name}/{name}_{i:04d}.png", f"{name}/{name}_{j:04d}.png", True, fold))
        for _ in range(num):
            one, two = rng.choice(people, 2, replace=False)
            i, j = rng.choice(by_person[one]), rng.choice(by_person[two])
            lines.append(f"{one}\t{i}\t{two}\t{j}")
            pairs.append((f"{one}/{one}_{i:04d}.png", f"{two}/{two}_{j:04d}.png", False, fold))
    (folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    return str(folder / "pairs.txt"), pairs


def named_as_lfw(num_people: int, noise: float) -> list[MadeImage]:
    images = []
    for image in make_people(num_people, 4, noise=noise, seed=4):
        person, number = f"Ann_de_{image.id[7:10]}", int(image.id[-7:-4]) + 1
        name = f"{person}/{person}_{number:04d}.png"
        images.append(MadeImage(id=name, truth=person, faces=image.faces))
    return images


def test_lfw_pairs_are_judged_over_their_own_folds(tmp_path: Path) -> None:
    images = named_as_lfw(20, noise=1.3)
    file, pairs = lfw(tmp_path, images, num_folds=10, num=15)
    found = evaluate(tmp_path, images, pairs=file)
    by_id = {image.id: image.faces[0].embedding for image in images}
    scores = np.array([float(by_id[a] @ by_id[b]) for a, b, *_ in pairs])
    same = np.array([pair[2] for pair in pairs])
    fold = np.array([pair[3] for pair in pairs])
    assert found.folds is not None
    assert found.folds.num_pairs == (30,) * 10
    assert not found.folds.balanced
    for k in range(10):
        at = found.folds.thresholds[k]
        assert found.folds.accuracies[k] == np.mean((scores >= at)[fold == k] == same[fold == k])
    deviation = np.std(found.folds.accuracies, ddof=1)
    assert found.folds.standard_error == pytest.approx(deviation / np.sqrt(10))
    assert found.pairs.num_impostor == 150
    assert found.calibration.num_impostor == 80 * 79 // 2 - 20 * 6  # of all pairs


def test_a_listed_pair_without_a_face_is_missed_and_one_not_in_the_run_is_told(
    tmp_path: Path,
) -> None:
    images = named_as_lfw(20, noise=0.2)
    file, pairs = lfw(tmp_path, images, num_folds=2, num=20)
    lost, gone = pairs[0][0], pairs[-1][1]
    kept = [faceless(i) if i.id == lost else i for i in images if i.id != gone]
    found = evaluate(tmp_path, kept, pairs=file)
    absent = sum(gone in pair for pair in pairs)
    missed = [pair for pair in pairs if lost in pair and gone not in pair]
    genuine = sum(pair[2] for pair in missed)
    assert found.counts["absent"] == absent > 0
    assert found.counts["genuine_without_face"] == genuine > 0
    assert found.counts["impostor_without_face"] == len(missed) - genuine
    assert found.folds is not None
    assert found.folds_whole is not None
    assert found.folds.mean == 1
    assert found.folds_whole.mean < 1
    assert any("name images that the run does not have" in note for note in found.notes)


def test_pairs_of_a_csv_may_name_single_faces(tmp_path: Path) -> None:
    a, b, c = (MadeFace(embedding=row) for row in unit(np.eye(3)))
    near = MadeFace(embedding=unit(np.array([0.1, 1.0, 0.0])), box=(0, 0, 90, 90))
    images = [
        MadeImage(id="one.png", faces=[a, near]), MadeImage(id="two.png", faces=[b]),
        MadeImage(id="three.png", faces=[c]),
    ]  # fmt: skip
    rows = [
        ("one.png#face1", "two.png", 1), ("one.png#face0", "two.png", 0),
        ("one.png", "two.png", 1), ("one.png#face0", "three.png", 0),
    ]  # fmt: skip
    text = "a,b,same\n" + "\n".join(f"{x},{y},{s}" for x, y, s in rows * 10)
    (tmp_path / "pairs.csv").write_text(text)
    found = evaluate(tmp_path, images, pairs=str(tmp_path / "pairs.csv"))
    assert (found.pairs.num_genuine, found.pairs.num_impostor) == (20, 20)
    assert found.pairs.eer == 0  # the larger face of one.png is the one of two.png
    assert found.pairs.points[0].threshold < 0.9
    assert found.searches is None
    assert "dealt to ten by turns" in found.fold_note
    surest = evaluate(
        tmp_path, images, name="surest", pairs=str(tmp_path / "pairs.csv"), face="surest"
    )
    assert surest.pairs.eer > 0.2  # the surest is another


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("2\t1\nAnn\t1\t2\nAnn\t1\tBob\n", "line 3"),
        ("2\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\n", "2 pairs, its first line says 2 x 2 x 1"),
        ("a,b\nx,y\n", "wanted: a, b, same"),
        ("a,b,same\nx,y,maybe\n", "line 2"),
        ("a,b,same\n", "no pairs"),
        ("a,b,same,fold\nx,y,1,1\nx,z,0,\n", "some have none"),
    ],
)
def test_what_is_no_list_of_pairs_is_refused_by_its_line(
    tmp_path: Path, text: str, wrong: str
) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=wrong):
        read_pairs(str(tmp_path / "pairs.txt"), Storage())


def test_a_list_without_folds_and_one_with_named_folds_are_read(tmp_path: Path) -> None:
    (tmp_path / "dev.txt").write_text("11\n" + "Ann 1 2\n" * 11 + "Ann 1 Bob 3\n" * 11)
    dev = read_pairs(str(tmp_path / "dev.txt"), Storage())
    assert (dev.num_folds, dev.folds_given, dev.b[-1]) == (10, False, "Bob_0003")
    assert np.bincount(dev.folds).tolist() == [4] + [2] * 9
    (tmp_path / "p.csv").write_text("a,b,same,fold\nx,y,TRUE,red\nx,z,no,blue\n")
    table = read_pairs(str(tmp_path / "p.csv"), Storage())
    assert (table.same.tolist(), table.folds.tolist()) == ([True, False], [1, 0])
    with pytest.raises(ValueError, match="not there"):
        read_pairs(str(tmp_path / "absent.csv"), Storage())


def test_requests_that_cannot_be_met_say_what_would_be(tmp_path: Path) -> None:
    images = make_people(3, 1, seed=5)
    with pytest.raises(ValueError, match="0 genuine and 3 impostor"):
        evaluate(tmp_path, images)
    (tmp_path / "p.csv").write_text("a,b,same\nx,y,1\n")
    with pytest.raises(ValueError, match="none of the 1 pairs names images"):
        evaluate(tmp_path, images, name="pairs", pairs=str(tmp_path / "p.csv"))
    unknown = [MadeImage(id=i.id, truth=None, faces=i.faces) for i in images]
    with pytest.raises(ValueError, match="0 known people; give --labels, --pairs"):
        evaluate(tmp_path / "unknown", unknown)
    make_faces_run(tmp_path / "none" / "embed", [failed(images[0]), faceless(images[1])], size=4)
    with pytest.raises(ValueError, match="hold no face: 1 failed, in 1 none was found"):
        evaluate(tmp_path / "none", [])
    with pytest.raises(ValueError, match="no such file; or one of"):
        evaluate(tmp_path, images, name="head", head="absent.safetensors")


def test_labels_beside_the_run_are_the_truth(tmp_path: Path) -> None:
    images = make_people(4, 3, noise=0.3, seed=6)
    unknown = [MadeImage(id=i.id, truth=None, faces=i.faces) for i in images]
    lines = [f"{image.id},{image.truth}" for image in images[:-3]] + ["gone.png,x"]
    (tmp_path / "truth.csv").write_text("\n".join(["id,label", *lines]))
    found = evaluate(tmp_path, unknown, labels=str(tmp_path / "truth.csv"))
    assert (found.counts["people"], found.counts["without_truth"]) == (3, 3)
    assert found.counts["labels_without_row"] == 1
    assert found.pairs.num_genuine == 9
    assert "ten folds take 20" in found.fold_note


@pytest.mark.parametrize("kind", ["squared_l2", "weighted_l1", "chi_square"])
def test_heads_of_similarity_judge_too(tmp_path: Path, kind: str) -> None:
    images = make_people(22, 3, noise=0.6, seed=7)
    found = evaluate(tmp_path, images, head=kind)
    assert found.pairs.auc > 0.98
    assert found.calibration.head == kind
    cosine = evaluate(tmp_path, images, name="cosine")
    if kind == "squared_l2":  # the same order
        assert found.pairs.auc == pytest.approx(cosine.pairs.auc, abs=1e-5)
        at = [each.calibration.threshold_for_far(0.01) for each in (found, cosine)]
        assert at[0] == pytest.approx(2 * at[1] - 2, abs=1e-3)
    head = make_head(kind, 32)
    head.embedder = "f0" * 32
    save_head(tmp_path / "other.safetensors", head, 32)
    with pytest.raises(ValueError, match="trained for embeddings of f0f0"):
        evaluate(tmp_path, images, name="other", head=str(tmp_path / "other.safetensors"))
    head.embedder = EMBEDDER
    save_head(tmp_path / "own.safetensors", head, 32)
    own = evaluate(tmp_path, images, name="own", head=str(tmp_path / "own.safetensors"))
    assert own.pairs.auc == found.pairs.auc
    assert len(own.calibration.head_sha256) == 64


def test_the_best_picture_may_stand_in_the_gallery(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    centres = unit(rng.normal(size=(20, 16)))
    images = []
    for person, centre in enumerate(centres):
        for k, (noise, quality) in enumerate(((2.5, 0.1), (0.2, 0.9), (0.2, 0.8))):
            face = MadeFace(
                embedding=unit(centre + noise * unit(rng.normal(size=16))), quality=quality
            )
            images.append(MadeImage(id=f"{person:02d}/{k}.png", truth=f"p{person}", faces=[face]))
    first, best = (evaluate(tmp_path, images, name=g, gallery=g) for g in ("first", "best"))
    assert first.searches is not None
    assert best.searches is not None
    assert best.searches.errors[1].num_people == first.searches.errors[1].num_people == 20
    # only the poor picture is missed where the good one stands in the gallery
    assert best.searches.found.rank(1) > 0.5 > first.searches.found.rank(1)
    assert best.discard.fnmr[0] > 0.5
    assert best.discard.at(0.7) == 0  # pairs of two good pictures are a third


def test_the_calibration_is_of_the_run_and_a_second_run_does_the_same(tmp_path: Path) -> None:
    images = make_people(40, 3, noise=1.0, seed=9)
    found = evaluate(tmp_path, images)
    written = tmp_path / "evaluate" / "calibration.json"
    calibration = load(written)
    assert calibration == found.calibration
    assert calibration.embedder == f"sha256:{EMBEDDER}"
    assert (calibration.num_people, calibration.num_searched) == (40, 40)
    by_far = {point.target_far: point.threshold for point in found.pairs.points}
    assert calibration.threshold_for_far(0.01) == by_far[0.01]
    assert calibration.threshold_for_fpir(0.3, 39) > calibration.threshold_for_fpir(0.3, 5)
    assert [each.faces_per_person for each in calibration.searches] == pytest.approx([1, 2, 3])
    assert "for templates of 1, 2, 3 faces a person" in Path(found.report).read_text()
    before = [written.read_bytes(), Path(found.report).read_bytes()]
    evaluate(tmp_path, images)
    assert [written.read_bytes(), Path(found.report).read_bytes()] == before
    with pytest.raises(ValueError, match="holds another run: faces.gallery was 'first'"):
        evaluate(tmp_path, images, gallery="best")


def test_the_page_shows_pairs_of_faces_and_asks_for_nothing(tmp_path: Path) -> None:
    images = make_people(24, 3, noise=1.0, seed=10)
    images[4] = faceless(images[4])
    draw_faces(tmp_path / "pictures", images)
    (tmp_path / "pictures" / images[9].id).write_bytes(b"no picture any more")
    found = evaluate(tmp_path, images, pictures=tmp_path / "pictures")
    html = Path(found.report).read_text()
    for told in ("Hardest impostor pairs", "TAR at FAR", "Cumulative match", "MIT", EMBEDDER):
        assert told in html
    assert html.count("data:image/jpeg") > 12
    console, asked = open_page(Path(found.report), tmp_path / "page.png")
    assert (console, asked[1:]) == ([], [])


def test_a_run_on_s3_is_judged_there(bucket: str, s3: StorageConfig) -> None:
    storage = Storage(s3)
    images = make_people(20, 2, noise=0.3, seed=11)
    make_faces_run(f"{bucket}/embed", images, storage=storage)
    storage.put(f"{bucket}/p.csv", b"a,b,same\n" + b"person_000/000.png,person_000/001.png,1\n"
                b"person_000/000.png,person_001/001.png,0\n" * 20)  # fmt: skip
    protocol = FaceProtocol(pairs=f"{bucket}/p.csv")
    config = Config(run=f"{bucket}/embed", out=f"{bucket}/out", storage=s3, faces=protocol)
    found = main(config)
    assert isinstance(found, VerificationEvaluation)
    assert found.pairs.auc == 1
    assert storage.read(f"{bucket}/out/calibration.json").startswith(b"{")
