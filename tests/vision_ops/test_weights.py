"""Weights by name: found, fetched once, converted once; what is absent is said quickly."""

import http.server
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from vision_ops.card import Card, sha256_file
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.models import build
from vision_ops.preprocess import Preprocess
from vision_ops.weights import resolve, why_unreachable
from vision_ops.weights.hub import imagenet_classes, published
from vision_ops.weights.licence import inherited, refuse_non_commercial

SMALL = Preprocess(height_px=32, width_px=32, resize_px=0)
TIMM = "test_resnet.r160_in1k"
"""timm's network for tests: 0.5 million parameters"""


def trained(network: str = "residual", num_classes: int = 3) -> nn.Module:
    torch.manual_seed(3)
    return build(network, num_classes).eval()


def no_fetch(uri: str) -> Path:
    raise FileNotFoundError(f"{uri}: not there")


@pytest.fixture(autouse=True)
def no_cache_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ARGUS_CACHE", "TORCH_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL and folder of a web server on a port of its own."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, directory=str(folder), **options)

        def log_message(self, format: str, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[[str], Path]:
    """Download to a folder; a second call of the same URI is an error: nothing is fetched twice."""

    def download(uri: str) -> Path:
        target = tmp_path / "fetched" / uri.rpartition("/")[2]
        target.parent.mkdir(exist_ok=True)
        assert not target.exists()
        with urllib.request.urlopen(uri, timeout=5) as answer:
            target.write_bytes(answer.read())
        return target

    return download


def make_checkpoint(path: Path, licence: str = "CC0") -> Path:
    card = Card(
        network="residual",
        classes=("a", "b", "c"),
        preprocess=SMALL,
        licence=licence,
        source="test",
        embedding_size=160,
    )
    save_checkpoint(path, trained(), card)
    return path


def test_local_and_https_names_resolve_to_the_same_checkpoint(tmp_path, served, fetch):
    url, folder = served
    path = make_checkpoint(folder / "net.safetensors")
    here = resolve(str(path), no_fetch)
    there = resolve(f"{url}/net.safetensors", fetch)
    assert here.path == path
    assert there.path != path
    assert (here.card, here.sha256) == (there.card, there.sha256)
    assert here.sha256 == sha256_file(path)
    assert there.source == f"{url}/net.safetensors"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("runs/nothing.safetensors", "jobs.train_classifier"),
        ("resnet50", "torchvision:NAME"),
        ("my_package.nets:tiny", "jobs.weights import --network my_package.nets:tiny"),
        ("s3://bucket/absent.safetensors", "jobs.weights pull s3://bucket/absent.safetensors"),
        ("torchvision:resnet50/IMAGENET1K_V7", "IMAGENET1K_V2"),
        ("torchvision:resnet51", "resnet50"),
        ("timm:resnet50.a99_in1k", "resnet50.a1_in1k"),
        ("timm:vit_small_patch16_dinov3.lvd1689m", "no classes"),
    ],
)
def test_names_that_lead_nowhere_say_what_would(name, words):
    with pytest.raises(ValueError, match=words) as refusal:
        resolve(name, no_fetch)
    assert name.partition("/")[0] in str(refusal.value)


def test_state_file_is_not_taken_for_a_checkpoint(tmp_path):
    torch.save(trained().state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="jobs.weights import"):
        resolve(str(tmp_path / "x.pth"), no_fetch)


@pytest.mark.parametrize(
    ("name", "file", "cache"),
    [
        ("torchvision:resnet50/IMAGENET1K_V2", "resnet50-11ad3fa6.pth", "TORCH_HOME"),
        (f"timm:{TIMM}", "model.safetensors", "HF_HUB_CACHE"),
    ],
)
def test_hub_name_offline_fails_at_once_and_says_where_it_looked(
    tmp_path, monkeypatch, name, file, cache
):
    for variable in ("http_proxy", "https_proxy"):  # a proxy that is not there: as good as offline
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="no connection") as refusal:
        resolve(name, no_fetch)
    places = [str(tmp_path / "ARGUS_CACHE"), str(tmp_path / cache), file]
    for words in (*places, f"python -m jobs.weights pull {name}"):
        assert words in str(refusal.value)


def test_host_that_never_answers_is_not_waited_for():
    """Its queue of connections is full: another one gets no answer for minutes."""
    with socket.socket() as server, ExitStack() as queue:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        for _ in range(3):
            client = queue.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        said = why_unreachable(f"http://127.0.0.1:{port}/file")
    assert said.startswith("no answer from 127.0.0.1") or said.endswith("timed out")
    assert why_unreachable("https://no-such-host.invalid/file")


