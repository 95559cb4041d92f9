"""Rooms drawn from seeds: solvable, the same each time, and played by the rules that they tell."""

import hashlib
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from jobs.navigation.above import (
    AGENT,
    BEYOND,
    BOX,
    FLOOR,
    GOAL,
    MOVER,
    TRAIL_COLOUR,
    WALL,
    draw_tiles,
)
from jobs.navigation.layouts import HEADINGS, Layout, RoomsConfig, distances, make_layout
from jobs.navigation.rooms import BUMP, MAP_CELL_PX, Rooms

KINDS = (
    RoomsConfig(),
    RoomsConfig(size=7, obstacles=10, moving=2),
    RoomsConfig(num_rooms=2, moving=3),
    RoomsConfig(size=13, num_rooms=4, obstacles=30, view_cells=7),
    RoomsConfig(view="eye", moving=1),
)
SEEDS = st.integers(0, 2**40)
LEFT, RIGHT, FORWARD = range(3)


def drawn(text: str, heading: int = 0) -> Layout:
    """A layout from its drawing: # wall, o box, A start, G goal."""
    grid = np.array([list(line) for line in text.split()])
    start, goal = (tuple(np.argwhere(grid == mark)[0].tolist()) for mark in "AG")
    walls, boxes = grid == "#", grid == "o"
    return Layout(walls=walls, obstacles=boxes, start=start, heading=heading, goal=goal, movers=())


def after(layout: Layout, state: tuple[int, int, int], action: int) -> tuple[int, int, int]:
    """Heading, row and column after an action, where nothing moves."""
    heading, row, column = state
    if action != FORWARD:
        return (heading + (1 if action == RIGHT else 3)) % 4, row, column
    there = row + HEADINGS[heading][0], column + HEADINGS[heading][1]
    if layout.walls[there] or layout.obstacles[there]:
        return state
    return heading, *there


def slow_distances(layout: Layout) -> np.ndarray:
    """Actions to the goal, by going over all states until nothing changes."""
    shape = (4, *layout.walls.shape)
    away = np.full(shape, 10**6)
    away[:, layout.goal[0], layout.goal[1]] = 0
    free = ~(layout.walls | layout.obstacles)
    changed = True
    while changed:
        changed = False
        for heading, row, column in np.argwhere(np.broadcast_to(free, shape)).tolist():
            state = heading, row, column
            best = min(away[after(layout, state, action)] for action in range(3)) + 1
            if best < away[state]:
                away[state], changed = best, True
    away[away == 10**6] = -1
    return away


def count_parts(free: np.ndarray) -> int:
    """Parts of the floor that are not joined by sides of cells."""
    return int(np.max(np.asarray(label(free)[0])))  # pyright: ignore[reportIndexIssue]


def goal_seeking(env: Rooms) -> int:
    """An action that brings the agent nearer to the goal."""
    state = (env.heading, *env.trail[-1])
    ends = [env.distances[after(env.layout, state, action)] for action in range(3)]
    return int(np.argmin(ends))


@pytest.mark.parametrize("config", KINDS, ids=str)
@given(seed=SEEDS)
@settings(max_examples=40)
def test_all_of_the_floor_of_any_seed_reaches_the_goal(config: RoomsConfig, seed: int):
    layout = make_layout(config, seed)
    free = ~(layout.walls | layout.obstacles)
    assert layout.walls[[0, -1]].all()
    assert layout.walls[:, [0, -1]].all()
    assert layout.obstacles.sum() == config.obstacles
    assert not (layout.walls & layout.obstacles).any()
    assert (~layout.walls).sum() == config.num_floor
    named = [layout.goal, layout.start, *layout.movers]
    assert len(set(named)) == 2 + config.moving
    assert all(free[cell] for cell in named)
    away = distances(layout)
    assert (away[:, free] >= 0).all()
    assert (away[:, ~free] == -1).all()
    assert away[layout.heading][layout.start] > 0


