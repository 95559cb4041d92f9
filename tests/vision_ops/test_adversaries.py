"""Generators and discriminators: shapes, what they lower, and that neither moves the other."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision_ops.augment import AugmentConfig
from vision_ops.augment_pairs import PairAugmentConfig
from vision_ops.card import read_card
from vision_ops.learners.adversaries import Adversaries, as_images, as_pixels, usual_optim
from vision_ops.learners.gan import GanLearner, GanLearnerConfig, GanModelConfig
from vision_ops.learners.translate import (
    TranslationLearner,
    TranslationLearnerConfig,
    TranslationLossConfig,
    TranslationModelConfig,
)
from vision_ops.losses.adversarial import AdversarialConfig, discriminator_loss, generator_loss
from vision_ops.metrics.sliced import (
    projected,
    projected_patches,
    sliced_distance,
    texture_distance,
)
from vision_ops.models import build
from vision_ops.models.dcgan import DcganDiscriminator, DcganGenerator
from vision_ops.models.patch_gan import PatchDiscriminator, least_side, receptive_field
from vision_ops.models.unet import UNet, usual_depth
from vision_ops.noise import Noise, noise_of
from vision_ops.pairs import PairPreprocess
from vision_ops.preprocess import Preprocess

OPTIM = replace(usual_optim(), learning_rate=5e-3)
PAIR = PairPreprocess(height_px=16, width_px=16)
MODEL = TranslationModelConfig(width=4, discriminator_halvings=1, preprocess=PAIR, dropout=0.0)
SQUARE = Preprocess(height_px=16, width_px=16, resize_px=16)


def translator(**more: Any) -> TranslationLearner:
    defaults: dict[str, Any] = {
        "model": MODEL,
        "optim": OPTIM,
        "augment": PairAugmentConfig(jitter=0, flip=False),
        "num_steps": 100,
    }
    return TranslationLearner(TranslationLearnerConfig(**{**defaults, **more}))


def dreamer(**more: Any) -> GanLearner:
    model = GanModelConfig(width=4, noise=Noise(length=5), preprocess=SQUARE)
    defaults: dict[str, Any] = {"model": model, "optim": OPTIM, "num_steps": 100}
    return GanLearner(GanLearnerConfig(**{**defaults, **more}))


def pair_batch(count: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Targets that follow from their sources: the colours inverted."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    given = torch.from_numpy(coarse.repeat(4, axis=1).repeat(4, axis=2))
    pixels = torch.stack([given, 255 - given], dim=1)
    return {"pixels": pixels, "row": torch.arange(count)}


def square_batch(count: int = 8) -> dict[str, Tensor]:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return {"pixels": torch.from_numpy(pixels), "row": torch.arange(count)}


def batch_for(learner: TranslationLearner | GanLearner) -> dict[str, Tensor]:
    return pair_batch() if isinstance(learner, TranslationLearner) else square_batch()


@pytest.mark.parametrize(
    ("height", "width", "depth"), [(64, 64, 6), (128, 128, 7), (256, 256, 8), (32, 48, 4)]
)
def test_a_u_net_of_the_usual_depth_keeps_the_size(height: int, width: int, depth: int):
    assert usual_depth(height, width) == depth
    network = build(f"unet:2x{depth}", 0).eval()
    assert isinstance(network, UNet)
    images = torch.rand(2, 3, height, width) * 2 - 1
    with torch.no_grad():
        made = network(images)
        assert made.shape == images.shape
        assert made.abs().max() < 1
        # no picture depends on what it shares a batch with
        assert torch.allclose(network(images[:1]), made[:1], atol=1e-6)


def test_the_papers_generator_has_the_papers_layers():
    with torch.device("meta"):
        network = build("unet:64x8", 0)
    assert isinstance(network, UNet)
    widths = [layer.convolution.weight.shape[0] for layer in network.down]  # pyright: ignore
    assert widths == [64, 128, 256, 512, 512, 512, 512, 512]
    inputs = [layer.convolution.weight.shape[0] for layer in network.up]  # pyright: ignore
    assert inputs == [512, 1024, 1024, 1024, 1024, 512, 256]
    dropped = [isinstance(layer.dropout, nn.Dropout) for layer in network.up]  # pyright: ignore
    assert dropped == [True] * 3 + [False] * 4


def test_what_is_handed_across_reaches_the_result():
    """With the innermost layers silenced a source still shows in what is made."""
    network = build("unet:4x4", 0).eval()
    assert isinstance(network, UNet)
    with torch.no_grad():
        network.up[0].convolution.weight.zero_()  # pyright: ignore
        one, other = (network(torch.full((1, 3, 16, 16), value)) for value in (-0.5, 0.5))
    assert (one - other).abs().max() > 1e-4


def test_first_weights_are_drawn_as_the_paper_draws_them():
    torch.manual_seed(0)
    for network in (build("unet:32x5", 0), build("dcgan:32x32", 100), PatchDiscriminator(32)):
        kernels = torch.cat([p.flatten() for p in network.parameters() if p.ndim == 4])
        assert kernels.mean().item() == pytest.approx(0, abs=1e-3)
        assert kernels.std().item() == pytest.approx(0.02, rel=0.02)
        for layer in network.modules():
            if isinstance(layer, nn.InstanceNorm2d | nn.BatchNorm2d):
                assert layer.weight.std().item() < 0.04
                assert layer.weight.mean().item() == pytest.approx(1, abs=0.02)
                assert not layer.bias.any()


@pytest.mark.parametrize(("halvings", "size"), [(1, 16), (2, 34), (3, 70), (5, 286)])
def test_a_logit_is_of_a_patch_of_the_papers_size(halvings: int, size: int):
    assert receptive_field(halvings) == size
    network = PatchDiscriminator(2, halvings).double()
    for k, layer in enumerate(network.layers):
        if isinstance(layer, nn.InstanceNorm2d):  # looks at all of a map
            network.layers[k] = nn.Identity()
    side = size + 2 * 2**halvings
    pairs = torch.randn(1, 6, side, side, dtype=torch.float64, requires_grad=True)
    (logits,) = network(pairs)
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    assert pairs.grad is not None
    seen = pairs.grad.abs().sum(dim=(0, 1))
    rows, columns = seen.sum(dim=1).nonzero(), seen.sum(dim=0).nonzero()
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (size, size)


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_the_least_side_has_one_patch_and_less_has_none(halvings: int):
    network, side = PatchDiscriminator(2, halvings), least_side(halvings)
    (logits,) = network(torch.zeros(2, 6, side, side))
    assert logits.shape == (2, 1, 1, 1)
    with pytest.raises((RuntimeError, ValueError)):
        network(torch.zeros(2, 6, side // 2, side // 2))


def test_a_discriminator_that_knows_nothing_costs_both_log_two():
    nothing = torch.zeros(3, 1, 2, 2)
    for found in (discriminator_loss(nothing, nothing, "log"), generator_loss(nothing, "log")):
        assert found.shape == (3,)
        assert found.tolist() == pytest.approx([math.log(2)] * 3)


def test_losses_are_those_of_the_papers_by_hand():
    real, made = torch.tensor([[[[1.0, -2.0]]]]), torch.tensor([[[[0.5, 3.0]]]])

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    on_real = -(math.log(sigmoid(1)) + math.log(sigmoid(-2))) / 2
    on_made = -(math.log(1 - sigmoid(0.5)) + math.log(1 - sigmoid(3))) / 2
    assert discriminator_loss(real, made, "log").item() == pytest.approx((on_real + on_made) / 2)
    fooled = -(math.log(sigmoid(0.5)) + math.log(sigmoid(3))) / 2
    assert generator_loss(made, "log").item() == pytest.approx(fooled)
    squares = ((0 + 9) / 2 + (0.25 + 9) / 2) / 2
    assert discriminator_loss(real, made, "least_squares").item() == pytest.approx(squares)
    assert generator_loss(made, "least_squares").item() == pytest.approx((0.25 + 4) / 2 / 2)


def test_the_generator_lowers_its_adversarial_loss_and_a_hundred_times_l1():
    learner, batch = translator(), pair_batch()
    generator, discriminator = (learner.networks[name] for name in ("generator", "discriminator"))
    with torch.no_grad():
        given, real = as_images(batch["pixels"][:, 0]), as_images(batch["pixels"][:, 1])
        made = copy.deepcopy(generator).train()(given)
        l1 = np.abs(made.numpy() - real.numpy()).mean()
    found = learner.step(batch)
    assert found["l1"] == pytest.approx(l1, rel=1e-5)
    assert found["objective"] == pytest.approx(found["generator_loss"] + 100 * l1, rel=1e-5)
    # the generator is judged by a discriminator that has learnt from this batch already
    shown = torch.cat([given, made], dim=1)
    logits = discriminator(shown)[0]
    assert found["generator_loss"] == pytest.approx(generator_loss(logits, "log").mean().item())


def recorded(adversaries: Adversaries) -> list[tuple[str, dict[str, list[Tensor]]]]:
    """Makes optimisers note what gradients there are, on both sides, when they step."""
    notes: list[tuple[str, dict[str, list[Tensor]]]] = []
    sides = {"generator": adversaries.generator, "discriminator": adversaries.discriminator}

    def note(name: str) -> Any:
        def hook(*_: Any) -> None:
            held = {
                side: [p.grad.clone() for p in descent.network.parameters() if p.grad is not None]
                for side, descent in sides.items()
            }
            notes.append((name, held))

        return hook

    for name, descent in sides.items():
        descent.optimizer.register_step_pre_hook(note(name))
    return notes


@pytest.mark.parametrize("make", [translator, dreamer])
def test_neither_network_gets_a_gradient_of_the_others_turn(make: Any):
    learner = make()
    notes = recorded(learner.adversaries)
    weights = {
        name: [p.detach().clone() for p in network.parameters()]
        for name, network in learner.networks.items()
    }
    learner.step(batch_for(learner))
    (first, at_first), (second, at_second) = notes
    assert (first, second) == ("discriminator", "generator")
    assert at_first["discriminator"]
    assert not at_first["generator"]
    assert at_second["generator"]
    # still those of its own turn: the generator's pass through it added nothing
    for before, after in zip(at_first["discriminator"], at_second["discriminator"], strict=True):
        assert torch.equal(before, after)
    for name, network in learner.networks.items():
        assert all(p.requires_grad for p in network.parameters())
        moved = [
            not torch.equal(p, q) for p, q in zip(network.parameters(), weights[name], strict=True)
        ]
        assert sum(moved) > len(moved) / 2


def test_a_translator_learns_one_batch():
    learner, batch = translator(), pair_batch()
    first = learner.summarize(learner.evaluate(batch))["loss"]
    for _ in range(25):
        learner.step(batch)
    last = learner.summarize(learner.evaluate(batch))["loss"]
    assert last < 0.5 * first


def test_l1_on_pairs_kept_back_is_that_of_a_loop_beside_the_texture():
    learner, batch = translator(), pair_batch(5)
    generator = learner.networks["generator"].eval()
    losses = []
    for given, real in batch["pixels"]:
        with torch.no_grad():
            made = (generator(as_images(given[None]))[0].permute(1, 2, 0).numpy() + 1) / 2
        losses.append(np.abs(made - real.numpy() / 255).mean())
    found = learner.summarize(learner.evaluate(batch))
    assert found["difference"] == pytest.approx(np.mean(losses), rel=1e-5)
    with torch.no_grad():
        made = projected_patches(generator(as_images(batch["pixels"][:, 0])))
    texture = texture_distance(made, projected_patches(as_images(batch["pixels"][:, 1])))
    assert found["texture"] == pytest.approx(texture, rel=1e-4)
    assert found["loss"] == found["difference"] + found["texture"]


def test_textures_are_far_where_they_are_blurred_or_rough_but_not_where_they_lie_elsewhere():
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.uniform(-1, 1, (64, 3, 8, 8)).astype(np.float32))
    fine = torch.from_numpy(random.uniform(-0.5, 0.5, (64, 3, 32, 32)).astype(np.float32))
    images = F.interpolate(coarse, scale_factor=4, mode="bilinear") + fine
    smooth = F.interpolate(F.avg_pool2d(images, 4), scale_factor=4, mode="bilinear")
    real = projected_patches(images)
    assert real.shape == (64, 3, 32, 32)  # bands of 32, 16, 8 px; patches; directions

    def off(other: Tensor) -> float:
        return texture_distance(projected_patches(other), real)

    assert texture_distance(real[::-1], real) == 0
    elsewhere = off(images.roll((4, 4), (2, 3)))
    assert elsewhere < 0.15
    rough = images + torch.from_numpy(random.normal(0, 0.5, images.shape).astype(np.float32))
    assert min(off(smooth), off(rough)) > 3 * elsewhere
    assert off(images + 0.3) > 1.5 * elsewhere  # of three bands the last alone sees it
    # by L1 what is smooth is nearer than what lies elsewhere: textures tell what it cannot
    assert (smooth - images).abs().mean() < (images.roll((4, 4), (2, 3)) - images).abs().mean()
    # by hand, of one band: patches in order along each direction, in parts of their deviation
    ours, theirs = (each[:, 1].reshape(-1, 32) for each in (projected_patches(smooth), real))
    apart = np.abs(np.sort(ours, axis=0) - np.sort(theirs, axis=0)).mean(axis=0) / theirs.std(0)
    alone = texture_distance(projected_patches(smooth)[:, 1:2], real[:, 1:2])
    assert alone == pytest.approx(apart.mean(), rel=1e-4)


def test_a_flat_picture_has_a_finite_distance():
    flat, other = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5)
    assert texture_distance(projected_patches(flat), projected_patches(flat)) == 0
    assert 1 < texture_distance(projected_patches(other), projected_patches(flat)) < 1e4


def test_a_dreamer_comes_nearer_to_the_pictures_it_is_shown():
    """All are dark and red, which first pictures, grey, are not."""
    learner, batch = dreamer(), square_batch()
    batch["pixels"] = (batch["pixels"] / torch.tensor([4.0, 16.0, 16.0])).to(torch.uint8)
    batch["pixels"][..., 0] += 120
    first = learner.summarize(learner.evaluate(batch))["loss"]
    found: dict[str, float] = {}
    for step in range(50):
        learner.reseed(step)
        found = learner.step(batch)
    assert learner.summarize(learner.evaluate(batch))["loss"] < 0.5 * first
    assert "l1" not in found
    assert found["objective"] == pytest.approx(found["generator_loss"])


@pytest.mark.parametrize("make", [translator, dreamer])
def test_a_learner_goes_on_bit_for_bit_where_its_state_was_taken(make: Any, tmp_path: Any):
    optim = replace(OPTIM, ema_decay=0.9, schedule="linear")
    once = make(optim=optim)
    batch = batch_for(once)
    for step in range(2):
        once.reseed(step)
        once.step(batch)
    torch.save(once.state_dict(), tmp_path / "state.pt")
    again = make(optim=optim)
    again.step(batch)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    found = []
    for learner in (once, again):
        learner.reseed(2)
        found.append(learner.step(batch))
        learner.save(tmp_path / f"{len(found)}.safetensors")
    assert found[0] == found[1]
    files = [(tmp_path / f"{k}.safetensors").read_bytes() for k in (1, 2)]
    assert files[0] == files[1]
    names = {"generator", "generator_average", "discriminator"}
    assert set(once.networks) == names


def test_checkpoints_say_what_they_are(tmp_path: Any):
    translator().save(tmp_path / "t.safetensors")
    dreamer().save(tmp_path / "d.safetensors")
    one, other = (read_card(tmp_path / f"{name}.safetensors") for name in "td")
    assert (one.network, one.is_translator, one.is_dreamer) == ("unet:4x4", True, False)
    assert one.preprocess.network_shape == (3, 16, 16)
    assert (other.network, other.is_dreamer, other.embedding_size) == ("dcgan:4x16", True, 5)
    assert other.preprocess == Noise(length=5)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_dcgan_makes_and_judges_pictures_of_its_size(size: int):
    generator, discriminator = DcganGenerator(7, 2, size), DcganDiscriminator(2, size)
    made = generator(torch.randn(3, 7))
    assert made.shape == (3, 3, size, size)
    assert [logits.shape for logits in discriminator(made, made)] == [(3, 1, 1, 1)] * 2


def test_real_and_made_pictures_are_normalised_apart():
    discriminator = DcganDiscriminator(4, 16).train()
    dark, light = (torch.rand(4, 3, 16, 16) * 0.1 + value for value in (-0.8, 0.7))
    together = copy.deepcopy(discriminator)(dark, light)
    alone = [copy.deepcopy(discriminator)(each)[0] for each in (dark, light)]
    assert all(torch.equal(*both) for both in zip(together, alone, strict=True))


def test_sliced_distance_is_zero_of_equal_sets_and_sees_what_is_missing():
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.uniform(-1, 1, (12, 3, 16, 16)).astype(np.float32))
    real = projected(images)
    assert sliced_distance(real, real[::-1]) == 0
    all_alike = np.repeat(real[:1], 12, axis=0)
    few = real[[0, 1, 2] * 4]
    assert 0 < sliced_distance(real, few) < sliced_distance(real, all_alike)
    moved = projected(images + 0.5)
    direction = projected(torch.full((1, 3, 16, 16), 0.5))[0]
    assert sliced_distance(real, moved) == pytest.approx(np.abs(direction).mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("make", "batch"), [(dreamer, square_batch(16)), (translator, pair_batch(16))]
)
def test_a_distance_and_its_error_do_not_depend_on_who_saw_which_picture(
    make: Any, batch: dict[str, Tensor]
):
    learner = make()
    whole = learner.summarize(learner.evaluate(batch))
    assert 0 < whole["loss_error"] < whole["loss"]
    parts = [
        learner.evaluate({name: column[rank::2] for name, column in batch.items()})
        for rank in (1, 0)
    ]
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert learner.summarize(together) == pytest.approx(whole)
    few = {name: column[:4] for name, column in together.items()}
    assert learner.summarize(few)["loss_error"] == 0


def test_noise_of_a_number_depends_on_seed_and_number_alone():
    together = noise_of(np.arange(5), 8, 3)
    assert np.array_equal(noise_of(np.array([4, 1]), 8, 3), together[[4, 1]])
    assert not np.allclose(noise_of(np.arange(5), 8, 4), together)
    many = noise_of(np.arange(400), 100, 0)
    assert many.mean() == pytest.approx(0, abs=0.02)
    assert many.std() == pytest.approx(1, abs=0.02)
    assert noise_of(np.arange(0), 8, 0).shape == (0, 8)


def test_pixels_come_back_from_the_values_that_networks_see():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).T.reshape(1, 16, 16, 3)
    assert torch.equal(as_pixels(as_images(pixels)), pixels)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: translator(num_passes=2), "training.num_passes 2: a made picture"),
        (lambda: dreamer(num_passes=2), "training.num_passes 2: a made picture"),
        (lambda: TranslationLossConfig(l1_weight=-1), "loss.l1_weight -1"),
        (lambda: AdversarialConfig(discriminator_rate=0), "loss.discriminator_rate 0"),
        (lambda: replace(MODEL, preprocess=PairPreprocess(height_px=100)), "multiples of 16"),
        (lambda: replace(MODEL, discriminator_halvings=3), "needs 24 px a side"),
        (lambda: replace(MODEL, dropout=1.0), "model.dropout 1.0"),
        (lambda: GanModelConfig(preprocess=Preprocess()), "must be square"),
        (lambda: dreamer(augment=AugmentConfig(mixup=0.2)), "no labels to mix"),
        (lambda: build("unet:8", 0), "WIDTHxDEPTH"),
        (lambda: build("unet:8x9", 0), "depth 9"),
        (lambda: build("dcgan:8x20", 9), "20 px"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make: Any, said: str):
    with pytest.raises(ValueError, match=said):
        make()
