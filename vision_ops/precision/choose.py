"""The fastest way to run a network on this machine that still says what fp32 says.

Candidates are timed while they are judged: on a sample of the run's own images, at least
MIN_AGREEMENT of the top-1 labels must be those of fp32 over exactly decoded pixels, and embeddings,
where they are kept, must have a mean cosine of MIN_COSINE with fp32's (those of faces, which have
no labels, always). Verdicts and compiled
networks are kept in a folder, by weights, machine, library versions and sample.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vision_ops.card import (
    is_compiled,
    is_onnx,
    read_card,
    sha256_file,
    write_whole,
)
from vision_ops.precision import PASS_SIZE, Network, Outputs, Precision, open_network, pass_size_of
from vision_ops.precision.verdicts import (
    Request,
    Verdict,
    has_gpu,
    keep,
    last_line,
    machine,
    network_path,
    recall,
)

logger = logging.getLogger(__name__)

MIN_AGREEMENT = 0.99
MIN_COSINE = 0.999
MIN_SECONDS = 0.3
"""that a candidate is timed"""
GPU_PASSES = (1, 2, 4, 8, 16)
"""times the pass of a CPU: 32 pictures to 512"""
GPU_HEADROOM = 0.5
"""part of the GPU's memory that a pass may take while sizes are tried"""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run the network."""

    precision: Precision
    path: Path
    compiled: bool = False

    @property
    def name(self) -> str:
        """As it stands in `Verdict.rates`."""
        held = "openvino" if is_compiled(self.path) else "onnx" if is_onnx(self.path) else "torch"
        return f"{self.precision} {held}" + (" compiled" if self.compiled else "")

    def open(self, pass_size: int = 0) -> Network:
        """The network, ready to run."""
        return open_network(self.path, self.precision, pass_size=pass_size, compiled=self.compiled)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Pictures of the run, uint8 (B, H, W, 3); `judged` and `exact` are the same pictures."""

    calibration: np.ndarray
    """others than the judged ones; int8 takes its ranges from them"""
    judged: np.ndarray
    """decoded as the run decodes"""
    exact: np.ndarray
    """decoded exactly"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate that ran over the judged pictures."""

    candidate: Candidate
    rate: float
    """images/s, all threads"""
    agreement: float
    """of labels; 1 where there are none"""
    cosine: float
    of_faces: bool = False
    """it names nothing: its embeddings alone are judged"""

    def passes(self, request: Request) -> bool:
        """Whether it says what fp32 says."""
        true = self.agreement >= MIN_AGREEMENT
        return true and (self.cosine >= MIN_COSINE or not (request.embeddings or self.of_faces))


def choose(request: Request, sample: Sample | None) -> tuple[Verdict, Path]:
    """Time and judge what the request allows on this process' device; the verdict and its file.

    Without a sample nothing can be judged, and `auto` is fp32. Raises ValueError for a precision
    that was asked for and cannot be had here.
    """
    known = recall(request)
    if known is not None:
        return known
    unit = pass_size_of(read_card(request.weights).preprocess)
    if not has_gpu() and (request.compiled or request.pass_size not in (0, unit)):
        raise ValueError(
            f"op.compiled {request.compiled}, op.pass_size {request.pass_size}: are for GPUs; "
            f"on a CPU OpenVINO compiles, and a pass holds {unit} images"
        )
    refused: dict[str, str] = {}
    plain = fp32_candidate(request, refused)
    as_it_is = request.precision in ("auto", plain.precision)
    if sample is None or not len(sample.judged) or plain.precision == "int8":
        if not as_it_is:
            why = "compiled in int8" if plain.precision == "int8" else "no image to judge it by"
            raise ValueError(f"op.precision {request.precision}: {request.weights}: {why}")
        return _kept(request, Trial(candidate=plain, rate=0, agreement=1, cosine=1), [], refused, 0)
    network = plain.open(request.pass_size)
    truth, rate = _timed(network, sample.exact)
    same = np.array_equal(sample.exact, sample.judged)
    trials = [_judged(plain, truth if same else network(sample.judged), rate, truth)]
    for candidate in faster_candidates(request, plain, sample, refused):
        try:
            found, rate = _timed(candidate.open(request.pass_size), sample.judged)
        except (ValueError, RuntimeError) as refusal:  # this CPU or GPU cannot, or cannot compile
            refused[candidate.name] = last_line(refusal)
            continue
        trials.append(_judged(candidate, found, rate, truth))
    best = _best(request, trials if as_it_is else trials[1:], refused)
    return _kept(request, best, trials, refused, len(sample.judged))


