"""Losses of metric learning: each against a loop over pairs or triplets, and on paper."""

import math
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vision_ops.losses.metric import (
    ArcFaceConfig,
    ArcFaceLoss,
    BinaryConfig,
    BinaryLoss,
    ContrastiveConfig,
    ContrastiveLoss,
    TripletConfig,
    TripletLoss,
    collapse,
    make_loss,
    mean_distance,
)
from vision_ops.metrics.pairs import verification

TARGETS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
CONFIGS: list[Any] = [
    TripletConfig(),
    TripletConfig(mining="all"),
    TripletConfig(mining="semi_hard"),
    ContrastiveConfig(),
    BinaryConfig(),
    ArcFaceConfig(),
]


def embeddings(seed: int = 0, count: int = 8, size: int = 5) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, size, generator=random), dim=1)


def apart(e: torch.Tensor) -> list[list[float]]:
    return [[math.dist(a, b) for b in e.tolist()] for a in e.tolist()]


def triplets(targets: list[int]) -> list[tuple[int, int, int]]:
    return [
        (a, p, n)
        for a, p, n in permutations(range(len(targets)), 3)
        if targets[a] == targets[p] != targets[n]
    ]


@pytest.mark.parametrize("seed", range(3))
def test_batch_hard_triplets_equal_a_loop_over_anchors(seed: int):
    e, targets, margin = embeddings(seed), TARGETS.tolist(), 0.3
    d, losses = apart(e), []
    for a in range(8):
        positive = max(d[a][p] for p in range(8) if targets[p] == targets[a] and p != a)
        negative = min(d[a][n] for n in range(8) if targets[n] != targets[a])
        losses.append(max(0.0, positive - negative + margin))
    loss = TripletLoss(TripletConfig(margin=margin))
    assert loss(e, TARGETS).item() == pytest.approx(np.mean(losses), abs=1e-5)
    assert loss.judge(e, TARGETS).item() == pytest.approx(np.mean(losses), abs=1e-5)


@pytest.mark.parametrize("mining", ["all", "semi_hard"])
@pytest.mark.parametrize("seed", range(3))
def test_mined_triplets_equal_a_loop_over_all_of_them(mining: Any, seed: int):
    e, margin = embeddings(seed), 0.4
    d, losses = apart(e), []
    for a, p, n in triplets(TARGETS.tolist()):
        gap = d[a][n] - d[a][p]
        if gap <= margin and (mining == "all" or gap > 0):
            losses.append(margin - gap)
    assert losses
    loss = TripletLoss(TripletConfig(mining=mining, margin=margin))
    assert loss(e, TARGETS).item() == pytest.approx(np.mean(losses), abs=1e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 999), margin=st.floats(0.05, 1.5))
def test_triplet_loss_is_zero_if_and_only_if_every_margin_holds(seed: int, margin: float):
    e = embeddings(seed)
    d = apart(e)
    least = min(d[a][n] - d[a][p] for a, p, n in triplets(TARGETS.tolist()))
    if abs(least - margin) > 1e-4:
        for mining in ("batch_hard", "all"):
            loss = TripletLoss(TripletConfig(mining=mining, margin=margin))
            assert (loss(e, TARGETS).item() == 0) == (least > margin)


@pytest.mark.parametrize("seed", range(3))
def test_contrastive_loss_equals_a_loop_over_pairs(seed: int):
    e, margin = embeddings(seed), 1.4
    d = apart(e)
    pairs = list(combinations(range(8), 2))
    near = [d[i][j] ** 2 / 2 for i, j in pairs if TARGETS[i] == TARGETS[j]]
    far = [(margin - d[i][j]) ** 2 / 2 for i, j in pairs if TARGETS[i] != TARGETS[j]]
    within = [
        value
        for value, (i, j) in zip(
            far, [p for p in pairs if TARGETS[p[0]] != TARGETS[p[1]]], strict=True
        )
        if d[i][j] < margin
    ]
    wanted = (np.mean(near) + np.mean(within)) / 2
    loss = ContrastiveLoss(ContrastiveConfig(separation=margin))
    assert loss(e, TARGETS).item() == pytest.approx(wanted, abs=1e-5)


def test_contrastive_loss_on_paper():
    e = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    # 0 and 1 are one person, sqrt 2 apart; 2 is sqrt 0.8 and sqrt 0.4 from them
    impostors = ((1 - math.sqrt(0.8)) ** 2 / 2 + (1 - math.sqrt(0.4)) ** 2 / 2) / 2
    loss = ContrastiveLoss(ContrastiveConfig(separation=1.0))
    found = loss(e, torch.tensor([0, 0, 1]))
    assert found.item() == pytest.approx((1.0 + impostors) / 2, abs=1e-5)


