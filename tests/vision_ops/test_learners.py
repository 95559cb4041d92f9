"""One law for all learners, and what is the classifier's own."""

import atexit
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from shutil import rmtree
from statistics import mean, stdev
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jobs.runtime.learner import added
from vision_ops.augment import AugmentConfig
from vision_ops.card import Card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.faces import FacePreprocess
from vision_ops.learners import LEARNERS
from vision_ops.learners.classify import (
    ClassifierLearner,
    ClassifierLearnerConfig,
    LossConfig,
    ModelConfig,
)
from vision_ops.learners.faces import FaceLearner, FaceLearnerConfig, FaceModelConfig
from vision_ops.learners.localize import (
    LocalizerLearner,
    LocalizerLearnerConfig,
    LocalizerModelConfig,
)
from vision_ops.learners.optimizer import OptimConfig, make_optimizer, rate
from vision_ops.learners.style import (
    AdainModelConfig,
    StyleLearner,
    StyleLearnerConfig,
    StyleLossConfig,
    StyleModelConfig,
    StylePicture,
)
from vision_ops.models import build
from vision_ops.normalize import normalize
from vision_ops.preprocess import Preprocess

SMALL = Preprocess(height_px=12, width_px=12, resize_px=0)
CLASSIFIER = ClassifierLearnerConfig(
    model=ModelConfig(preprocess=SMALL),
    optim=OptimConfig(learning_rate=2e-3),
    loss=LossConfig(label_smoothing=0.0),
    augment=AugmentConfig(rotation_deg=5, shift=0.05),
    classes=("a", "b", "c"),
    num_steps=50,
    seed=3,
)
LOCALIZER = LocalizerLearnerConfig(
    model=LocalizerModelConfig(preprocess=SMALL),
    optim=OptimConfig(learning_rate=5e-3),
    augment=AugmentConfig(shift=0.02),
    classes=("a", "b", "c"),
    num_steps=50,
    seed=3,
)
FACES = FaceLearnerConfig(
    model=FaceModelConfig(embedding_size=16, preprocess=FacePreprocess(height_px=12, width_px=12)),
    optim=OptimConfig(learning_rate=3e-3),
    augment=AugmentConfig(shift=0.02),
    people=3,
    batch_people=3,
    num_steps=50,
    seed=3,
)


@cache
def style_config() -> StyleLearnerConfig:
    """Two styles of noise, by the features of a small network of random weights."""
    torch.manual_seed(0)
    features = build("residual", 3)
    card = Card(
        network="residual",
        classes=("a", "b", "c"),
        preprocess=SMALL,
        licence="Apache-2.0",
        source="random",
        embedding_size=160,
    )
    path = Path(mkdtemp(prefix="argus-features-")) / "net.safetensors"
    atexit.register(rmtree, path.parent)
    save_checkpoint(path, features, card)
    random = np.random.default_rng(0)
    styles = (random.integers(0, high, (20, 16, 3), dtype=np.uint8) for high in (60, 256))
    return StyleLearnerConfig(
        model=StyleModelConfig(width=4, preprocess=SMALL),
        optim=OptimConfig(learning_rate=2e-2, weight_decay=0.0),
        loss=StyleLossConfig(style_weight=10.0, style_layers=("stem.2", "blocks.0")),
        augment=AugmentConfig(shift=0.02),
        features=str(path),
        styles=tuple(StylePicture(name=n, pixels=p) for n, p in zip("uv", styles, strict=True)),
        num_steps=50,
        seed=3,
    )


def any_style_config() -> StyleLearnerConfig:
    """The same for the style of any picture, by the deepest of these features."""
    loss = StyleLossConfig(
        style_weight=1.0, content_layer="blocks.0", style_layers=("stem.2", "blocks.0")
    )
    return replace(style_config(), model=AdainModelConfig(preprocess=SMALL), loss=loss)


