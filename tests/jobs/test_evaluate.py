"""Evaluation of a finished run: numbers equal scikit-learn's, and every row is accounted for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sk

from jobs.evaluate import Config, Evaluation, finished_run, main
from jobs.runtime.labels import read_labels
from jobs.runtime.predictions import first_of_each
from jobs.runtime.storage import Storage, StorageConfig
from tests.jobs.browser import open_page
from tests.jobs.made_run import draw_pictures, fail, make_rows, make_run, make_scores

CLASSES = [f"class {name}" for name in ("ant", "bee", "cow", "dodo", "eel", "fly", "gnu", "hen")]
NUM_ROWS = 300


class Made:
    """A run of 300 rows over 60 pictures, of which some failed or have no usable truth."""

    def __init__(self, folder: Path, *, top_k: int = 8, classes: list[str] = CLASSES) -> None:
        self.folder, self.classes = folder, classes
        names = draw_pictures(folder / "pictures", 60)
        self.ids = names + [f"gone/{i:04d}.png" for i in range(NUM_ROWS - 60)]
        self.truth, self.scores = make_scores(NUM_ROWS, len(classes), seed=5)
        self.names: list[str | None] = [classes[t] for t in self.truth]
        self.rows = make_rows(self.ids, self.names, self.scores, classes, top_k)
        self.kept = np.ones(NUM_ROWS, bool)

    def write(self, **options: Any) -> "Made":
        """Put the run into runs/classify."""
        pictures = self.folder / "pictures"
        make_run(self.folder / "classify", pictures, self.rows, self.classes, **options)
        return self

    def evaluate(self, **options: Any) -> Evaluation:
        """Evaluate it."""
        out = str(self.folder / options.pop("name", "evaluate"))
        found = main(Config(run=str(self.folder / "classify"), out=out, **options))
        assert isinstance(found, Evaluation)
        return found

    def check(self, found: Evaluation) -> None:
        """The numbers of the kept rows are scikit-learn's."""
        truth, scores = self.truth[self.kept], self.scores[self.kept]
        labels, classes = scores.argmax(axis=1), np.arange(len(self.classes))
        metrics = found.metrics
        assert metrics.num_rows == self.kept.sum()
        assert metrics.accuracy == pytest.approx(sk.accuracy_score(truth, labels), abs=1e-6)
        wanted = sk.confusion_matrix(truth, labels, labels=classes)
        np.testing.assert_array_equal(metrics.confusion, wanted)
        assert metrics.averages["macro"].f1 == pytest.approx(
            sk.f1_score(truth, labels, average="macro"), abs=1e-6
        )
        wanted = sk.top_k_accuracy_score(truth, scores, k=5, labels=classes)
        assert metrics.top_k_accuracy == pytest.approx(wanted, abs=1e-6)
        if metrics.roc:
            wanted = sk.roc_auc_score(truth, scores, multi_class="ovr", average="macro")
            assert metrics.roc.macro_auc == pytest.approx(wanted, abs=1e-6)
            wanted = sk.log_loss(truth, scores, labels=classes)
            assert metrics.log_loss == pytest.approx(wanted, abs=1e-6)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Rows that are not written yet."""
    return Made(tmp_path)


def test_numbers_equal_scikit_learn(made: Made) -> None:
    found = made.write().evaluate()
    made.check(found)
    assert not found.missing
    assert found.counts == {
        "read": NUM_ROWS,
        "evaluated": NUM_ROWS,
        "failed": 0,
        "without_truth": 0,
        "unknown_truth": 0,
        "labels_without_row": 0,
    }


def test_every_row_left_out_is_counted_and_named(made: Made) -> None:
    for i in range(70, 95):
        made.rows[i] = fail(made.rows[i], "decode", f"truncated JPEG: {i} bytes missing")
    for i, name in ((100, None), (101, ""), (102, "zebra"), (103, "8"), (104, "zebra")):
        made.rows[i]["truth"] = name
    made.kept[70:95] = made.kept[100:105] = False
    found = made.write().evaluate()
    made.check(found)
    counts = found.counts
    assert (counts["failed"], counts["without_truth"], counts["unknown_truth"]) == (25, 2, 3)
    assert counts["read"] == counts["evaluated"] + 30
    assert found.unknown_truth == {"zebra": 2, "8": 1}
    assert set(found.failed_ids) < set(made.ids[70:95])
    html = Path(found.report).read_text()
    assert "zebra" in html
    assert html.count("truncated JPEG: N bytes missing") == 1


def test_truth_may_be_an_index_of_the_weights_classes(made: Made) -> None:
    for row, truth in zip(made.rows, made.truth, strict=True):
        row["truth"] = str(truth)
    made.check(made.write().evaluate())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_labels_file_is_joined_by_id(made: Made, suffix: str) -> None:
    order = np.random.default_rng(0).permutation(NUM_ROWS)
    labels = pa.table(
        {
            "note": ["x"] * (NUM_ROWS + 1),
            "label": [made.names[i] for i in order] + ["zebra"],
            "id": [made.ids[i] for i in order] + ["never/read.png"],
        }
    )
    path = made.folder / f"labels.{suffix}"
    (pc.write_csv if suffix == "csv" else pq.write_table)(labels, path)
    for row in made.rows:
        row["truth"] = made.classes[0]  # the file's word counts
    found = made.write().evaluate(labels=str(path))
    made.check(found)
    assert found.counts["labels_without_row"] == 1


def test_labels_file_may_hold_numbers_and_gaps(made: Made) -> None:
    path = made.folder / "labels.csv"
    lines = [f'"{id}",{truth}' for id, truth in zip(made.ids, made.truth, strict=True)]
    lines[7] = f'"{made.ids[7]}",'
    path.write_text("id,label\n" + "\n".join(lines[:-2] + lines[:1]) + "\n")
    made.kept[[7, -1, -2]] = False
    found = made.write().evaluate(labels=str(path))
    made.check(found)
    assert found.counts["without_truth"] == 3


def test_labels_that_cannot_be_meant_are_refused(made: Made) -> None:
    made.write()
    path = made.folder / "labels.csv"
    for text, reason in (
        ("file,label\na,b\n", r"has the columns \['file', 'label'\], wanted"),
        ("id,label\na,b\na,c\n", "a has two labels"),
        ("id,label\na,\n", "holds no label"),
        ("", "no CSV or Parquet table"),
        ("id,label\nelsewhere/1.png,class ant\n", "the file has 'elsewhere/1.png', the run '"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            made.evaluate(labels=str(path))
    with pytest.raises(ValueError, match="labels: .*absent.csv: not there"):
        made.evaluate(labels=str(made.folder / "absent.csv"))


def test_label_table_is_small_and_knows_each_id(tmp_path: Path) -> None:
    ids = [f"folder/with a long name/{i:08d}.jpg" for i in range(50_000)]
    names = [f"class {i % 100}" for i in range(50_000)]
    pq.write_table(pa.table({"id": ids, "label": names}), tmp_path / "l.parquet")
    table = read_labels(str(tmp_path / "l.parquet"), Storage())
    assert table.look_up(pa.array(ids)).to_pylist() == names
    assert table.look_up(pa.array(["other"])).to_pylist() == [None]
    assert table.num_unused == 0
    assert sum(each.nbytes for each in (table.hashes, table.codes, table.seen)) == 13 * 50_000


def test_rows_with_few_labels_give_no_roc_and_say_what_would(tmp_path: Path) -> None:
    made = Made(tmp_path, top_k=6).write()
    found = made.evaluate()
    made.check(found)
    assert found.metrics.roc is None
    assert "Rows hold 6 of 8 classes" in found.missing
    assert "--op.top-k 8" in found.missing
    html = Path(found.report).read_text()
    assert found.missing in html
    assert "ROC curves</h3>" not in html


def test_outputs_of_one_name_are_one_class(tmp_path: Path) -> None:
    classes = ["ant", "crane", "cow", "dodo", "crane", "fly", "gnu", "hen"]
    made = Made(tmp_path, classes=classes)
    for row, truth in zip(made.rows, made.truth, strict=True):
        row["truth"] = str(truth)
    found = made.write().evaluate()
    assert len(found.classes) == 7
    merged = [found.classes.index(classes[k]) for k in range(8)]
    truth = np.array(merged)[made.truth]
    scores = np.zeros((NUM_ROWS, 7), np.float32)
    for k, name in enumerate(merged):
        scores[:, name] = np.maximum(scores[:, name], made.scores[:, k])
    assert found.metrics.accuracy == pytest.approx((scores.argmax(axis=1) == truth).mean())
    assert found.metrics.roc is not None
    for k in range(7):
        area = sk.roc_auc_score(truth == k, scores[:, k])
        assert found.metrics.roc.auc[k] == pytest.approx(area, abs=1e-6)


def test_first_of_each_on_paper() -> None:
    ranked, values = np.array([[1, 0, 1], [0, 1, 1]]), np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])
    kept, probabilities = first_of_each(ranked, values, 2)
    assert kept.tolist() == [[1, 0], [0, 1]]
    assert probabilities.tolist() == [[0.5, 0.3], [0.6, 0.3]]


def test_mistakes_are_the_most_confident_wrong_rows(made: Made) -> None:
    found = made.write().evaluate(num_mistakes=10)
    wrong = made.scores.argmax(axis=1) != made.truth
    confidence = np.where(wrong, made.scores.max(axis=1), -1)
    order = np.argsort(-confidence, kind="stable")[:10]
    assert [mistake.id for mistake in found.mistakes] == [made.ids[i] for i in order]
    assert [mistake.truth for mistake in found.mistakes] == [made.names[i] for i in order]


def test_pictures_are_shown_while_the_source_is_there(made: Made) -> None:
    found = made.write().evaluate(num_mistakes=200)
    here = sum(mistake.id in made.ids[:60] for mistake in found.mistakes)
    assert here > 0
    assert Path(found.report).read_text().count("data:image/jpeg") == here
    for path in (made.folder / "pictures").rglob("*.png"):
        path.write_bytes(b"changed since")
    found = made.evaluate(num_mistakes=200)
    assert "data:image/jpeg" not in Path(found.report).read_text()
    made.check(found)


def test_metrics_file_holds_the_numbers(made: Made) -> None:
    made.rows = made.rows[:40]  # some class has no row: NaN becomes null
    made.rows = [row for row in made.rows if row["truth"] != made.classes[2]]
    found = made.write().evaluate()
    told = json.loads((made.folder / "evaluate" / "metrics.json").read_text())
    assert told["accuracy"] == found.metrics.accuracy
    assert told["counts"]["read"] == len(made.rows)
    assert told["classes"][2]["AUC"] is None
    assert told["classes"][2]["images"] == 0
    assert sum(cell["images"] for cell in told["confusion"]) == len(made.rows)
    manifest = json.loads((made.folder / "evaluate" / "manifest.json").read_text())
    assert manifest["status"] == "done"


def test_a_run_that_is_not_there_or_not_finished_names_the_command(made: Made) -> None:
    with pytest.raises(ValueError, match="this makes it: python -m jobs.classify --out"):
        made.evaluate()
    made.write(finished=False)
    with pytest.raises(ValueError, match="python -m jobs.classify --data.uri .*pictures --out"):
        made.evaluate()


def test_a_run_without_any_truth_asks_for_labels(made: Made) -> None:
    for row in made.rows:
        row["truth"] = None
    with pytest.raises(ValueError, match="none of 300 rows has one .*give --labels"):
        made.write().evaluate()


def test_a_run_with_truth_of_another_world_lists_the_names(made: Made) -> None:
    for row in made.rows:
        row["truth"] = "zebra"
    with pytest.raises(ValueError, match="zebra; classes: class ant, class bee"):
        made.write().evaluate()


def test_the_same_command_again_takes_what_the_run_holds_now(made: Made) -> None:
    made.write().evaluate()
    made.rows = made.rows[:100]
    made.kept[100:] = False
    made.write()
    made.check(made.evaluate())
    with pytest.raises(ValueError, match="holds a run of classify"):
        made.evaluate(name="classify")


def test_report_opens_in_a_browser_silently(made: Made, tmp_path: Path) -> None:
    made.rows[5] = fail(made.rows[5], "decode", "worker died")
    found = made.write().evaluate()
    for dark in (False, True):
        console, asked = open_page(Path(found.report), tmp_path / "shot.png", dark=dark)
        assert not console
        assert not asked


def test_run_labels_and_report_may_lie_on_s3(made: Made, s3: StorageConfig, bucket: str) -> None:
    made.write()
    storage = Storage(s3)
    local = made.folder / "classify"
    for path in local.rglob("*"):
        if path.is_file():
            storage.put(f"{bucket}/runs/c 1/{path.relative_to(local)}", path.read_bytes())
    text = "id,label\n" + "".join(
        f"{id},{name}\n" for id, name in zip(made.ids, made.names, strict=True)
    )
    storage.put(f"{bucket}/labels #1.csv", text.encode())
    found = main(
        Config(
            run=f"{bucket}/runs/c 1",
            labels=f"{bucket}/labels #1.csv",
            out=f"{bucket}/runs/e",
            storage=s3,
        )
    )
    assert isinstance(found, Evaluation)
    made.check(found)
    assert b"Reliability" in storage.read(found.report)
    assert json.loads(storage.read(f"{bucket}/runs/e/metrics.json"))["accuracy"]


def test_a_gallery_is_no_run(tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"embedder": "sha256:e1"}')
    with pytest.raises(ValueError, match="is no run of a job; a gallery has no rows"):
        finished_run(str(tmp_path), Storage())
    with pytest.raises(ValueError, match=r"python -m jobs.embed_faces --out"):
        finished_run(str(tmp_path / "runs" / "embed_faces"), Storage())
