"""Films: every moment of an episode, as it was; the best and the worst; both kinds of file."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from jobs.navigation import film
from jobs.navigation.env import WorldConfig, make_world
from jobs.navigation.film import (
    LAST_S,
    MOST_FRAMES,
    MOST_SHOWN,
    Recorder,
    choose_episodes,
    film_episodes,
    film_section,
)
from jobs.navigation.frames import (
    BAR,
    BARS_PX,
    CHOSEN,
    GAP_PX,
    HEIGHT_PX,
    PANEL,
    PANEL_PX,
    TOP_PX,
    WIDTH_PX,
    Moment,
    Story,
    draw_frame,
)
from jobs.navigation.playing import Arena, Episode, Thought, random_mind
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage
from tests.jobs.navigation.agents import SMALL

SLOPE = WorldConfig(name="tests.jobs.navigation.agents:slope")
LONG = WorldConfig(name="tests.jobs.navigation.agents:long_slope")
BARS = 3 * GAP_PX + 2 * PANEL_PX
"""where the bars begin, px from the left"""


def forward_mind(chance: float = 0.6):
    """Goes forward for ever, and expects 0.25."""

    def think(seen: np.ndarray, memory: np.ndarray) -> Thought:
        row = np.array([(1 - chance) / 2, (1 - chance) / 2, chance])
        return Thought(np.tile(row, (len(seen), 1)), np.full(len(seen), 0.25), memory)

    return think, 0


def episode(seed: int, *, success: bool, length: int, shortest: int, total: float = 0.5) -> Episode:
    return Episode(
        seed=seed, success=success, total=total, length=length, shortest=shortest, actions=()
    )


def moment(**more: object) -> Moment:
    values = {
        "view": np.zeros((7, 7, 3), np.uint8),
        "map": None,
        "trail": (),
        "action": 1,
        "chances": np.array([0.25, 0.75, 0.0]),
        "value": 0.5,
        "step": 3,
        "total": 0.0,
    }
    return Moment(**{**values, **more})  # pyright: ignore[reportArgumentType]


STORY = Story(seed=7, actions=("left", "right", "forward"), told="it ends", success=True)


def gif_of(data: bytes) -> tuple[int, list[int], tuple[int, int]]:
    """Frames shown, their times in ms, and their size."""
    with Image.open(io.BytesIO(data)) as file:
        times = []
        for number in range(getattr(file, "n_frames", 1)):
            file.seek(number)
            times.append(int(file.info["duration"]))
        return len(times), times, file.size


def shown_by(data: bytes, every_ms: int = 250) -> list[np.ndarray]:
    """What a GIF shows at each moment, as long as it moves: int (H, W, 3)."""
    shown: list[np.ndarray] = []
    with Image.open(io.BytesIO(data)) as file:
        for number in range(getattr(file, "n_frames", 1)):
            file.seek(number)
            pixels = np.asarray(file.convert("RGB")).astype(int)
            last = number + 1 == getattr(file, "n_frames", 1)
            shown += [pixels] * (1 if last else round(file.info["duration"] / every_ms))
    return shown


def test_what_is_seen_is_shown_pixel_by_pixel():
    view = np.random.default_rng(0).integers(0, 256, (15, 21, 3), np.uint8)
    frame = np.asarray(draw_frame(moment(view=view), STORY))
    assert frame.shape == (HEIGHT_PX, WIDTH_PX, 3)
    factor = PANEL_PX // 21
    left, top = GAP_PX + (PANEL_PX - 21 * factor) // 2, TOP_PX + (PANEL_PX - 15 * factor) // 2
    shown = frame[top : top + 15 * factor, left : left + 21 * factor]
    assert np.array_equal(shown[factor // 2 :: factor, factor // 2 :: factor], view)
    assert np.array_equal(shown, view.repeat(factor, axis=0).repeat(factor, axis=1))


def test_bars_are_as_long_as_actions_are_probable_and_the_chosen_one_is_marked():
    frame = np.asarray(draw_frame(moment(), STORY))[:, BARS : BARS + BARS_PX]
    lengths = {
        colour: (frame == colour).all(axis=2).sum(axis=1).max() for colour in (BAR, CHOSEN, PANEL)
    }
    assert lengths[BAR] == round(0.25 * BARS_PX)
    assert lengths[CHOSEN] == round(0.75 * BARS_PX)
    assert lengths[PANEL] == BARS_PX  # of no probability


def test_of_many_actions_the_likeliest_have_bars():
    chances = np.full(12, 0.01)
    chances[[3, 11]] = 0.5, 0.4
    story = Story(seed=0, actions=[f"action {n}" for n in range(12)], told="", success=False)
    frame = np.asarray(draw_frame(moment(chances=chances, action=11), story))
    bars = frame[TOP_PX:, BARS : BARS + BARS_PX]
    assert (bars == CHOSEN).all(axis=2).sum(axis=1).max() == round(0.4 * BARS_PX)
    assert (bars == BAR).all(axis=2).sum(axis=1).max() == round(0.5 * BARS_PX)


def test_a_world_s_map_fills_its_panel():
    drawn = np.full((33, 66, 3), (10, 200, 30), np.uint8)
    frame = np.asarray(draw_frame(moment(map=drawn), STORY))
    green = (frame == (10, 200, 30)).all(axis=2)
    assert green.sum() == PANEL_PX * PANEL_PX // 2
    assert green[:, 2 * GAP_PX + PANEL_PX : 2 * GAP_PX + 2 * PANEL_PX].sum() == green.sum()


def test_a_film_shows_every_moment_of_the_episode_that_was_played():
    arena, recorder = Arena(SMALL), Recorder()
    seeds = [3, 4]
    played = arena.play(forward_mind(), seeds, greedy=True, watch=recorder)
    for seed, one in zip(seeds, played, strict=True):
        moments = recorder.moments[seed]
        assert [each.step for each in moments] == list(range(one.length + 1))
        assert [each.action for each in moments] == [*one.actions, -1]
        env = make_world(SMALL)
        seen, _ = env.reset(options={"episode": seed})
        total = 0.0
        for each in moments:
            assert np.array_equal(each.view, seen[-1])
            assert np.array_equal(each.map, np.asarray(env.render()))  # pyright: ignore[reportArgumentType]
            assert each.total == total
            if each.action >= 0:
                assert each.value == 0.25
                seen, reward, *_ = env.step(each.action)
                total += float(reward)
    arena.close()


def test_who_watches_sees_what_was_remembered_before_the_action():
    def think(seen: np.ndarray, memory: np.ndarray) -> Thought:
        return Thought(np.full((len(seen), 2), 0.5), np.zeros(len(seen)), memory + 1)

    kept = []
    Arena(SLOPE).play(
        (think, 1), [0], greedy=True, watch=lambda table, _: kept.append(table.memory)
    )
    assert np.concatenate(kept).tolist() == list(range(21))


def test_both_files_have_a_frame_for_each_moment_and_hold_the_last():
    arena = Arena(SLOPE)
    (one,) = arena.play(random_mind(2), [0], greedy=True)  # stays where it is for 20 steps
    assert one.length == 20
    (made,) = film_episodes(random_mind(2), arena, ("stay", "go"), [("worst", one)])
    count, times, size = gif_of(made.gif)
    assert size == (WIDTH_PX, HEIGHT_PX)
    assert sum(times) == pytest.approx(20 * 250 + 1000 * LAST_S)
    assert count <= 21
    with av.open(io.BytesIO(made.mp4), "r") as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(frames) == 20 + 4 * LAST_S
    assert frames[0].shape == (HEIGHT_PX, WIDTH_PX, 3)
    shown = shown_by(made.gif)  # the same pictures, each as its format has it
    assert all(np.abs(shown[k] - frames[k]).mean() < 3 for k in range(len(shown)))
    first, *others = frames[: len(shown)]
    for picture, frame in zip(shown[1:], others, strict=True):  # and no still
        assert np.abs(picture - frame).mean() < np.abs(picture - first).mean()


def test_of_a_long_episode_the_beginning_and_the_end_are_filmed():
    recorder = Recorder()
    Arena(LONG).play(random_mind(2), [1], greedy=True, watch=recorder)
    steps = [each.step for each in recorder.moments[1]]
    half = MOST_FRAMES // 2
    assert steps == [*range(half), *range(301 - half, 301)]


def test_a_page_shows_less_of_a_long_film_and_says_what_is_missing():
    arena = Arena(LONG)
    (one,) = arena.play(random_mind(2), [1], greedy=True)
    (made,) = film_episodes(random_mind(2), arena, ("stay", "go"), [("worst", one)])
    assert made.left_out == "without steps 30 to 270"
    assert gif_of(made.shown)[0] <= MOST_SHOWN
    assert len(made.shown) < len(made.gif)


def test_the_best_are_far_and_straight_and_the_worst_fail():
    played = [
        episode(1, success=True, length=2, shortest=2),
        episode(2, success=True, length=12, shortest=9),
        episode(3, success=True, length=9, shortest=9),
        episode(4, success=True, length=8, shortest=8),
        episode(5, success=False, length=30, shortest=3, total=-0.5),
        episode(6, success=False, length=30, shortest=9, total=0.0),
        episode(7, success=True, length=30, shortest=3),
    ]

    def chosen(count: int, of: list[Episode] = played) -> list[tuple[str, int]]:
        return [(what, one.seed) for what, one in choose_episodes(of, count)]

    assert chosen(4) == [("best", 3), ("best", 4), ("worst", 5), ("worst", 6)]
    assert chosen(7)[4:] == [("worst", 5), ("worst", 6), ("worst", 7)]
    assert chosen(1) == [("best", 3)]
    assert chosen(0) == chosen(3, []) == []
    good = [one for one in played if one.success]
    assert chosen(2, good) == [("best", 3), ("worst", 7)]
    bad = [one for one in played if not one.success]
    assert chosen(4, bad) == [("worst", 5), ("worst", 6)]
    unknown = [
        episode(seed, success=True, length=9, shortest=-1, total=total)
        for seed, total in enumerate((0.3, 0.9, 0.1))
    ]
    assert chosen(2, unknown) == [("best", 1), ("worst", 2)]
    alike = [episode(seed, success=True, length=9, shortest=8, total=0.5) for seed in (3, 1, 2)]
    assert chosen(4, alike) == [("best", 1)]


def test_films_of_a_run_replace_those_before(tmp_path: Path):
    run = Run(str(tmp_path), Storage(), {})
    played = Arena(SMALL).play(forward_mind(), range(6), greedy=True)
    section = film_section(run, forward_mind(), SMALL, STORY.actions, played)
    names = {path.name for path in (tmp_path / "films").iterdir()}
    assert len(section.thumbnails) == 2
    assert {Path(name).suffix for name in names} == {".gif", ".mp4"}
    assert {int(name.partition("-")[0]) for name in names} <= set(range(6))
    film_section(run, forward_mind(), SMALL, STORY.actions, played[:1], count=1)
    assert {path.stem.partition("-")[0] for path in (tmp_path / "films").iterdir()} == {"0"}


def test_without_pyav_there_are_gifs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(film, "av", None)
    run = Run(str(tmp_path), Storage(), {})
    played = Arena(SMALL).play(forward_mind(), [5], greedy=True)
    film_section(run, forward_mind(), SMALL, STORY.actions, played)
    assert [path.suffix for path in (tmp_path / "films").iterdir()] == [".gif"]


def test_a_world_that_does_not_repeat_itself_is_told_of(caplog: pytest.LogCaptureFixture):
    arena = Arena(WorldConfig(name="tests.jobs.navigation.agents:lucky_slope"))
    played = arena.play(random_mind(2), [0], greedy=True)
    film_episodes(random_mind(2), arena, ("stay", "go"), [("worst", played[0])])
    assert "seed 0: played again it is another episode (22 actions, before 21)" in caplog.text


def test_the_way_through_a_minigrid_is_drawn():
    pytest.importorskip("minigrid")
    world = WorldConfig(name="Empty-5x5")
    recorder = Recorder()
    Arena(world).play(forward_mind(), [0], greedy=True, watch=recorder)
    moments = recorder.moments[0]
    assert moments[0].trail == [(0.3, 0.3)]
    assert moments[2].trail == [(0.3, 0.3), (0.5, 0.3), (0.7, 0.3)]
    before, after = (
        np.asarray(draw_frame(each, STORY))[:, PANEL_PX : 2 * PANEL_PX + 2 * GAP_PX]
        for each in (moments[0], moments[2])
    )
    trail = (140, 172, 236)
    assert not (before == trail).all(axis=2).any()
    assert (after == trail).all(axis=2).sum() > 100
