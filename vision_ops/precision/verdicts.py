"""What was found to be the fastest true way to run a network, kept for the next time.

Light on purpose (no torch unless a GPU is there): drivers recall verdicts before anything starts.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from vision_ops.card import COMPILED_SUFFIX, sha256_file, write_whole
from vision_ops.precision import Precision

FORMAT = 3
"""raised when kept verdicts or networks are no longer what this code would make"""
FLAGS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "i8mm",
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for."""

    weights: str
    """checkpoint on this machine"""
    sha256: str
    """of its bytes"""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    embeddings: bool = False
    """embeddings are kept, and judged too"""
    pass_size: int = 0
    """images of a pass on a GPU; 0: by measurement"""
    compiled: bool = False
    """torch.compile is asked for, whatever it brings"""
    sample: str = ""
    """name of the sample that it is judged by: another one, another verdict"""
    folder: str
    """where verdicts and compiled networks are kept"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a network is run, and why."""

    precision: Precision
    back_end: str
    pass_size: int
    """images of a forward pass"""
    agreement: float = 1.0
    """share of the judged images whose label is that of fp32 over exactly decoded pixels"""
    cosine: float = 1.0
    """mean over the judged images of the cosine to their fp32 embedding"""
    judged: int = 0
    """images that it was judged by; 0: none"""
    of_faces: bool = False
    """there are no labels: embeddings alone were judged"""
    rates: Mapping[str, float]
    """images/s of each candidate, on all threads of the process that tried"""
    refused: Mapping[str, str]
    """why other candidates were not taken"""
    machine: str
    sha256: str
    """of the file that is run"""

    @property
    def compiled(self) -> bool:
        """Whether torch.compile is to run it."""
        return self.back_end.endswith(" compiled")

    def __str__(self) -> str:
        tried = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in self.rates.items())
        told = f"{self.precision} on {self.back_end}"
        if self.judged and self.of_faces:
            told += f", cosine {self.cosine:.4f} with fp32 over {self.judged} faces"
        elif self.judged:
            told += f", {self.agreement:.1%} of {self.judged} labels as fp32"
        return f"{told} ({tried})" if tried else told


def recall(request: Request) -> tuple[Verdict, Path] | None:
    """The verdict of an earlier `choose` of the same request on this machine, and its file.

    None where that file is gone, or is another one by now.
    """
    try:
        kept = json.loads(_verdict_path(request).read_text())
        verdict, path = Verdict(**kept["verdict"]), Path(kept["path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    known = path.is_file() and sha256_file(path) == verdict.sha256
    return (verdict, path) if known else None


def keep(request: Request, verdict: Verdict, path: Path) -> None:
    """Write a verdict and where its file lies down for `recall`."""
    kept = {"verdict": asdict(verdict), "path": str(path)}
    write_whole(_verdict_path(request), json.dumps(kept, indent=1).encode())


def machine() -> str:
    """The processor that decides the choice: the GPU's name, or the CPU's with what it can."""
    if has_gpu():
        import torch

        return torch.cuda.get_device_name()
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        told = ""
    name = re.search(r"model name\s*: (.*)", told)
    flags = re.search(r"(?:flags|Features)\s*: (.*)", told)
    able = set(flags[1].split()) if flags else set[str]()
    return " ".join([name[1] if name else platform.machine(), *(f for f in FLAGS if f in able)])


def has_vnni() -> bool:
    """Whether this CPU sums int8 products without saturating (x86's VNNI or AMX, Arm's I8MM)."""
    return any(
        flag in machine().split() for flag in ("avx_vnni", "avx512_vnni", "amx_int8", "i8mm")
    )


def has_gpu() -> bool:
    """Whether this process may use a GPU; torch is not imported where the machine has none."""
    if not Path("/dev/nvidiactl").exists() or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    from vision_ops.device import pick_device

    return pick_device().type == "cuda"


def network_path(request: Request, precision: Precision, sample: str) -> Path:
    """Where a compiled network is kept; `sample` names what int8 was calibrated by."""
    weights = request.sha256[:16]
    name = _hash(weights, precision, sample, *_versions())
    return Path(request.folder) / "networks" / f"{weights}-{precision}-{name}{COMPILED_SUFFIX}"


def converted_path(folder: Path, name: str) -> Path:
    """Where OpenVINO's conversion of a network of this name is kept."""
    return folder / "networks" / f"{name}-{_hash(*_versions())}{COMPILED_SUFFIX}"


def last_line(refusal: BaseException) -> str:
    """What a library says in the end of why it does not do something."""
    return (str(refusal).strip().splitlines() or [type(refusal).__name__])[-1][:300]


def _verdict_path(request: Request) -> Path:
    asked = {k: v for k, v in asdict(request).items() if k not in ("weights", "folder")}
    name = _hash(json.dumps(asked), machine(), *_versions())
    return Path(request.folder) / "verdicts" / f"{name}.json"


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join([str(FORMAT), *parts]).encode()).hexdigest()[:16]


def _versions() -> list[str]:
    names = ("torch", "openvino", "nncf", "onnxruntime")
    found = {d.name: d.version for n in names for d in importlib.metadata.distributions(name=n)}
    return [f"{name} {found.get(name, 'absent')}" for name in names]
