"""The structure and the README are what they say they are."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from cluster.submit import entrypoint
from jobs.__main__ import summaries

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PACKAGES = ("jobs", "vision_ops", "cluster")
TOP_LEVEL = {
    *(".ci", ".gitignore", "LICENSE", "Makefile", "README.md", "constraints.txt", "pyproject.toml"),
    *("cluster", "jobs", "tests", "vision_ops"),
}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "core", "manager", "base", "misc"}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda p: str(p.relative_to(ROOT)))
def test_layers_hold(path: Path):
    parts = path.relative_to(ROOT).parts
    found = imports_of(path)
    if parts[0] == "vision_ops":
        banned = ("ray", "jobs", "cluster", "tests", "tyro")
    elif parts[:2] == ("jobs", "runtime"):
        banned = ("vision_ops", "cluster", "tests", "tyro")
    elif parts[0] == "jobs":
        banned = ("cluster", "tests")
        others = {name for name in found if is_below(name, "jobs")}
        shared = ("jobs.runtime", "jobs.pictures", "jobs.navigation")
        assert all(is_below(name, *shared) or name == "jobs" for name in others), others
    else:
        banned = ("vision_ops", "jobs", "tests")
    assert not [name for name in found if is_below(name, *banned)]


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("vision_ops.decode, jobs.runtime.decoder_process", {"torch", "ray", "pyarrow"}),
        ("jobs.classify", {"torch", "ray", "openvino", "matplotlib"}),
        ("jobs.runtime.ray_engine, vision_ops.precision.openvino_network", {"torch", "nncf"}),
        ("jobs.train_navigation", {"ray"}),
    ],
    ids=["decoders", "drivers", "actors on CPUs", "agents, refused"],
)
def test_processes_start_without_what_they_do_not_need(modules: str, heavy: set[str]):
    command = [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not heavy & set(loaded.stdout.split())


def test_no_module_has_a_name_that_says_nothing():
    assert not [p for p in sources(*PACKAGES) if FORBIDDEN_NAMES & set(p.stem.split("_"))]


def test_nothing_else_lies_at_the_top():
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    assert {name.partition("/")[0] for name in listed.splitlines()} == TOP_LEVEL


def test_the_readme_shows_every_file():
    shown, folders = set[str](), list[str]()
    for line in README[README.index("## Files") :].split("```")[1].strip().splitlines():
        depth, names = (len(line) - len(line.lstrip())) // 2, line.split("  ")
        names = next(filter(None, names)).split()
        folders = [*folders[:depth], names[0]] if names[0].endswith("/") else folders[:depth]
        shown |= {"".join(folders) + name for name in names if not name.endswith("/")}
    told_by_folder = ("tests/", "vision_ops/models/", "vision_ops/decode/")
    there = {p.relative_to(ROOT).as_posix() for p in sources(*PACKAGES)}
    there = {path for path in there if not path.endswith("__init__.py")}
    assert {path for path in there if not path.startswith(told_by_folder)} <= shown
    assert not {path for path in shown if path.endswith(".py")} - there


def commands() -> list[list[str]]:
    """Every command of the README that starts a job, as words."""
    found = re.findall(r"python -m (?:jobs\.\w+|cluster\.submit --)[^`\n|]*", README)
    return [shlex.split(command.strip())[2:] for command in found if "…" not in command]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_options_in_the_readme_are_accepted(words: list[str]):
    module = importlib.import_module(words[0])
    if words[0] == "cluster.submit":
        command = tuple(words[words.index("--") + 1 :])
        assert entrypoint(command).startswith("python -m jobs.classify")
        return
    parse = getattr(module, "parse", None)
    config = parse(words[1:]) if parse else tyro.cli(module.Config, args=words[1:])
    assert config is not None


def test_every_job_says_in_one_line_what_it_does():
    assert all(text.endswith(".") for text in summaries().values())