MAKE: dict[str, Callable[[], Any]] = {
    "classify": lambda: ClassifierLearner(CLASSIFIER),
    "faces": lambda: FaceLearner(FACES),
    "localize": lambda: LocalizerLearner(LOCALIZER),
    "style": lambda: StyleLearner(style_config()),
    "style_any": lambda: StyleLearner(any_style_config()),
}
"""each learner of the dict, that of style with each kind of network"""
LOSS_BOUND = {"classify": 0.05, "faces": 0.1, "localize": 0.7, "style": 2.0, "style_any": 0.7}
"""what 50 steps on one batch must reach; the first loss is ln 3 = 1.1, of boxes about 3 more, of
faces the margin, 0.2; noise unpainted costs 4.5 in the style of other noise"""


def make_batch(count: int = 24) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 12, 12, 3), generator=random, dtype=torch.uint8)
    corner = torch.rand(count, 2, generator=random) / 2
    size = 0.2 + torch.rand(count, 2, generator=random) * 0.3
    boxes = torch.cat([corner, corner + size], dim=1)
    target, row = torch.arange(count) % 3, torch.arange(count)
    return {"pixels": pixels, "target": target, "box": boxes, "row": row}


def all_weights(learner: Any) -> torch.Tensor:
    tensors = [
        tensor.flatten().double()
        for network in learner.networks.values()
        for tensor in network.state_dict().values()
    ]
    return torch.cat(tensors)


def test_every_learner_has_its_case():
    assert {name.removesuffix("_any") for name in MAKE} == LEARNERS.keys()
    assert MAKE.keys() == LOSS_BOUND.keys()


@pytest.mark.parametrize("name", MAKE)
def test_fifty_steps_on_one_batch_bring_the_loss_below_its_bound(name: str):
    learner, batch = MAKE[name](), make_batch()
    losses = [learner.step(batch)["objective"] for _ in range(50)]
    assert losses[-1] < LOSS_BOUND[name] < losses[0]


@pytest.mark.parametrize("name", MAKE)
def test_same_seed_gives_same_weights_bit_for_bit(name: str):
    once, again, batch = MAKE[name](), MAKE[name](), make_batch()
    for _ in range(3):
        assert once.step(batch) == again.step(batch)
    assert torch.equal(all_weights(once), all_weights(again))


@pytest.mark.parametrize("name", MAKE)
def test_evaluation_in_halves_sums_to_that_of_the_whole(name: str):
    learner, batch = MAKE[name](), make_batch()
    learner.step(batch)
    halves = added(
        learner.evaluate({key: value[chosen] for key, value in batch.items()})
        for chosen in (slice(0, 7), slice(7, None))
    )
    whole = learner.evaluate(batch)
    assert halves.keys() == whole.keys()
    for key, value in whole.items():
        np.testing.assert_allclose(halves[key], value, rtol=1e-6, atol=1e-6)
    wanted = pytest.approx(learner.summarize(whole), rel=1e-5, nan_ok=True)
    assert learner.summarize(halves) == wanted


@pytest.mark.parametrize("name", MAKE)
def test_evaluation_changes_no_weight(name: str):
    learner, batch = MAKE[name](), make_batch()
    learner.step(batch)
    before = all_weights(learner)
    learner.evaluate(batch)
    assert torch.equal(all_weights(learner), before)


@pytest.mark.parametrize("name", MAKE)
def test_state_saved_and_loaded_continues_bit_for_bit(name: str):
    first, second, batch = MAKE[name](), MAKE[name](), make_batch()
    for _ in range(4):
        first.step(batch)
    saved = BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    second.load_state_dict(torch.load(saved, weights_only=True))
    for _ in range(3):
        assert first.step(batch) == second.step(batch)
    assert torch.equal(all_weights(first), all_weights(second))


@pytest.mark.parametrize("name", MAKE)
def test_step_leaves_the_batch_as_it_was(name: str):
    learner, batch = MAKE[name](), make_batch()
    learner.step(batch)
    assert all(torch.equal(value, make_batch()[key]) for key, value in batch.items())


