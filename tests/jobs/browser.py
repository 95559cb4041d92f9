"""Headless Chromium: what a page says on its console, and what it asks the network for."""

import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--enable-logging=stderr",
    "--proxy-server=127.0.0.1:9",  # nobody is there: nothing leaves this machine
    "--proxy-bypass-list=<-loopback>",
)
BROWSER_ITSELF = "not an origin"
"""initiator of the requests that Chromium makes on its own: updates, dictionaries, accounts"""


def open_page(
    page: Path, screenshot: Path, *, width: int = 1280, height: int = 1600, dark: bool = False
) -> tuple[list[str], list[str]]:
    """Open a file, save a PNG of it; returns console lines and the URLs that the page asked for."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"needs one of {', '.join(NAMES)}")
    with TemporaryDirectory() as folder:
        log = Path(folder) / "net.json"
        command = [
            program,
            *QUIET,
            f"--user-data-dir={folder}/profile",
            f"--log-net-log={log}",
            f"--window-size={width},{height}",
            f"--screenshot={screenshot}",
            *(["--force-dark-mode"] if dark else []),
            page.as_uri(),
        ]
        told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        asked = _requests(json.loads(log.read_text()))
    return [line for line in told.stderr.splitlines() if "CONSOLE" in line], asked


def _requests(log: dict) -> list[str]:
    starts = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    events = [event.get("params", {}) for event in log["events"] if event["type"] == starts]
    return [
        event["url"]
        for event in events
        if "url" in event and event.get("initiator") != BROWSER_ITSELF
    ]