def test_timm_name_is_fetched_once_converted_once_and_then_found_offline(
    served, fetch, monkeypatch
):
    url, folder = served
    monkeypatch.setenv("HF_ENDPOINT", url)
    torch.manual_seed(0)
    model = timm.create_model("test_resnet").eval()
    file = folder / "timm" / TIMM / "resolve" / "main" / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_file(model.state_dict(), file)
    found = resolve(f"timm:{TIMM}", fetch)
    assert resolve(f"timm:{TIMM}", no_fetch) == found
    card = found.card
    assert (card.network, card.licence) == ("timm:test_resnet", "apache-2.0")
    assert card.source == f"timm:{TIMM}"
    assert card.parent == sha256_file(file)
    assert len(card.classes) == 1000
    assert isinstance(card.preprocess, Preprocess)
    assert (card.preprocess.height_px, card.preprocess.resize_px) == (160, 168)
    loaded, _ = load_checkpoint(found.path, "cpu")
    images = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_file_of_torch_hub_that_is_not_the_published_one_is_refused(tmp_path):
    name = "torchvision:squeezenet1_1/IMAGENET1K_V1"
    path = published(name).places[0]
    path.parent.mkdir(parents=True)
    torch.save(trained("torchvision:squeezenet1_1", 10).state_dict(), path)
    with pytest.raises(ValueError, match="published is b8a52dc0"):
        resolve(name, no_fetch)


def test_published_torchvision_weights_carry_their_transform_and_terms():
    item = published("torchvision:resnet50").origin  # the default is the newest
    assert item.source == "torchvision:resnet50/IMAGENET1K_V2"
    assert item.preprocess == Preprocess(resize_px=232)
    assert item.classes == imagenet_classes()
    assert "ImageNet terms" in item.licence
    swag = published("torchvision:vit_b_16/IMAGENET1K_SWAG_E2E_V1").origin
    assert swag.preprocess.interpolation == "bicubic"


def test_googlenet_is_told_directly_what_torchvision_scales_inside():
    from torchvision import models

    name = "torchvision:googlenet/IMAGENET1K_V1"
    torch.manual_seed(0)
    theirs = models.googlenet(num_classes=1000, aux_logits=False, init_weights=False).eval()
    pixels = torch.rand(1, 3, 64, 64)
    usual, ours = Preprocess(), published(name).origin.preprocess
    with torch.inference_mode():
        expected = theirs._transform_input(scaled(pixels, usual))
        assert expected.shape == pixels.shape
        theirs.transform_input = True
        torch.testing.assert_close(
            theirs._transform_input(scaled(pixels, usual)), scaled(pixels, ours)
        )


def scaled(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    mean = torch.tensor(preprocess.mean)[:, None, None]
    return (pixels - mean) / torch.tensor(preprocess.std)[:, None, None]


@pytest.mark.parametrize(
    "name",
    [
        "torchvision:regnet_y_16gf/IMAGENET1K_SWAG_LINEAR_V1",
        "timm:convnextv2_atto.fcmae_ft_in1k",
    ],
)
def test_non_commercial_licence_is_refused_before_anything_is_fetched(name):
    licence = published(name).origin.licence
    with pytest.raises(ValueError, match="--accept-licence") as refusal:
        resolve(name, no_fetch)
    assert licence in str(refusal.value)


def test_licence_of_a_checkpoint_counts_as_well(tmp_path):
    path = make_checkpoint(tmp_path / "net.safetensors", "CC-BY-NC-SA-4.0")
    with pytest.raises(ValueError, match="CC-BY-NC-SA-4.0"):
        resolve(str(path), no_fetch)
    assert resolve(str(path), no_fetch, accept_licence=True).card.licence == "CC-BY-NC-SA-4.0"


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("cc-by-nc-4.0", True),
        ("CC BY-NC 4.0", True),
        ("fair-noncommercial-research-license", True),
        ("for non-commercial use", True),
        ("research only", True),
        ("apple-amlr", True),
        ("apache-2.0", False),
        ("MIT", False),
        ("BSD-3-Clause (code); ImageNet terms (training data)", False),
        ("unknown", False),
        ("Lawrence licence", False),
    ],
)
def test_non_commercial_licences_are_told_by_their_names(licence, refused):
    if refused:
        with pytest.raises(ValueError, match="non-commercial"):
            refuse_non_commercial(licence, "x", accept_licence=False)
    refuse_non_commercial(licence, "x", accept_licence=refused)


@pytest.mark.parametrize(
    ("asked", "start", "result"),
    [
        ("unknown", "CC-BY-NC-4.0", "CC-BY-NC-4.0"),
        ("unknown", "unknown", "unknown"),
        ("MIT", "Apache-2.0", "MIT"),
        ("MIT", "CC-BY-NC-4.0", "MIT; began with weights of CC-BY-NC-4.0"),
        ("X; began with weights of research only", "research only",
         "X; began with weights of research only"),
    ],
)  # fmt: skip
def test_a_licence_without_commercial_use_is_handed_on(asked: str, start: str, result: str):
    assert inherited(asked, start) == result
