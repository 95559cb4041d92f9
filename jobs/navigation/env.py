"""Worlds in which an agent sees pictures: ours, MiniGrid's, or any of Gymnasium's interface.

Whatever the world, an observation is uint8 (F, H, W, 3): the last F pictures, the newest last.
Every episode has a seed that names it: for training, validation and test from ranges that have no
number in common, so that no room is ever learnt in and judged by.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import FrameStackObservation

from jobs.navigation.layouts import RoomsConfig
from jobs.navigation.rooms import ACTIONS, Rooms

Part = Literal["train", "validation", "test"]
FIRST_SEED: dict[Part, int] = {"train": 0, "validation": 1 << 30, "test": 3 << 29}
"""of each part's episodes: the ranges end where the next begins, the last at 2^31"""
MOST_STEPS = 10_000
"""of an episode in a world that sets no end to it"""
MOVES = ("left", "right", "forward")
MINIGRID_ACTIONS = (*MOVES, "pickup", "drop", "toggle", "done")
MATTER: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Empty", "FourRooms", "SimpleCrossing", "LavaGap", "LavaCrossing"), MOVES),
    **dict.fromkeys(("DistShift", "Dynamic"), MOVES),
    **dict.fromkeys(("MultiRoom", "RedBlueDoors"), (*MOVES, "toggle")),
    "UnlockPickup": (*MOVES, "pickup", "drop", "toggle"),
    **dict.fromkeys(("DoorKey", "Unlock"), (*MOVES, "pickup", "toggle")),
    **dict.fromkeys(("GoToDoor", "GoToObject"), (*MOVES, "done")),
}
"""actions that can matter in MiniGrid's worlds whose names begin so, the first that does; in others
all but `done`"""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Which world, and how much of it is seen."""

    name: str = "rooms"
    """rooms: ours, see `world.rooms`; one of MiniGrid's, e.g. DoorKey-5x5 or FourRooms; or
    `module:function`, which returns a Gymnasium environment that is seen as uint8 (H, W, 3)"""
    rooms: RoomsConfig = field(default_factory=lambda: RoomsConfig(shaping=1.0))
    """the world of ours; of no effect on others"""
    tile_px: int = 8
    """pixels of a tile's side in MiniGrid's pictures, which show 7 x 7 tiles"""
    max_steps: int = 0
    """steps after which an episode of any world has failed; 0: as the world has it, 10,000 at most:
    one that never ends would be played for ever"""
    frames: int = 1
    """pictures that are seen at a time, the newest and those before it"""

    def __post_init__(self) -> None:
        for name in ("tile_px", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"world.{name} {getattr(self, name)}: must be at least 1")
        if self.max_steps < 0:
            raise ValueError(f"world.max_steps {self.max_steps}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What an agent has to do with: the shape of what it sees, the names of what it can do."""

    shape: tuple[int, int, int, int]
    """F, H, W, 3"""
    actions: tuple[str, ...]


class Episodes(gymnasium.Wrapper):
    """Episodes by seed; says at the end whether they reached what the world is about.

    `reset(seed=s)` begins a sequence of episodes of the training part that s and the stream tell;
    `reset(options={"episode": s})` one episode alone, whose seed is s. `info` has "seed" at the
    start and "success" at the end: what the world says (`success`, `is_success`), else whether it
    ended, before its steps did, with a reward.

    What a world raises is a bug of it: an episode left out would leave figures that are of the
    episodes without bugs. So it is raised, as a RuntimeError that says how to come there again. It
    takes the place of the world's, trace and all: Ray tells the innermost of several.
    """

    def __init__(self, env: gymnasium.Env, name: str, stream: int = 0) -> None:
        super().__init__(env)
        self.name, self.stream = name, stream
        self.random = np.random.default_rng()
        self.seed, self.actions = -1, list[int]()
        self.is_looked_at = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See the class."""
        if seed is not None:
            self.random = np.random.default_rng([seed, self.stream] if self.stream else seed)
        episode = (options or {}).get("episode", -1)
        if episode < 0:
            episode = int(self.random.integers(FIRST_SEED["train"], FIRST_SEED["validation"]))
        self.seed, self.actions = episode, []
        with self._naming():
            observation, info = self.env.reset(seed=episode)
        if not self.is_looked_at:
            self._look_at(np.asarray(observation))
        return observation, {**info, "seed": episode}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See the class."""
        with self._naming():
            observation, reward, terminated, truncated, info = self.env.step(action)
        self.actions.append(int(action))
        if terminated or truncated:
            reached = info.get("success", info.get("is_success", terminated and float(reward) > 0))
            info = {**info, "success": bool(reached)}
        return observation, reward, terminated, truncated, info

    def _look_at(self, seen: np.ndarray) -> None:
        """Raise ValueError where the first picture is none that the world says it shows."""
        space = cast(Box, self.env.observation_space)
        if (seen.shape, seen.dtype) != (space.shape, space.dtype):
            raise ValueError(
                f"world.name {self.name}: shows {seen.dtype} {seen.shape}, and says that it shows "
                f"{space.dtype} {space.shape}"
            )
        self.is_looked_at = True

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except Exception as bug:  # noqa: BLE001 - it is raised again, below
            told = (
                f"world.name {self.name}: the episode of seed {self.seed} raised after the "
                f"actions {self.actions}: {type(bug).__name__}: {bug}"
            )
            raise RuntimeError(told).with_traceback(bug.__traceback__) from None


