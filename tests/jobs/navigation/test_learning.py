"""Agents that learn for minutes: what they reach, and what their encoders are good for besides."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from jobs import evaluate_navigation, train_classifier
from jobs.navigation.agent import AgentConfig
from jobs.navigation.env import WorldConfig
from jobs.navigation.policy_gradient import PolicyGradientConfig, RolloutConfig
from jobs.runtime.checkpoints import BEST
from jobs.runtime.run import Run
from jobs.train_navigation import Config, main
from tests.jobs.navigation.test_training import SHORT, request, resolved, trained
from tests.jobs.test_train_classifier import write_photos
from vision_ops.card import read_card

__all__ = ["trained"]  # a fixture


@pytest.mark.slow
def test_an_agent_learns_small_rooms(local_ray: None, tmp_path: Path):
    steps = RolloutConfig(steps=40_000, target_success=0.95, evaluate_every=8_192)
    run = main(request(tmp_path / "run", training=steps))
    assert run.manifest["metrics"]["success"] >= 0.95
    assert run.manifest["metrics"]["spl"] >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["none", "gru"])
def test_what_was_seen_before_is_remembered_by_a_memory_alone(
    local_ray: None, tmp_path: Path, memory: Literal["none", "gru"]
):
    run = main(
        request(
            tmp_path / "run",
            world=WorldConfig(name="tests.jobs.navigation.worlds:cue"),
            agent=AgentConfig(memory=memory),
            training=RolloutConfig(steps=30_000, evaluate_every=6_144, target_success=1.0),
        )
    )
    success = run.manifest["metrics"]["success"]
    assert success == 1.0 if memory == "gru" else 0.3 < success < 0.7


@pytest.mark.slow
def test_plain_policy_gradients_learn_a_corridor(local_ray: None, tmp_path: Path):
    world = WorldConfig(name="tests.jobs.navigation.worlds:corridor", max_steps=8)
    run = main(
        request(
            tmp_path / "run",
            world=world,
            learn=PolicyGradientConfig(algorithm="reinforce"),
            training=RolloutConfig(steps=40_000, evaluate_every=4_096),
        )
    )
    assert run.manifest["metrics"]["success"] == 1.0
    assert run.manifest["metrics"]["length"] < 5


@pytest.mark.slow
def test_the_default_learns_rooms_that_it_has_never_seen(local_ray: None, tmp_path: Path):
    """What the README promises; of half an hour's worth of rooms on a laptop, three minutes."""
    main(Config(films=0, out=str(tmp_path / "run")))
    judged = evaluate_navigation.main(
        evaluate_navigation.parse(
            ["--weights", str(tmp_path / "run"), "--films", "0", "--out", str(tmp_path / "judged")]
        )
    )
    assert judged.manifest["metrics"]["greedy"]["success"] >= 0.95
    assert judged.manifest["metrics"]["greedy"]["spl"] >= 0.9
    assert judged.manifest["metrics"]["random"]["success"] < 0.4


@pytest.mark.slow
def test_an_encoder_is_fine_tuned_to_classify_and_steers_again(trained: Run, tmp_path: Path):
    photos = write_photos(tmp_path / "photos")
    encoder = Path(trained.uri) / "checkpoints/best.encoder.safetensors"
    words = ["finetune", "--model.weights", str(encoder), "--data.uri", str(photos)]
    words += ["--training.epochs", "30", "--training.batch-size", "4", "--out", str(tmp_path / "c")]
    tuned = train_classifier.main(train_classifier.parse(words))
    classifier = tuned.path(BEST)
    card = read_card(Path(classifier))
    assert (card.network, card.parent) == ("tiles:9x9x4", resolved(encoder).sha256)
    assert tuned.manifest["metrics"]["accuracy"] >= 0.9
    agent = AgentConfig(weights=classifier)
    steered = main(request(tmp_path / "run", agent=agent, training=replace(SHORT, steps=256)))
    assert steered.manifest["status"] == "done"
    assert read_card(Path(steered.path(BEST))).parent == resolved(Path(classifier)).sha256
