"""Worlds by name: what is seen, what can be done, whose seeds, and how short the ways are."""

from collections import deque
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import pytest

from jobs.navigation.env import (
    FIRST_SEED,
    MOST_STEPS,
    WorldConfig,
    interface_of,
    make_world,
    tried,
)
from jobs.navigation.shortest import shortest_actions

CORRIDOR = "tests.jobs.navigation.worlds:corridor"


@pytest.mark.parametrize(
    ("name", "shape", "actions"),
    [
        ("rooms", (1, 65, 65, 3), ("left", "right", "forward")),
        ("Empty-8x8", (1, 56, 56, 3), ("left", "right", "forward")),
        ("MiniGrid-FourRooms-v0", (1, 56, 56, 3), ("left", "right", "forward")),
        ("DoorKey-5x5", (1, 56, 56, 3), ("left", "right", "forward", "pickup", "toggle")),
        ("SimpleCrossingS9N1", (1, 56, 56, 3), ("left", "right", "forward")),
        ("LavaGapS5", (1, 56, 56, 3), ("left", "right", "forward")),
        ("MultiRoom-N2-S4", (1, 56, 56, 3), ("left", "right", "forward", "toggle")),
        ("UnlockPickup", (1, 56, 56, 3), ("left", "right", "forward", "pickup", "drop", "toggle")),
        ("GoToObject-6x6-N2", (1, 56, 56, 3), ("left", "right", "forward", "done")),
        (CORRIDOR, (1, 36, 40, 3), ("stay", "go")),
    ],
)
def test_worlds_show_pictures_and_name_their_actions(
    name: str, shape: tuple[int, ...], actions: tuple[str, ...]
):
    env = make_world(WorldConfig(name=name))
    interface = interface_of(env)
    assert (interface.shape, interface.actions) == (shape, actions)
    seen, info = env.reset(seed=3)
    assert seen.shape == shape
    assert seen.dtype == np.uint8
    assert info["seed"] in range(FIRST_SEED["train"], FIRST_SEED["validation"])


def test_the_actions_that_matter_are_the_worlds_own_numbers():
    env: Any = make_world(WorldConfig(name="DoorKey-5x5"))
    env.reset(options={"episode": 1})
    world = env.unwrapped
    before = world.agent_dir
    env.step(interface_of(env).actions.index("right"))
    assert world.agent_dir == (before + 1) % 4
    key = next(o for o in world.grid.grid if o is not None and o.type == "key")
    world.agent_pos = np.array(key.cur_pos) - np.array([1, 0])  # left of it, if that is free
    world.agent_dir = 0
    env.step(interface_of(env).actions.index("pickup"))
    assert world.carrying is key


def test_who_says_done_at_the_door_that_was_named_has_reached_it():
    env: Any = make_world(WorldConfig(name="GoToDoor-5x5"))
    env.reset(options={"episode": 1})
    x, y = env.unwrapped.target_pos
    env.unwrapped.agent_pos = np.array([min(max(x, 1), 3), min(max(y, 1), 3)])  # inside of it
    _, reward, terminated, _, info = env.step(interface_of(env).actions.index("done"))
    assert (reward > 0, terminated, info["success"]) == (True, True, True)


def test_a_world_that_shows_other_pictures_than_it_says_is_refused():
    told = r"liar: shows uint8 \(30, 40, 3\), and says that it shows uint8 \(36, 40, 3\)"
    with pytest.raises(ValueError, match=told):
        tried(WorldConfig(name="tests.jobs.navigation.worlds:liar"))


def test_an_episode_that_its_world_never_ends_is_ended():
    env = make_world(WorldConfig(name="tests.jobs.navigation.worlds:endless"))
    env.reset(seed=0)
    ended = [env.step(0)[3] for _ in range(MOST_STEPS)]
    assert ended == [False] * (MOST_STEPS - 1) + [True]


def test_of_several_versions_of_a_world_the_latest_is_meant():
    names = [n for n in gymnasium.registry if n.startswith("MiniGrid-ObstructedMaze-Full-")]
    assert len(names) > 1
    env = make_world(WorldConfig(name="ObstructedMaze-Full"))
    assert env.spec is not None
    assert env.spec.id == max(names)


def test_an_episode_by_its_seed_is_the_same_and_others_are_not():
    env, again = make_world(WorldConfig()), make_world(WorldConfig())
    env.reset(seed=1)  # draws from its sequence, which must not matter
    first, info = env.reset(options={"episode": FIRST_SEED["test"] + 5})
    same, _ = again.reset(options={"episode": FIRST_SEED["test"] + 5})
    assert info["seed"] == FIRST_SEED["test"] + 5
    assert (first == same).all()
    others = [again.reset(options={"episode": FIRST_SEED["test"] + n})[0] for n in range(5)]
    assert all((first != other).any() for other in others)


