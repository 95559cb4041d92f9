"""Detectors of faces on the command line of weights; published files by their short names."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
import tyro

from jobs.weights import Config, Import, Pull, Show, Verify, main
from tests.made_detectors import (
    boxes_like,
    save_mtcnn,
    save_retinaface,
    save_yunet,
    yunet_like,
)
from vision_ops.canvas import Canvas
from vision_ops.card import read_card, sha256_file
from vision_ops.faces import FacePreprocess
from vision_ops.weights import resolve
from vision_ops.weights.face_files import FACE_FILES


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of a web server on a port of its own, which $HF_ENDPOINT names; an empty cache."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, directory=str(folder), **options)

        def log_message(self, format: str, *args: object) -> None:
            return

    monkeypatch.setenv("ARGUS_CACHE", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def serve(hub: Path, name: str, model: onnx.ModelProto) -> str:
    """Put a model where a published file should be; returns its sha256."""
    item = FACE_FILES[name]
    file = hub / item.repository / "resolve" / "main" / item.file_name
    file.parent.mkdir(parents=True)
    onnx.save(model, str(file))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_import_takes_three_states_or_their_folder_and_writes_the_same(tmp_path, capsys):
    save_mtcnn(tmp_path)
    torch.save({}, tmp_path / "mobilefacenet.pt")  # of another network, beside them
    names = ",".join(str(tmp_path / f"mtcnn-{part}net.pt") for part in "pro")
    for state, out in ((names, "a"), (str(tmp_path), "b")):
        words = f"import --network face_detector:mtcnn --state {state} --licence MIT"
        words += f" --out {tmp_path}/{out}.safetensors"
        main(tyro.cli(Config, args=words.split()))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    card = read_card(tmp_path / "a.safetensors")
    assert (card.network, card.classes, card.licence) == ("face_detector:mtcnn", (), "MIT")
    assert card.preprocess == Canvas()
    assert card.parent.split(",")[0] == sha256_file(tmp_path / "mtcnn-pnet.pt")
    capsys.readouterr()
    main(Verify(name=f"{tmp_path}/a.safetensors"))
    main(Show(name=f"{tmp_path}/a.safetensors"))
    assert "loads, looks for faces" in capsys.readouterr().out


def test_an_import_without_a_licence_is_told_what_that_means(tmp_path, caplog):
    save_mtcnn(tmp_path)
    asked = Import(
        network="face_detector:mtcnn", state=str(tmp_path), out=f"{tmp_path}/m.safetensors"
    )
    main(asked)
    assert "licence: not said; " in caplog.text
    caplog.clear()
    main(replace(asked, licence="MIT"))
    assert not caplog.text


def test_onnx_detectors_carry_card_and_format(tmp_path, capsys):
    path = save_yunet(tmp_path)
    main(Verify(name=str(path)))
    assert read_card(path).network == "face_detector:yunet"
    onnx.save(boxes_like(), str(tmp_path / "b.onnx"))
    told = tmp_path / "b.json"
    told.write_text('{"scores": "s", "boxes": "b", "unit": "px"}')
    out = str(tmp_path / "made.onnx")
    network = f"face_detector:onnx:{told}"
    main(Import(network=network, state=str(tmp_path / "b.onnx"), licence="MIT", out=out))
    main(Verify(name=out, sha256=sha256_file(out)))
    assert read_card(out).network == "face_detector:onnx"
    assert "sha256 as stated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "mtcnn-pnet.pt"}, "50 missing: pnet.conv1.weight"),
        ({"state": "mtcnn-pnet.pt,mtcnn-rnet.pt"}, "pnet, rnet, onet in their names"),
        ({"state": "mtcnn-pnet.pt,mtcnn-rnet.pt,absent.pt"}, "absent.pt: cannot be read"),
        ({"state": "swapped-pnet.pt,mtcnn-rnet.pt,mtcnn-onet.pt"}, "do not fit PNet"),
        ({"network": "face_detector:retinaface"}, "3 files"),
        (
            {"network": "face_detector:mtcnn:x", "out": "x.onnx"},
            "only face_detector:onnx is given a format",
        ),
        ({"network": "face_detector:other", "out": "x.onnx"}, "face_detector:other: not one of"),
        ({"network": "face_detector:onnx:scrfd", "out": "x.onnx"}, "3 files"),
        ({"network": "face_detector:yunet"}, "must end in .onnx"),
        ({"classes": "a,b"}, "takes no classes"),
        ({"transform": "none"}, "takes no classes and no transform"),
        ({"network": "residual"}, "needs --classes"),
    ],
)
def test_wrong_import_is_refused_with_its_value(tmp_path, monkeypatch, changes, words):
    save_mtcnn(tmp_path)
    (tmp_path / "swapped-pnet.pt").write_bytes((tmp_path / "mtcnn-onet.pt").read_bytes())
    monkeypatch.chdir(tmp_path)
    values = {
        "network": "face_detector:mtcnn",
        "state": "mtcnn-pnet.pt,mtcnn-rnet.pt,mtcnn-onet.pt",
        "out": "out.safetensors",
    }
    with pytest.raises(ValueError, match=words):
        main(Import(**(values | changes)))
    assert not (tmp_path / "out.safetensors").exists()


def test_verify_refuses_weights_that_are_not_finite(tmp_path):
    save_retinaface(tmp_path)
    state = torch.load(tmp_path / "retina.pth", weights_only=True)
    state["module.fpn.merge1.0.weight"][0] = torch.nan
    torch.save(state, tmp_path / "retina.pth")
    out = str(tmp_path / "x.safetensors")
    request = Import(
        network="face_detector:retinaface", state=str(tmp_path / "retina.pth"), out=out
    )
    with pytest.raises(ValueError, match="not finite"):
        main(request)


def test_file_of_another_detector_is_not_taken_for_yunet(tmp_path):
    onnx.save(boxes_like(), str(tmp_path / "b.onnx"))
    out = str(tmp_path / "y.onnx")
    with pytest.raises(ValueError, match="OpenCV does not run it as YuNet"):
        main(Import(network="face_detector:yunet", state=str(tmp_path / "b.onnx"), out=out))


def test_pull_fetches_yunet_once_and_then_finds_it_offline(hub, monkeypatch, capsys):
    sha256 = serve(hub, "yunet", yunet_like())
    published = replace(FACE_FILES["yunet"], sha256_prefix=sha256)
    monkeypatch.setitem(FACE_FILES, "yunet", published)
    main(Pull(name="yunet"))
    assert "MIT" in capsys.readouterr().out
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    def no_fetch(uri: str) -> Path:
        raise FileNotFoundError(uri)

    card = resolve("yunet", no_fetch).card
    assert (card.network, card.licence, card.parent) == ("face_detector:yunet", "MIT", sha256)
    main(Verify(name="yunet"))


def test_sface_is_an_embedding_of_faces_as_opencv_shows_them(hub, monkeypatch):
    weight = torch.randn(128, 3 * 112 * 112).mul(1e-3).numpy()
    nodes = [
        onnx.helper.make_node("Flatten", ["data"], ["flat"]),
        onnx.helper.make_node("Gemm", ["flat", "weight"], ["fc1"], transB=1),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "sface",
        [onnx.helper.make_tensor_value_info("data", floats, [1, 3, 112, 112])],
        [onnx.helper.make_tensor_value_info("fc1", floats, [1, 128])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    opset = onnx.helper.make_opsetid("", 13)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    published = replace(FACE_FILES["sface"], sha256_prefix=serve(hub, "sface", model))
    monkeypatch.setitem(FACE_FILES, "sface", published)
    main(Pull(name="sface"))
    card = resolve("sface", lambda uri: pytest.fail(uri)).card
    assert isinstance(card.preprocess, FacePreprocess)
    assert (card.preprocess.channels, card.preprocess.scale) == ("RGB", 1.0)
    assert (card.num_outputs, card.licence) == (128, "Apache-2.0")


def test_another_file_than_the_published_one_is_refused(hub):
    serve(hub, "yunet", yunet_like())
    with pytest.raises(ValueError, match="published is 8f2383e4dd3c"):
        main(Pull(name="yunet"))


def test_yunet_offline_fails_at_once_and_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setenv("ARGUS_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "https://192.0.2.1")  # TEST-NET-1: routed nowhere (RFC 5737)
    with pytest.raises(ValueError, match="cannot be fetched") as refusal:
        main(Pull(name="yunet"))
    for words in ("face_detection_yunet_2023mar.onnx", str(tmp_path), "jobs.weights pull yunet"):
        assert words in str(refusal.value)
