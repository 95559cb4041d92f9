"""Networks of clips: their parts put together by hand, what they see of order, who may use them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.vision_ops.test_precision import request_for
from vision_ops.augment import AugmentConfig
from vision_ops.card import Card, card_from_json, card_to_json, check_size, read_card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.clips import CLIP_NETWORKS, ClipPreprocess
from vision_ops.decode import DecodeConfig
from vision_ops.decoders import make_decoder
from vision_ops.inputs import kind_of_input
from vision_ops.learners.classify import (
    ClassifierLearner,
    ClassifierLearnerConfig,
    ModelConfig,
    refuse_augment,
)
from vision_ops.models import build, embed, embedding_size, head_of, logits_and_embeddings
from vision_ops.models.cnn_rnn import HIDDEN
from vision_ops.normalize import normalize
from vision_ops.operators.classify import Classifier, ClassifierConfig
from vision_ops.precision import open_network, pass_size_of
from vision_ops.precision.choose import Sample, choose
from vision_ops.precision.openvino_network import convert
from vision_ops.preprocess import Preprocess
from vision_ops.signals import SignalPreprocess
from vision_ops.volumes import VolumePreprocess

FRAME = Preprocess(height_px=12, width_px=16, resize_px=0)
CLIP = ClipPreprocess(num_frames=5, frame=FRAME)
ENCODERS = ("residual", "resnet20", "torchvision:squeezenet1_1", "timm:test_resnet")
"""heads of a linear layer and of a convolution, with a map before it"""


def made(network: str, num_classes: int = 4) -> Any:
    """With statistics of batch norm that are no longer those of a new one."""
    torch.manual_seed(0)
    model: Any = build(network, num_classes)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(layer.get_buffer("running_mean"), -0.3, 0.3)
            nn.init.uniform_(layer.get_buffer("running_var"), 0.5, 2.0)
    return model.eval()


def batch(count: int = 6, clip: ClipPreprocess = CLIP, seed: int = 0) -> np.ndarray:
    """Random clips, read-only as the engine's are."""
    shape = (count, *clip.shape)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    pixels.flags.writeable = False
    return pixels


def card(network: str = "cnn_gru:residual", preprocess: ClipPreprocess = CLIP) -> Card:
    return Card(
        network=network,
        classes=("down", "left", "right", "up"),
        preprocess=preprocess,
        licence="CC0",
        source="random",
        embedding_size=HIDDEN,
    )


@pytest.fixture(scope="module", params=CLIP_NETWORKS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = f"{request.param}:residual"
    path = tmp_path_factory.mktemp("weights") / "clips.safetensors"
    model = made(network)
    size = embedding_size(model, CLIP.network_shape)
    save_checkpoint(path, model, replace(card(network), embedding_size=size))
    return path


# ------------------------------------------------------------------------- by hand


def gru_cell(x: Tensor, h: Tensor, layer: Any) -> Tensor:
    """Cho et al. (2014), with the reset gate after the product, as cuDNN and torch have it."""
    wx = (x @ layer.weight_ih_l0.T + layer.bias_ih_l0).chunk(3, dim=1)
    wh = (h @ layer.weight_hh_l0.T + layer.bias_hh_l0).chunk(3, dim=1)
    reset, update = (wx[0] + wh[0]).sigmoid(), (wx[1] + wh[1]).sigmoid()
    new = (wx[2] + reset * wh[2]).tanh()
    return (1 - update) * new + update * h


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, layer: Any) -> tuple[Tensor, Tensor]:
    """Hochreiter and Schmidhuber (1997), with forget gates."""
    gates = x @ layer.weight_ih_l0.T + layer.bias_ih_l0 + h @ layer.weight_hh_l0.T
    entry, forget, new, exit_ = (gates + layer.bias_hh_l0).chunk(4, dim=1)
    c = forget.sigmoid() * c + entry.sigmoid() * new.tanh()
    return exit_.sigmoid() * c.tanh(), c


@pytest.mark.parametrize("over_frames", ["gru", "lstm", "mean"])
@torch.no_grad()
def test_a_network_of_clips_is_its_parts_step_by_step(over_frames: str):
    model = made(f"cnn_{over_frames}:resnet20")
    clips = normalize(batch(3), CLIP, "cpu")
    frames, norm = [], model.norm
    for number in range(CLIP.num_frames):
        found = model.encoder(clips[:, number])
        deviation = (norm.running_var + norm.eps).sqrt()
        frames.append((found - norm.running_mean) / deviation * norm.weight + norm.bias)
    if over_frames == "mean":
        state = torch.stack(frames).mean(dim=0)
    else:
        state, cell = torch.zeros(3, HIDDEN), torch.zeros(3, HIDDEN)
        for frame in frames:
            if over_frames == "gru":
                state = gru_cell(frame, state, model.recurrent)
            else:
                state, cell = lstm_cell(frame, state, cell, model.recurrent)
    expected = state @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(clips), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embed(model, clips), state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
