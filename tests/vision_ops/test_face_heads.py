"""Similarity heads: each formula against a loop, blocks against the whole, files, gradients."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from vision_ops.faces import heads
from vision_ops.faces.heads import HeadKind, load_head, make_head, save_head

KINDS = get_args(HeadKind)


def unit(count: int, size: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, size, generator=random, dtype=torch.float64), dim=1)


def by_hand(kind: str, head: torch.nn.Module, a: list[float], b: list[float]) -> float:
    """As the formula stands in the paper, number by number."""
    pairs = list(zip(a, b, strict=True))
    if kind == "cosine":
        return sum(x * y for x, y in pairs)
    if kind == "squared_l2":
        return -sum((x - y) ** 2 for x, y in pairs)
    weights = head.weights.tolist()  # pyright: ignore
    total = head.offset.item()  # pyright: ignore
    for w, (x, y) in zip(weights, pairs, strict=True):
        total += w * (abs(x - y) if kind == "weighted_l1" else (x - y) ** 2 / (abs(x) + abs(y)))
    return 1 / (1 + math.exp(-total))


def varied(kind: HeadKind, size: int) -> heads.AffineHead | heads.WeightedHead:
    """With weights that differ from one another."""
    head = make_head(kind, size).double()
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in head.parameters():
            noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            parameter.mul_(1 + 0.3 * noise)
    return head


@pytest.mark.parametrize("kind", KINDS)
def test_score_of_every_pair_equals_the_formula_by_hand(kind: HeadKind):
    head, a, b = varied(kind, 6), unit(3, 6, 0), unit(4, 6, 1)
    wanted = torch.tensor(
        [[by_hand(kind, head, x, y) for y in b.tolist()] for x in a.tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(head(a, b), wanted)
    torch.testing.assert_close(head.paired(a, b[:3]), wanted[:, :3].diagonal())


def test_chi_square_of_features_above_zero_is_that_of_the_paper():
    head, a, b = make_head("chi_square", 5).double(), unit(2, 5, 0).abs(), unit(2, 5, 1).abs()
    terms = (a - b).square() / (a + b)
    torch.testing.assert_close(head.logits(a, b), terms @ head.weights + head.offset)  # pyright: ignore
    zeros = torch.zeros(1, 5, dtype=torch.float64)
    assert torch.isfinite(head(zeros, zeros)).all()


@pytest.mark.parametrize("kind", ["weighted_l1", "chi_square"])
@pytest.mark.parametrize("size", [64, 512])
def test_first_weights_put_strangers_as_far_below_the_middle_as_twins_above(
    kind: HeadKind, size: int
):
    head, a, b = make_head(kind, size).double(), unit(99, size, 0), unit(99, size, 1)
    assert isinstance(head, heads.WeightedHead)
    assert head.logits(a, a).mean().item() == pytest.approx(heads.MIDDLE)
    assert head.logits(a, b).mean().item() == pytest.approx(-heads.MIDDLE, abs=0.2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 9, 60])
def test_blocks_of_any_size_give_the_same_scores(
    kind: HeadKind, block: int, monkeypatch: pytest.MonkeyPatch
):
    head, a, b = varied(kind, 6), unit(5, 6, 0), unit(7, 6, 1)
    whole = head(a, b)
    monkeypatch.setattr(heads, "BLOCK_VALUES", block)
    torch.testing.assert_close(head(a, b), whole, rtol=0, atol=1e-15)
    assert head(a, b[:0]).shape == (5, 0)
    assert head(a[:0], b).shape == (0, 7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 128, 512])
def test_new_head_tells_equal_faces_from_random_ones(kind: HeadKind, size: int):
    head, a, b = make_head(kind, size).double(), unit(50, size, 0), unit(50, size, 1)
    assert (head.logits(a, a).sigmoid() > 0.99).all()
    assert head.logits(a, b).sigmoid().mean() < 0.05
    same, other = head.paired(a, a), head.paired(a, b)
    assert same.min() > other.max()  # higher is more alike


@pytest.mark.parametrize("kind", KINDS)
def test_scores_can_be_differentiated_by_embeddings_and_weights(kind: HeadKind):
    head = varied(kind, 4)
    a, b = unit(3, 4, 0).requires_grad_(), unit(3, 4, 1).requires_grad_()
    assert torch.autograd.gradcheck(head.logits, (a, b))
    assert torch.autograd.gradcheck(head, (a, b))
    head.logits(a, b).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_saved_head_comes_back_with_its_embedder_and_the_same_bytes(kind: HeadKind, tmp_path: Path):
    head, a, b = varied(kind, 6).float(), unit(3, 6, 0).float(), unit(4, 6, 1).float()
    head.embedder = "ab" * 32
    save_head(tmp_path / "head.safetensors", head, 6)
    again = load_head(tmp_path / "head.safetensors")
    assert (again.kind, again.embedder) == (kind, "ab" * 32)
    assert torch.equal(again(a, b), head(a, b))
    save_head(tmp_path / "again.safetensors", again, 6)
    first, second = (tmp_path / f"{name}.safetensors" for name in ("head", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_what_is_no_head_is_refused_by_name(tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(b"not a head")
    with pytest.raises(ValueError, match="x.safetensors: no similarity head"):
        load_head(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="head 'l3': not one of cosine, squared_l2"):
        make_head("l3", 4)  # pyright: ignore
    with pytest.raises(ValueError, match="embeddings of 0 numbers"):
        make_head("cosine", 0)