@given(seed=SEEDS, kind=st.sampled_from(KINDS))
@settings(max_examples=12)
def test_distances_are_those_of_a_slow_search(seed: int, kind: RoomsConfig):
    layout = make_layout(kind, seed)
    assert np.array_equal(distances(layout), slow_distances(layout))


def test_distances_on_paper():
    away = distances(drawn("#####\n#A.G#\n##.##\n#oo.#\n#####"))
    assert away[:, 1, 1].tolist() == [2, 3, 4, 3]  # straight on; a turn, a turn; two; a turn
    assert away[:, 1, 3].tolist() == [0] * 4
    assert away[:, 2, 2].tolist() == [4, 5, 4, 3]  # up, right, and their turns
    assert away[:, 3, 3].tolist() == [-1] * 4
    assert (away[:, 0] == -1).all()


def test_the_layouts_of_seeds_are_those_of_every_machine():
    """Pinned: a NumPy that draws otherwise would change what every seed means."""
    told = hashlib.sha256()
    for config in KINDS[:4]:
        for seed in range(50):
            layout = make_layout(config, seed)
            cells = [layout.start, layout.goal, *layout.movers]
            told.update(layout.walls.tobytes() + layout.obstacles.tobytes())
            told.update(f"{layout.heading} {cells}".encode())
    assert told.hexdigest()[:16] == "6e6ffaa60246565c"


@pytest.mark.parametrize("num_rooms", [1, 2, 4])
def test_without_its_gaps_a_world_has_so_many_rooms(num_rooms: Literal[1, 2, 4]):
    for seed in range(30):
        config = RoomsConfig(size=13, num_rooms=num_rooms, obstacles=0)
        walls = make_layout(config, seed).walls
        closed = walls.copy()
        closed[walls.sum(axis=1) > 7] = True
        closed[:, walls.sum(axis=0) > 7] = True
        assert count_parts(~walls) == 1
        assert count_parts(~closed) == num_rooms


def test_the_agent_turns_goes_and_bumps_as_told():
    env = Rooms(RoomsConfig(obstacles=1, max_steps=50))
    with pytest.raises(ResetNeeded, match="before the first reset"):
        env.step(FORWARD)
    for seed in range(20):
        env.reset(seed=seed)
        state = (env.heading, *env.trail[-1])
        for action in np.random.default_rng(seed).integers(3, size=50):
            state = after(env.layout, state, action)
            _, reward, terminated, truncated, info = env.step(action)
            assert (env.heading, *env.trail[-1]) == state
            assert terminated == (state[1:] == env.layout.goal)
            assert truncated == (not terminated and env.steps == 50)
            assert reward == (1 - 0.9 * env.steps / 50 if terminated else 0)
            assert info.get("success") == (terminated if terminated or truncated else None)
            if terminated or truncated:
                break
    with pytest.raises(ValueError, match=r"action: 3, must be 0, 1 or 2"):
        env.step(3)


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_the_shortest_way_is_as_long_as_reset_said(config: RoomsConfig):
    env = Rooms(replace(config, moving=0, shaping=0.5))
    for seed in range(30):
        _, info = env.reset(seed=seed)
        rewards, ended, end = [], False, {}
        while not ended:
            _, reward, ended, _, end = env.step(goal_seeking(env))
            rewards.append(reward)
        assert len(rewards) == info["shortest"]
        assert end == {"success": True, "seed": seed, "shortest": len(rewards)}
        shaped = 0.5 * info["shortest"] / env.distances.max()  # P(end) - P(start)
        assert sum(rewards) == pytest.approx(1 - 0.9 * len(rewards) / env.max_steps + shaped)