@torch.no_grad()
def test_any_network_of_pictures_is_an_encoder_by_its_embedding(encoder: str):
    clip = ClipPreprocess(num_frames=2, frame=replace(FRAME, height_px=64, width_px=64))
    model = made(f"cnn_mean:{encoder}")
    torch.manual_seed(0)
    pictures = build(encoder, 4)
    state = model.encoder.state_dict()
    missing = pictures.load_state_dict(state, strict=False).missing_keys
    head = next(name for name, layer in pictures.named_modules() if layer is head_of(pictures))
    assert missing == [f"{head}.weight", f"{head}.bias"]
    clips = normalize(batch(2, clip), clip, "cpu")
    frames = torch.stack([embed(pictures.eval(), clips[:, k]) for k in range(2)], dim=1)
    expected = model.norm(frames.flatten(0, 1)).unflatten(0, (2, 2)).mean(dim=1)
    seen = model.logits_and_embeddings(clips)[1]
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", CLIP_NETWORKS)
@torch.no_grad()
def test_order_matters_to_recurrent_layers_and_not_to_the_mean(network: str):
    model = made(f"{network}:residual")
    clips = normalize(batch(), CLIP, "cpu")
    there, back = model(clips), model(clips.flip(1))
    off = (there - back).abs().max() / there.abs().max()
    assert off < 1e-5 if network == "cnn_mean" else off > 1e-3


@pytest.mark.parametrize("network", CLIP_NETWORKS)
def test_gradients_reach_every_part_and_logits_are_of_the_features(network: str):
    model = made(f"{network}:residual").train()
    clips = normalize(batch(), CLIP, "cpu")
    logits, features = logits_and_embeddings(model, clips)
    assert logits.shape == (6, 4)
    torch.testing.assert_close(model.head(features), logits)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.encoder.stem[0].weight.grad.abs().sum() > 0


def test_the_frames_of_a_clip_are_normalised_as_pictures_are():
    clip = replace(CLIP, frame=replace(FRAME, channels="BGR", std=(0.1, 0.2, 0.3)))
    pixels = batch(2, clip)
    seen = normalize(pixels, clip, "cpu")
    assert seen.shape == (2, 5, 3, 12, 16)
    for number in range(5):
        expected = normalize(pixels[:, number], clip.frame, "cpu")
        assert torch.equal(seen[:, number], expected)


# ------------------------------------------------------------------------- learning


