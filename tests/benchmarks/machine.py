"""Which machine the figures are of, and which versions."""

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PACKAGES = ("ray", "torch", "torchvision", "openvino", "pyarrow", "numpy", "pillow", "simplejpeg")
DAFT_PACKAGES = ("daft", "torch", "pyarrow")
VERSIONS = "import importlib.metadata as m, sys; print(*(m.version(p) for p in sys.argv[1:]))"


def describe_machine(daft_python: Path) -> dict[str, Any]:
    """CPU, what it can do, cores, memory, versions, date."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", cpu)
    flags = set(" ".join(re.findall(r"flags\s*:\s*(.*)", cpu)[:1]).split())
    return {
        "cpu": model[1] if model else platform.processor(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "versions_beside_daft": _daft_versions(daft_python),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def caption(machine: dict[str, Any]) -> str:
    """The machine in a line."""
    flags = ", ".join(machine["flags"])
    return f"{machine['cores']} cores of {machine['cpu']} ({flags}), {machine['date'][:10]}"


def _daft_versions(python: Path) -> dict[str, str]:
    """Of the environment that Daft has to itself; empty where there is none."""
    if not python.exists():
        return {}
    command = [str(python), "-c", VERSIONS, *DAFT_PACKAGES]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return dict(zip(DAFT_PACKAGES, ended.stdout.split(), strict=False))