def test_classifier_sums_equal_a_loop_over_images():
    learner, batch = ClassifierLearner(CLASSIFIER), make_batch(5)
    network = learner.descent.network.eval()
    losses, correct = [], 0
    for pixels, target in zip(batch["pixels"], batch["target"], strict=True):
        logits = network(normalize(pixels[None], SMALL, "cpu"))[0].double()
        losses.append(-math.log(logits.softmax(0)[target].item()))
        correct += int(logits.argmax() == target)
    sums = learner.evaluate(batch)
    squares = sum(loss**2 for loss in losses)
    wanted = {"loss": sum(losses), "loss_squared": squares, "correct": correct, "count": 5}
    assert sums == pytest.approx(wanted, rel=1e-5)
    summary = learner.summarize(sums)
    assert summary["loss"] == pytest.approx(mean(losses), rel=1e-5)
    assert summary["loss_error"] == pytest.approx(stdev(losses) / math.sqrt(5), rel=1e-4)


def test_label_smoothing_counts_in_training_alone():
    smooth = replace(CLASSIFIER, loss=LossConfig(label_smoothing=0.2), augment=AugmentConfig())
    learner, batch = ClassifierLearner(smooth), make_batch()
    network = learner.descent.network.train()
    logits = network(normalize(batch["pixels"], SMALL, "cpu"))
    wanted = F.cross_entropy(logits, batch["target"], label_smoothing=0.2)
    fresh = ClassifierLearner(smooth)
    assert fresh.step(batch)["objective"] == pytest.approx(wanted.item(), rel=1e-5)


def test_moving_average_is_what_is_saved(tmp_path: Path):
    config = replace(CLASSIFIER, optim=OptimConfig(ema_decay=0.9))
    learner, batch = ClassifierLearner(config), make_batch()
    for _ in range(5):
        learner.step(batch)
    learner.save(tmp_path / "net.safetensors")
    network, card = load_checkpoint(tmp_path / "net.safetensors", "cpu")
    assert learner.descent.average is not None
    for name, tensor in learner.descent.average.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)
    assert not torch.equal(learner.descent.average.head.weight, learner.descent.network.head.weight)  # pyright: ignore
    assert card.classes == CLASSIFIER.classes
    assert card.preprocess == SMALL


def test_moving_average_follows_faster_in_the_first_steps():
    """By min(d, (1 + t) / (10 + t)) of itself behind step t."""
    learner, batch = ClassifierLearner(replace(CLASSIFIER, optim=OptimConfig(ema_decay=0.2))), None
    wanted = learner.descent.network.head.weight.detach().clone()  # pyright: ignore
    for step in range(1, 4):
        batch = make_batch()
        learner.step(batch)
        decay = min(0.2, (1 + step) / (10 + step))
        weight = learner.descent.network.head.weight.detach()  # pyright: ignore
        wanted = decay * wanted + (1 - decay) * weight
        average = learner.descent.average
        assert average is not None
        assert torch.allclose(average.head.weight, wanted, atol=1e-7)  # pyright: ignore


def test_weight_decay_spares_biases_and_norms():
    learner = ClassifierLearner(CLASSIFIER)
    decayed, spared = make_optimizer(learner.descent.network, CLASSIFIER.optim).param_groups
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(spared["params"]) == len(
        [*learner.descent.network.parameters()]
    )