def untried(request: Request) -> tuple[Verdict, Path]:
    """fp32 by what reads the file as it is: nothing is compiled, timed or kept for `recall`."""
    candidate = Candidate(precision="fp32", path=Path(request.weights))
    verdict = Verdict(
        precision=candidate.precision,
        back_end=candidate.name.partition(" ")[2],
        pass_size=pass_size_of(read_card(candidate.path).preprocess),
        rates={},
        refused={},
        machine=machine(),
        sha256=sha256_file(candidate.path),
    )
    return verdict, candidate.path


def _judged(candidate: Candidate, found: Outputs, rate: float, truth: Outputs) -> Trial:
    of_faces = read_card(candidate.path).is_embedder
    return Trial(
        candidate=candidate,
        rate=rate,
        agreement=1.0 if of_faces else agreement(found[0], truth[0]),
        cosine=cosine(found[1], truth[1]),
        of_faces=of_faces,
    )


def agreement(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of rows of (B, K) logits whose greatest is at the same class."""
    return float((found.argmax(axis=1) == truth.argmax(axis=1)).mean())


def cosine(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean cosine of the rows of two (B, E); a row of zeros counts 1 with another, else 0."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(truth, axis=1)
    both_zero = ~found.any(axis=1) & ~truth.any(axis=1)
    dots = (found.astype(np.float64) * truth).sum(axis=1)
    return float(np.where(lengths > 0, dots / np.maximum(lengths, 1e-30), both_zero).mean())


def fp32_candidate(request: Request, refused: dict[str, str]) -> Candidate:
    """The reference: compiled where it can be, else as it is, with the reason kept."""
    weights = Path(request.weights)
    if is_compiled(weights):
        from vision_ops.precision.openvino_network import held_precision

        return Candidate(precision=held_precision(weights), path=weights)
    if has_gpu() or is_onnx(weights):
        return Candidate(precision="fp32", path=weights, compiled=request.compiled)
    try:
        from vision_ops.precision.openvino_network import convert
    except ModuleNotFoundError as missing:
        refused["fp32 openvino"] = str(missing)
        return Candidate(precision="fp32", path=weights)
    path = network_path(request, "fp32", "")
    if not path.is_file():
        try:
            write_whole(path, convert(weights))
        except ValueError as refusal:
            logger.warning("%s; it is run by torch", refusal)
            refused["fp32 openvino"] = last_line(refusal)
            return Candidate(precision="fp32", path=weights)
    return Candidate(precision="fp32", path=path)


def faster_candidates(
    request: Request, plain: Candidate, sample: Sample, refused: dict[str, str]
) -> Iterator[Candidate]:
    """What may be faster than fp32 here; those that were not asked for are left out."""
    wanted = ("bf16", "fp16", "int8") if request.precision == "auto" else (request.precision,)
    if is_compiled(plain.path):
        from vision_ops.precision.openvino_network import native

        for precision in ("int8", "bf16"):
            if precision not in wanted:
                continue
            if precision not in native():
                refused[f"{precision} openvino"] = f"this CPU has {', '.join(native())}"
            elif precision == "bf16":
                yield replace(plain, precision="bf16")
            elif len(sample.calibration):
                yield Candidate(precision="int8", path=_quantised(request, plain, sample))
            else:
                refused["int8 openvino"] = "no images beside the judged ones to calibrate by"
        return
    if is_onnx(plain.path):
        refused.update({f"{p} onnx": "ONNX Runtime runs it in fp32 only" for p in wanted})
        return
    for precision in wanted:
        if precision in ("bf16", "fp16"):
            if not request.compiled:
                yield replace(plain, precision=precision)
            if has_gpu():
                yield replace(plain, precision=precision, compiled=True)
        elif precision == "int8":
            refused["int8 torch"] = "int8 is OpenVINO's, on CPUs"


def _quantised(request: Request, plain: Candidate, sample: Sample) -> Path:
    from vision_ops.precision.openvino_network import quantise

    seen = hashlib.sha256(sample.calibration.tobytes()).hexdigest()
    path = network_path(request, "int8", f"{seen} {machine()}")
    if not path.is_file():
        write_whole(path, quantise(plain.path.read_bytes(), sample.calibration))
    return path


def _timed(network: Network, pixels: np.ndarray) -> tuple[Outputs, float]:
    """Logits and features of the pictures, and images/s once warm."""
    network(pixels if has_gpu() else pixels[:PASS_SIZE])  # compiles and allocates
    start, times = time.perf_counter(), 0
    while True:
        found, times = network(pixels), times + 1
        passed = time.perf_counter() - start
        if passed >= MIN_SECONDS:
            return found, times * len(pixels) / passed


def _best(request: Request, trials: Sequence[Trial], refused: dict[str, str]) -> Trial:
    """The fastest that passes, else fp32; what was asked for is taken as it is, with a warning."""
    ranked = sorted(trials, key=lambda trial: -trial.rate)
    if not ranked:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ValueError(f"op.precision {request.precision}: not to be had here ({reasons})")
    if request.precision == "auto":
        for trial in ranked:
            if trial.passes(request):
                return trial
            refused[trial.candidate.name] = _shortfall(trial)
        ranked = list(trials)  # fp32 is the first: what it falls short by is the decoding
        del refused[ranked[0].candidate.name]
    if not ranked[0].passes(request):
        logger.warning("%s: %s", ranked[0].candidate.name, _shortfall(ranked[0]))
    return ranked[0]


def _shortfall(trial: Trial) -> str:
    if trial.of_faces:
        return f"embeddings have cosine {trial.cosine:.4f} with fp32's ({MIN_COSINE} wanted)"
    return (
        f"{trial.agreement:.2%} of the labels are those of fp32 ({MIN_AGREEMENT:.0%} wanted), "
        f"embeddings have cosine {trial.cosine:.4f} ({MIN_COSINE} wanted where they are kept)"
    )


def _kept(
    request: Request, best: Trial, trials: Sequence[Trial], refused: dict[str, str], judged: int
) -> tuple[Verdict, Path]:
    """The verdict on a trial, written down for `recall`."""
    candidate = best.candidate
    verdict = Verdict(
        precision=candidate.precision,
        back_end=candidate.name.partition(" ")[2],
        pass_size=_pass_size(request, candidate),
        agreement=best.agreement,
        cosine=best.cosine,
        judged=judged,
        of_faces=best.of_faces,
        rates={trial.candidate.name: round(trial.rate, 1) for trial in trials},
        refused=refused,
        machine=machine(),
        sha256=sha256_file(candidate.path),
    )
    keep(request, verdict, candidate.path)
    return verdict, candidate.path


def _pass_size(request: Request, candidate: Candidate) -> int:
    """Images of a pass: fixed on CPUs; on a GPU the smallest size within 3 % of the fastest."""
    preprocess = read_card(candidate.path).preprocess
    unit = pass_size_of(preprocess)
    if not has_gpu() or is_compiled(candidate.path):
        return unit
    if request.pass_size:
        return request.pass_size
    import torch

    rates: dict[int, float] = {}
    for size in (unit * times for times in GPU_PASSES):
        try:
            torch.cuda.reset_peak_memory_stats()
            pixels = np.zeros((size * 4, *preprocess.shape), preprocess.dtype)
            rates[size] = _timed(candidate.open(size), pixels)[1]
        except torch.OutOfMemoryError:
            break
        free, total = torch.cuda.mem_get_info()
        if torch.cuda.max_memory_allocated() > GPU_HEADROOM * total or free < total / 10:
            break
    fastest = max(rates.values(), default=0.0)
    return next((s for s, rate in rates.items() if rate >= 0.97 * fastest), unit)