@pytest.mark.parametrize("network", ["cnn_gru", "cnn_lstm"])
def test_a_learner_tells_clips_that_brighten_from_those_that_darken(network: str):
    """On one batch that is changed in every step as clips may be; chance is a loss of 0.69."""
    light = 40 * np.arange(CLIP.num_frames)[:, None, None, None]
    pixels = torch.from_numpy((batch(4) // 4 + light).astype(np.uint8))
    examples = {
        "pixels": torch.cat([pixels, pixels.flip(1)]),
        "target": torch.arange(2).repeat_interleave(4),
    }
    config = ClassifierLearnerConfig(
        model=ModelConfig(network=f"{network}:resnet20", preprocess=CLIP),
        augment=AugmentConfig(shift=0.02, colour=0.1),
        classes=("brightens", "darkens"),
        num_steps=30,
    )
    learner = ClassifierLearner(config, torch.device("cpu"))
    for seed in range(30):
        learner.reseed(seed)
        learner.step(examples)
    assert learner.summarize(learner.evaluate(examples))["loss"] < 0.2


# ------------------------------------------------------------------------- card and operator


@pytest.mark.parametrize("sampling", ["uniform", "dense"])
def test_a_card_keeps_how_clips_are_prepared(sampling: str):
    stride = 3 if sampling == "dense" else 1
    clip = ClipPreprocess(num_frames=7, sampling=sampling, stride=stride, frame=FRAME)  # pyright: ignore[reportArgumentType]
    kept = card_from_json(card_to_json(card(preprocess=clip)))
    assert kept.preprocess == clip
    assert kind_of_input(kept.preprocess) == "clip"
    broken = card_to_json(card(preprocess=clip)).replace('"num_frames": 7', '"num_frames": "7"')
    with pytest.raises(ValueError, match=r"card\.preprocess\.num_frames '7'"):
        card_from_json(broken)
    nested = card_to_json(card(preprocess=clip)).replace('"height_px": 12', '"height_px": 0')
    with pytest.raises(ValueError, match="height_px 0"):
        card_from_json(nested)


def test_a_saved_network_of_clips_comes_back_bit_for_bit(checkpoint: Path):
    model, found = load_checkpoint(checkpoint, "cpu")
    again = made(found.network)
    assert found == read_card(checkpoint)
    clips = normalize(batch(), CLIP, "cpu")
    with torch.no_grad():
        assert torch.equal(model(clips), again(clips))


def test_clips_are_named_alike_however_they_are_batched(checkpoint: Path):
    classify = Classifier(ClassifierConfig(weights=str(checkpoint), embeddings=True))
    pixels = batch(15)
    assert classify.network.back_end == "torch"
    whole = classify({"id": np.arange(15), "pixels": pixels})
    assert np.array_equal(whole["id"], np.arange(15))
    model, found = load_checkpoint(checkpoint, "cpu")
    with torch.no_grad():
        logits = model(normalize(pixels, CLIP, "cpu"))
    assert whole["label"].tolist() == [found.classes[k] for k in logits.argmax(dim=1)]
    for cut in (1, 6, 14):
        parts = [classify({"pixels": each}) for each in (pixels[:cut], pixels[cut:])]
        for name, column in whole.items():
            if name != "id":
                assert np.array_equal(column, np.concatenate([part[name] for part in parts])), name
    with pytest.raises(ValueError, match=r"takes uint8 \(5, 12, 16, 3\)"):
        classify({"pixels": pixels[:, 0]})


def test_a_pass_holds_as_many_frames_as_a_pass_of_pictures():
    assert pass_size_of(FRAME) == 32
    assert [pass_size_of(replace(CLIP, num_frames=n)) for n in (1, 5, 16, 33)] == [32, 6, 2, 1]


def test_what_openvino_does_not_get_torch_runs_and_that_is_said(checkpoint: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="only networks of pictures are compiled"):
        convert(checkpoint)
    judged = batch(4)
    sample = Sample(judged=judged, exact=judged, calibration=batch(3, seed=1))
    verdict, file = choose(request_for(checkpoint, tmp_path), sample)
    assert (verdict.back_end, file) == ("torch", checkpoint)
    assert "only networks of pictures" in verdict.refused["fp32 openvino"]
    network = open_network(file, verdict.precision)
    logits, features = network(judged[:0])
    assert (logits.shape, features.shape) == ((0, 4), (0, read_card(file).embedding_size))


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("network", "preprocess", "said"),
    [
        ("cnn_gru:residual", FRAME, "network cnn_gru:residual: takes clips, not pictures"),
        ("cnn_lstm:residual", SignalPreprocess(), "cnn_lstm:residual: takes clips, not signals"),
        ("cnn_mean:residual", VolumePreprocess(), "cnn_mean:residual: takes clips, not volumes"),
        ("residual", CLIP, "residual: takes no clips; cnn_gru:residual would"),
        ("torchvision:resnet18", CLIP, "takes no clips; cnn_gru:torchvision:resnet18 would"),
        ("convnet_3d", CLIP, "convnet_3d: takes no clips$"),
        ("cnn_gru:convnet_3d", CLIP, "convnet_3d takes no pictures, which clips are made of"),
        ("cnn_gru:cnn_lstm:residual", CLIP, "cnn_lstm:residual takes no pictures"),
        ("cnn_gru:cnn_cifar10", CLIP, "cnn_gru:cnn_cifar10 takes pictures of 32 x 32 pixels, not"),
    ],
)
def test_clips_and_what_is_made_for_other_inputs_are_kept_apart(network, preprocess, said: str):
    with pytest.raises(ValueError, match=said):
        check_size(network, preprocess)
    with pytest.raises(ValueError, match=said):
        ModelConfig(network=network, preprocess=preprocess)
    with pytest.raises(ValueError, match=said):
        replace(card(), network=network, preprocess=preprocess)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("cnn_gru", "network 'cnn_gru': not one of"),
        ("cnn_gru:", "network 'cnn_gru:': not one of"),
        ("cnn_rnn:residual", "cnn_rnn"),
        ("cnn_gru:residul", "residul"),
        ("cnn_gru:fast_cifar10", "fast_cifar10 begins from pictures, and looks both ways"),
    ],
)
def test_networks_of_clips_that_cannot_be_built_are_named(network: str, said: str):
    with pytest.raises(ValueError, match=said):
        build(network, 3)


def test_changes_of_pictures_are_for_clips_too_and_for_no_signals():
    refuse_augment(CLIP, AugmentConfig(rotation_deg=5, colour=0.1, randaugment=2, mixup=0.2))
    with pytest.raises(
        ValueError, match=r"augment.colour 0.1: is for pictures; inputs of kind sig"
    ):
        refuse_augment(SignalPreprocess(), AugmentConfig(colour=0.1))


def test_a_picture_is_no_clip_and_a_clip_no_picture_to_the_other_decoder():
    out = np.zeros(CLIP.shape, np.uint8)
    assert "not a clip" in make_decoder(DecodeConfig(), CLIP)(b"\xff\xd8\xff\xe0", out)
    mp4 = b"\0\0\0\x18ftypisom" + bytes(12)
    assert "MP4, which is not read" in make_decoder(DecodeConfig(), FRAME)(mp4, out[0])
