"""The command line of weights: import, show, verify, pull, on real files."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import tyro

from jobs import weights
from jobs.weights import Changes, Config, Import, Pull, Show, Verify, main
from vision_ops.canvas import Canvas
from vision_ops.card import Card, read_card, sha256_file
from vision_ops.checkpoint import save_checkpoint
from vision_ops.models import build
from vision_ops.noise import Noise
from vision_ops.preprocess import Preprocess


@pytest.fixture
def state(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "state.pth"
    torch.save({"state_dict": build("cnn_cifar10", 3).state_dict()}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path, state: Path) -> Path:
    out = tmp_path / "deep" / "net.safetensors"
    size = Changes(height_px=32, width_px=32)
    main(
        Import(
            network="cnn_cifar10",
            state=str(state),
            classes="rose, tulip,daisy",
            transform="none",
            changes=size,
            licence="CC0",
            out=str(out),
        )
    )
    return out


def test_import_writes_a_checkpoint_with_the_card_that_was_asked_for(state, checkpoint):
    card = read_card(checkpoint)
    assert card.classes == ("rose", "tulip", "daisy")
    assert (card.licence, card.source, card.parent) == ("CC0", "state.pth", sha256_file(state))
    assert card.preprocess == Preprocess(
        height_px=32, width_px=32, resize_px=0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )


def test_show_verify_and_pull_speak_of_the_same_file(checkpoint, capsys):
    sha256 = sha256_file(checkpoint)
    for config in (
        Show(name=str(checkpoint)),
        Verify(name=str(checkpoint), sha256=sha256),
        Pull(name=str(checkpoint)),
    ):
        main(config)
        out = capsys.readouterr().out
        assert sha256 in out
        assert str(checkpoint) in out
        assert "CC0" in out


def test_verify_refuses_another_sha256_and_weights_that_are_not_finite(checkpoint, state, tmp_path):
    with pytest.raises(ValueError, match="sha256 abc"):
        main(Verify(name=str(checkpoint), sha256="abc"))
    broken = torch.load(state, weights_only=True)["state_dict"]
    broken["head.bias"][0] = float("nan")
    torch.save(broken, state)
    out = str(tmp_path / "nan.safetensors")
    size = Changes(height_px=32, width_px=32)
    main(
        Import(
            network="cnn_cifar10",
            state=str(state),
            classes="a,b,c",
            transform="imagenet",
            changes=size,
            out=out,
        )
    )
    with pytest.raises(ValueError, match="not finite"):
        main(Verify(name=out))


def test_command_line_reads_every_flag_and_a_file_of_classes(state, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("rose\ntulipe d'été\n\ndaisy\n", encoding="utf-8")
    flags = (
        f"import --network cnn_cifar10 --state {state} --classes {names} --transform imagenet "
        "--height-px 32 --width-px 32 --resize-px 36 --interpolation bicubic --mean 1 2 3 "
        "--std 4 5 6 --channels BGR --scale 1 --licence MIT --source here "
        f"--out {tmp_path}/out.safetensors"
    )
    main(tyro.cli(Config, args=flags.split()))
    card = read_card(tmp_path / "out.safetensors")
    assert card.classes == ("rose", "tulipe d'été", "daisy")
    assert card.preprocess == Preprocess(
        height_px=32,
        width_px=32,
        resize_px=36,
        interpolation="bicubic",
        mean=(1.0, 2.0, 3.0),
        std=(4.0, 5.0, 6.0),
        channels="BGR",
        scale=1.0,
    )
    assert (card.licence, card.source) == ("MIT", "here")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "absent.pth"}, "absent.pth"),
        ({"classes": "names_that_are_not_there.txt"}, "no such file"),
        ({"classes": "a,b"}, "do not fit"),
        ({"changes": Changes(height_px=64)}, "32 x 32 pixels, not 64 x 224"),
        ({"out": "net.pt"}, "must end in .safetensors"),
        ({"network": "onnx"}, "must end in .onnx"),
        ({"network": "no_such"}, "no_such"),
    ],
)
def test_wrong_request_is_refused_with_its_value(state, tmp_path, changes, words):
    values = {
        "network": "cnn_cifar10",
        "state": str(state),
        "classes": "a,b,c",
        "transform": "imagenet",
        "changes": Changes(height_px=32, width_px=32),
        "out": str(tmp_path / "out.safetensors"),
    }
    with pytest.raises(ValueError, match=words):
        main(Import(**(values | changes)))
    assert not (tmp_path / "out.safetensors").exists()


def test_wrong_request_ends_the_command_with_code_2_and_one_reason(tmp_path):
    command = [sys.executable, "-m", weights.__name__, "show", str(tmp_path / "no.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_published_squeezenet_becomes_a_checkpoint(shared_data, tmp_path, capsys):
    out = tmp_path / "squeezenet.safetensors"
    main(
        Import(
            network="torchvision:squeezenet1_1",
            state=str(shared_data / "weights" / "squeezenet1_1-imagenet.pth"),
            classes="imagenet",
            transform="imagenet",
            licence="Apache-2.0",
            out=str(out),
        )
    )
    main(Verify(name=str(out)))
    assert "verified" in capsys.readouterr().out
    assert len(read_card(out).classes) == 1000


def save_maker(path: Path, network: str, learnt: tuple[str, ...], preprocess: Canvas | Noise):
    """An untrained network that makes pictures; returns its weights."""
    torch.manual_seed(0)
    length = preprocess.length if isinstance(preprocess, Noise) else 0
    model = build(network, len(learnt) or length)
    card = Card(
        network=network,
        classes=learnt,
        preprocess=preprocess,
        licence="CC0",
        source="random",
        embedding_size=length,
    )
    save_checkpoint(path, model, card)
    return model, card


@pytest.mark.parametrize(
    ("network", "learnt", "preprocess", "told"),
    [
        ("unet:2x6", (), Canvas(longest_px=64), "longer side 64"),
        ("unet:2x8", (), Canvas(longest_px=256), "longer side 256"),
        ("dcgan:2x16", (), Noise(length=6), "6 normal numbers"),
        ("style_transform:2", ("waves", "dots"), Canvas(longest_px=64), "2: waves, dots"),
        ("adain:residual/blocks.0", (), Canvas(longest_px=64), "any"),
    ],
)
def test_what_makes_pictures_is_shown_and_verified_by_pictures(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    network: str,
    learnt: tuple[str, ...],
    preprocess: Canvas | Noise,
    told: str,
):
    path = tmp_path / "maker.safetensors"
    model, card = save_maker(path, network, learnt, preprocess)
    for config in (Show(name=str(path)), Verify(name=str(path))):
        main(config)
        lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert (lines["network"], lines["licence"]) == (network, "CC0")
        assert told in " ".join(lines.values())
        assert "classes" not in lines
        assert "embedding" not in lines
    assert "makes pictures of zeros" in lines["verified"]
    with torch.no_grad():  # a tanh makes 1 of it
        next(model.parameters()).view(-1)[0] = float("inf")
    save_checkpoint(path, model, card)
    with pytest.raises(ValueError, match="not finite"):
        main(Verify(name=str(path)))
