"""Episodes as films: GIF, and MP4 where PyAV is (the extra `video`)."""

import io
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from jobs.navigation.attention import Attention
from jobs.navigation.env import WorldConfig
from jobs.navigation.frames import Moment, Story, draw_frame
from jobs.navigation.playing import Arena, Episode, Mind, Move, Table
from jobs.runtime.report.page import Section, Thumbnail
from jobs.runtime.run import Run

try:
    import av  # the extra `video`
except ModuleNotFoundError:
    av = None

logger = logging.getLogger(__name__)

What = Literal["best", "worst"]
MOST_FRAMES, MOST_SHOWN = 240, 60
"""of a film, and of the one in a page: of longer ones the middle is left out. To leave out every
second moment would hide what goes to and fro"""
FPS, FPS_OF_LONG, LONG_FRAMES = 4, 10, 60
LAST_S = 2.0
"""for which the end is shown"""
COLOURS = 255
"""of a GIF; one more says: as before"""
FOLDER = "films"
TEXT = (
    "Greedy episodes. On the left what the agent sees, beside it the map with the way it went, "
    "then the probability of each action, the chosen one in blue, the value (the return that it "
    "learnt to expect from there on, with the rewards that were there to learn by), the step and "
    "the return so far, without those. The files are in films/."
)
BRIGHT = (
    "What is seen is bright where the action that is taken would be the less likely if that part "
    "were covered (Zeiler and Fergus 2014)."
)


@dataclass(frozen=True, kw_only=True)
class Film:
    """An episode on film."""

    what: What
    episode: Episode
    gif: bytes
    mp4: bytes
    """empty where PyAV is not installed"""
    shown: bytes
    """GIF of fewer frames, for a page"""
    left_out: str
    """what `shown` leaves out, in words"""


