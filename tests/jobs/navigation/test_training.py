"""Agents that learn: what a run leaves, what the next attempt does, what it begins with."""

import json
import os
import signal
import subprocess
import sys
import time
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
from jobs.navigation.playing import choose, play, policy_mind, random_mind
from jobs.navigation.policy_gradient import PolicyGradientConfig, RolloutConfig
from jobs.navigation.resources import NavigationResources, place
from jobs.runtime.run import Run
from jobs.runtime.storage import Storage, StorageConfig
from jobs.train_navigation import Config, main, parse
from tests.jobs.killed import descendants
from tests.jobs.navigation.worlds import Outage
from vision_ops.card import Card, read_card
from vision_ops.checkpoint import load_checkpoint, save_checkpoint
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
    assert "unseen rooms" in page
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


def test_an_attempt_goes_on_where_the_last_one_was_broken_off(local_ray: None, tmp_path: Path):
    world = WorldConfig(name="tests.jobs.navigation.worlds:outage")
    steps = replace(SHORT, steps=1_024, target_success=2.0)
    config = request(tmp_path / "run", world=world, training=steps)
    Outage.steps_left = 750  # some 30 of each judgement are steps as well
    told = r"outage: the episode of seed \d+ raised after the actions \[.*\]: ConnectionError"
    with pytest.raises(RuntimeError, match=told):
        main(config)
    first = Run.load(config.out, Storage(StorageConfig()))
    assert first.manifest["status"] == "interrupted"
    kept = judgements(first)
    assert 0 < kept[-1]["step"] < 1_024
    run = main(config)
    lines = judgements(run)
    assert lines[: len(kept)] == kept
    assert run.manifest["attempts"] == 2
    assert 1_024 <= lines[-1]["step"] < 1_024 + 2 * SHORT.batch_steps
    state = torch.load(tmp_path / "run/checkpoints/state.pt", weights_only=True)
    assert state["step"] == lines[-1]["step"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "env runner"])
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
    if victim == "driver":
        run.kill()
        assert run.wait(60) != 0
        assert json.loads((out / "manifest.json").read_text())["status"] == "running"
        run = subprocess.Popen(command)
    else:
        named = descendants(run.pid).items()
        (pid,) = [pid for pid, name in named if name.startswith("ray::SingleAgentEnvRunner")]
        os.kill(pid, signal.SIGKILL)
    assert run.wait(240) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["attempts"] == (2 if victim == "driver" else 1)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] >= 6_144


@pytest.mark.slow
def test_an_agent_learns_small_rooms(local_ray: None, tmp_path: Path):
    steps = RolloutConfig(steps=40_000, target_success=0.95, evaluate_every=8_192)
    run = main(request(tmp_path / "run", training=steps))
    assert run.manifest["metrics"]["success"] >= 0.95
    assert run.manifest["metrics"]["spl"] >= 0.85


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


def test_a_policys_encoder_is_fine_tuned_to_classify_and_back(trained: Run, tmp_path: Path):
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


def test_what_is_played_does_not_hang_on_what_is_played_beside_it(trained: Run):
    policy, card = load_checkpoint(Path(trained.uri) / "checkpoints/best.safetensors", "cpu")
    assert isinstance(policy, Policy)
    mind, world = policy_mind(policy, card), WorldConfig(rooms=SMALL)
    for greedy in (True, False):
        together = play(mind, world, range(6), greedy=greedy)
        apart = [play(mind, world, [seed], greedy=greedy)[0] for seed in range(6)]
        assert together == apart
    assert play(mind, world, [], greedy=True) == []


def test_a_random_policy_takes_each_action_as_often():
    think, _ = random_mind(4)
    chances = think(np.zeros((3, 1, 5, 5, 3), np.uint8), np.zeros((3, 0))).probabilities
    assert chances.shape == (3, 4)
    random = np.random.default_rng(0)
    taken = np.bincount([choose(chances[0], random, greedy=False) for _ in range(4_000)])
    assert np.abs(taken / 4_000 - 0.25).max() < 0.03
    assert choose(np.array([0.4, 0.4, 0.2]), random, greedy=True) == 0


@pytest.mark.parametrize(
    ("fields", "cpus", "told"),
    [
        ({"env_runners": 3}, 2, "3 env runners of 1 CPU and 0 learners"),
        ({"learners": 1, "gpus_per_learner": 1.0}, 4, "do not fit 4 CPUs and 0 GPUs"),
    ],
)
def test_more_than_the_machine_has_is_refused(fields: dict[str, Any], cpus: int, told: str):
    with pytest.raises(ValueError, match=told):
        place(NavigationResources(**fields), cpus, 0)


def test_env_runners_are_chosen_by_the_cpus_there_are():
    assert place(NavigationResources(), 2, 0).env_runners == 0
    assert place(NavigationResources(), 16, 0).env_runners == 15