def test_weight_decay_spares_scales_of_several_axes():
    for network, spared_name in (("style_transform:8", "scale"), ("timm:convnext_atto", "gamma")):
        model = build(network, 2)
        known = {id(p): name for name, p in model.named_parameters()}
        decayed, spared = make_optimizer(model, OptimConfig()).param_groups
        names = [{known[id(p)].rpartition(".")[2] for p in g["params"]} for g in (decayed, spared)]
        assert spared_name in names[1]
        assert names[0] == {"weight"}
    (decayed, spared) = make_optimizer(torch.nn.Linear(8, 1), OptimConfig()).param_groups
    assert [p.shape for p in (*decayed["params"], *spared["params"])] == [(1, 8), (1,)]


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "linear", "steps", "constant"])
def test_rate_rises_to_one_and_ends_as_the_schedule_says(schedule: Any):
    config = OptimConfig(schedule=schedule, warmup=0.2)
    rates = [rate(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 25)
    assert rates[20] == pytest.approx(1.0)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[100] == pytest.approx({"constant": 1.0, "steps": 0.01}.get(schedule, 0.0))
    middle = {"cosine": 0.5, "one_cycle": 0.5, "linear": 0.5, "steps": 0.1, "constant": 1.0}
    assert rates[60] == pytest.approx(middle[schedule])


def test_gradient_longer_than_the_limit_is_clipped():
    moves = []
    for limit in (0.0, 0.1):  # none, and one that the gradient exceeds
        optim = OptimConfig(
            optimizer="sgd", clip_norm=limit, weight_decay=0, momentum=0, schedule="constant",
            warmup=0, learning_rate=1.0,
        )  # fmt: skip
        learner = ClassifierLearner(replace(CLASSIFIER, optim=optim))
        network = learner.descent.network
        before = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
        found = learner.step(make_batch())
        moves.append(torch.cat([p.detach().flatten() for p in network.parameters()]) - before)
        assert found["gradient_norm"] > 0.2
    assert moves[1].norm() == pytest.approx(0.1, rel=1e-3)
    assert F.cosine_similarity(*moves, dim=0) == pytest.approx(1, abs=1e-4)


def first_objective(
    kind: Any = "cross_entropy", class_weights: dict[str, float] | None = None, **optim: Any
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Of a fresh learner; with the logits and the target it is of."""
    config = replace(
        CLASSIFIER,
        optim=OptimConfig(**optim),
        loss=LossConfig(kind=kind, label_smoothing=0.0, class_weights=class_weights or {}),
        augment=AugmentConfig(),
        counts=(6, 3, 1),
    )
    learner, batch = ClassifierLearner(config), make_batch()
    logits = learner.descent.network.train()(normalize(batch["pixels"], SMALL, "cpu")).detach()
    return ClassifierLearner(config).step(batch)["objective"], logits, batch["target"]


def test_mse_is_of_the_probabilities_over_all_classes():
    found, logits, target = first_objective("mse")
    wrong = logits.softmax(dim=1) - F.one_hot(target, 3)
    assert found == pytest.approx(wrong.square().mean().item(), rel=1e-5)


def test_balanced_loss_weighs_each_class_by_how_rare_it_is():
    found, logits, target = first_objective("balanced_cross_entropy")
    weights = torch.tensor([10 / 18, 10 / 9, 10 / 3])  # counts 6, 3, 1: each class sums to 10 / 3
    losses = F.cross_entropy(logits, target, reduction="none")
    assert found == pytest.approx((losses * weights[target]).mean().item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_a_picture_counts_what_its_class_is_given(kind: str):
    found, logits, target = first_objective(kind, {CLASSIFIER.classes[1]: 5.0})
    losses = F.cross_entropy(logits, target, reduction="none")
    if kind == "mse":
        losses = (logits.softmax(dim=1) - F.one_hot(target, 3)).square().mean(dim=1)
    weights = torch.tensor([1.0, 5.0, 1.0])
    assert found == pytest.approx((losses * weights[target]).mean().item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["cross_entropy", "balanced_cross_entropy", "mse"])
def test_smoothed_targets_of_weighted_classes_are_still_what_is_learnt(kind: Any):
    """However rare a class: the answer that costs least is the picture's own, smoothed."""
    given = {"a": 1.0, "b": 30.0, "c": 500.0} if kind != "balanced_cross_entropy" else {}
    loss = LossConfig(kind=kind, label_smoothing=0.1, class_weights=given)
    learner = ClassifierLearner(replace(CLASSIFIER, loss=loss, counts=(1000, 30, 1)))
    smoothed = F.one_hot(torch.arange(3), 3) * 0.9 + 0.1 / 3
    for target in (torch.arange(3), F.one_hot(torch.arange(3), 3).float()):
        logits = smoothed.log().requires_grad_()
        learner._loss(logits, target).backward()
        assert logits.grad is not None
        assert logits.grad.abs().max() < 1e-4
    mixed = torch.tensor([[0.3, 0.0, 0.7]])  # as its parts count
    one, other, both = (
        learner._loss(torch.tensor([[0.2, 1.0, -0.5]]), target).item()
        for target in (torch.tensor([0]), torch.tensor([2]), mixed)
    )
    if kind != "mse":
        assert both == pytest.approx(0.3 * one + 0.7 * other, rel=1e-5)


def test_evaluation_weighs_classes_as_training_does():
    weighted = replace(CLASSIFIER, loss=LossConfig(class_weights={"b": 5.0}))
    batch = make_batch()
    learner = ClassifierLearner(weighted)
    logits = learner.descent.evaluated.eval()(normalize(batch["pixels"], SMALL, "cpu"))
    losses = F.cross_entropy(logits.double(), batch["target"], reduction="none")
    losses = losses * torch.tensor([1.0, 5.0, 1.0]).double()[batch["target"]]
    found, plain = learner.evaluate(batch), ClassifierLearner(CLASSIFIER).evaluate(batch)
    assert found["loss"] == pytest.approx(losses.sum().item())
    assert found["loss_squared"] == pytest.approx(losses.square().sum().item())
    assert (found["correct"], found["count"]) == (plain["correct"], plain["count"])


def test_l1_adds_the_absolute_weights_of_matrices():
    plain, *_ = first_objective()
    more, *_ = first_objective(l1=0.01)
    weights = [p for p in ClassifierLearner(CLASSIFIER).descent.network.parameters() if p.ndim > 1]
    wanted = 0.01 * sum(p.abs().sum().item() for p in weights)
    assert more - plain == pytest.approx(wanted, rel=1e-4)


def test_dropout_acts_in_training_alone_and_leaves_no_trace_in_the_weights():
    plain = ClassifierLearner(CLASSIFIER)
    config = replace(CLASSIFIER, model=ModelConfig(preprocess=SMALL, dropout=0.5))
    dropped, batch = ClassifierLearner(config), make_batch()
    names = [each.descent.network.state_dict().keys() for each in (dropped, plain)]
    assert names[0] == names[1]
    assert dropped.evaluate(batch) == plain.evaluate(batch)
    assert dropped.step(batch)["objective"] != plain.step(batch)["objective"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LossConfig(class_weights={"a": 0}), "loss.class_weights a 0"),
        (
            lambda: LossConfig(kind="balanced_cross_entropy", class_weights={"a": 2}),
            "balanced_cross_entropy weighs classes itself",
        ),
        (
            lambda: replace(CLASSIFIER, loss=LossConfig(class_weights={"none": 2})),
            "loss.class_weights 'none': not a class; there are",
        ),
        (lambda: OptimConfig(l1=-1), "optim.l1 -1"),
        (lambda: ModelConfig(dropout=1), "model.dropout 1"),
        (
            lambda: replace(CLASSIFIER, loss=LossConfig(kind="balanced_cross_entropy")),
            "one above 0 for each",
        ),
        (lambda: OptimConfig(learning_rate=0), "optim.learning_rate 0"),
        (lambda: OptimConfig(ema_decay=1.0), "optim.ema_decay 1.0"),
        (lambda: OptimConfig(clip_norm=-1), "optim.clip_norm -1"),
        (lambda: ModelConfig(network="cnn_cifar10"), "takes pictures of 32 x 32"),
        (lambda: replace(CLASSIFIER, classes=("a",)), "at least two"),
        (lambda: replace(CLASSIFIER, num_steps=0), "num_steps 0"),
    ],
)
def test_impossible_values_are_refused_by_name(make: Callable[[], object], said: str):
    with pytest.raises(ValueError, match=said):
        make()
