"""Episodes by number: each once, the same whatever else is played; figures that a loop confirms."""

import json
import re
import signal
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from jobs.evaluate_navigation import Config, main, parse
from jobs.navigation.agent import decide
from jobs.navigation.env import FIRST_SEED, WorldConfig, make_world
from jobs.navigation.evaluating import POLICIES, PlayConfig, Player
from jobs.navigation.layouts import RoomsConfig
from jobs.runtime.checkpoints import BEST
from jobs.runtime.report.intervals import interval
from jobs.runtime.resources import Resources
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage, StorageConfig
from tests.jobs.killed import Attempt, parts_of, wait_for_parts
from tests.jobs.navigation.agents import SMALL, save_agent
from tests.untrained import save_untrained
from vision_ops.checkpoint import load_checkpoint
from vision_ops.models.policy import Policy

BROKEN = WorldConfig(name="tests.jobs.navigation.agents:broken_slope")
HERE = Resources(engine="inline", actors=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_agent(tmp_path_factory.mktemp("agent") / "agent.safetensors")


@pytest.fixture(scope="module")
def evaluated(weights: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("run") / "out"
    return main(asked(weights, out, films=2, attention=True))


def asked(weights: str, out: Path | str, **more: Any) -> Config:
    config = Config(
        weights=weights, world=SMALL, episodes=25, films=0, resources=HERE, out=str(out)
    )
    return replace(config, **more)


def rows_of(run: Run) -> list[dict[str, Any]]:
    rows = [row for batch in run.results() for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: row["id"])


def made_run(
    folder: Path | str,
    weights: str,
    world: WorldConfig = SMALL,
    job: str = "train_navigation",
    storage: Storage | None = None,
) -> str:
    """The directory of a training that is done."""
    opened = Run.open(
        str(folder),
        job=job,
        config={"world": world},
        identity={"world": world},
        storage=storage or Storage(),
    )
    with opened as run:
        run.put(BEST, Path(weights).read_bytes())
        run.note(status="done")
    return str(folder)


def test_each_policy_plays_each_unseen_episode_once(evaluated: Run, weights: str):
    rows = rows_of(evaluated)
    assert [row["id"] for row in rows] == [f"{number:08}" for number in range(75)]
    assert {(row["status"], row["uri"]) for row in rows} == {("ok", weights)}
    played = {(row["policy"], row["seed"]) for row in rows}
    seeds = range(FIRST_SEED["test"], FIRST_SEED["test"] + 25)
    assert played == {(policy, seed) for policy in POLICIES for seed in seeds}
    assert min(seeds) > FIRST_SEED["validation"] > FIRST_SEED["train"]
    for row in rows:
        assert row["spl"] == row["success"] * row["shortest"] / max(row["length"], row["shortest"])


def by_hand(seed: int, weights: str, policy: str) -> tuple[bool, float, int]:
    """An episode in a loop of its own."""
    network, card = load_checkpoint(weights, "cpu")
    assert isinstance(network, Policy)
    env, chance = make_world(SMALL), np.random.default_rng(seed)
    seen, _ = env.reset(options={"episode": seed})
    total, length = 0.0, 0
    while True:
        with torch.no_grad():
            known = decide(network, card, torch.from_numpy(seen)[None, None], torch.zeros(1, 0))
        probabilities = known.logits[0, 0].double().softmax(dim=0)
        action = int(probabilities.argmax())
        if policy == "random":
            action = int(3 * chance.random())
        elif policy == "sampled":
            action = int((probabilities.cumsum(dim=0) < chance.random()).sum())
        seen, reward, terminated, truncated, info = env.step(action)
        total, length = total + float(reward), length + 1
        if terminated or truncated:
            return info["success"], total, length


@pytest.mark.parametrize("policy", POLICIES)
def test_rows_are_those_of_a_loop_written_out(evaluated: Run, weights: str, policy: str):
    rows = [row for row in rows_of(evaluated) if row["policy"] == policy]
    wanted = [by_hand(row["seed"], weights, policy) for row in rows]
    assert [(row["success"], row["return"], row["length"]) for row in rows] == wanted
    success = [one[0] for one in wanted]
    told = json.loads(Path(evaluated.path("metrics.json")).read_text())[policy]
    assert told["episodes"] == 25
    assert told["success"] == np.mean(success)
    assert (told["low"], told["high"]) == interval(float(np.mean(success)), 25)
    assert told["return"] == np.mean([one[1] for one in wanted])
    assert told["length"] == np.mean([one[2] for one in wanted])
    assert told["spl"] == pytest.approx(np.mean([row["spl"] for row in rows]))


def test_the_shortest_path_stands_beside_them(evaluated: Run):
    rows = [row for row in rows_of(evaluated) if row["policy"] == "greedy"]
    told = json.loads(Path(evaluated.path("metrics.json")).read_text())["shortest path"]
    assert (told["success"], told["spl"]) == (1.0, 1.0)
    assert told["length"] == np.mean([row["shortest"] for row in rows])
    page = Path(evaluated.path("report", "index.html")).read_text()
    for name in ("random", "agent, sampled", "agent, greedy", "shortest path"):
        assert f"<td>{name}</td>" in page
    assert page.count("data:image/gif;base64") == 2
    assert "What is seen is bright where" in page
    assert len(list(Path(evaluated.path("films")).glob("*.gif"))) == 2


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_an_episode_is_the_same_whatever_is_played_beside_it(
    tmp_path: Path, memory: Literal["none", "gru"]
):
    agent = save_agent(tmp_path / "agent.safetensors", memory=memory)
    player = Player(PlayConfig(weights=agent, world=SMALL))
    numbers = np.random.default_rng(0).permutation(120)[:, None]
    whole = player({"pixels": numbers})
    cuts = (slice(0, 1), slice(1, 60), slice(60, 67), slice(67, None))
    parts = [player({"pixels": numbers[cut]}) for cut in cuts]
    for name, column in whole.items():
        assert np.concatenate([part[name] for part in parts]).tolist() == column.tolist()
    assert len(set(whole["length"].tolist())) > 5


@pytest.mark.usefixtures("local_ray")
def test_engines_and_batches_write_the_same_parts(weights: str, tmp_path: Path):
    main(asked(weights, tmp_path / "here", episodes=50))
    several = Resources(engine="inline", actors=2, batch_size=7)
    main(asked(weights, tmp_path / "threads", episodes=50, resources=several))
    main(asked(weights, tmp_path / "ray", episodes=50, resources=Resources(engine="ray")))
    assert len(parts_of(tmp_path / "here")) == 3
    assert parts_of(tmp_path / "here") == parts_of(tmp_path / "threads")
    assert parts_of(tmp_path / "here") == parts_of(tmp_path / "ray")


@pytest.mark.slow
def test_a_killed_evaluation_plays_each_episode_once_when_repeated(weights: str, tmp_path: Path):
    rooms = [f"--world.rooms.{name}" for name in ("size", "obstacles", "view-cells", "tile-px")]
    values = ("7", "3", "7", "3")
    words = [word for pair in zip(rooms, values, strict=True) for word in pair]
    options = ("--weights", weights, "--episodes", "300", "--films", "0", *words)
    attempt = Attempt(
        job="jobs.evaluate_navigation", options=options, undisturbed=tmp_path / "whole"
    )
    run = attempt.start(tmp_path / "out", "--resources.engine", "inline", "--resources.actors", "1")
    wait_for_parts(tmp_path / "out", 2, run)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = parts_of(tmp_path / "out")
    assert 2 <= len(done) < 15, (tmp_path / "out.log").read_text()
    finished = main(asked(weights, tmp_path / "out", episodes=300))
    assert [row["id"] for row in rows_of(finished)] == [f"{number:08}" for number in range(900)]
    main(asked(weights, tmp_path / "whole", episodes=300))
    assert parts_of(tmp_path / "out") == parts_of(tmp_path / "whole")


def test_more_episodes_are_added_to_those_there_are(weights: str, tmp_path: Path):
    before = rows_of(main(asked(weights, tmp_path, episodes=10)))
    run = main(asked(weights, tmp_path, episodes=30))
    assert rows_of(run)[: len(before)] == before
    assert len(rows_of(run)) == 90
    parts = parts_of(tmp_path)
    (tmp_path / "results" / min(parts)).unlink()
    main(asked(weights, tmp_path, episodes=30))
    assert parts_of(tmp_path) == parts


def test_a_run_is_judged_in_the_world_it_learnt_in_unless_another_is_said(
    weights: str, tmp_path: Path
):
    shaped = replace(SMALL, rooms=replace(SMALL.rooms, shaping=2.0))
    run = made_run(tmp_path / "trained", weights, shaped)
    config = parse(["--weights", run, "--episodes", "5", "--films", "0"])
    assert config.world == SMALL
    changed = parse(["--weights", run, "--episodes", "5", "--world.rooms.obstacles", "6"])
    assert changed.world == replace(SMALL, rooms=replace(SMALL.rooms, obstacles=6))
    done = main(replace(changed, films=0, resources=HERE, out=str(tmp_path / "out")))
    page = Path(done.path("report", "index.html")).read_text()
    assert "Not the world that it learnt in: rooms.obstacles 3, now 6." in page
    done = main(replace(config, resources=HERE, out=str(tmp_path / "same")))
    assert "Not the world" not in Path(done.path("report", "index.html")).read_text()
    with pytest.raises(ValueError, match="world.rooms.obstacles was 6, now 3"):
        main(replace(config, films=0, resources=HERE, out=str(tmp_path / "out")))


def test_rewards_to_learn_by_are_left_out_of_what_is_judged(weights: str, tmp_path: Path):
    shaped = replace(SMALL, rooms=replace(SMALL.rooms, shaping=2.0))
    rows = rows_of(main(asked(weights, tmp_path, world=shaped, episodes=5)))
    assert rows == rows_of(main(asked(weights, tmp_path, world=SMALL, episodes=5)))
    assert {row["return"] for row in rows if not row["success"]} == {0.0}


def test_an_agent_on_s3_is_judged_to_s3(
    weights: str, bucket: str, s3: StorageConfig, tmp_path: Path
):
    storage = Storage(s3)
    made_run(f"{bucket}/trained", weights, storage=storage)
    run = main(asked(f"{bucket}/trained", f"{bucket}/judged", episodes=5, films=2, storage=s3))
    here = main(asked(weights, tmp_path, episodes=5))
    told = [row | {"uri": ""} for row in rows_of(run)]
    assert told == [row | {"uri": ""} for row in rows_of(here)]
    assert len(storage.find(f"{bucket}/judged/films")) == 4


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_a_world_that_raises_ends_the_run_and_says_how_to_come_there(
    tmp_path: Path, engine: Literal["inline", "ray"], request: pytest.FixtureRequest
):
    if engine == "ray":
        request.getfixturevalue("local_ray")
    agent = save_agent(tmp_path / "agent.safetensors", BROKEN)
    resources = Resources(engine=engine, actors=1)
    config = asked(agent, tmp_path / "out", world=BROKEN, episodes=60, resources=resources)
    seeds = [seed for seed in range(FIRST_SEED["test"], FIRST_SEED["test"] + 60) if seed % 3 == 0]
    told = r"broken_slope: the episode of seed (\d+) raised after the actions \[\d, \d\]: "
    with pytest.raises(RuntimeError, match=told + "ZeroDivisionError: the world fell apart") as bug:
        main(config)
    found = re.search(told, str(bug.value))
    assert found is not None
    assert int(found[1]) in seeds
    if engine == "inline":
        assert "in step" in "".join(traceback.format_tb(bug.tb))
    assert not parts_of(tmp_path / "out")


def test_a_world_without_known_paths_has_no_spl(tmp_path: Path):
    world = WorldConfig(name="tests.jobs.navigation.agents:slope")
    agent = save_agent(tmp_path / "agent.safetensors", world)
    run = main(asked(agent, tmp_path / "out", world=world, films=2))
    assert {(row["shortest"], row["spl"]) for row in rows_of(run)} == {(None, None)}
    told = json.loads(Path(run.path("metrics.json")).read_text())
    assert told["greedy"]["spl"] is None
    assert "shortest path" not in told
    assert 0 < told["random"]["success"] <= 1
    # the world is the same for every seed: the best and the worst are one episode
    assert (tmp_path / "out" / "report" / "index.html").read_text().count("data:image/gif") == 1


def test_wrong_weights_are_refused_at_once(weights: str, tmp_path: Path):
    def refused(told: str, **more: Any) -> None:
        with pytest.raises(ValueError, match=told):
            main(asked(more.pop("name", weights), tmp_path / "out", **more))

    nowhere = str(tmp_path / "nowhere")
    refused("nowhere: neither a run directory .* nor a checkpoint .*train_navigation", name=nowhere)
    refused("no such file", name=nowhere + ".safetensors")
    other = made_run(tmp_path / "other", weights, job="train_classifier")
    refused("a run of train_classifier; accepted: a run of train_navigation", name=other)
    begun = made_run(tmp_path / "begun", weights)
    (tmp_path / "begun" / BEST).unlink()
    refused("begun: has no checkpoints/best.safetensors yet", name=begun)
    classifier = save_untrained(tmp_path / "classifier.safetensors", size_px=32)
    refused(r"classifier.safetensors: .* is no policy, it names \d+ classes \(", name=classifier)
    refused(
        "the policy policy:tiles:7x7x3/1 sees 1 picture of 21 x 21 pixels; "
        "world.name rooms shows 2 pictures of 45 x 45 pixels",
        world=WorldConfig(rooms=RoomsConfig(view_cells=9), frames=2),
    )
    refused(
        "actions are left, right, forward; those of world.name .*slope are action 0, action 1",
        world=WorldConfig(name="tests.jobs.navigation.agents:slope"),
    )
    refused("world.name 'Nowhere'", world=WorldConfig(name="Nowhere"))
    assert not (tmp_path / "out").exists()


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="episodes 0: must be at least 1"):
        Config(episodes=0)
    with pytest.raises(ValueError, match="films -1: must not be negative"):
        Config(films=-1)


def test_a_dry_run_tells_and_writes_nothing(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main(asked(weights, tmp_path / "out", dry_run=True))
    told = capsys.readouterr().out
    for text in ("as numbers", "75", "rooms", "rows/s"):
        assert text in told
    assert not (tmp_path / "out").exists()
