"""The ray-caster against arithmetic by hand and a slow loop, and what may be seen from where."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.navigation.above import BOX, FLOOR, GOAL, MOVER, WALL, cells_of
from jobs.navigation.eye import SPREAD, ViewFromEye, cast, directions
from jobs.navigation.layouts import RoomsConfig, make_layout
from jobs.navigation.rooms import Rooms
from jobs.navigation.textures import TEXELS, backdrop, surfaces

HEIGHT, WIDTH = 48, 64
SEEDS = st.integers(0, 2**32)
ANGLES = st.floats(-10, 10, allow_nan=False)


def hall(num_rows: int = 9, num_columns: int = 9) -> np.ndarray:
    """Cells of an empty room."""
    cells = np.full((num_rows, num_columns), WALL, np.uint8)
    cells[1:-1, 1:-1] = FLOOR
    return cells


def look(cells: np.ndarray, x: float, y: float, angle: float = 0.0) -> np.ndarray:
    return ViewFromEye(HEIGHT, WIDTH).look(cells, x, y, angle)


def surface_rows(picture: np.ndarray, column: int) -> int:
    """Rows of a column that show neither floor nor ceiling."""
    return int((picture[:, column] != backdrop(len(picture))).any(axis=-1).sum())


def is_green(picture: np.ndarray) -> np.ndarray:
    """Where the goal's colour is: bool (H, W)."""
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return (green > 1.5 * red) & (green > 1.5 * blue)


