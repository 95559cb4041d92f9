"""What a world raised in an env runner that is an actor, told to the process that learns.

RLlib restarts such an actor, whatever it died of, and goes on without its episodes. A process that
was lost may be replaced so; a bug of a world may not: see `Episodes`.
"""

from typing import Any

import gymnasium
import ray

BOARD = "argus_raised"
"""name of the actor that knows, begun by the first env runner that has something to say"""


class Board:
    """What was raised first."""

    def __init__(self) -> None:
        self.told = ""

    def tell(self, told: str) -> None:
        """Called by env runners."""
        self.told = self.told or told

    def read(self) -> str:
        """Called by the learner."""
        return self.told


class Telling(gymnasium.Wrapper):
    """A world in an env runner's actor: what it raises is told before it is raised."""

    def reset(self, **said: Any) -> tuple[Any, dict[str, Any]]:
        """See the class."""
        try:
            return super().reset(**said)
        except RuntimeError as raised:
            _tell(str(raised))
            raise

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See the class."""
        try:
            return super().step(action)
        except RuntimeError as raised:
            _tell(str(raised))
            raise


def _tell(told: str) -> None:
    board: Any = ray.remote(num_cpus=0)(Board)
    # detached: it outlives the env runner
    named = board.options(name=BOARD, get_if_exists=True, lifetime="detached").remote()
    ray.get(named.tell.remote(told))


def take_what_was_told() -> str:
    """What a world raised in an env runner since the last call; empty where none did."""
    try:
        board = ray.get_actor(BOARD)
    except ValueError:
        return ""
    told: Any = ray.get(board.read.remote())
    ray.kill(board)
    return told
