"""Networks compiled for CPUs by OpenVINO: converted from checkpoints, made int8 by NNCF.

A compiled network is one file, `.openvino`: a zip of card.json, network.xml and network.bin. Its
input is uint8 (32, H, W, 3), normalising is its first layer, its outputs are logits and features.
"""

import io
import json
import logging
import os
import statistics
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

import numpy as np
import openvino as ov
from openvino import frontend

from vision_ops.arrays import as_shared
from vision_ops.card import card_to_json, read_card
from vision_ops.precision import PASS_SIZE, Outputs, Precision, full_passes, num_threads
from vision_ops.precision.verdicts import has_vnni, last_line
from vision_ops.preprocess import Preprocess

SMALL_PASS = 4
"""images of a pass for what does not fill one of 32: a slice of 100 rows would cost as 128; and for
all, where they are faster"""
TRIED = 5
"""times that 32 images are gone through in passes of each size before the faster one is kept"""
TOLERANCE = 1e-3
"""largest difference of logits from torch's, relative to their largest, of a conversion in fp32"""
NONSENSE = 0.1
"""difference of logits, relative to their largest, that no other order of sums explains"""
FAILURES = (
    frontend.GeneralFailure,
    frontend.NotImplementedFailure,
    frontend.OpConversionFailure,
    frontend.OpValidationFailure,
)
XML, WEIGHTS = "network.xml", "network.bin"
"""in a compiled file"""
NO_REPORTS = {"NNCF_CI": "1", "CI": "true"}
"""keeps both libraries from sending usage reports"""


@dataclass(kw_only=True)
class _Caller:
    """What one thread at a time infers with."""

    requests: dict[int, ov.InferRequest]
    """by size of the pass"""
    is_checked: bool
    """whether passes of both sizes were seen to answer alike"""
    seconds: dict[int, list[float]]
    """that 32 images took, by size of the pass; until the faster size is known"""

    def size(self) -> int:
        """Of the passes that the next 32 images go through."""
        fewest = min(self.seconds, key=lambda size: len(self.seconds[size]))
        if len(self.seconds[fewest]) < TRIED:
            return fewest
        return min(self.seconds, key=lambda size: statistics.median(self.seconds[size]))


