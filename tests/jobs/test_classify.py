"""The job as people call it: what it writes, says, and ends with."""

import io
import logging
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image

from jobs.classify import Config, main
from jobs.make_samples import broken, digits
from jobs.runtime.command import exit_code
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from jobs.runtime.storage import Storage, StorageConfig
from tests.flaky_s3 import flaky_s3
from tests.untrained import save_untrained
from vision_ops.card import Card
from vision_ops.checkpoint import save_checkpoint
from vision_ops.decode import DecodeConfig
from vision_ops.operators.classify import ClassifierConfig
from vision_ops.preprocess import Preprocess
from vision_ops.weights.convert import read_state
from vision_ops.weights.hub import imagenet_classes

INLINE = Resources(engine="inline", max_failed_fraction=1.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained network over 32-pixel images."""
    return save_untrained(tmp_path_factory.mktemp("weights") / "w.safetensors", size_px=32)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The 360 test digits as Parquet, as loose files by class, and as a tar."""
    root = tmp_path_factory.mktemp("digits")
    for name, data in digits(seed=0):
        if "test" in name:
            (root / "parquet").mkdir(exist_ok=True)
            (root / "parquet" / Path(name).name).write_bytes(data)
    (root / "tar").mkdir()
    with tarfile.open(root / "tar" / "digits.tar", "w") as tar:
        for row in pq.read_table(root / "parquet").to_pylist():
            path = root / "files" / row["label"] / f"{row['id']}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row["image"])
            for ending, data in ((".png", row["image"]), (".cls", row["label"].encode())):
                header = tarfile.TarInfo(row["id"] + ending)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return {name: root / name for name in ("parquet", "files", "tar")}


def table_of(run: Run) -> pa.Table:
    return pa.Table.from_batches(list(run.results()))


def test_three_formats_of_the_same_pictures_get_the_same_answers(
    weights: str, pictures: dict[str, Path], tmp_path: Path
):
    answers = []
    size = 0
    for name, folder in pictures.items():
        data = Source(uri=str(folder), label="folder" if name == "files" else "auto")
        op = ClassifierConfig(weights=weights, embeddings=True)
        run = main(Config(data=data, op=op, resources=INLINE, out=str(tmp_path / name)))
        table = table_of(run)
        assert table["truth"].null_count == 0
        size = table.schema.field("embedding").type.list_size
        answers.append(
            sorted(
                zip(
                    table["truth"].to_pylist(),
                    table["confidence"].to_pylist(),
                    table["label"].to_pylist(),
                    map(tuple, table["top_labels"].to_pylist()),
                    map(tuple, table["embedding"].to_pylist()),
                    strict=True,
                )
            )
        )
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 360
    assert len(answers[0][0][4]) == size
    assert np.linalg.norm(answers[0][0][4]) == pytest.approx(1, abs=1e-5)


def test_on_s3_from_weights_on_s3_to_a_report_there(
    weights: str, pictures: dict[str, Path], s3: StorageConfig, bucket: str
):
    storage = Storage(s3)
    storage.put(f"{bucket}/w.safetensors", Path(weights).read_bytes())
    for path in pictures["parquet"].iterdir():
        storage.put(f"{bucket}/in/{path.name}", path.read_bytes())

    run = main(
        Config(
            data=Source(uri=f"{bucket}/in"),
            op=ClassifierConfig(weights=f"{bucket}/w.safetensors"),
            resources=INLINE,
            storage=s3,
            out=f"{bucket}/runs/one",
        )
    )

    assert table_of(run).num_rows == 360
    assert b"<html" in storage.read(f"{bucket}/runs/one/report/index.html")
    assert run.manifest["status"] == "done"


def test_failed_images_are_tried_again_when_that_is_asked_for(
    weights: str, pictures: dict[str, Path], s3: StorageConfig, s3_endpoint: str, bucket: str
):
    """One that may not be read for a while, as its bucket's policy says."""
    files = sorted((pictures["files"] / "3").iterdir())[:5]
    for file in files:
        Storage(s3).put(f"{bucket}/in/{file.name}", file.read_bytes())
    forbidden = [files[2].name]
    with flaky_s3(
        s3_endpoint, lambda each: 403 if each.path.endswith(forbidden[0]) else 0
    ) as flaky:
        config = Config(
            data=Source(uri=f"{bucket}/in"),
            op=ClassifierConfig(weights=weights),
            resources=INLINE,
            storage=replace(s3, endpoint=flaky.endpoint),
            out=f"{bucket}/out",
        )
        (failed,) = [row for row in table_of(main(config)).to_pylist() if row["error"]]
        assert failed["id"] == files[2].name
        assert failed["error"].startswith("not allowed to read it")
        forbidden[0] = "nothing"
        assert main(config).manifest["counts"] == {"read": 5, "ok": 4, "failed": 1}
        again = main(replace(config, retry_failed=True))
    assert again.manifest["counts"] == {"read": 5, "ok": 5, "failed": 0}
    assert table_of(again)["error"].to_pylist() == [""] * 5


def test_a_finished_run_is_not_read_again(
    weights: str,
    pictures: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    out = tmp_path / "out"
    data, op = Source(uri=str(pictures["parquet"])), ClassifierConfig(weights=weights)
    config = Config(data=data, op=op, resources=INLINE, out=str(out))
    main(config)
    for part in (out / "results").iterdir():  # done, because it is there
        part.write_bytes(b"not looked at")
    with caplog.at_level(logging.INFO):
        assert main(config).manifest["counts"] == {"read": 360, "ok": 360, "failed": 0}
    assert "nothing was left to do" in caplog.text
    (out / "report" / "index.html").unlink()
    with pytest.raises(RuntimeError, match="damaged"):
        main(config)


def test_every_odd_and_broken_file_is_a_row_with_a_cause(weights: str, tmp_path: Path):
    for name, data in broken(seed=0):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    there = {str(p.relative_to(tmp_path / "in")) for p in (tmp_path / "in").rglob("*.*")}
    there |= {str(p.relative_to(tmp_path / "in")) for p in (tmp_path / "in").rglob("no-*")}

    data = Source(uri=str(tmp_path / "in"))
    op = ClassifierConfig(weights=weights)
    run = main(Config(data=data, op=op, resources=INLINE, out=str(tmp_path / "out")))

    rows = table_of(run).to_pylist()
    assert {row["id"] for row in rows} == {
        name for name in there if (tmp_path / "in" / name).is_file()
    }
    for row in rows:
        is_ok = row["status"] == "ok"
        assert (row["label"] is not None) == is_ok == (row["error"] == "") == (row["stage"] == "")
    assert len(rows) > 75
    assert run.manifest["counts"]["failed"] > 25
    fine = [row for row in rows if Path(row["id"]).name.startswith(("fine-", "exif-", "animated"))]
    assert len(fine) > 20
    assert [row["id"] for row in fine if row["error"]] == []


def test_published_weights_answer_as_a_plain_script_does(shared_data: Path, tmp_path: Path):
    photos = sorted((shared_data / "photos").glob("*.JPEG"))[:40]
    model = torchvision.models.squeezenet1_1().eval()
    state = shared_data / "weights" / "squeezenet1_1-imagenet.pth"
    model.load_state_dict(torch.load(state, weights_only=True))
    prepare = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()
    with torch.inference_mode():
        pictures = [prepare(Image.open(path).convert("RGB")) for path in photos]
        expected, indices = model(torch.stack(pictures)).softmax(dim=1).max(dim=1)
    assert read_state(state).keys() == model.state_dict().keys()
    card = Card(
        network="torchvision:squeezenet1_1",
        classes=imagenet_classes(),
        preprocess=Preprocess(),
        licence="Apache-2.0",
        source="model zoo",
        embedding_size=512,
    )
    save_checkpoint(tmp_path / "w.safetensors", model, card)
    (tmp_path / "in").mkdir()
    for path in photos:
        (tmp_path / "in" / path.name).symlink_to(path)

    data, op = (
        Source(uri=str(tmp_path / "in")),
        ClassifierConfig(weights=f"{tmp_path}/w.safetensors"),
    )
    decode, out = DecodeConfig(mode="exact"), str(tmp_path / "out")
    table = table_of(main(Config(data=data, op=op, decode=decode, resources=INLINE, out=out)))

    assert table["label"].to_pylist() == [card.classes[i] for i in indices]
    assert np.allclose(table["confidence"].to_numpy(), expected, atol=1e-4)


def test_a_dry_run_tells_and_writes_nothing(
    weights: str, pictures: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (pictures["files"] / "0" / "notes.txt").write_text("no picture")
    data, op = Source(uri=str(pictures["files"])), ClassifierConfig(weights=weights)

    main(Config(data=data, op=op, out=str(tmp_path / "out"), dry_run=True))

    (pictures["files"] / "0" / "notes.txt").unlink()
    told = capsys.readouterr().out
    for text in ("361", "1 .txt", "1 in 6 slices", "rows/s in one process", "licence", "not begun"):
        assert text in told
    assert not (tmp_path / "out").exists()


def test_exit_codes(weights: str, pictures: dict[str, Path], tmp_path: Path):
    op = ClassifierConfig(weights=weights)
    good, strict = Source(uri=str(pictures["tar"])), Resources(engine="inline")
    broken_files = tmp_path / "bad"
    broken_files.mkdir()
    for number in range(120):
        (broken_files / f"{number}.jpg").write_bytes(b"nothing" if number % 10 == 0 else b"")
    bad = Source(uri=str(broken_files))

    def code(data: Source, op: ClassifierConfig) -> int:
        out = str(tmp_path / f"out-{Path(data.uri).name}")
        return exit_code(main, Config(data=data, op=op, resources=strict, out=out))

    assert code(good, op) == 0
    assert code(good, op) == 0
    assert code(Source(uri=str(tmp_path / "nothing")), op) == 2
    assert code(good, ClassifierConfig(weights="missing.safetensors")) == 2
    assert code(bad, op) == 3


def test_a_missing_checkpoint_is_told_with_where_it_was_sought(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = Config(op=ClassifierConfig(weights="no/such.safetensors"), out=str(tmp_path / "out"))
    with caplog.at_level(logging.ERROR):
        assert exit_code(main, config) == 2
    assert str(Path("no/such.safetensors").absolute()) in caplog.text
    assert not (tmp_path / "out").exists()


def test_the_command_line_tells_the_cause_first_and_keeps_the_trace(tmp_path: Path, weights: str):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"1")
    (tmp_path / "out").write_bytes(b"a file where the run directory should be")
    command = [sys.executable, "-m", "jobs.classify", "--data.uri", str(tmp_path / "in")]
    command += ["--op.weights", weights, "--out", str(tmp_path / "out" / "run")]
    command += ["--resources.engine", "inline"]

    ended = subprocess.run(command, capture_output=True, text=True)

    assert ended.returncode == 1
    assert "NotADirectoryError" in ended.stderr.splitlines()[-2]
    trace = ended.stderr.splitlines()[-1].split("trace in ")[1].split(";")[0]
    assert "Traceback" in Path(trace).read_text()
    Path(trace).unlink()
