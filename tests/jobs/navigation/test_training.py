"""Agents that learn: what a run leaves, what the next attempt does, what it begins with."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import train_navigation, weights
from jobs.navigation.agent import AgentConfig, begin, decide
from jobs.navigation.env import FIRST_SEED, WorldConfig, interface_of, make_world
from jobs.navigation.judging import best_of
from jobs.navigation.layouts import RoomsConfig
from jobs.navigation.playing import play, policy_mind
from jobs.navigation.policy_gradient import PolicyGradientConfig, RolloutConfig
from jobs.navigation.resources import NavigationResources
from jobs.runtime.checkpoints import BEST, STATE, read_metrics
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage, StorageConfig
from jobs.train_navigation import Config, main, parse
from tests.jobs.killed import descendants
from tests.jobs.navigation.worlds import Outage, Storm
from vision_ops.canvas import Canvas
from vision_ops.card import Card, read_card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
from vision_ops.faces import FacePreprocess
from vision_ops.models import build, embedding_size
from vision_ops.models.policy import Policy
from vision_ops.normalize import normalize
from vision_ops.preprocess import Preprocess
from vision_ops.weights import Resolved, resolve

SMALL = RoomsConfig(size=7, obstacles=2, view_cells=9, tile_px=4, shaping=1.0)
SHORT = RolloutConfig(
    steps=512,
    batch_steps=256,
    minibatch_steps=128,
    passes=2,
    worlds=4,
    evaluate_every=256,
    evaluate_episodes=6,
)


def request(out: Path | str, **changes: Any) -> Config:
    asked = {"world": WorldConfig(rooms=SMALL), "training": SHORT, "films": 0, **changes}
    return Config(**asked, out=str(out))


@pytest.fixture(scope="module")
def trained(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A few steps in small rooms."""
    return main(request(tmp_path_factory.mktemp("trained") / "run", films=2))


def resolved(path: Path) -> Resolved:
    """A checkpoint as `--agent.weights` names it."""
    return resolve(str(path), Storage(StorageConfig()).fetch)