@pytest.mark.parametrize("head", ["cosine", "squared_l2", "weighted_l1", "chi_square"])
def test_binary_loss_equals_a_loop_over_pairs(head: Any):
    e, loss = embeddings(), BinaryLoss(BinaryConfig(head=head), 5)
    genuine, impostor = [], []
    for i, j in combinations(range(8), 2):
        chance = loss.head.logits(e[i : i + 1], e[j : j + 1]).double().sigmoid().item()
        if TARGETS[i] == TARGETS[j]:
            genuine.append(-math.log(chance))
        else:
            impostor.append(-math.log(1 - chance))
    wanted = (np.mean(genuine) + np.mean(impostor)) / 2
    assert loss(e, TARGETS).item() == pytest.approx(wanted, rel=1e-4)


def test_arcface_equals_the_formula_of_the_paper():
    torch.manual_seed(0)
    loss, e = ArcFaceLoss(ArcFaceConfig(margin_deg=28.6, scale=16.0), 3, 5), embeddings()
    weights = F.normalize(loss.loss.W.T.detach(), dim=1)  # pyright: ignore
    losses = []
    for picture, target in zip(e, TARGETS.tolist(), strict=True):
        logits = [16 * float(picture @ w) for w in weights]
        angle = math.acos(logits[target] / 16)
        assert angle + math.radians(28.6) < math.pi
        logits[target] = 16 * math.cos(angle + math.radians(28.6))
        losses.append(math.log(sum(map(math.exp, logits))) - logits[target])
    assert loss(e, TARGETS).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_arcface_has_a_gradient_where_a_picture_is_its_person_exactly():
    loss = ArcFaceLoss(ArcFaceConfig(scale=64.0), 2, 3)
    with torch.no_grad():
        loss.loss.W.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))  # pyright: ignore
    e = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], requires_grad=True)
    loss(e, torch.tensor([0, 1])).backward()
    assert e.grad is not None
    assert torch.isfinite(e.grad).all()


def test_arcface_judges_others_by_the_mean_of_their_other_pictures():
    loss, e = ArcFaceLoss(ArcFaceConfig(scale=7.0), 3, 5), embeddings()
    losses = []
    for i, target in enumerate(TARGETS.tolist()):
        logits = []
        for person in range(3):
            chosen = [j for j in range(8) if TARGETS[j] == person and j != i]
            mean = e[chosen].mean(dim=0)
            logits.append(7 * float(e[i] @ mean / mean.norm()))
        losses.append(math.log(sum(map(math.exp, logits))) - logits[target])
    assert loss.judge(e, TARGETS).item() == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_loss_of_chance_is_that_of_pictures_that_are_all_equally_alike(config: Any):
    torch.manual_seed(0)
    loss, people = make_loss(config, 3, 8), torch.arange(4).repeat_interleave(2)
    side = getattr(config, "separation", 1.0) / 2 / math.sqrt(2)
    if isinstance(config, BinaryConfig):
        with torch.no_grad():
            [parameter.zero_() for parameter in loss.parameters()]
    e = side * torch.eye(8)  # any two are half the contrastive margin apart
    assert loss.judge(e, people).item() == pytest.approx(loss.chance(4), rel=1e-4)  # pyright: ignore


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_batch_without_a_genuine_pair_gives_a_loss_and_gradients(config: Any):
    loss = make_loss(config, 8, 5)
    e = embeddings().requires_grad_()
    for targets in (torch.arange(8), torch.zeros(8, dtype=torch.int64)):
        found = loss(e, targets)
        found.backward()
        assert torch.isfinite(found)
        assert e.grad is not None
        assert torch.isfinite(e.grad).all()


def test_mean_distance_is_that_of_all_pairs_however_small():
    e = embeddings(count=6).double()
    squares = [math.dist(a, b) ** 2 for a, b in combinations(e.tolist(), 2)]
    assert mean_distance(e).item() == pytest.approx(math.sqrt(np.mean(squares)))
    near = F.normalize(
        torch.ones(6, 64) + 1e-4 * torch.arange(6)[:, None] * torch.eye(64)[:6], dim=1
    )
    found = mean_distance(near).item()
    wanted = mean_distance(near.double()).item()
    assert found == pytest.approx(wanted, rel=1e-2)
    assert 0 < found < 1e-3