def test_shaping_adds_what_its_potential_changes_by_and_nothing_in_a_circle():
    plain, shaped = Rooms(RoomsConfig(moving=2)), Rooms(RoomsConfig(moving=2, shaping=2.0))
    for seed in range(10):
        plain.reset(seed=seed)
        shaped.reset(seed=seed)
        start, total, ended = shaped.shortest, 0.0, False
        for action in np.random.default_rng(seed).integers(3, size=plain.max_steps):
            if not ended:
                _, one, *_ = plain.step(action)
                _, other, terminated, truncated, _ = shaped.step(action)
                total, ended = total + other - one, terminated or truncated
        left = shaped.distances[shaped.heading][shaped.trail[-1]]
        assert total == pytest.approx(2 * (start - left) / shaped.distances.max())
    shaped.reset(seed=0)
    assert sum(shaped.step(LEFT)[1] for _ in range(4)) == pytest.approx(0)


def test_movers_walk_a_cell_at_most_and_never_onto_anything():
    env = Rooms(RoomsConfig(size=7, obstacles=4, moving=5, max_steps=200))
    bumps = walked = 0
    for seed in range(20):
        env.reset(seed=seed)
        before = movers(env)
        for action in np.random.default_rng(seed).integers(3, size=200):
            ahead = tuple(np.add(env.trail[-1], HEADINGS[env.heading]).tolist())
            here, steps = env.trail[-1], len(env.trail)
            _, reward, terminated, truncated, _ = env.step(action)
            now = movers(env)
            if action == FORWARD and ahead in before:
                bumps += 1
                assert reward == -BUMP
                assert (env.trail[-1], len(env.trail)) == (here, steps)
            assert len(now) == 5
            free = ~(env.layout.walls | env.layout.obstacles)
            assert all(free[cell] for cell in now)
            assert not now & {env.trail[-1], env.layout.goal}
            near = {cell: step(cell) for cell in before}
            assert all(any(cell in near[old] for old in before) for cell in now)
            walked += len(now - before)
            before = now
            if terminated or truncated:
                break
    assert bumps > 20
    assert walked > 1000


def step(cell: tuple[int, int]) -> set[tuple[int, int]]:
    """A cell and those beside it."""
    return {cell, *((cell[0] + down, cell[1] + right) for down, right in HEADINGS)}


def movers(env: Rooms) -> set[tuple[int, int]]:
    """Where movers are seen on the map, by its pixels."""
    pixels = env.render()
    size = env.config.size
    cells = pixels.reshape(size, MAP_CELL_PX, size, MAP_CELL_PX, 3).swapaxes(1, 2)
    tile = draw_tiles(MAP_CELL_PX)[MOVER]
    found = np.argwhere((cells == tile).all(axis=(2, 3, 4)))
    return {(int(row), int(column)) for row, column in found}


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_seed_and_actions_make_the_same_episode(config: RoomsConfig):
    check_env(Rooms(config), skip_render_check=True)
    first, second = Rooms(config), Rooms(config)
    second.reset(seed=99)
    second.step(FORWARD)
    shown = [[env.reset(seed=5)[0]] for env in (first, second)]
    for action in np.random.default_rng(0).integers(3, size=30):
        for env, pictures in zip((first, second), shown, strict=True):
            pictures.append(env.step(action)[0])
    assert np.array_equal(shown[0], shown[1])


def test_without_a_seed_worlds_differ_and_say_their_own():
    env, again = Rooms(), Rooms()
    env.reset(seed=1)
    seeds = [env.reset()[1]["seed"] for _ in range(5)]
    assert len(set(seeds)) == 5
    shown, _ = env.reset()
    assert np.array_equal(shown, again.reset(seed=env.layout_seed)[0])