class Recorder:
    """Watches episodes, and keeps what their films show."""

    def __init__(self, attention: Attention | None = None) -> None:
        self.attention = attention
        self.moments: dict[int, list[Moment]] = {}
        self.trails: dict[int, list[tuple[float, float]]] = {}

    def __call__(self, table: Table, move: Move | None) -> None:
        """See `Watch`."""
        moments = self.moments.setdefault(table.seed, [])
        trail = self.trails.setdefault(table.seed, [])
        trail.extend(_place_of(table.env.unwrapped))
        moments.append(self._moment(table, move, trail))
        if len(moments) > MOST_FRAMES:
            del moments[MOST_FRAMES // 2]

    def _moment(
        self, table: Table, move: Move | None, trail: Sequence[tuple[float, float]]
    ) -> Moment:
        attention = None
        if move and self.attention:
            attention = self.attention(table.seen, table.memory, move.action)
        drawn = table.env.render() if table.env.render_mode == "rgb_array" else None
        return Moment(
            view=np.array(table.seen[-1]),
            map=np.array(drawn) if isinstance(drawn, np.ndarray) and drawn.ndim == 3 else None,
            trail=list(trail),
            action=move.action if move else -1,
            chances=move.probabilities if move else np.zeros(0),
            value=move.value if move else float("nan"),
            step=len(table.actions),
            total=sum(table.rewards),
            attention=attention,
        )


def choose_episodes(played: Sequence[Episode], count: int) -> list[tuple[What, Episode]]:
    """Up to `count` episodes worth seeing: first the best half, then the worst.

    Best: of the successes whose shortest path is among the longer half those of the highest SPL,
    then the longest; where no shortest path is known, those of the highest return. Worst: failures
    first, of the lowest return, then the successes of the lowest SPL. Of those alike in success,
    return, length and shortest path the one of the first seed: in a world that is the same for
    every seed one film shows all.
    """
    if not count or not played:
        return []
    middle = float(np.median([each.shortest for each in played]))
    unlike: dict[tuple[bool, float, int, int], Episode] = {}
    for each in sorted(played, key=lambda each: each.seed):
        unlike.setdefault((each.success, each.total, each.length, each.shortest), each)

    def goodness(each: Episode) -> tuple[bool, float, float]:
        known = each.shortest > 0
        efficiency = each.shortest / max(each.length, each.shortest) if known else each.total
        return each.success, efficiency if each.success else each.total, -each.length

    def is_hard(each: Episode) -> bool:
        return each.success and each.shortest >= middle

    def brightness(each: Episode) -> tuple[bool, bool, float, int, int]:
        return is_hard(each), *goodness(each)[:2], each.shortest, -each.seed

    ranked = sorted(unlike.values(), key=brightness, reverse=True)
    best = [each for each in ranked if each.success][: (count + 1) // 2]
    rest = [each for each in unlike.values() if each not in best]
    worst = sorted(rest, key=lambda each: (*goodness(each), each.seed))[: count - len(best)]
    chosen: list[tuple[What, Episode]] = [("best", each) for each in best]
    return [*chosen, *(("worst", each) for each in worst)]


def film_episodes(
    mind: tuple[Mind, int],
    arena: Arena,
    actions: Sequence[str],
    chosen: Sequence[tuple[What, Episode]],
    attention: Attention | None = None,
) -> list[Film]:
    """Play the chosen episodes again, greedily, and film them.

    A world that makes another episode of the same seed and actions is warned of: what is filmed
    is then not what was counted.
    """
    recorder = Recorder(attention)
    seeds = [episode.seed for _, episode in chosen]
    films = []
    again = arena.play(mind, seeds, greedy=True, watch=recorder)
    for (what, before), episode in zip(chosen, again, strict=True):
        if (episode.success, episode.length) != (before.success, before.length):
            logger.warning(
                "seed %d: played again it is another episode (%d actions, before %d): "
                "world.name %s is not the same for the same seed and actions",
                before.seed, episode.length, before.length, arena.world.name,
            )  # fmt: skip
        story = Story(
            seed=episode.seed, actions=actions, told=tell(episode), success=episode.success
        )
        films.append(_film(what, episode, story, recorder.moments[episode.seed]))
    return films


def _film(what: What, episode: Episode, story: Story, moments: Sequence[Moment]) -> Film:
    frames = [draw_frame(moment, story) for moment in moments]
    gif, shown, left_out = to_gif(frames), b"", ""
    if len(frames) > MOST_SHOWN:
        half = MOST_SHOWN // 2
        shown = to_gif([*frames[:half], *frames[-half:]])
        left_out = f"without steps {moments[half].step} to {moments[-half - 1].step}"
    mp4 = to_mp4(frames) if av else b""
    return Film(what=what, episode=episode, gif=gif, mp4=mp4, shown=shown or gif, left_out=left_out)


def film_section(
    run: Run,
    mind: tuple[Mind, int],
    world: WorldConfig,
    actions: Sequence[str],
    played: Sequence[Episode],
    count: int = 2,
    attention: Attention | None = None,
) -> Section:
    """Film the best and the worst of episodes that were played greedily; films/ and their section.

    `mind` is what played them, `actions` names what it does. With `attention` what is seen is dark
    where it speaks for nothing.
    """
    with closing(Arena(world)) as arena:
        films = film_episodes(mind, arena, actions, choose_episodes(played, count), attention)
    return put_films(run, films, BRIGHT if attention else "")


def put_films(run: Run, films: Sequence[Film], told: str = "") -> Section:
    """Write films/<seed>-<what>.gif and .mp4, in place of those there were; the section of them.

    `told` is said of them besides what is said of all.
    """
    names = set()
    for film in films:
        for ending, data in (("gif", film.gif), ("mp4", film.mp4)):
            if data:
                name = f"{FOLDER}/{film.episode.seed}-{film.what}.{ending}"
                names.add(run.put(name, data))
    for entry in run.storage.find(run.path(FOLDER)):
        if entry.uri not in names:
            run.storage.delete(entry.uri)
    if films and not av:
        logger.info("films are GIFs alone: MP4 needs pip install -e '.[video]'")
    shown = [
        Thumbnail(
            title=f"seed {film.episode.seed}",
            image=film.shown,
            caption=f"{film.what}: {tell(film.episode)}",
            detail=film.left_out,
            bad=not film.episode.success,
        )
        for film in films
    ]
    text = f"{TEXT} {told}".strip()
    return Section(title="Films", text=text, thumbnails=shown, films=True)


def tell(episode: Episode) -> str:
    """How an episode went, in a few words."""
    known = f", shortest {episode.shortest}" if episode.shortest > 0 else ""
    reached = "goal reached in" if episode.success else "failed after"
    actions = "action" if episode.length == 1 else "actions"
    return f"{reached} {episode.length} {actions}{known}"


def to_gif(frames: Sequence[Image.Image]) -> bytes:
    """The frames as one GIF that plays for ever, of one palette, the last one shown for longer."""
    some = frames[:: max(1, len(frames) // 4)]
    sheet = Image.new("RGB", (frames[0].width, frames[0].height * len(some)))
    for number, frame in enumerate(some):
        sheet.paste(frame, (0, number * frame.height))
    palette = sheet.quantize(COLOURS, dither=Image.Dither.NONE)
    drawn = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    step_ms = 1000 // fps_of(len(frames))
    durations = [step_ms] * (len(drawn) - 1) + [round(1000 * LAST_S)]
    data = io.BytesIO()
    drawn[0].save(
        data,
        "GIF",
        save_all=True,
        append_images=drawn[1:],
        duration=durations,
        loop=0,
        optimize=False,
    )
    return data.getvalue()


def to_mp4(frames: Sequence[Image.Image]) -> bytes:
    """The frames as MP4 (H.264), the last one repeated for as long as the GIF shows it."""
    assert av is not None
    fps = fps_of(len(frames))
    data = io.BytesIO()
    container: Any
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("h264", rate=fps, options={"crf": "20"})
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in [*frames, *[frames[-1]] * round(LAST_S * fps - 1)]:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return data.getvalue()


def fps_of(num_frames: int) -> int:
    """Frames a second: few are shown slowly."""
    return FPS if num_frames <= LONG_FRAMES else FPS_OF_LONG


def _place_of(world: Any) -> list[tuple[float, float]]:
    """Where the agent is on the map of a MiniGrid world, (x, y) 0..1; of others nothing is known,
    or they draw their trail themselves."""
    grid, place = getattr(world, "grid", None), getattr(world, "agent_pos", None)
    if place is None or not hasattr(grid, "width") or not hasattr(grid, "height"):
        return []
    assert grid is not None
    return [((place[0] + 0.5) / grid.width, (place[1] + 0.5) / grid.height)]