def judgements(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(run.uri) / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_policy_encoder_metrics_and_page(trained: Run):
    there = Path(trained.uri)
    assert trained.manifest["status"] == "done"
    policy, card = load_checkpoint(there / "checkpoints/best.safetensors", "cpu")
    assert isinstance(policy, Policy)
    assert card.network == "policy:tiles:9x9x4/1"
    assert card.classes == ("left", "right", "forward")
    lines = judgements(trained)
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert lines[-1]["step"] >= SHORT.steps
    assert trained.manifest["metrics"] == best_of(lines)
    assert {"success", "return", "length", "spl", "entropy", "policy_loss"} <= lines[-1].keys()
    page = (there / "report/index.html").read_text()
    assert "seeds kept back; chance: " in page
    assert "of the shortest path: " in page
    films = sorted((there / "films").glob("*.gif"))
    assert {film.stem.partition("-")[2] for film in films} <= {"best", "worst"}
    assert len(films) == page.count("data:image/gif") == 2
    seeds = {int(film.stem.partition("-")[0]) for film in films}
    judged_by = range(FIRST_SEED["validation"], FIRST_SEED["validation"] + SHORT.evaluate_episodes)
    assert seeds <= set(judged_by)


def test_the_judgement_of_a_run_is_what_its_checkpoint_does(trained: Run):
    last, card = load_checkpoint(Path(trained.uri) / "checkpoints/last.safetensors", "cpu")
    assert isinstance(last, Policy)
    seeds = range(FIRST_SEED["validation"], FIRST_SEED["validation"] + SHORT.evaluate_episodes)
    played = play(policy_mind(last, card), WorldConfig(rooms=SMALL), seeds, greedy=True)
    assert judgements(trained)[-1]["length"] == np.mean([each.length for each in played])
    assert judgements(trained)[-1]["success"] == np.mean([each.success for each in played])


def test_the_encoder_is_an_ordinary_network_that_names_the_policys_action(trained: Run):
    folder = Path(trained.uri) / "checkpoints"
    encoder, card = load_checkpoint(folder / "best.encoder.safetensors", "cpu")
    policy, policy_card = load_checkpoint(folder / "best.safetensors", "cpu")
    assert card.network == "tiles:9x9x4"
    env = make_world(WorldConfig(rooms=SMALL))
    seen = np.stack([env.reset(options={"episode": seed})[0] for seed in range(5)])
    with torch.no_grad():
        logits = encoder(normalize(seen[:, 0], card.preprocess, "cpu"))
        assert isinstance(policy, Policy)
        decision = decide(policy, policy_card, torch.from_numpy(seen)[:, None], torch.zeros(5, 0))
    torch.testing.assert_close(logits, decision.logits[:, 0])


def test_a_finished_run_is_not_trained_again_and_another_request_is_refused(trained: Run):
    before = (Path(trained.uri) / "checkpoints/last.safetensors").stat().st_mtime_ns
    main(request(trained.uri))
    assert (Path(trained.uri) / "checkpoints/last.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"world.rooms.obstacles was 2, now 3"):
        main(request(trained.uri, world=WorldConfig(rooms=replace(SMALL, obstacles=3))))


def test_a_policy_with_memory_and_frames_learns_by_reinforce_and_goes_to_s3(
    local_ray: None, bucket: str, s3: StorageConfig
):
    run = main(
        request(
            f"{bucket}/agent",
            world=WorldConfig(rooms=SMALL, frames=2),
            agent=AgentConfig(memory="gru"),
            learn=PolicyGradientConfig(algorithm="reinforce"),
            storage=s3,
        )
    )
    data = Storage(s3).fetch(run.path("checkpoints/best.safetensors"))
    assert read_card(data).network == "policy_gru:tiles:9x9x4/2"


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_an_attempt_goes_on_where_the_last_one_was_broken_off(
    local_ray: None, tmp_path: Path, where: str, bucket: str, s3: StorageConfig
):
    world = WorldConfig(name="tests.jobs.navigation.worlds:outage")
    steps = replace(SHORT, steps=1_024, target_success=2.0)
    out = tmp_path / "run" if where == "disk" else f"{bucket}/broken_off"
    config, storage = request(out, world=world, training=steps, storage=s3), Storage(s3)
    Outage.steps_left = 750  # some 30 of each judgement are steps as well
    told = r"outage: the episode of seed \d+ raised after the actions \[.*\]: ConnectionError"
    with pytest.raises(RuntimeError, match=told):
        main(config)
    first = Run.load(config.out, storage)
    assert first.manifest["status"] == "interrupted"
    kept = read_metrics(first.uri, storage)
    assert 0 < kept[-1]["step"] < 1_024
    # as if killed between the state and the best checkpoint
    was_best = best_of(kept) is kept[-1]
    best = storage.read(first.path(BEST))
    storage.delete(first.path(BEST))
    Outage.steps_left = 10  # at once, after that was mended
    with pytest.raises(RuntimeError, match=told):
        main(config)
    if was_best:
        assert storage.read(first.path(BEST)) == best
    run = main(config)
    lines = read_metrics(run.uri, storage)
    assert lines[: len(kept)] == kept
    assert run.manifest["attempts"] == 3
    assert 1_024 <= lines[-1]["step"] < 1_024 + 2 * SHORT.batch_steps
    state = torch.load(io.BytesIO(storage.read(run.path(STATE))), weights_only=True)
    assert state["step"] == lines[-1]["step"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "driver, by Ctrl-C", "env runner"])
def test_a_killed_training_is_finished(tmp_path: Path, victim: str):
    out = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "jobs.train_navigation", "--out", str(out)),
        *("--world.rooms.size", "7", "--world.rooms.obstacles", "2", "--training.steps", "6144"),
        *("--training.evaluate-every", "2048", "--training.evaluate-episodes", "10"),
        *("--resources.env-runners", "1" if victim == "env runner" else "0"),
    ]
    run = subprocess.Popen(command)
    deadline = time.monotonic() + 240
    while not (out / "metrics.jsonl").exists():
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    if victim != "env runner":
        by_hand = "Ctrl-C" in victim
        run.send_signal(signal.SIGINT if by_hand else signal.SIGKILL)
        assert run.wait(60) == (1 if by_hand else -signal.SIGKILL)
        left = json.loads((out / "manifest.json").read_text())
        assert left["status"] == ("interrupted" if by_hand else "running")
        run = subprocess.Popen(command)
    else:
        named = descendants(run.pid).items()
        (pid,) = [pid for pid, name in named if name.startswith("ray::SingleAgentEnvRunner")]
        os.kill(pid, signal.SIGKILL)
    assert run.wait(240) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["attempts"] == (1 if victim == "env runner" else 2)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 6_144