def test_collapse_is_told_with_the_loss_the_margin_and_what_to_do():
    said = collapse({"distance": 4e-4, "objective": 0.2001}, TripletConfig(margin=0.2))
    for words in ("collapsed", "4.0e-04", "0.2001", "margin is 0.2", "--optim.learning-rate",
                  "--loss.mining semi_hard"):  # fmt: skip
        assert words in said
    assert "mining" not in collapse({"distance": 4e-4, "objective": 0.1}, ContrastiveConfig())
    assert collapse({"objective": 0.2}, TripletConfig()) == ""


def test_a_loss_at_the_margin_is_a_collapse_where_the_distances_are_far_below_it():
    triplets = TripletConfig(margin=0.2)
    said = collapse({"distance": 2e-3, "objective": 0.2}, triplets)
    assert "any two are 2.0e-03 apart, less than 0.1 of the margin" in said
    assert "the loss stays at 0.2000, the margin is 0.2" in said
    # on its way down, or up; the last as the default training is in its second epoch, and learns
    for distance, loss in ((0.6, 0.2), (2e-3, 0.19), (0.03, 0.2001), (0.0714, 0.2006)):
        assert collapse({"distance": distance, "objective": loss}, triplets) == ""
    assert collapse({"distance": 2e-3, "objective": 0.2}, ContrastiveConfig()) == ""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TripletConfig(margin=0), "loss.margin 0: must be above 0 and below 2"),
        (lambda: TripletConfig(pictures_per_person=1), "a genuine pair takes 2"),
        (lambda: ContrastiveConfig(separation=2.5), "loss.separation 2.5"),
        (lambda: BinaryConfig(pictures_per_person=0), "a genuine pair takes 2"),
        (lambda: ArcFaceConfig(margin_deg=90), "loss.margin_deg 90"),
        (lambda: ArcFaceConfig(scale=-1), "loss.scale -1"),
    ],
)
def test_impossible_losses_are_refused_by_name(make: Any, said: str):
    with pytest.raises(ValueError, match=said):
        make()


def by_hand(e: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Every pair, every threshold."""
    pairs = [
        (float(a @ b), targets[i] == targets[j], targets[i] % 2, targets[j] % 2)
        for (i, a), (j, b) in combinations(enumerate(e), 2)
    ]
    genuine = np.array([s for s, same, *_ in pairs if same])
    impostor = np.array([s for s, same, *_ in pairs if not same])
    thresholds = np.linspace(-1, 1, (1 << 14) + 1)
    tar = np.array([(genuine >= t).mean() for t in thresholds])
    far = np.array([(impostor >= t).mean() for t in thresholds])
    nearest = np.abs(1 - tar - far).argmin()
    halves = []
    for half in (0, 1):
        inside = [(s, same) for s, same, one, other in pairs if one == other == half]
        good = np.array([s for s, same in inside if same])
        bad = np.array([s for s, same in inside if not same])
        halves.append(np.array([((good >= t).mean() + (bad < t).mean()) / 2 for t in thresholds]))
    best = [np.flatnonzero(each == each.max()) for each in halves]
    middle = [each[len(each) // 2] for each in best]
    return {
        "accuracy": (halves[0][middle[1]] + halves[1][middle[0]]) / 2,
        "eer": (1 - tar[nearest] + far[nearest]) / 2,
        "tar": tar[far <= 0.01].max(),
    }


@pytest.mark.parametrize("seed", range(3))
def test_verification_equals_a_loop_over_all_pairs(seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vision_ops.metrics.pairs.BLOCK_ROWS", 7)  # several blocks
    random = np.random.default_rng(seed)
    targets = random.permutation(np.repeat(np.arange(6), 5))
    centres = random.normal(0, 1, (6, 4))
    e = centres[targets] + random.normal(0, 0.6, (30, 4))
    e = (e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32)
    found = verification(e, targets)
    assert found == pytest.approx(by_hand(e, targets), abs=0.01)
    order = random.permutation(30)
    assert verification(e[order], targets[order]) == pytest.approx(found, abs=1e-12)


def test_verification_of_perfect_and_of_equal_embeddings():
    targets = np.repeat(np.arange(6), 2)
    perfect = np.eye(6, dtype=np.float32)[targets]
    assert verification(perfect, targets) == {"accuracy": 1.0, "eer": 0.0, "tar": 1.0}
    equal = np.ones((12, 1), np.float32)
    found = verification(equal, targets)
    assert found == pytest.approx({"accuracy": 0.5, "eer": 0.5, "tar": 0.0})