def test_a_sequence_of_training_episodes_is_told_by_its_seed():
    seeds = []
    for _ in range(2):
        env = make_world(WorldConfig(name=CORRIDOR))
        seeds.append([env.reset(seed=9)[1]["seed"]] + [env.reset()[1]["seed"] for _ in range(4)])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 5
    assert FIRST_SEED["validation"] < FIRST_SEED["test"] < 2**31


def test_the_last_frames_are_seen_the_newest_last():
    env = make_world(WorldConfig(name=CORRIDOR, frames=3))
    seen, _ = env.reset(seed=0)
    assert seen.shape == (3, 36, 40, 3)
    assert [int(frame[0, 0, 1]) for frame in seen] == [0, 0, 0]  # nothing was before the first
    for _ in range(4):
        seen, *_ = env.step(0)
    assert [int(frame[0, 0, 1]) for frame in seen] == [2, 3, 4]


@pytest.mark.parametrize(("action", "success", "length"), [(1, True, 4), (0, False, 30)])
def test_an_episode_says_whether_it_reached_its_end(action: int, success: bool, length: int):
    env = make_world(WorldConfig(name=CORRIDOR))
    env.reset(seed=0)
    info: dict[str, Any] = {}
    for step in range(1, length + 1):
        *_, terminated, truncated, info = env.step(action)
        assert (terminated or truncated) == (step == length)
    assert info["success"] is success


def test_every_world_ends_after_as_many_steps_as_asked():
    env = make_world(WorldConfig(name=CORRIDOR, max_steps=7))
    env.reset(seed=0)
    ended = [env.step(0)[3] for _ in range(7)]
    assert ended == [False] * 6 + [True]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("DoorKey-7x7", "near it: DoorKey-16x16, DoorKey-5x5"),
        ("Nowhere", "it has BlockedUnlockPickup"),
        ("tests.jobs.navigation.worlds:missing", "has no attribute 'missing'"),
        ("no_such_module:corridor", "No module named 'no_such_module'"),
        ("tests.jobs.navigation.worlds:wanting", "missing a required argument: 'size'"),
        ("tests.jobs.navigation.worlds:SIZE", "is not a callable object"),
        ("tests.jobs.navigation.worlds:nothing", "returned NoneType, no gymnasium.Env"),
        ("tests.jobs.navigation.worlds:pole", r"Box\(.*\); wanted pictures, uint8 \(H, W, 3\)"),
    ],
)
def test_worlds_that_are_none_are_refused(name: str, told: str):
    with pytest.raises(ValueError, match=told) as refused:
        make_world(WorldConfig(name=name))
    assert name in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"frames": 0}, "frames 0"),
        ({"tile_px": 0}, "tile_px 0"),
        ({"max_steps": -1}, "max_steps -1"),
    ],
)
def test_impossible_values_are_refused(fields: dict[str, Any], told: str):
    with pytest.raises(ValueError, match=told):
        WorldConfig(**fields)


def test_the_shortest_way_through_an_empty_room_on_paper():
    env = make_world(WorldConfig(name="Empty-5x5"))
    env.reset(options={"episode": 0})  # from the top left, looking right, to the bottom right
    assert shortest_actions(env) == 2 + 1 + 2


def tried_out(env: gymnasium.Env, actions: int) -> int:
    """Fewest actions to a reward, by playing every sequence, those that lead nowhere new apart."""
    queue, known = deque([(0, env)]), set()
    while queue:
        length, before = queue.popleft()
        for action in range(actions):
            after = deepcopy(before)
            _, reward, over, _, _ = after.step(action)
            if over and float(reward) > 0:
                return length + 1
            world: Any = after.unwrapped
            doors = tuple(d.is_open for d in world.grid.grid if d is not None and d.type == "door")
            state = (*world.agent_pos, world.agent_dir, doors)
            if state not in known and not over:
                known.add(state)
                queue.append((length + 1, after))
    return -1


@pytest.mark.parametrize("name", ["Empty-Random-5x5", "MultiRoom-N2-S4", "SimpleCrossingS9N1"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_sequence_of_actions_is_shorter_than_the_shortest(name: str, seed: int):
    env = make_world(WorldConfig(name=name))
    env.reset(options={"episode": seed})
    found = shortest_actions(env)
    assert found == tried_out(env, len(interface_of(env).actions))


@pytest.mark.parametrize("name", ["DoorKey-5x5", "LavaGapS5", "GoToDoor-5x5", CORRIDOR])
def test_ways_that_depend_on_more_than_walls_are_not_known(name: str):
    env = make_world(WorldConfig(name=name))
    env.reset(options={"episode": 0})
    assert shortest_actions(env) == -1