@pytest.fixture
def storm() -> Iterator[Path]:
    """The file that lets a world break off."""
    Storm.mark.touch()
    yield Storm.mark
    Storm.mark.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize(("learners", "env_runners"), [(2, 0), (1, 1)])
def test_what_actors_began_goes_on_without_them_also_after_a_world_raised_in_one(
    local_ray: None, tmp_path: Path, storm: Path, learners: int, env_runners: int
):
    world = WorldConfig(name="tests.jobs.navigation.worlds:storm")
    steps = replace(SHORT, steps=2_048, target_success=2.0)
    config = request(tmp_path / "run", world=world, training=steps)
    actors = NavigationResources(learners=learners, env_runners=env_runners)
    Storm.steps_taken = 0
    told = r"storm: the episode of seed \d+ raised after the actions \[.*\]: ConnectionError"
    with pytest.raises(RuntimeError, match=told):
        main(replace(config, resources=actors))
    kept = judgements(Run.load(config.out, Storage(StorageConfig())))
    assert 0 < kept[-1]["step"] < 2_048
    storm.unlink()
    run = main(config)
    lines = judgements(run)
    assert lines[: len(kept)] == kept
    assert lines[-1]["step"] >= 2_048
    assert {"success", "entropy", "policy_loss", "vf_loss"} <= lines[-1].keys()


def as_checkpoint(path: Path, network: str, side: int, num_classes: int = 5) -> str:
    """A classifier of random weights, as train_classifier would leave it."""
    torch.manual_seed(3)
    model = build(network, num_classes)
    card = Card(
        network=network,
        classes=tuple(f"class {number}" for number in range(num_classes)),
        preprocess=Preprocess(height_px=side, width_px=side, resize_px=0, mean=(0.1, 0.2, 0.3)),
        licence="MIT",
        source="a test",
        embedding_size=embedding_size(model, (3, side, side)),
    )
    save_checkpoint(path, model, card)
    return str(path)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_trained_classifiers_backbone_can_steer(local_ray: None, tmp_path: Path, frozen: bool):
    start = as_checkpoint(tmp_path / "classifier.safetensors", "residual", 16)
    agent = AgentConfig(weights=start, frozen=frozen)
    run = main(request(tmp_path / "run", agent=agent, training=replace(SHORT, steps=256)))
    policy, card = load_checkpoint(run.path("checkpoints/last.safetensors"), "cpu")
    assert card.network == "policy:residual/1"
    assert isinstance(card.preprocess, Preprocess)
    assert (card.preprocess.mean, card.licence) == ((0.1, 0.2, 0.3), "MIT")
    assert isinstance(policy, Policy)
    before, _ = load_checkpoint(start, "cpu")
    kept = [torch.equal(t, before.state_dict()[n]) for n, t in policy.encoder.state_dict().items()]
    assert all(kept) == frozen


def test_a_policys_encoder_begins_another_policy(trained: Run):
    encoder = Path(trained.uri) / "checkpoints/best.encoder.safetensors"
    env = make_world(WorldConfig(rooms=SMALL))
    interface = interface_of(env)
    world = WorldConfig(rooms=SMALL, frames=3)
    card, first = begin(
        AgentConfig(weights=str(encoder)), world, interface_of(make_world(world)), resolved(encoder)
    )
    policy, _ = load_checkpoint(Path(trained.uri) / "checkpoints/best.safetensors", "cpu")
    assert (card.network, card.classes) == ("policy:tiles:9x9x4/3", interface.actions)
    assert isinstance(policy, Policy)
    for name, tensor in policy.encoder.state_dict().items():
        assert torch.equal(first[f"encoder.{name}"], tensor)