def is_red(picture: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    return (red > 1.8 * green) & (red > 1.8 * blue)


def slow_distance(solid: np.ndarray, x: float, y: float, dx: float, dy: float) -> float:
    """Cells ahead to the first solid cell, line after line (Amanatides and Woo 1987)."""
    row, column = math.floor(y), math.floor(x)
    step_x, step_y = (1 if dx > 0 else -1), (1 if dy > 0 else -1)
    per_x, per_y = abs(1 / dx) if dx else math.inf, abs(1 / dy) if dy else math.inf
    next_x = ((column + 1 - x) if dx > 0 else (x - column)) * per_x if dx else math.inf
    next_y = ((row + 1 - y) if dy > 0 else (y - row)) * per_y if dy else math.inf
    while True:
        if next_x < next_y:
            gone, column, next_x = next_x, column + step_x, next_x + per_x
        else:
            gone, row, next_y = next_y, row + step_y, next_y + per_y
        if solid[row, column]:
            return gone


@given(seed=SEEDS, angle=ANGLES, data=st.data())
@settings(max_examples=60)
def test_rays_go_as_far_as_those_of_a_slow_loop(seed: int, angle: float, data: st.DataObject):
    layout = make_layout(RoomsConfig(size=11, num_rooms=2), seed)
    solid = layout.walls | layout.obstacles
    row, column = np.argwhere(~solid)[seed % (~solid).sum()]
    x = column + data.draw(st.floats(0.05, 0.95))
    y = row + data.draw(st.floats(0.05, 0.95))
    hits = cast(solid, x, y, angle, 33)
    expected = [
        slow_distance(solid, x, y, *ray) for ray in zip(*directions(angle, 33), strict=True)
    ]
    # a ray through the very corner of a box may pass it on either side
    near = np.isclose(hits.distance, expected, rtol=1e-9)
    assert near.sum() >= 32
    assert solid.ravel()[hits.cell].all()


@given(seed=SEEDS, angle=ANGLES)
@settings(max_examples=40)
def test_a_hit_lies_on_the_side_of_its_cell(seed: int, angle: float):
    layout = make_layout(RoomsConfig(), seed)
    y, x = (place + 0.5 for place in layout.start)
    hits = cast(layout.walls | layout.obstacles, x, y, angle, WIDTH)
    rows, columns = np.divmod(hits.cell, layout.walls.shape[1])
    to_x, to_y = directions(angle, WIDTH)
    hit_x, hit_y = x + hits.distance * to_x, y + hits.distance * to_y
    assert (abs(hit_x - columns - 0.5) <= 0.5 + 1e-9).all()
    assert (abs(hit_y - rows - 0.5) <= 0.5 + 1e-9).all()
    across, through = (
        np.where(hits.upright, one, other) for one, other in ((hit_x, hit_y), (hit_y, hit_x))
    )
    assert np.allclose(through, through.round(), atol=1e-9)
    apart = abs(hits.across - across % 1)
    assert np.minimum(apart, 1 - apart).max() < 1e-9  # 0 and 1 are one place


@pytest.mark.parametrize("distance", [1, 1.5, 2, 3, 4, 6])
@pytest.mark.parametrize("turns", range(4))
def test_a_wall_ahead_is_as_many_rows_high_as_its_distance_says(distance: float, turns: int):
    x, y = [(8 - distance, 4.5), (4.5, 8 - distance), (1 + distance, 4.5), (4.5, 1 + distance)][
        turns
    ]
    picture = look(hall(), x, y, turns * math.pi / 2)
    for column in (WIDTH // 2 - 1, WIDTH // 2):  # the middle is between them
        assert surface_rows(picture, column) == 2 * round(HEIGHT / distance / 2)


def test_a_straight_wall_looks_straight_over_the_whole_width():
    hits = cast(hall(41, 9) == WALL, 4.5, 20.5, 0.0, WIDTH)  # a wall at 3.5, wider than is seen
    assert np.allclose(hits.distance, 3.5, rtol=1e-12)
    picture = look(hall(41, 9), 4.5, 20.5)
    assert len({surface_rows(picture, column) for column in range(WIDTH)}) == 1


def test_the_field_of_view_is_75_degrees():
    x, y = directions(0.3, 4001)
    angles = np.arctan2(y, x)
    assert math.degrees(angles[-1] - angles[0]) == pytest.approx(75, abs=0.05)
    assert angles[2000] == pytest.approx(0.3)


def test_where_the_side_wall_ends_is_where_its_angle_puts_it():
    """A corner a cells ahead and a aside is in the column where its ray goes."""
    cells = hall(13, 13)
    hits = cast(cells == WALL, 6.5, 6.5, 0.0, 1001)
    at_corner = np.flatnonzero(~hits.upright)  # the wall ahead, 5.5 away, between side walls
    assert len(at_corner) == 1001  # 5.5 aside is 45 degrees, outside of 37.5
    hits = cast(cells == WALL, 3.5, 6.5, 0.0, 1001)  # 8.5 ahead: corners at 5.5 / 8.5 aside
    ahead = np.flatnonzero(~hits.upright)
    expected = 1001 / 2 * (1 + np.array([-1, 1]) * 5.5 / 8.5 / SPREAD)
    assert ahead[0] == pytest.approx(expected[0], abs=1)
    assert ahead[-1] + 1 == pytest.approx(expected[1], abs=1)


@pytest.mark.parametrize("turns", range(4))
def test_a_symmetric_world_looks_mirrored(turns: int):
    cells = hall()
    for row, column in ((2, 2), (2, 6), (6, 2), (6, 6)):
        cells[row, column] = BOX
    cells[4, 6] = cells[6, 4] = cells[4, 2] = cells[2, 4] = GOAL
    picture = look(cells, 4.5, 4.5, turns * math.pi / 2)
    assert np.array_equal(picture, picture[:, ::-1])
    assert is_green(picture).any()


def test_a_turned_world_looks_the_same_but_for_the_light_on_its_sides():
    cells = cells_of(make_layout(RoomsConfig(size=11), 5))
    start = tuple(np.argwhere(cells == FLOOR)[10].tolist())
    for heading in range(4):
        marked = np.zeros(cells.shape, bool)
        marked[start] = True
        marked = np.rot90(marked, -1)  # to the right
        turned = tuple(np.argwhere(marked)[0].tolist())
        before = cast(cells == WALL, start[1] + 0.5, start[0] + 0.5, heading * math.pi / 2, WIDTH)
        after = cast(
            np.rot90(cells, -1) == WALL,
            turned[1] + 0.5,
            turned[0] + 0.5,
            (heading + 1) * math.pi / 2,
            WIDTH,
        )
        assert np.allclose(before.distance, after.distance)
        assert (before.upright != after.upright).all()


def test_turning_four_times_gives_the_same_picture():
    env = Rooms(RoomsConfig(view="eye"))
    for seed in range(10):
        first, _ = env.reset(seed=seed)
        shown = [env.step(1)[0] for _ in range(4)]
        assert np.array_equal(first, shown[-1])
        assert not np.array_equal(first, shown[1])
        back = [env.step(0)[0] for _ in range(4)]
        assert all(np.array_equal(*pair) for pair in zip(shown[:3], back[2::-1], strict=True))


@pytest.mark.parametrize("kind", [GOAL, MOVER])
def test_goal_and_movers_are_seen_unless_a_wall_is_between(kind: int):
    has = is_green if kind == GOAL else is_red
    cells = hall()
    cells[4, 6] = kind
    assert has(look(cells, 1.5, 4.5)).any()
    assert not has(look(cells, 1.5, 4.5, math.pi)).any()  # behind
    assert not has(look(cells, 1.5, 4.5, math.pi / 2)).any()  # aside
    cells[4, 5] = BOX
    assert not has(look(cells, 1.5, 4.5)).any()
    cells[4, 5], cells[3:6, 4] = FLOOR, WALL
    assert not has(look(cells, 1.5, 4.5)).any()


def test_the_edge_of_a_nearer_box_hides_half_of_the_goal():
    cells = hall(9, 15)
    cells[4, 10] = GOAL
    whole = is_green(look(cells, 1.5, 4.5)).any(axis=0)
    cells[3, 8] = BOX  # its corner at (8, 4) hides the upper left, seen from (1.5, 4.5)
    x = 1.5
    y = 4.5 - 0.5 * 9 / 2.5  # the eye, the corner and the goal's middle on one line
    part = is_green(look(cells, x, y, math.atan2(4.5 - y, 9)))
    assert 0 < part.any(axis=0).sum() < whole.sum()


@pytest.mark.parametrize("distance", [1, 2, 4, 8, 11])
def test_the_goal_is_known_by_its_colour_from_any_distance(distance: int):
    cells = hall(15, 15)
    cells[7, 1 + distance] = GOAL
    shown = is_green(look(cells, 1.5, 7.5))
    assert shown.sum() >= 6
    rows = shown.any(axis=1).sum()
    assert abs(rows - min(HEIGHT, HEIGHT / distance)) <= 1.5
    columns = np.flatnonzero(shown.any(axis=0))
    assert columns.mean() == pytest.approx((WIDTH - 1) / 2)  # straight ahead
    cells[7, 1 + distance] = FLOOR
    assert not is_green(look(cells, 1.5, 7.5)).any()


@pytest.mark.parametrize("aside", [-2, -1, 1, 2])
@pytest.mark.parametrize("turns", range(4))
def test_what_lies_to_the_right_is_seen_there_in_line_with_its_ray(aside: int, turns: int):
    cells = hall()
    cells[4 + aside, 8 - 1] = GOAL
    cells = np.rot90(cells, -turns)  # to the right
    shown = is_green(ViewFromEye(200, 401)(cells, (4, 4), turns)).any(axis=0)
    expected = 401 / 2 * (1 + aside / 3 / SPREAD) - 0.5
    assert np.flatnonzero(shown).mean() == pytest.approx(expected, abs=1)


def test_what_is_nearer_covers_what_is_farther():
    cells = hall()
    cells[4, 3], cells[4, 6] = MOVER, GOAL
    picture = look(cells, 1.5, 4.5)
    assert is_red(picture)[HEIGHT // 2 + 5, WIDTH // 2]
    cells[4, 3], cells[4, 6] = GOAL, MOVER
    assert not is_red(look(cells, 1.5, 4.5)).any()


def test_walls_and_boxes_their_sides_and_distances_are_told_apart():
    pages = surfaces(HEIGHT).astype(float).mean(axis=(3, 4))  # (kind, side, level, 3)
    assert np.abs(pages[0] - pages[1]).sum(axis=-1).min() > 15
    assert (pages[:, 1] < pages[:, 0]).all()
    assert (np.diff(pages.sum(axis=-1), axis=-1) < 0).all()
    texture = surfaces(HEIGHT)[:, :, 0]
    assert np.array_equal(texture, texture[..., ::-1, :])
    assert texture.std(axis=(2, 3)).min() > 5
    assert texture.shape[2:4] == (TEXELS, TEXELS)


def test_pictures_of_any_size_show_the_same():
    cells = cells_of(make_layout(RoomsConfig(), 3))
    large = ViewFromEye(192, 256).look(cells, 4.5, 4.5, 0.4)
    small = ViewFromEye(48, 64).look(cells, 4.5, 4.5, 0.4)
    assert large.shape == (192, 256, 3)
    means = large.reshape(48, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(means - small).mean() < 12


@given(seed=SEEDS, angle=ANGLES, data=st.data())
@settings(max_examples=40)
def test_any_pose_on_the_floor_gives_a_picture(seed: int, angle: float, data: st.DataObject):
    layout = make_layout(RoomsConfig(size=7, obstacles=6, moving=2), seed)
    cells = cells_of(layout)
    for at in layout.movers:
        cells[at] = MOVER
    row, column = np.argwhere((cells != WALL) & (cells != BOX))[seed % (25 - 6)]
    x = column + data.draw(st.floats(0, 1, exclude_max=True))
    y = row + data.draw(st.floats(0, 1, exclude_max=True))
    picture = look(cells, x, y, angle)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
