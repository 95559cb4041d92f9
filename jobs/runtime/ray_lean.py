"""Ray on one machine without the services that only a cluster or a dashboard needs.

Besides what runs tasks `ray.init` starts an API server, an autoscaler's monitor, a monitor of log
files and an agent with all that it can report: some five CPU seconds of a laptop before its first
image. Then it looks once a second whether the node is up. It has no settings for that, so functions
of its own are exchanged while it runs; what another version of Ray lacks stays as it is there.
"""

import inspect
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray._private import services, utils
from ray._private.node import Node
from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

Exchange = tuple[Any, str, Any]
"""an owner, the name of its attribute, and what that is to be"""

POLL_S = 0.02
MAX_WAIT_S = 30.0
"""for the node, after which Ray waits in its own way, and says what is wrong"""
_sessions: set[str] = set()
"""of this process, that were started lean"""
_lock = threading.Lock()
_blocks: Counter[tuple[Any, str]] = Counter()
"""of `exchanged` that an attribute is in"""
_usual: dict[tuple[Any, str], Any] = {}
"""what attributes are that are exchanged now"""


@contextmanager
def lean_start() -> Iterator[None]:
    """A `ray.init` in the block starts what runs tasks, and nothing else."""
    wanted: list[Exchange] = [
        (Node, "start_monitor", lambda node: None),
        (Node, "start_log_monitor", lambda node: None),
        (services, "start_api_server", lambda *args, **named: ("", None)),
        (utils, "get_dashboard_dependency_error", lambda: ImportError("left out")),
        (services, "get_node", _once_it_is_up(getattr(services, "get_node", None))),
    ]
    with exchanged(wanted):
        yield
    _sessions.add(ray.get_runtime_context().get_session_name())


def is_lean() -> bool:
    """Whether the Ray that runs was started lean, by this process."""
    return ray.get_runtime_context().get_session_name() in _sessions


@contextmanager
def exchanged(wanted: Iterable[Exchange]) -> Iterator[None]:
    """Attributes are others in the block; those that an owner lacks stay so.

    Blocks may overlap, in threads too: the first of them exchanges an attribute, the last puts it
    back.
    """
    there = [(owner, name, new) for owner, name, new in wanted if hasattr(owner, name)]
    with _lock:
        for owner, name, new in there:
            if (owner, name) not in _usual:
                _usual[owner, name] = inspect.getattr_static(owner, name)
                setattr(owner, name, new)
            _blocks[owner, name] += 1
    try:
        yield
    finally:
        with _lock:
            for owner, name, _ in there:
                _blocks[owner, name] -= 1
                if not _blocks[owner, name]:
                    setattr(owner, name, _usual.pop((owner, name)))


def _once_it_is_up(get_node: Any) -> Callable[[str, str], Any]:
    """Ray's `get_node`, called when the node is known: before, it sleeps for whole seconds."""

    def patient(gcs_address: str, node_id: str) -> Any:
        ends = time.monotonic() + MAX_WAIT_S
        with suppress(AttributeError, TypeError):  # another version's client
            client = GcsClient(address=gcs_address)
            while time.monotonic() < ends and node_id not in _known(client):
                time.sleep(POLL_S)
        return get_node(gcs_address, node_id)

    return patient


def _known(client: Any) -> set[str]:
    return {each.hex() for each in client.get_all_node_info(timeout=MAX_WAIT_S)}