@given(seed=SEEDS, turns=st.integers(0, 3))
@settings(max_examples=30)
def test_the_view_is_the_world_turned_about_the_agent(seed: int, turns: int):
    """Each tile of the view against the cell that lies there, by its own arithmetic."""
    config = RoomsConfig(view_cells=5, tile_px=4)
    env = Rooms(config)
    shown, _ = env.reset(seed=seed)
    for _ in range(turns):
        shown = env.step(RIGHT)[0]
    (ahead_down, ahead_right), tiles = HEADINGS[env.heading], draw_tiles(4)
    row, column = env.trail[-1]
    for up in range(-2, 3):
        for aside in range(-2, 3):
            at = (
                row + up * ahead_down + aside * ahead_right,
                column + up * ahead_right - aside * ahead_down,
            )
            tile = shown[(2 - up) * 4 : (3 - up) * 4, (2 + aside) * 4 : (3 + aside) * 4]
            assert np.array_equal(tile, tiles[thing(env, at)]), (up, aside)


def thing(env: Rooms, at: tuple[int, int]) -> int:
    """What is in a cell, agent included."""
    if not all(0 <= place < env.config.size for place in at):
        return BEYOND
    if at == env.trail[-1]:
        return AGENT
    if at == env.layout.goal:
        return GOAL
    return WALL if env.layout.walls[at] else BOX if env.layout.obstacles[at] else FLOOR


def test_in_a_world_of_one_room_the_goal_is_always_in_view():
    goal = draw_tiles(5)[GOAL]
    env = Rooms()
    for seed in range(50):
        shown, _ = env.reset(seed=seed)
        tiles = shown.reshape(13, 5, 13, 5, 3).swapaxes(1, 2)
        assert (tiles == goal).all(axis=(2, 3, 4)).sum() == 1


def test_things_are_told_apart_by_their_tiles_at_any_size():
    for tile_px in (3, 4, 5, 8, 16):
        tiles = draw_tiles(tile_px).astype(int)
        assert tiles.shape == (7, tile_px, tile_px, 3)
        apart = np.abs(tiles[:, None] - tiles).mean(axis=(2, 3, 4))
        assert apart[~np.eye(7, dtype=bool)].min() > 15


def test_the_map_shows_where_the_agent_is_and_where_it_has_been():
    env = Rooms(RoomsConfig(obstacles=0))
    env.reset(seed=3)
    maps = [env.render()]
    while not env.step(goal_seeking(env))[2]:
        maps.append(env.render())
    maps.append(env.render())
    side = env.config.size * MAP_CELL_PX
    assert {each.shape for each in maps} == {(side, side, 3)}
    assert not any(np.array_equal(one, other) for one, other in pairwise(maps))
    middle = MAP_CELL_PX // 2
    for row, column in set(env.trail[:-1]):
        place = maps[-1][row * MAP_CELL_PX + middle, column * MAP_CELL_PX + middle]
        assert tuple(place) == TRAIL_COLOUR


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 8}, r"size: 8, must be odd and 7 or more"),
        ({"size": 5}, r"size: 5, must be odd and 7 or more"),
        ({"num_rooms": 3}, r"num_rooms: 3, must be 1, 2 or 4"),
        ({"obstacles": -1}, r"obstacles: -1, must not be negative"),
        ({"moving": 30}, r"obstacles: 8 and 30 moving, must be at most 24 together"),
        ({"view_cells": 4}, r"view_cells: 4, must be odd and 3 or more"),
        ({"tile_px": 2}, r"tile_px: 2, must be 3 or more"),
        ({"view": "below"}, r"view: 'below', must be 'above' or 'eye'"),
        ({"eye_px": (48, 4)}, r"eye_px: \(48, 4\), must be height and width, 8 or more"),
        ({"max_steps": -1}, r"max_steps: -1, must not be negative"),
        ({"shaping": -0.5}, r"shaping: -0.5, must be 0 or more"),
        ({"shaping": float("nan")}, r"shaping: nan, must be 0 or more"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_is_refused(fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        RoomsConfig(**fields)


def test_a_world_too_full_to_be_drawn_says_what_to_change():
    crowded = RoomsConfig(size=31, obstacles=420)
    with pytest.raises(ValueError, match=r"obstacles: 420, found no place .* seed 7; fewer"):
        make_layout(crowded, 7)
