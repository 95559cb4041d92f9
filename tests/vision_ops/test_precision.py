"""Back ends answer as torch does in fp32; what is chosen is fast and true, and is remembered."""

import json
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.vision_ops.test_operators import NETWORKS, make_checkpoint
from vision_ops.card import Card, read_card, sha256_file
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.models import build, embedding_size, head_of, logits_and_embeddings
from vision_ops.normalize import normalize
from vision_ops.precision import full_passes, open_network
from vision_ops.precision.choose import Sample, agreement, choose, cosine, untried
from vision_ops.precision.openvino_network import (
    TRIED,
    OpenVinoNetwork,
    convert,
    native,
    quantise,
)
from vision_ops.precision.torch_network import Both, TorchNetwork
from vision_ops.precision.verdicts import Request, has_gpu, keep, recall
from vision_ops.preprocess import Preprocess

SIZE = 48


class WithSvd(nn.Module):
    """A network that OpenVINO has no way to hold."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.linalg.svdvals(images.mean(dim=3).mT).float()[:, :3])


def with_svd(num_classes: int) -> nn.Module:
    return WithSvd(num_classes)


def pictures(count: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    """Smooth random pictures, read-only as the engine's are."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    pixels = np.ascontiguousarray(coarse.repeat(size // 6, 1).repeat(size // 6, 2))
    pixels.flags.writeable = False
    return pixels


def checkpoint(path: Path, network: str, preprocess: Preprocess, *, sure: bool = False) -> Path:
    """Random weights whose label depends on the picture; `sure`: it is class 3 by a wide lead."""
    torch.manual_seed(0)
    model = build(network, 50).eval()
    bias = model.get_submodule("head").get_parameter("bias")
    with torch.no_grad():
        seen = normalize(pictures(64, size=preprocess.width_px), preprocess, "cpu")
        bias -= model(seen[:, :, : preprocess.height_px]).mean(dim=0)
        bias[3] += 1000 * sure
    card = Card(
        network=network,
        classes=tuple(f"class {index}" for index in range(50)),
        preprocess=preprocess,
        licence="CC0",
        source="random",
        embedding_size=embedding_size(model, preprocess.network_shape),
    )
    save_checkpoint(path, model, card)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    return checkpoint(folder / "w.safetensors", "residual", Preprocess(height_px=48, width_px=48))


@pytest.fixture(scope="module")
def compiled(weights: Path) -> dict[str, bytes]:
    """The same network for OpenVINO, by precision."""
    data = convert(weights)
    return {"fp32": data, "int8": quantise(data, pictures(32, seed=2))}


@pytest.fixture(scope="module")
def sample() -> Sample:
    judged = pictures(40, seed=1)
    return Sample(judged=judged, exact=judged, calibration=pictures(32, seed=2))


def request_for(weights: Path, folder: Path, **fields: object) -> Request:
    request = Request(
        weights=str(weights), sha256=sha256_file(weights), folder=str(folder), sample="a"
    )
    return replace(request, **fields)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_compiled_network_answers_as_torch_does(tmp_path, network):
    path = make_checkpoint(tmp_path / "w.safetensors", network)
    size = read_card(path).preprocess.shape[0]
    (tmp_path / "n.openvino").write_bytes(convert(path))
    pixels = np.random.default_rng(0).integers(0, 256, (37, size, size, 3), dtype=np.uint8)
    ours, theirs = open_network(tmp_path / "n.openvino"), open_network(path)
    assert (ours.back_end, theirs.back_end) == ("openvino", "torch")
    assert ours.card == theirs.card
    for found, expected in zip(ours(pixels), theirs(pixels), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())