class Chosen(gymnasium.ActionWrapper):
    """A world with some of its actions, by their numbers."""

    def __init__(self, env: gymnasium.Env, numbers: list[int]) -> None:
        super().__init__(env)
        self.numbers = numbers
        self.action_space = Discrete(len(numbers))

    def action(self, action: Any) -> int:
        """The world's number of an action."""
        return self.numbers[int(action)]


def make_world(config: WorldConfig, stream: int = 0) -> gymnasium.Env:
    """The world, ready for episodes; of another stream the same seed begins another sequence.

    Raises ValueError for what does not exist or is not seen.
    """
    if config.name == "rooms":
        env: gymnasium.Env = Rooms(config.rooms)
    elif ":" in config.name:
        env = _by_function(config.name)
    else:
        env = _minigrid(config)
    _check(env, config.name)
    env = gymnasium.wrappers.TimeLimit(env, config.max_steps or MOST_STEPS)
    episodes = Episodes(env, config.name, stream)
    return FrameStackObservation(episodes, config.frames, padding_type="reset")


def unshaped(config: WorldConfig) -> WorldConfig:
    """The same world without rewards that are there to learn by: what an agent is judged in."""
    return replace(config, rooms=replace(config.rooms, shaping=0.0))


def tried(config: WorldConfig) -> Interface:
    """What an agent of this world is made for, after a look at it.

    Raises ValueError for what does not exist, is not seen, or shows other pictures than it says.
    """
    env = make_world(config)
    try:
        env.reset(seed=0)
        return interface_of(env)
    finally:
        env.close()


def interface_of(env: gymnasium.Env) -> Interface:
    """What an agent of this world is made for."""
    shape = cast(Box, env.observation_space).shape
    return Interface(shape=cast(tuple[int, int, int, int], shape), actions=_actions(env))


def _actions(env: gymnasium.Env) -> tuple[str, ...]:
    count = int(cast(Discrete, env.action_space).n)
    if isinstance(env.unwrapped, Rooms):
        return ACTIONS
    layer: gymnasium.Env = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, Chosen):
            return tuple(MINIGRID_ACTIONS[number] for number in layer.numbers)
        layer = layer.env
    meanings: Callable[[], list[str]] | None = getattr(env.unwrapped, "get_action_meanings", None)
    names = tuple(map(str.lower, meanings())) if meanings else ()
    return names if len(names) == count else tuple(f"action {number}" for number in range(count))


def _minigrid(config: WorldConfig) -> gymnasium.Env:
    try:
        import minigrid  # the one place of the extra `navigation` that asks for it
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"world.name {config.name}: MiniGrid's worlds need pip install -e '.[navigation]'"
        ) from missing
    from minigrid.wrappers import ImgObsWrapper, RGBImgPartialObsWrapper

    found, known = "", dict[str, str]()
    for name in sorted(name for name in gymnasium.registry if name.startswith("MiniGrid-")):
        known[name.removeprefix("MiniGrid-").rpartition("-")[0]] = name  # its latest version
        if config.name == name:
            found = name
    if not (found := found or known.get(config.name, "")):
        near = [name for name in known if name.lower().startswith(config.name[:4].lower())]
        raise ValueError(
            f"world.name {config.name!r}: neither rooms nor module:function, and MiniGrid "
            f"{minigrid.__version__} has none of it; {'near it: ' if near else 'it has '}"
            + ", ".join(near or known)
        )
    env = gymnasium.make(found, render_mode="rgb_array", disable_env_checker=True)
    env = ImgObsWrapper(RGBImgPartialObsWrapper(env, tile_size=config.tile_px))
    kind = found.removeprefix("MiniGrid-")
    families = [actions for family, actions in MATTER.items() if kind.startswith(family)]
    matter = families[0] if families else MINIGRID_ACTIONS[:-1]
    return Chosen(env, [MINIGRID_ACTIONS.index(name) for name in matter])


def _by_function(name: str) -> gymnasium.Env:
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
        inspect.signature(make).bind()
    except (ModuleNotFoundError, AttributeError, TypeError) as wrong:
        told = f"wanted {module}:FUNCTION, called without arguments: {wrong}"
        raise ValueError(f"world.name {name}: {told}") from wrong
    env = make()
    if not isinstance(env, gymnasium.Env):
        raise ValueError(f"world.name {name}: returned {type(env).__name__}, no gymnasium.Env")
    return env


def _check(env: gymnasium.Env, name: str) -> None:
    seen, done = env.observation_space, env.action_space
    if not (
        isinstance(seen, Box)
        and seen.dtype == np.uint8
        and len(seen.shape) == 3
        and seen.shape[2] == 3
    ):
        raise ValueError(
            f"world.name {name}: what is observed is {seen}; wanted pictures, uint8 (H, W, 3)"
        )
    if not isinstance(done, Discrete) or done.start != 0:
        raise ValueError(f"world.name {name}: actions are {done}; wanted Discrete, from 0")
