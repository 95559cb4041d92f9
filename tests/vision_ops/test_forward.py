from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from vision_ops.precision.forward import open_forward


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARGUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Maps(nn.Module):
    """Answers as maps of several sizes, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.PReLU(8), nn.MaxPool2d(2, 2))
        self.second = nn.Conv2d(8, 4, 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = pixels.permute(0, 3, 1, 2).float() / 255
        features = self.first(images)
        scores = self.second(features).softmax(dim=1)
        return scores, nn.functional.interpolate(features, images.shape[-2:])


class Stubborn(nn.Module):
    """What no converter knows."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.linalg.matrix_exp(images),)


def images(height: int, width: int) -> torch.Tensor:
    own = torch.Generator().manual_seed(height)  # threads share the other one
    return torch.randint(0, 256, (1, height, width, 3), generator=own, dtype=torch.uint8)


EXAMPLE = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
FLOATS = torch.zeros(1, 3, 32, 32)


@torch.inference_mode()
def test_answers_are_those_of_torch_at_any_size():
    network = Maps().eval()
    forward = open_forward(network, "maps", EXAMPLE, any_size=True)
    assert forward is not network  # compiled
    for size in ((32, 32), (96, 160), (480, 640), (33, 61)):
        for found, expected in zip(forward(images(*size)), network(images(*size)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_bits_do_not_depend_on_what_was_asked_before_or_at_the_same_time():
    sizes = [(96, 160), (480, 640), (64, 64), (224, 96)] * 4
    alone = {
        size: open_forward(Maps().eval(), "maps", EXAMPLE, any_size=True)(images(*size))
        for size in set(sizes)
    }
    shared = open_forward(Maps().eval(), "maps", EXAMPLE, any_size=True, callers=2)
    with ThreadPoolExecutor(4) as threads:
        for size, found in zip(
            sizes, threads.map(lambda s: shared(images(*s)), sizes), strict=True
        ):
            for one, other in zip(found, alone[size], strict=True):
                assert torch.equal(one, other), size


def test_a_conversion_is_made_once_for_each_name(own_cache: Path):
    open_forward(Maps().eval(), "maps", EXAMPLE, any_size=True)
    (file,) = (own_cache / "networks").iterdir()
    made = file.stat().st_mtime_ns
    open_forward(Maps().eval(), "maps", EXAMPLE, any_size=True)
    assert file.stat().st_mtime_ns == made
    open_forward(Maps().eval(), "others", EXAMPLE)
    assert len(list((own_cache / "networks").iterdir())) == 2


def test_a_kept_conversion_that_is_damaged_or_of_another_network_is_made_anew(
    own_cache: Path, caplog: pytest.LogCaptureFixture
):
    open_forward(Maps().eval(), "maps", EXAMPLE, any_size=True)
    (file,) = (own_cache / "networks").iterdir()
    file.write_bytes(file.read_bytes()[:-40])
    other = Maps().eval()
    with torch.no_grad():
        other.second.weight *= 2
    for network, reason in ((Maps().eval(), "cannot be opened"), (other, "differ from torch's")):
        caplog.clear()
        forward = open_forward(network, "maps", EXAMPLE, any_size=True)
        assert reason in caplog.text
        assert "converted anew" in caplog.text
        for found, expected in zip(forward(images(64, 64)), network(images(64, 64)), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_converted_stays_with_torch_and_is_named(
    caplog: pytest.LogCaptureFixture, own_cache: Path
):
    network = Stubborn().eval()
    assert open_forward(network, "stubborn", FLOATS) is network
    assert "stubborn: OpenVINO cannot convert it" in caplog.text
    assert not own_cache.exists()


def test_a_conversion_that_answers_otherwise_is_refused(caplog: pytest.LogCaptureFixture):
    class Fickle(nn.Module):
        """Tracing keeps the branch of the size it saw."""

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            return (images.float() * (2 if images.shape[1] == 32 else 3),)

    network = Fickle().eval()
    assert open_forward(network, "fickle", EXAMPLE, any_size=True) is network
    assert "differ from torch's by" in caplog.text
