"""`python -m jobs` lists the jobs, one line each."""

import ast
import sys
from pathlib import Path


def summaries() -> dict[str, str]:
    """First sentence of each job's docstring by its name; no job is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[path.stem] = text.splitlines()[0] if text else ""
    return found


def main() -> None:
    """Write the list to standard output."""
    width = max(map(len, summaries()))
    for name, text in summaries().items():
        sys.stdout.write(f"python -m jobs.{name:<{width}}  {text}\n")


if __name__ == "__main__":
    main()
