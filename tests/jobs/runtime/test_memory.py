"""What memory is free, by files of control groups as kernels write them."""

import math
from pathlib import Path

import pytest

from jobs.runtime.memory import MEMINFO, free_in_group, free_memory

V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def write_group(folder: Path, names: tuple[str, str, str], limit: str, taken: int, cache: int):
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{taken}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cache}\nactive_file 9\n")
    return folder


@pytest.mark.parametrize("names", [V1, V2])
def test_a_group_has_free_what_it_does_not_hold_or_can_drop(
    tmp_path: Path, names: tuple[str, str, str]
):
    assert free_in_group(write_group(tmp_path, names, "1000", 700, 250)) == 550
    assert free_in_group(write_group(tmp_path, names, "1000", 1200, 0)) == 0


def test_a_group_without_limit_allows_all(tmp_path: Path):
    assert free_in_group(write_group(tmp_path, V2, "max", 700, 250)) == math.inf
    assert free_in_group(tmp_path / "none") == math.inf


@pytest.mark.skipif(not MEMINFO.exists(), reason="a system without /proc")
def test_free_memory_is_of_this_machine():
    total = int(MEMINFO.read_text().split("MemTotal:")[1].split()[0]) * 1024
    assert 0 < free_memory() < total
