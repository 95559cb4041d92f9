"""Checkpoints: what is saved comes back bit for bit, and nothing else is taken for one."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from vision_ops.card import CARD_KEY, Card, card_from_json, card_to_json, read_card, sha256_file
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.models import build
from vision_ops.preprocess import Preprocess


def make_card(**changes) -> Card:
    card = Card(
        network="residual",
        classes=("rose", "tulipe d'été", "zéro"),
        preprocess=Preprocess(height_px=32, width_px=40, resize_px=0),
        licence="CC0",
        source="test",
        embedding_size=160,
    )
    return replace(card, **changes)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("residual", 3)


@pytest.fixture
def saved(tmp_path: Path, model: torch.nn.Module) -> Path:
    save_checkpoint(tmp_path / "net.safetensors", model, make_card())
    return tmp_path / "net.safetensors"


def rewrite(path: Path, card: object = None, state: dict | None = None) -> Path:
    """The same file with another card (JSON text, or values merged into it) or another state."""
    text = card_to_json(read_card(path))
    if isinstance(card, dict):
        text = json.dumps(json.loads(text) | card)
    elif isinstance(card, str):
        text = card
    save_file(load_file(path) if state is None else state, path, metadata={CARD_KEY: text})
    return path


def test_saved_network_comes_back_bit_for_bit_in_eval_mode(saved, model):
    loaded, card = load_checkpoint(saved, "cpu")
    assert card == make_card() == read_card(saved)
    assert not loaded.training
    state = model.state_dict()
    assert all(torch.equal(state[name], t) for name, t in loaded.state_dict().items())


def test_same_weights_and_card_give_the_same_bytes(tmp_path, model):
    sums = set()
    for name in "abc":
        save_checkpoint(tmp_path / name, model, make_card())
        sums.add(sha256_file(tmp_path / name))
    save_checkpoint(tmp_path / "d", model.to(memory_format=torch.channels_last), make_card())
    assert sums == {sha256_file(tmp_path / "d")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]


def test_loading_leaves_the_random_generator_alone(saved):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_checkpoint(saved, "cpu")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_save_that_is_broken_off_leaves_the_old_file(saved, model, monkeypatch, step):
    before = saved.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left on this device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(saved, model, make_card())
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_save_that_fails_leaves_the_old_file(tmp_path, saved, model):
    before = saved.read_bytes()
    folder_in_the_way = tmp_path / "folder"
    (folder_in_the_way / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        save_checkpoint(folder_in_the_way, model, make_card())
    assert saved.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "net.safetensors"]


def test_tied_weights_are_saved_and_loaded(tmp_path):
    layer = torch.nn.Linear(3, 3)
    tied = torch.nn.Sequential(layer, layer)
    save_checkpoint(tmp_path / "tied.safetensors", tied, make_card())
    state = load_file(tmp_path / "tied.safetensors")
    assert torch.equal(state["0.weight"], state["1.weight"])


floats = st.floats(-300, 300)


@given(
    classes=st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True),
    mean=st.tuples(floats, floats, floats),
    licence=st.text(),
    scale=st.floats(0.01, 300),
)
def test_card_survives_json(classes, mean, licence, scale):
    preprocess = Preprocess(mean=mean, scale=scale, channels="BGR")
    card = make_card(classes=tuple(classes), preprocess=preprocess, licence=licence)
    assert card_from_json(card_to_json(card)) == card


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("{", "not JSON"),
        ("[]", "list"),
        ({"format": 2}, "format 2"),
        ({"format": None}, "format None"),
        ({"mood": "good"}, "mood"),
        ({"classes": "abc"}, "classes"),
        ({"classes": []}, "0 names"),
        ({"classes": ["a", "a", "b"]}, "given twice: \\['a'\\]"),
        ({"embedding_size": True}, "embedding_size"),
        ({"embedding_size": 0}, "embedding_size 0"),
        ({"preprocess": {}}, "lacks"),
        ({"preprocess": 3}, "preprocess"),
        ({"network": 5}, "network"),
        ({"network": "residul"}, "residul"),
        ({"network": "cnn_cifar10"}, "32 x 32 pixels, not 32 x 40"),
        ({"activation": "gelu"}, "gelu"),
    ],
)
def test_card_that_is_not_understood_is_refused_by_file_and_cause(saved, change, words):
    path = rewrite(saved, change)
    with pytest.raises(ValueError, match=words) as refusal:
        load_checkpoint(path, "cpu")
    assert str(path) in str(refusal.value)


def test_weights_that_do_not_fit_are_named(saved):
    state = load_file(saved)
    state["extra"] = torch.zeros(1)
    del state["head.bias"]
    state["head.weight"] = torch.zeros(4, 160)
    path = rewrite(saved, state=state)
    with pytest.raises(ValueError, match="do not fit") as refusal:
        load_checkpoint(path, "cpu")
    for words in (str(path), "1 missing: head.bias", "1 unexpected: extra", "(4, 160) instead of"):
        assert words in str(refusal.value)


def test_other_files_are_refused_by_name(tmp_path, saved):
    whole = saved.read_bytes()
    files = {"empty": b"", "text": b"hello, world" * 9, "half": whole[: len(whole) // 2]}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    np.savez(tmp_path / "numpy.npz", a=np.zeros(3))
    torch.save({"a": torch.zeros(3)}, tmp_path / "pickle.pth")
    save_file({"a": torch.zeros(3)}, tmp_path / "bare.safetensors")
    for name in (*files, "numpy.npz", "pickle.pth", "bare.safetensors", "absent"):
        with pytest.raises(ValueError, match=name):
            read_card(tmp_path / name)
