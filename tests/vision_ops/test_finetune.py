"""Starting from weights that exist, letting the last layer learn first, batches in pieces."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vision_ops.augment import AugmentConfig
from vision_ops.card import read_card, sha256_file
from vision_ops.clips import ClipPreprocess
from vision_ops.learners.classify import (
    ClassifierLearner,
    ClassifierLearnerConfig,
    LossConfig,
    ModelConfig,
)
from vision_ops.learners.optimizer import OptimConfig, make_optimizer
from vision_ops.models import build
from vision_ops.preprocess import Preprocess

SMALL = Preprocess(height_px=16, width_px=16, resize_px=0)
BIG = Preprocess(height_px=224, width_px=224, resize_px=0)
CONFIG = ClassifierLearnerConfig(
    model=ModelConfig(preprocess=SMALL),
    optim=OptimConfig(learning_rate=2e-3),
    augment=AugmentConfig(),
    classes=("a", "b", "c"),
    num_steps=10,
)


def make_batch(count: int = 12, size: int = 16) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, size, size, 3), generator=random, dtype=torch.uint8)
    return {"pixels": pixels, "target": torch.arange(count) % 3}


def state_of(learner: ClassifierLearner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.descent.network.state_dict().items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three classes that has learnt a little."""
    learner = ClassifierLearner(CONFIG)
    for _ in range(3):
        learner.step(make_batch())
    path = tmp_path_factory.mktemp("weights") / "base.safetensors"
    learner.save(path)
    return path


def start_from(weights: Path, **model: Any) -> ClassifierLearnerConfig:
    return replace(CONFIG, model=ModelConfig(preprocess=SMALL, weights=str(weights), **model))


def test_the_last_layer_is_kept_for_the_same_classes_and_new_for_others(weights: Path):
    kept = ClassifierLearner(start_from(weights))
    other = ClassifierLearner(replace(start_from(weights), classes=("c", "b", "a")))
    fresh = ClassifierLearner(replace(CONFIG, classes=("c", "b", "a")))
    assert torch.equal(state_of(kept)["head.weight"], state_of(other)["head.weight"]) is False
    for name, value in state_of(kept).items():
        wanted = fresh if name.startswith("head.") else kept
        assert torch.equal(state_of(other)[name], state_of(wanted)[name]), (name, value.shape)
    assert kept.evaluate(make_batch())["loss"] < fresh.evaluate(make_batch())["loss"]


def test_more_classes_than_the_start_had_get_a_layer_of_their_size(weights: Path, tmp_path: Path):
    wide = ClassifierLearner(replace(start_from(weights), classes=tuple("abcdefg")))
    assert wide.descent.network.head.out_features == 7  # pyright: ignore
    wide.save(tmp_path / "next.safetensors")
    assert read_card(tmp_path / "next.safetensors").parent == sha256_file(weights)


def test_weights_of_another_network_are_refused_by_name(weights: Path):
    with pytest.raises(ValueError, match="network resnet20: model.weights are of residual"):
        ClassifierLearner(start_from(weights, network="resnet20"))


def test_frozen_steps_change_the_last_layer_alone_and_no_statistics(weights: Path):
    learner = ClassifierLearner(start_from(weights, frozen=0.3))
    before = state_of(learner)
    for _ in range(3):
        learner.step(make_batch())
    after = state_of(learner)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"head.weight", "head.bias"}
    learner.step(make_batch())
    late = {
        name for name, value in state_of(learner).items() if not torch.equal(value, after[name])
    }
    assert {"stem.0.weight", "stem.1.running_mean", "head.weight"} <= late


def test_a_training_that_goes_on_is_frozen_as_long_as_an_undisturbed_one(weights: Path):
    config = start_from(weights, frozen=0.5)
    whole, first, rest = (ClassifierLearner(config) for _ in range(3))
    for _ in range(7):
        whole.step(make_batch())
    for _ in range(4):
        first.step(make_batch())
    rest.load_state_dict(first.state_dict())
    for _ in range(3):
        rest.step(make_batch())
    assert all(torch.equal(value, state_of(rest)[name]) for name, value in state_of(whole).items())