class OpenVinoNetwork:
    """A `vision_ops.precision.Network` from a compiled file.

    What does not fill a pass of 32 goes through passes of 4, where those were found to give the
    same bits when the file was made; and so does all, where that proves faster: a light network's
    activations then stay in the core's cache (SqueezeNet in bf16 on AVX-512: 1.18 times, ResNets
    equal). Results are bit for bit the same for any number of rows and of threads; other kinds of
    CPU may give other last bits.
    """

    back_end = "openvino"

    def __init__(self, path: str | Path, precision: Precision = "fp32", callers: int = 1) -> None:
        self.card = read_card(path)
        refuse_unable(precision, held_precision(path), path)
        with zipfile.ZipFile(path) as archive:
            kind = json.loads(archive.read("kind.json"))
        self.precision: Precision = precision
        core = ov.Core()
        model = unpacked(core, path)
        self.sizes = (PASS_SIZE, SMALL_PASS) if precision in kind["small_passes"] else (PASS_SIZE,)
        sized = {size: _resized(model, size) for size in self.sizes}
        threads = max(1, num_threads() // callers)
        # a pass on one thread is the caller's own: what else runs on its core does not count
        self.clock = time.thread_time if threads == 1 else time.perf_counter
        # those that nobody is using
        self.callers: SimpleQueue[_Caller] = SimpleQueue()
        for _ in range(callers):
            requests = {
                size: compile_network(core, each, precision, threads).create_infer_request()
                for size, each in sized.items()
            }
            seconds: dict[int, list[float]] = {size: [] for size in requests}
            is_checked = len(requests) == 1
            self.callers.put(_Caller(requests=requests, is_checked=is_checked, seconds=seconds))
        # OpenVINO's bindings make things of their own in the first call: two threads that are the
        # first at once wait for each other for ever, one for the GIL and one for a C++ static
        self(np.zeros((1, *model.input(0).shape[1:]), np.uint8))

    def __call__(self, pixels: np.ndarray) -> Outputs:
        found: list[Outputs] = []
        caller = self.callers.get()
        try:
            for part, rows in self._passes(pixels):
                if len(part) < PASS_SIZE or len(self.sizes) == 1:
                    found.append(_inferred(caller, part, rows))
                    continue
                if not caller.is_checked:
                    _refuse_nonsense(caller.requests, part)
                    caller.is_checked = True
                start, size = self.clock(), caller.size()
                pieces = full_passes(part[:rows], size)
                found += [_inferred(caller, piece, count) for piece, count in pieces]
                if len(caller.seconds[size]) < TRIED:
                    caller.seconds[size].append(self.clock() - start)
        finally:
            self.callers.put(caller)
        return np.concatenate([each[0] for each in found]), np.concatenate(
            [each[1] for each in found]
        )

    def _passes(self, pixels: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Full passes, and small ones for the rest where that is fewer images."""
        rest = len(pixels) % PASS_SIZE
        if self.sizes[-1] == PASS_SIZE or rest > PASS_SIZE - SMALL_PASS:
            rest = 0
        whole = len(pixels) - rest
        if whole:
            yield from full_passes(pixels[:whole], PASS_SIZE)
        if rest or not whole:
            yield from full_passes(pixels[whole:], self.sizes[-1])


def compile_network(
    core: ov.Core, model: ov.Model, precision: Precision, threads: int = 0
) -> ov.CompiledModel:
    """One stream on so many threads (0: those of this process).

    Never several streams: OpenVINO 2026.4 makes their graphs at the same time, and 9 of 80 int8
    networks (SqueezeNet, two streams) then answered nonsense, whatever they were asked.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads or num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # it would pin every process to the same cores
    }
    return core.compile_model(model, "CPU", settings)


def _inferred(caller: _Caller, part: np.ndarray, rows: int) -> Outputs:
    """Of the first rows of a pass."""
    found = caller.requests[len(part)].infer([as_shared(part)], share_inputs=True)
    return found[0][:rows], found[1][:rows]


def _refuse_nonsense(requests: Mapping[int, ov.InferRequest], part: np.ndarray) -> None:
    """Raise RuntimeError where a full pass does not answer as a small one, compiled apart, does.

    Not bit for bit: the file may come from a CPU of another kind, where the two were equal.
    """
    logits = requests[PASS_SIZE].infer([part], share_inputs=True)[0][:SMALL_PASS]
    expected = requests[SMALL_PASS].infer([part[:SMALL_PASS]], share_inputs=True)[0]
    off = np.abs(logits - expected).max()
    if not off <= NONSENSE * np.abs(expected).max():
        raise RuntimeError(
            f"OpenVINO compiled one network twice and got two: logits differ by {off:g}; "
            "a repetition compiles anew"
        )


def held_precision(path: str | Path) -> Precision:
    """What a compiled file was compiled in: fp32 or int8. Raises ValueError for any other file."""
    read_card(path)
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("kind.json"))["precision"]


def _resized(model: ov.Model, size: int) -> ov.Model:
    """The same network for passes of another size."""
    model = model.clone()
    model.reshape([size, *model.input(0).shape[1:]])
    return model


def _small_passes(model: ov.Model, precisions: Sequence[Precision]) -> list[Precision]:
    """The precisions in which this CPU gives the same bits in small passes as in full ones."""
    shape = [PASS_SIZE, *model.input(0).shape[1:]]
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    core, same = ov.Core(), list[Precision]()
    for precision in precisions:
        whole = compile_network(core, model, precision).create_infer_request().infer([pixels])
        expected = [np.array(whole[0]), np.array(whole[1])]
        try:
            small = compile_network(
                core, _resized(model, SMALL_PASS), precision
            ).create_infer_request()
        except RuntimeError:  # a network that holds its batch size
            continue
        parts = [small.infer([pixels[i : i + SMALL_PASS]]) for i in (0, SMALL_PASS)]
        rows = 2 * SMALL_PASS
        found = [np.concatenate([np.array(part[n]) for part in parts]) for n in (0, 1)]
        if all(np.array_equal(f, e[:rows]) for f, e in zip(found, expected, strict=True)):
            same.append(precision)
    return same


def native() -> tuple[Precision, ...]:
    """What OpenVINO computes on this CPU at the hardware's own speed."""
    able = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16", "int8") if "BF16" in able else ("fp32", "int8")


def refuse_unable(precision: Precision, held: str, path: str | Path) -> None:
    """Raise ValueError where a file or this CPU does not have a precision."""
    if (precision == "int8") != (held == "int8"):
        raise ValueError(f"op.precision {precision}: {path} was compiled in {held}")
    if precision not in native():
        raise ValueError(f"op.precision {precision}: this CPU has {', '.join(native())}")