def test_channel_order_scale_mean_and_std_are_in_the_compiled_network(tmp_path):
    odd = Preprocess(
        height_px=36, width_px=48, channels="BGR", scale=1.0, mean=(90, 100, 110), std=(50, 60, 70)
    )
    path = checkpoint(tmp_path / "w.safetensors", "residual", odd)
    (tmp_path / "n.openvino").write_bytes(convert(path))
    pixels = pictures(5)[:, :36]
    model, _ = load_checkpoint(path, "cpu")
    images = torch.tensor((pixels[..., ::-1] - np.array(odd.mean)) / np.array(odd.std))
    with torch.inference_mode():
        expected = model(images.float().permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(
        open_network(tmp_path / "n.openvino")(pixels)[0], expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_compiled_networks_give_the_same_bits_for_any_batching_and_threads(
    compiled, tmp_path, monkeypatch, precision
):
    path = tmp_path / "n.openvino"
    path.write_bytes(compiled[precision])
    pixels = pictures(70)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = open_network(path, precision)(pixels)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    network = open_network(path, precision)
    for step in (1, 7, 33):
        parts = [network(pixels[start : start + step]) for start in range(0, 70, step)]
        for column, expected in enumerate(whole):
            assert np.array_equal(np.concatenate([part[column] for part in parts]), expected)


@pytest.mark.parametrize(
    ("rows", "counts"), [(0, [0]), (1, [1]), (4, [4]), (5, [4, 1]), (9, [4, 4, 1])]
)
def test_every_pass_is_full_and_rows_stay_in_order(rows, counts):
    pixels = np.arange(1, rows + 1, dtype=np.uint8).reshape(rows, 1, 1, 1).repeat(3, axis=3)
    passes = list(full_passes(pixels, 4))
    assert [count for _, count in passes] == counts
    assert {len(part) for part, _ in passes} == {4}
    seen = np.concatenate([part[:count] for part, count in passes])
    assert np.array_equal(seen, pixels)
    assert not passes[-1][0][counts[-1] :].any()


def test_passes_that_do_not_answer_alike_are_refused(tmp_path):
    networks = []
    for sure in (False, True):
        preprocess = Preprocess(height_px=SIZE, width_px=SIZE)
        path = checkpoint(tmp_path / "w.safetensors", "residual", preprocess, sure=sure)
        (tmp_path / "n.openvino").write_bytes(convert(path))
        networks.append(OpenVinoNetwork(tmp_path / "n.openvino"))
    if networks[0].sizes == (32,):
        pytest.skip("small passes give other bits on this CPU")
    one, other = (network.callers.get() for network in networks)
    one.requests[4] = other.requests[4]
    networks[0].callers.put(one)
    with pytest.raises(RuntimeError, match="compiled one network twice and got two"):
        networks[0](pictures(32))


@pytest.mark.slow
def test_int8_for_two_callers_is_the_same_network_each_time(tmp_path):
    """With two streams of one compiled network, now and then one answered nonsense."""
    path = make_checkpoint(tmp_path / "w.safetensors", "torchvision:squeezenet1_1")
    size = read_card(path).preprocess.shape[0]
    pixels = np.random.default_rng(0).integers(0, 256, (32, size, size, 3), dtype=np.uint8)
    (tmp_path / "n.openvino").write_bytes(quantise(convert(path), pixels))
    expected = OpenVinoNetwork(tmp_path / "n.openvino", "int8")(pixels)[0]
    for _ in range(30):
        network = OpenVinoNetwork(tmp_path / "n.openvino", "int8", callers=2)
        callers = [network.callers.get() for _ in range(2)]
        for caller in callers:
            network.callers.put(caller)  # alone there: the call takes it
            assert np.array_equal(network(pixels)[0], expected)
            network.callers.get()


TWO_THREADS = """
import sys, threading
import numpy as np
from vision_ops.precision.openvino_network import OpenVinoNetwork

network = OpenVinoNetwork(sys.argv[1], callers=2)
together = threading.Barrier(2)

def infer():
    together.wait()
    network(np.zeros((1, 48, 48, 3), np.uint8))

threads = [threading.Thread(target=infer) for _ in range(2)]
[each.start() for each in threads]
[each.join() for each in threads]
"""


@pytest.mark.slow
def test_threads_of_a_fresh_process_may_all_be_the_first(compiled, tmp_path):
    """Once in ten processes OpenVINO's bindings hung there: 60 would all pass twice in a thousand.

    Before the network made its first pass itself, that is.
    """
    (tmp_path / "n.openvino").write_bytes(compiled["fp32"])
    command = [sys.executable, "-c", TWO_THREADS, str(tmp_path / "n.openvino")]
    for _ in range(60):
        subprocess.run(command, check=True, timeout=60)


def test_what_does_not_fill_a_pass_goes_through_small_ones(compiled, tmp_path):
    path = tmp_path / "n.openvino"
    path.write_bytes(compiled["fp32"])
    network = OpenVinoNetwork(path)
    if network.sizes == (32,):
        pytest.skip("small passes give other bits on this CPU")
    sizes = {rows: [len(part) for part, _ in network._passes(pictures(rows))] for rows in (0, 70)}
    assert sizes == {0: [4], 70: [32, 32, 4, 4]}
    assert [len(part) for part, _ in network._passes(pictures(31))] == [32]


def test_passes_of_both_sizes_are_tried_and_give_the_same_bits(compiled, tmp_path):
    path = tmp_path / "n.openvino"
    path.write_bytes(compiled["fp32"])
    network = OpenVinoNetwork(path)
    if network.sizes == (32,):
        pytest.skip("small passes give other bits on this CPU")
    pixels = pictures(64)
    logits, features = network(pixels)
    for _ in range(TRIED):
        again = network(pixels)
        assert np.array_equal(again[0], logits)
        assert np.array_equal(again[1], features)
    caller = network.callers.get()
    network.callers.put(caller)
    assert [len(laps) for laps in caller.seconds.values()] == [TRIED, TRIED]
    for faster in (4, 32):
        caller.seconds = {size: [1.0 + (size != faster)] * TRIED for size in (32, 4)}
        assert caller.size() == faster
        for rows in (0, 1, 31, 32, 63):
            again = network(pixels[:rows])
            assert np.array_equal(again[0], logits[:rows])
            assert np.array_equal(again[1], features[:rows])


def test_auto_takes_the_fastest_that_agrees_and_remembers_it(folder, sample):
    path = checkpoint(
        folder / "sure.safetensors", "residual", Preprocess(height_px=48, width_px=48), sure=True
    )
    request = request_for(path, folder / "auto")
    assert recall(request) is None
    verdict, file = choose(request, sample)
    assert set(verdict.rates) >= {"fp32 openvino", "int8 openvino"}
    chosen = f"{verdict.precision} {verdict.back_end}"
    assert verdict.rates[chosen] == max(verdict.rates.values())
    assert (verdict.agreement, verdict.judged) == (1.0, 40)
    assert verdict.sha256 == sha256_file(file)
    assert open_network(file, verdict.precision)(sample.judged)[0].argmax(axis=1).tolist() == [
        3
    ] * len(sample.judged)
    assert recall(request) == (verdict, file)
    assert recall(replace(request, sample="b")) is None
    assert recall(replace(request, embeddings=True)) is None


def test_a_compiled_file_is_run_as_it_was_compiled(compiled, folder, sample):
    path = folder / "given.openvino"
    path.write_bytes(compiled["int8"])
    verdict, file = choose(request_for(path, folder / "given"), sample)
    assert (verdict.precision, verdict.back_end, file) == ("int8", "openvino", path)
    with pytest.raises(ValueError, match="compiled in int8"):
        choose(request_for(path, folder / "given", precision="fp32"), None)


def test_where_decoding_alone_disagrees_fp32_is_taken_and_its_figure_kept(weights, folder, sample):
    other = replace(sample, judged=pictures(40, seed=3))
    verdict, _ = choose(request_for(weights, folder / "decoding"), other)
    assert verdict.precision == "fp32"
    assert verdict.agreement < 0.99
    assert "fp32 openvino" not in verdict.refused


def test_what_disagrees_is_refused_with_its_figure(weights, folder, sample):
    blurred = np.random.default_rng(5).integers(0, 256, sample.judged.shape, dtype=np.uint8)
    strange = replace(sample, judged=blurred)  # as if the run decoded something else
    verdict, _ = choose(request_for(weights, folder / "strange"), strange)
    assert verdict.precision == "fp32"
    assert "labels are those of fp32 (99% wanted)" in verdict.refused["int8 openvino"]


def test_embeddings_are_judged_only_where_they_are_kept(folder, sample):
    path = checkpoint(
        folder / "e.safetensors", "residual", Preprocess(height_px=48, width_px=48), sure=True
    )
    strange = replace(sample, judged=pictures(40, seed=9))  # same label, other features
    request = request_for(path, folder / "embeddings")
    assert "int8 openvino" not in choose(request, strange)[0].refused
    kept = choose(replace(request, embeddings=True), strange)[0]
    assert kept.precision == "fp32"
    assert "cosine" in kept.refused["int8 openvino"]


def test_a_precision_asked_for_is_taken_with_its_agreement(weights, folder, sample):
    verdict, file = choose(request_for(weights, folder / "int8", precision="int8"), sample)
    truth = open_network(weights)(sample.exact)[0]
    assert verdict.precision == "int8"
    assert verdict.agreement == agreement(open_network(file, "int8")(sample.judged)[0], truth)


def test_a_file_that_is_another_by_now_is_not_recalled(folder, sample):
    """One that is run as it is lies where its owner put it, and may be trained anew."""
    size = Preprocess(height_px=48, width_px=48)
    first = checkpoint(folder / "first.safetensors", "residual", size)
    request = request_for(first, folder / "recalled")
    verdict = untried(request)[0]
    keep(request, verdict, first)
    assert recall(request) == (verdict, first)
    checkpoint(folder / "first.safetensors", "residual", size, sure=True)
    assert recall(request) is None


def test_convolutions_are_cudnn_s_to_compute_and_in_full(weights):
    """Where there is a GPU: what is switched off in a pass is off in each."""
    network = TorchNetwork(weights)
    found: list[tuple[bool, bool, bool]] = []

    def look(*_: object) -> None:
        cudnn = torch.backends.cudnn
        found.append((cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32))

    head_of(network.model).register_forward_pre_hook(look)
    network(pictures(3, seed=1))
    assert found == [(True, True, False)]


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:squeezenet1_1"])
def test_logits_and_embeddings_are_one_graph(name: str):
    """Of networks whose passes no test looks at for shapes: that would break a graph too."""
    model = build(name, 7).eval()
    images = torch.rand(2, 3, 64, 64)
    whole = torch.compile(Both(model, is_embedder=False), backend="eager", fullgraph=True)
    with torch.inference_mode():
        for _ in range(2):
            logits, features = whole(images)
            plain = logits_and_embeddings(model, images)
            assert torch.equal(logits, plain[0])
            assert torch.equal(features, plain[1])


def test_a_pass_that_does_not_fit_is_gone_before_its_half_is_tried(weights, caplog):
    """What torch says of a GPU's memory, said by the network's own last layer."""
    network = TorchNetwork(weights)
    network.pass_size, alive = 32, list[weakref.ref[torch.Tensor]]()

    def full(_: object, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 16:
            alive.append(weakref.ref(inputs[0]))
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert [each() for each in alive] == [None]

    hook = head_of(network.model).register_forward_pre_hook(full)
    logits, features = network(pictures(40, seed=1))
    assert "16 images a pass instead of 32" in caplog.text
    hook.remove()
    again = network(pictures(40, seed=1))
    assert np.array_equal(logits, again[0])
    assert np.array_equal(features, again[1])


def test_kept_files_that_are_damaged_or_gone_are_made_again(weights, folder, sample):
    request = request_for(weights, folder / "damaged", precision="int8")
    verdict, file = choose(request, sample)
    file.unlink()
    assert recall(request) is None
    assert choose(request, sample)[0].precision == "int8"
    for kept in (folder / "damaged" / "verdicts").iterdir():
        kept.write_text(json.dumps({"verdict": {"precision": "int8"}}))
    assert recall(request) is None
    assert choose(request, sample)[0].machine == verdict.machine


def test_what_cannot_be_had_is_refused_and_says_what_can(weights, folder, sample):
    absent = {"bf16", "fp16"} - set(native())
    for precision in sorted(absent):
        with pytest.raises(ValueError, match=f"op.precision {precision}"):
            choose(request_for(weights, folder / "absent", precision=precision), sample)
    empty = replace(sample, calibration=pictures(0))
    with pytest.raises(ValueError, match="no images beside the judged ones to calibrate by"):
        choose(request_for(weights, folder / "absent", precision="int8"), empty)
    for ignored in ({"compiled": True}, {"pass_size": 64}):
        if not has_gpu():
            with pytest.raises(ValueError, match="are for GPUs"):
                choose(request_for(weights, folder / "absent", **ignored), sample)
    with pytest.raises(ValueError, match="no image to judge it by"):
        choose(request_for(weights, folder / "absent", precision="int8"), None)


def test_a_network_that_cannot_be_compiled_is_run_by_torch_and_that_is_said(folder, sample):
    path = checkpoint(
        folder / "svd.safetensors",
        "tests.vision_ops.test_precision:with_svd",
        Preprocess(height_px=48, width_px=48),
    )
    verdict, file = choose(request_for(path, folder / "svd"), sample)
    assert (verdict.precision, verdict.back_end, file) == ("fp32", "torch", path)
    assert "OpenVINO cannot convert it" in verdict.refused["fp32 openvino"]


def test_files_in_another_precision_or_broken_are_refused(compiled, tmp_path):
    path = tmp_path / "n.openvino"
    path.write_bytes(compiled["fp32"])
    with pytest.raises(ValueError, match="was compiled in fp32"):
        open_network(path, "int8")
    with pytest.raises(ValueError, match="a compiled network"):
        load_checkpoint(path, "cpu")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a whole compiled network"):
        open_network(path)
    with pytest.raises(ValueError, match="no images"):
        quantise(compiled["fp32"], pictures(0))


def test_agreement_and_cosine_by_hand():
    truth = np.array([[1, 0], [0, 1], [2, 1], [0, 3]], np.float32)
    found = np.array([[5, 0], [1, 0], [3, 1], [0, 1]], np.float32)
    assert agreement(found, truth) == 0.75
    rows = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], np.float32)
    others = np.array([[2, 0], [1, 0], [0, 0], [1, 0]], np.float32)
    assert cosine(rows, others) == pytest.approx((1 + 0.5**0.5 + 1 + 0) / 4)
