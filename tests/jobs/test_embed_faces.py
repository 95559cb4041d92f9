"""Embedding faces as people call it: crops, told faces, photographs; bad input; second runs."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from jobs import embed_faces
from jobs.embed_faces import Config
from jobs.pictures.faces.embedding import face_type
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.sources.origin import Source
from tests.made_detectors import save_retinaface
from tests.untrained import save_embedder, save_untrained
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.faces.align import template
from vision_ops.faces.detect import DetectorConfig, make_detector
from vision_ops.normalize import normalize
from vision_ops.operators.embed_faces import FacesConfig
from vision_ops.weights.face_detectors import convert_detector

INLINE = Resources(engine="inline", actors=1, max_failed_fraction=1.0)
SIZE = 48


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_embedder(tmp_path_factory.mktemp("weights") / "w.safetensors", SIZE, flip_sum=True)


def asked(source: Path, weights: str, out: Path, detector: str = "none", **op: Any) -> Config:
    data = Source(uri=str(source), label="folder", slice_rows=8)
    config = FacesConfig(weights=weights, detector=detector, **op)
    return Config(data=data, op=config, resources=INLINE, out=str(out))


def rows_of(run: Run) -> list[dict[str, Any]]:
    rows = [row for batch in run.results() for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: row["id"])


def photographs() -> list[Image.Image]:
    """scikit-learn's two."""
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def encoded(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten crops of two people, and a file that is none."""
    folder = tmp_path_factory.mktemp("people")
    for number in range(10):
        person = folder / ("ann", "bob")[number % 2]
        person.mkdir(exist_ok=True)
        image = photographs()[number % 2].crop((number * 20, 0, number * 20 + 100, 120))
        image.save(person / f"{number}.png")
    (folder / "bob" / "broken.png").write_bytes(b"no picture")
    return folder


def embedded_plainly(crop: np.ndarray, weights: str) -> np.ndarray:
    """One crop and its mirror image through the network, added, of L2 norm 1."""
    network, card = load_checkpoint(weights, "cpu")
    both = np.stack([crop, crop[:, ::-1]])
    with torch.inference_mode():
        added = network(normalize(both, card.preprocess, "cpu")).sum(dim=0).numpy()
    return added / np.linalg.norm(added)


def test_a_dry_run_tells_and_writes_nothing(
    people: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    embed_faces.main(replace(asked(people, weights, tmp_path / "out"), dry_run=True))

    told = capsys.readouterr().out
    for text in (
        "1 in 2 slices",
        "rows           11",
        "embedder",
        "rows/s in one process",
        "not begun",
    ):
        assert text in told, text
    assert not (tmp_path / "out").exists()


def test_every_crop_is_a_face_with_the_embedding_of_a_plain_script(
    people: Path, weights: str, tmp_path: Path
):
    run = embed_faces.main(asked(people, weights, tmp_path / "out"))

    rows = rows_of(run)
    assert len(rows) == 11
    assert run.manifest["counts"] == {"read": 11, "ok": 10, "failed": 1}
    for row in rows:
        if row["id"] == "bob/broken.png":
            assert (row["status"], row["faces"]) == ("failed", None)
            continue
        (face,) = row["faces"]
        assert row["truth"] == row["id"].split("/")[0]
        assert face["box"] == [0, 0, 100, 120]
        assert (row["height_px"], row["width_px"]) == (120, 100)
        assert 0 <= face["quality"] <= 1
        assert face["confidence"] == 1
        points = (template(SIZE).numpy() + 0.5) / SIZE * [100, 120] - 0.5
        np.testing.assert_allclose(face["landmarks"], points.ravel(), atol=1e-3)
        with Image.open(people / row["id"]) as image:
            crop = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        found = np.array(face["embedding"], np.float64)
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
        assert found @ embedded_plainly(crop, weights) > 0.9999
    (part, *_) = sorted((tmp_path / "out" / "results").iterdir())
    schema = pq.read_schema(part)
    assert schema.field("faces").type == pa.list_(face_type(16))
    sha256 = run.manifest["embedder"]["sha256"]
    assert (schema.metadata or {})[b"argus.embedder"] == f"sha256:{sha256}".encode()


def test_a_second_run_does_nothing_and_a_lost_part_comes_back_byte_for_byte(
    people: Path, weights: str, tmp_path: Path
):
    config = asked(people, weights, tmp_path / "out")
    embed_faces.main(config)
    parts = {path: path.read_bytes() for path in (tmp_path / "out" / "results").iterdir()}
    lost, kept = sorted(parts)
    lost.unlink()
    before = kept.stat().st_mtime_ns

    embed_faces.main(replace(config, resources=replace(INLINE, batch_size=3)))

    assert {path: path.read_bytes() for path in (tmp_path / "out" / "results").iterdir()} == parts
    assert kept.stat().st_mtime_ns == before


TURNED = cv2.getRotationMatrix2D((700.0, 400.0), 20, 1.3)


def told(points: np.ndarray, confidence: float) -> dict[str, Any]:
    low, high = points.min(axis=0), points.max(axis=0)
    box = [*(low - 60), *(high + 60)]
    return {"box": box, "landmarks": points.ravel().tolist(), "confidence": confidence}


def write_told(folder: Path) -> tuple[Image.Image, np.ndarray]:
    """Large photographs with the faces that somebody said; the first, and its second face."""
    image = photographs()[0].resize((1600, 1100))
    first = template(112).numpy() * 2 + [300, 300]
    turned = template(112).numpy() * 3 + [600, 300]
    second = turned @ TURNED[:, :2].T + TURNED[:, 2]
    rows = [
        {"image": encoded(image), "faces": [told(first, 0.5), told(second, 0.9)]},
        {"image": encoded(image), "faces": []},
        {"image": encoded(image), "faces": None},
        {"image": encoded(Image.new("L", (1, 1))), "faces": [told(first, 0.5)]},
        {"image": b"none", "faces": [told(first, 0.5)]},
    ]
    face = pa.struct(list(face_type(16))[:3])
    schema = pa.schema([("image", pa.binary()), ("faces", pa.list_(face))])
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "told.parquet")
    return image, second


def test_faces_that_come_with_the_rows_are_cut_out_aligned_and_embedded(
    weights: str, tmp_path: Path
):
    image, second = write_told(tmp_path / "in")
    data = Source(uri=str(tmp_path / "in"), faces="faces")
    op = FacesConfig(weights=weights, detector="given", longest_px=800, crops=True)
    config = Config(data=data, op=op, resources=INLINE, out=str(tmp_path / "out"))

    rows = rows_of(embed_faces.main(config))

    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "ok", "failed"]
    surest, other = rows[0]["faces"]
    assert [surest["confidence"], other["confidence"]] == pytest.approx([0.9, 0.5])
    np.testing.assert_allclose(surest["landmarks"], second.ravel(), atol=1e-3)
    assert (rows[0]["height_px"], rows[0]["width_px"]) == (1100, 1600)
    assert rows[1]["faces"] == rows[1]["image_uris"] == []
    assert "none are told" in rows[2]["error"]
    assert len(rows[3]["faces"]) == 1  # a face that one pixel does not show: black, and graded so
    assert rows[3]["faces"][0]["quality"] < surest["quality"]
    reduced = np.asarray(image.resize((800, 550), Image.Resampling.BILINEAR))
    points = (second + 0.5) / 2 - 0.5
    matrix, _ = cv2.estimateAffinePartial2D(points, template(SIZE).numpy(), method=cv2.LMEDS)
    wanted = cv2.warpAffine(reduced, matrix, (SIZE, SIZE)).astype(int)
    with Image.open(rows[0]["image_uris"][0]) as crop:
        found = np.asarray(crop, int)
    assert np.abs(found - wanted).mean() < 2.5
    plain = embedded_plainly(wanted.astype(np.uint8), weights)
    assert np.array(surest["embedding"]) @ plain > 0.999


@pytest.mark.parametrize(
    ("usual_norm", "said"),
    [
        (0.0, "in the picture, not of the norm (--op.usual-norm 0)"),
        (2.5, "in the picture and norm (of 2.5)"),
    ],
)
def test_the_page_shows_faces_and_who_has_none(
    weights: str, tmp_path: Path, usual_norm: float, said: str
):
    write_told(tmp_path / "in")
    data = Source(uri=str(tmp_path / "in"), faces="faces")
    op = FacesConfig(weights=weights, detector="given", usual_norm=usual_norm)
    config = Config(data=data, op=op, resources=INLINE, out=str(tmp_path / "out"))
    embed_faces.main(config)

    page = (tmp_path / "out" / "report" / "index.html").read_text()

    titles = re.findall(r"<h2>(.*?)</h2>", page)
    for title in ("Faces", "Most faces", "Lowest quality", "Without a face", "Failed images"):
        assert title in titles
    assert page.count("data:image/jpeg") >= 5
    assert said in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"detector": ""}, "op.detector: what finds the faces of"),
        ({"detector": "given"}, "one column of faces and the word `given` go together"),
        ({"detector": "w.pth"}, "not a checkpoint|no such file"),
        ({"longest_px": 99}, "op.longest_px: with op.detector none"),
        ({"longest_px": 0}, "longest_px 0"),
        ({"detect": DetectorConfig(min_face_px=9)}, "op.detect: nothing is looked for"),
        ({"weights": "classifier"}, "embeds no faces"),
        ({"detector": "embedder"}, "finds no faces"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    people: Path, weights: str, tmp_path: Path, change: dict[str, Any], words: str
):
    named = {"classifier": save_untrained(tmp_path / "c.safetensors", 32), "embedder": weights}
    change = {name: named.get(value, value) if isinstance(value, str) else value
              for name, value in change.items()}  # fmt: skip

    def ask() -> None:
        given = {"weights": weights, "detector": "none"} | change
        embed_faces.main(asked(people, out=tmp_path / "out", **given))

    with pytest.raises(ValueError, match=words):
        ask()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["embedder", "detector"])
def test_weights_for_research_alone_are_refused_unless_accepted_and_named_in_the_report(
    people: Path, weights: str, tmp_path: Path, which: str
):
    licence = "CC-BY-NC-4.0"
    used = {"embedder": Path(weights), "detector": save_retinaface(tmp_path)}
    bound = tmp_path / "bound.safetensors"
    network, card = load_checkpoint(used[which], "cpu")
    save_checkpoint(bound, network, replace(card, licence=licence))
    used[which] = bound
    found_by = "none" if which == "embedder" else str(bound)
    config = asked(people, str(used["embedder"]), tmp_path / "out", found_by)

    with pytest.raises(ValueError, match=f"bound.safetensors: its licence is {licence}"):
        embed_faces.main(config)
    assert not (tmp_path / "out").exists()

    run = embed_faces.main(replace(config, accept_licence=True))
    assert run.manifest[which]["licence"] == licence
    assert licence in (tmp_path / "out" / "report" / "index.html").read_text()


def test_a_crowd_nobody_a_pixel_a_grey_and_a_cut_face_each_have_their_row(
    shared_data: Path, weights: str, tmp_path: Path
):
    state = shared_data / "weights" / "retinaface-mobilenet0.25-landmarks.pth"
    detector = str(tmp_path / "retinaface.safetensors")
    convert_detector("face_detector:retinaface", [state], "MIT", "published", Path(detector))
    photo = shared_data / "faces/photos/examples/knn_examples/train/kit_harington/john1.jpeg"
    image = Image.open(photo).convert("RGB")
    (found,) = make_detector(DetectorConfig(), detector)([np.asarray(image)])
    x0, y0, x1, y1 = found.boxes[0].tolist()
    margin = 0.35 * (y1 - y0)
    face = image.crop((x0 - margin, y0 - margin, x1 + margin, y1 + margin)).resize((120, 120))
    crowd = Image.new("RGB", (8 * 120, 5 * 120))
    for k in range(40):
        crowd.paste(face, (k % 8 * 120, k // 8 * 120))
    (tmp_path / "in").mkdir()
    crowd.save(tmp_path / "in" / "crowd.png")
    image.convert("L").save(tmp_path / "in" / "grey.png")
    image.crop(((x0 + x1) // 2 - (x1 - x0) // 4, 0, *image.size)).save(tmp_path / "in" / "cut.png")
    Image.new("RGB", (300, 200), (90, 90, 90)).save(tmp_path / "in" / "nobody.png")
    Image.new("L", (1, 1)).save(tmp_path / "in" / "pixel.png")

    run = embed_faces.main(asked(tmp_path / "in", weights, tmp_path / "out", detector))

    counts = {row["id"]: len(row["faces"]) for row in rows_of(run)}
    expected = {"crowd.png": 40, "grey.png": 1, "cut.png": 1, "nobody.png": 0, "pixel.png": 0}
    assert counts == expected
    quality = {row["id"]: row["faces"][0]["quality"] for row in rows_of(run) if row["faces"]}
    assert quality["cut.png"] < 0.95 * quality["grey.png"]
    page = (tmp_path / "out" / "report" / "index.html").read_text()
    assert "<h2>Detector</h2>" in page
    assert run.manifest["detector"]["licence"] == "MIT"