@pytest.mark.parametrize("pieces", [2, 5, 12, 40])
def test_a_batch_in_pieces_steps_as_the_whole_batch_does(pieces: int):
    whole = replace(
        CONFIG,
        model=ModelConfig(
            network="cnn_cifar10", preprocess=replace(SMALL, height_px=32, width_px=32)
        ),
        optim=OptimConfig(optimizer="sgd", learning_rate=0.1, l1=1e-4),
    )
    one, many = ClassifierLearner(whole), ClassifierLearner(replace(whole, num_passes=pieces))
    batch = make_batch(size=32)
    told = [(one.step(batch), many.step(batch)) for _ in range(3)]
    for left, right in told:
        assert left == pytest.approx(right, rel=1e-4)
    for name, value in state_of(one).items():
        torch.testing.assert_close(state_of(many)[name], value, rtol=1e-4, atol=1e-6)


class CountsReductions(nn.Module):
    """Stands where DistributedDataParallel does; counts backward passes that share gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.shared, self.passes, self.alone = network, 0, 0, False

    def no_sync(self) -> Any:
        outer = self

        class Alone:
            def __enter__(self) -> None:
                outer.alone = True

            def __exit__(self, *_: object) -> None:
                outer.alone = False

        return Alone()

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        self.shared += not self.alone
        return self.network(images)


def test_workers_share_gradients_once_a_batch_however_many_pieces_it_has():
    learner = ClassifierLearner(replace(CONFIG, num_passes=5))
    learner.distribute(CountsReductions)
    for _ in range(2):
        learner.step(make_batch())
    assert isinstance(learner.descent.forward, CountsReductions)
    forward = learner.descent.forward
    assert (forward.passes, forward.shared) == (10, 2)  # 12 pictures: 2, 2, 3, 2, 3


@pytest.mark.parametrize(
    ("count", "pieces", "sizes"),
    [(7, 3, [2, 2, 3]), (13, 4, [3, 3, 3, 4]), (5, 4, [2, 3]), (8, 4, [2] * 4), (1, 3, [1])],
)
def test_pieces_of_a_batch_are_even_and_none_is_a_single_picture(
    count: int, pieces: int, sizes: list[int]
):
    """Batch norm over one picture with a map of one position raises in torch."""
    learner = ClassifierLearner(replace(CONFIG, num_passes=pieces))
    seen: list[int] = []

    def loss(piece: slice) -> Tensor:
        seen.append(piece.stop - piece.start)
        return sum((p.sum() for p in learner.descent.network.parameters()), torch.zeros(()))

    learner.descent._backward(count, loss)
    assert seen == sizes


def test_vectors_may_learn_at_a_rate_of_their_own():
    config = OptimConfig(optimizer="sgd", learning_rate=0.5, vector_rate=64, momentum=0.85)
    matrices, vectors = make_optimizer(build("residual", 3), config).param_groups
    assert (matrices["lr"], vectors["lr"], matrices["momentum"]) == (0.5, 32.0, 0.85)


def test_first_weights_that_depend_on_the_data_are_set_once_by_what_was_asked_for():
    size = Preprocess(height_px=32, width_px=32, resize_px=0)
    config = replace(
        CONFIG,
        model=ModelConfig(network="fast_cifar10", preprocess=size),
        optim=OptimConfig(ema_decay=0.9),
        loss=LossConfig(label_smoothing=0.2),
    )
    learner, asked = ClassifierLearner(config), list[int]()

    def sample(count: int) -> dict[str, Tensor]:
        asked.append(count)
        return make_batch(64, 32)

    before = state_of(learner)["whiten.weight"]
    learner.begin(sample)
    after = state_of(learner)["whiten.weight"]
    assert asked == [5000]
    assert not torch.equal(before, after)
    assert learner.descent.average is not None
    assert torch.equal(learner.descent.average.state_dict()["whiten.weight"], after)
    learner.step(make_batch(8, 32))
    assert torch.equal(state_of(learner)["whiten.weight"], after)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"activation": "tanh"}, "learnt with relu between its layers, not tanh"),
        ({"preprocess": replace(SMALL, mean=(0, 0, 0))}, r"learnt with mean .*--model.preprocess"),
    ],
)
def test_weights_that_learnt_otherwise_are_refused(
    weights: Path, changed: dict[str, Any], said: str
):
    config = start_from(weights)
    with pytest.raises(ValueError, match=said):
        ClassifierLearner(replace(config, model=replace(config.model, **changed)))


def test_weights_that_were_learnt_are_not_begun_anew(tmp_path: Path):
    size = Preprocess(height_px=32, width_px=32, resize_px=0)
    model = ModelConfig(network="fast_cifar10", preprocess=size)
    first = ClassifierLearner(replace(CONFIG, model=model))
    first.begin(lambda count: make_batch(64, 32))
    first.save(tmp_path / "w.safetensors")
    second = ClassifierLearner(
        replace(CONFIG, model=replace(model, weights=str(tmp_path / "w.safetensors")))
    )

    def refuse(count: int) -> dict[str, Tensor]:
        raise AssertionError(f"asked for {count} pictures")

    second.begin(refuse)
    assert torch.equal(state_of(second)["whiten.weight"], state_of(first)["whiten.weight"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ModelConfig(frozen=0.5), "model.frozen: random weights would stay random"),
        (lambda: ModelConfig(frozen=1.5, weights="x"), "model.frozen 1.5"),
        (lambda: ModelConfig(network=""), "model.network: name one"),
        (
            lambda: ModelConfig(network="", weights="x", preprocess=SMALL),
            "model.preprocess: is that of model.weights",
        ),
        (lambda: replace(CONFIG, num_passes=0), "num_passes 0"),
        (lambda: replace(CONFIG, augment=AugmentConfig(crop_pad_px=16)), "crop_pad_px 16"),
        (lambda: LossConfig(label_smoothing=1.0), "loss.label_smoothing 1.0"),
        (lambda: OptimConfig(vector_rate=0), "optim.vector_rate 0"),
    ],
)
def test_impossible_values_are_refused_by_name(make: Callable[[], object], said: str):
    with pytest.raises(ValueError, match=said):
        make()


CLIP = ClipPreprocess(num_frames=3, frame=SMALL)


def clips_from(weights: Path, preprocess: ClipPreprocess = CLIP, **model: Any) -> ModelConfig:
    named: dict[str, Any] = {"network": "cnn_gru:residual", "weights": str(weights)}
    return ModelConfig(preprocess=preprocess, **(named | model))


def make_clips(count: int = 6) -> dict[str, Tensor]:
    batch = make_batch(3 * count)
    return {"pixels": batch["pixels"].unflatten(0, (count, 3)), "target": torch.arange(count) % 3}


def test_a_network_of_clips_starts_from_that_of_its_frames_which_may_wait(weights: Path):
    model = clips_from(weights, frozen=0.5)
    learner = ClassifierLearner(replace(CONFIG, model=model, num_steps=4))
    start, before = load_file(weights), state_of(learner)
    names = [name for name in start if not name.startswith("head.")]
    assert names
    assert all(torch.equal(before[f"encoder.{name}"], start[name]) for name in names)
    for _ in range(2):
        learner.step(make_clips())
    frozen = state_of(learner)
    assert all(torch.equal(frozen[f"encoder.{name}"], start[name]) for name in names)
    for behind in ("recurrent.weight_ih_l0", "head.weight", "norm.running_mean"):
        assert not torch.equal(frozen[behind], before[behind])
    learner.step(make_clips())
    assert not torch.equal(state_of(learner)["encoder.stem.0.weight"], start["stem.0.weight"])


def test_frames_that_looked_otherwise_and_networks_of_others_are_refused(weights: Path):
    darker = replace(CLIP, frame=replace(SMALL, mean=(0.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match=r"learnt with mean .*--model.preprocess.frame.mean is"):
        ClassifierLearner(replace(CONFIG, model=clips_from(weights, darker)))
    other = clips_from(weights, network="cnn_gru:cnn_224", preprocess=replace(CLIP, frame=BIG))
    with pytest.raises(ValueError, match="cnn_gru:cnn_224: model.weights are of residual"):
        ClassifierLearner(replace(CONFIG, model=other))


def test_phases_hold_for_as_many_steps_as_are_timed(weights: Path):
    learner = ClassifierLearner(start_from(weights, frozen=0.3))
    phases, first = learner.phases(), state_of(learner)["stem.0.weight"]
    assert next(phases) == pytest.approx(0.3)
    for _ in range(12):  # two more than the training has
        learner.step(make_batch())
    assert torch.equal(state_of(learner)["stem.0.weight"], first)
    assert next(phases) == pytest.approx(0.7)
    learner.descent.schedule.last_epoch = 0  # behind the end the rate is 0
    for _ in range(2):
        learner.step(make_batch())
    assert not torch.equal(state_of(learner)["stem.0.weight"], first)
    assert not list(phases)
    assert list(ClassifierLearner(CONFIG).phases()) == [1.0]