def convert(path: str | Path) -> bytes:
    """A checkpoint as a compiled network in fp32 (which can also be run in bf16).

    Raises ValueError where OpenVINO cannot, or where what it makes does not answer as torch does.
    """
    import torch

    from vision_ops.checkpoint import load_checkpoint
    from vision_ops.precision.torch_network import FromPixels

    model, card = load_checkpoint(path, "cpu")
    if not isinstance(card.preprocess, Preprocess):
        raise ValueError(f"{path}: only networks of pictures are compiled")
    whole = FromPixels(model, card.preprocess).eval()
    shape = (PASS_SIZE, *card.preprocess.shape)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    try:
        with torch.inference_mode(False), torch.no_grad(), quietly():
            expected = whole(pixels)[0].numpy()
            converted = ov.convert_model(whole, example_input=pixels[:2])
            converted.reshape(list(shape))
    except (RuntimeError, *FAILURES) as refusal:
        raise ValueError(f"{path}: OpenVINO cannot convert it: {last_line(refusal)}") from refusal
    compiled = compile_network(ov.Core(), converted, "fp32").create_infer_request()
    off = np.abs(compiled.infer([pixels.numpy()])[0] - expected).max()
    if not off <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ValueError(f"{path}: OpenVINO's logits differ from torch's by {off:g}")
    return _packed(converted, card_to_json(card), "fp32")


def quantise(compiled: bytes, calibration: np.ndarray) -> bytes:
    """An fp32 compiled network in int8: weights per channel, activations by `calibration`.

    calibration is uint8 (B, H, W, 3), sRGB 0..255; its ranges become the network's. Post-training
    quantisation of NNCF with its fast bias correction. Where the CPU has no VNNI, its int8 products
    saturate, mostly in the first convolution: that one then stays in fp32 (ResNet-18 with random
    filters: logits off by 15 % of their spread instead of 22 %, and 3 % faster). Raises ValueError
    for an empty calibration.
    """
    if not len(calibration):
        raise ValueError("calibration: no images")
    with zipfile.ZipFile(io.BytesIO(compiled)) as archive:
        card = archive.read("card.json").decode()
        model = ov.Core().read_model(archive.read(XML), archive.read(WEIGHTS))
    with quietly():
        import nncf

        missing = -len(calibration) % PASS_SIZE
        whole = np.concatenate(
            [calibration, np.resize(calibration, (missing, *calibration.shape[1:]))]
        )
        passes = [whole[i : i + PASS_SIZE] for i in range(0, len(whole), PASS_SIZE)]
        made = nncf.quantize(
            model,
            nncf.Dataset(passes),
            subset_size=len(passes),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=[] if has_vnni() else _first_convolution(model)),
        )
    return _packed(made, card, "int8")


def _first_convolution(model: ov.Model) -> list[str]:
    names = (op.get_friendly_name() for op in model.get_ordered_ops() if _is_convolution(op))
    return list(islice(names, 1))


def _is_convolution(op: ov.Node) -> bool:
    return op.get_type_name() in ("Convolution", "GroupConvolution")


def _packed(model: ov.Model, card: str, precision: Precision) -> bytes:
    """The bytes of a compiled file."""
    run_in: list[Precision] = ["int8"]
    if precision == "fp32":
        run_in = [each for each in native() if each != "int8"]
    kind = {"precision": precision, "small_passes": _small_passes(model, run_in)}
    return packed(model, {"card.json": card, "kind.json": json.dumps(kind)})


def packed(model: ov.Model, beside: Mapping[str, str]) -> bytes:
    """A network and what lies beside it as one file, the same bytes each time."""
    target = io.BytesIO()
    with TemporaryDirectory() as folder, zipfile.ZipFile(target, "w") as archive:
        ov.save_model(model, Path(folder) / "network.xml", compress_to_fp16=False)
        held = {name: text.encode() for name, text in beside.items()}
        held |= {name: (Path(folder) / name).read_bytes() for name in (XML, WEIGHTS)}
        for name, data in held.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return target.getvalue()


def unpacked(core: ov.Core, path: str | Path) -> ov.Model:
    """The network of a file that `packed` made."""
    with zipfile.ZipFile(path) as archive:
        return core.read_model(archive.read(XML), archive.read(WEIGHTS))


@contextmanager
def quietly() -> Iterator[None]:
    """No usage reports, progress bars and log lines of OpenVINO's converter and NNCF."""
    before = {name: os.environ.get(name) for name in NO_REPORTS}
    level = logging.root.level  # the converter raises it, for everybody
    os.environ.update(NO_REPORTS)
    for name in ("nncf", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.root.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