def test_a_policys_checkpoint_is_verified_by_a_view(trained: Run, tmp_path: Path):
    best = Path(trained.uri) / "checkpoints/best.safetensors"
    lines = weights.verify(weights.Verify(name=str(best)))
    assert lines["verified"] == "loads strictly, decides by a view of zeros"
    policy, card = load_checkpoint(best, "cpu")
    torch.nn.init.constant_(policy.get_parameter("value.weight"), float("nan"))
    save_checkpoint(tmp_path / "nan.safetensors", policy, card)
    with pytest.raises(ValueError, match="not finite"):
        weights.verify(weights.Verify(name=str(tmp_path / "nan.safetensors")))


def test_a_policy_goes_on_in_another_world_with_the_same_actions(trained: Run):
    best = Path(trained.uri) / "checkpoints/best.safetensors"
    world = WorldConfig(rooms=replace(SMALL, obstacles=0))
    card, first = begin(
        AgentConfig(weights=str(best)), world, interface_of(make_world(world)), resolved(best)
    )
    policy, _ = load_checkpoint(best, "cpu")
    assert card.parent == resolved(best).sha256
    assert all(torch.equal(first[name], t) for name, t in policy.state_dict().items())


@pytest.mark.parametrize(
    ("network", "start", "told"),
    [
        ("tiles:9x9x5", "", "takes pictures of 45 x 45 pixels, not 36 x 36 x 3"),
        ("nature:36x36", "residual", "agent.weights .* is residual"),
        ("no_such", "", "not one of"),
        ("cnn_cifar10", "", "does not fit world.name rooms, seen as pictures of 36 x 36"),
    ],
)
def test_networks_that_do_not_fit_are_refused(tmp_path: Path, network: str, start: str, told: str):
    if start:
        start = as_checkpoint(tmp_path / "w.safetensors", start, 16)
    agent = AgentConfig(network=network, weights=start)
    with pytest.raises(ValueError, match=told):
        main(request(tmp_path / "run", agent=agent))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("network", "changes", "told"),
    [
        ("residual", {"preprocess": FacePreprocess(height_px=32, width_px=32)}, "embeds faces"),
        ("style_transform:4", {"preprocess": Canvas(), "classes": ("waves",)}, "paints pictures"),
        ("unet:4x4", {"preprocess": Canvas()}, "makes pictures of pictures"),
    ],
)
def test_weights_of_other_tasks_are_refused_before_a_run_begins(
    tmp_path: Path, network: str, changes: dict[str, Any], told: str
):
    """Nothing of them is built: their card says it."""
    fields = {"network": network, "classes": (), "licence": "none", "source": "a test"}
    size = 16 if network == "residual" else 0
    card = Card(**{**fields, "embedding_size": size, **changes})
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, build(network, size or len(card.classes)), card)
    with pytest.raises(ValueError, match=rf"agent.weights .*w.safetensors: .* {told}"):
        main(request(tmp_path / "run", agent=AgentConfig(weights=str(path))))
    assert not (tmp_path / "run").exists()


def test_weights_that_classify_no_pictures_are_refused(tmp_path: Path):
    path = tmp_path / "text.safetensors"
    path.write_text("no weights")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        main(request(tmp_path / "run", agent=AgentConfig(weights=str(path))))
    with pytest.raises(ValueError, match="frozen"):
        AgentConfig(frozen=True)
    with pytest.raises(ValueError, match="films -1"):
        Config(films=-1)


def test_a_dry_run_says_what_would_be_done_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    main(request(tmp_path / "run", dry_run=True))
    told = capsys.readouterr().out
    assert "policy:tiles:9x9x4/1" in told
    assert "left, right, forward" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", train_navigation.PRESETS)
def test_presets_are_of_worlds_that_there_are(name: str):
    config = parse([name])
    env = make_world(config.world)
    card, first = begin(config.agent, config.world, interface_of(env), None)
    assert card.is_policy
    assert not first
