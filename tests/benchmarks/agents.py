"""An agent's training: Argus on RLlib beside a plain PPO loop in one process, on the same cores.

    python -m tests.benchmarks.agents [--world rooms] [--steps 40960] [--rounds 3]

The plain loop is what one writes in a page: Gymnasium's SyncVectorEnv, the same policy network, the
same PPO (clipped objective, generalised advantages, 4 passes over batches of 2,048 steps in
minibatches of 256), torch on all cores. Both act in the same world, in turns, each round in fresh
processes. Counted are steps of acting and learning; imports, start and building are told apart.
Prints median rates, the ratio, and the success of the last episodes on both sides.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tyro


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    world: str = "rooms"
    """as `--world.name` of train_navigation"""
    steps: int = 40_960
    """of acting, of each contender in each round"""
    rounds: int = 3
    """times that each runs"""
    env_runners: int = -1
    """of Argus, see train_navigation"""
    plain: bool = False
    """run the loop alone, in this process; what it prints is JSON"""


WORLDS, BATCH, MINIBATCH, PASSES = 16, 2_048, 256, 4


def main(config: Config) -> None:
    """Measure in turns and print a row each."""
    if config.plain:
        json.dump(run_plain(config), sys.stdout)
        return
    found: dict[str, list[dict[str, float]]] = {"plain loop": [], "Argus": []}
    for _ in range(config.rounds):
        found["plain loop"].append(plain(config))
        found["Argus"].append(argus(config))
    row = "{:>12}  {:>8}  {:>6}  {:>14}  {:>9}\n"
    sys.stdout.write(row.format("", "steps/s", "ratio", "before it (s)", "success"))
    base = median(each["steps_per_s"] for each in found["plain loop"])
    for name, rounds in found.items():
        rate, before, success = (
            median(each[key] for each in rounds) for key in ("steps_per_s", "before_s", "success")
        )
        told = (f"{rate:,.0f}", f"{rate / base:.2f}", f"{before:.1f}", f"{success:.2f}")
        sys.stdout.write(row.format(name, *told))


def plain(config: Config) -> dict[str, float]:
    """The loop, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.agents", "--plain"]
    words = ["--world", config.world, "--steps", str(config.steps)]
    start = time.perf_counter()
    done = subprocess.run([*command, *words], check=True, stdout=subprocess.PIPE)
    told = json.loads(done.stdout)
    return {**told, "before_s": time.perf_counter() - start - config.steps / told["steps_per_s"]}


def argus(config: Config) -> dict[str, float]:
    """The job, as one calls it; nothing is judged but at its end."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        subprocess.run(
            [
                *(sys.executable, "-m", "jobs.train_navigation", "--out", str(out)),
                *("--world.name", config.world, "--training.steps", str(config.steps)),
                *("--training.evaluate-every", str(10 * config.steps)),
                *("--training.evaluate-episodes", "1", "--films", "0"),
                *("--resources.env-runners", str(config.env_runners)),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        manifest = json.loads((out / "manifest.json").read_text())
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    laps = manifest["laps"]
    return {
        "steps_per_s": last["step"] / last["seconds"],
        "before_s": sum(laps[name] for name in ("imports", "start", "building")),
        "success": last["train_success"],
    }


def run_plain(config: Config) -> dict[str, float]:
    """Steps a second of the loop, and the success of its last hundred episodes."""
    import gymnasium

    from jobs.navigation.env import WorldConfig, make_world

    world = WorldConfig(name=config.world)
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: make_world(world)] * WORLDS,
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )
    agent = PlainAgent(world)
    start = time.perf_counter()
    seen, _ = envs.reset(seed=0)
    for _ in range(config.steps // BATCH):
        seen = agent.act(envs, seen)
        agent.learn(seen)
    seconds = time.perf_counter() - start
    return {"steps_per_s": config.steps / seconds, "success": float(np.mean(agent.reached[-100:]))}


class PlainAgent:
    """PPO in a page."""

    def __init__(self, world: Any) -> None:
        import torch

        from jobs.navigation.agent import AgentConfig, begin, build_of
        from jobs.navigation.env import interface_of, make_world

        self.card, _ = begin(AgentConfig(), world, interface_of(make_world(world)), None)
        torch.manual_seed(0)
        self.policy = build_of(self.card)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=1e-3)
        self.rows = BATCH // WORLDS
        names = ("action", "chance", "value", "reward", "over")
        self.kept = {name: torch.zeros(self.rows, WORLDS) for name in names}
        shape = interface_of(make_world(world)).shape
        self.views = np.zeros((self.rows, WORLDS, *shape), np.uint8)
        self.reached: list[float] = []

    def decide(self, seen: Any) -> tuple[Any, Any]:
        """Policy and value of uint8 (B, F, H, W, 3)."""
        import torch

        from vision_ops.normalize import normalize

        pictures = normalize(seen[:, None], self.card.preprocess, "cpu")
        decision = self.policy(pictures, torch.zeros(len(seen), 0))
        return torch.distributions.Categorical(logits=decision.logits[:, 0]), decision.value[:, 0]

    def act(self, envs: Any, seen: np.ndarray) -> np.ndarray:
        """A batch of steps; what is seen after it."""
        import torch

        for row in range(self.rows):
            with torch.no_grad():
                policy, value = self.decide(torch.from_numpy(seen))
                action = policy.sample()
            self.views[row] = seen
            seen, reward, ended, cut, info = envs.step(action.numpy())
            over = ended | cut
            columns = (
                action,
                policy.log_prob(action),
                value,
                *map(torch.as_tensor, (reward, over)),
            )
            for name, column in zip(self.kept, columns, strict=True):
                self.kept[name][row] = column
            if over.any():
                self.reached += map(float, info["final_info"]["success"][over])
        return seen

    def advantages(self, seen: np.ndarray) -> Any:
        """Generalised, of the batch, by what is seen after it."""
        import torch

        with torch.no_grad():
            _, following = self.decide(torch.from_numpy(seen))
        found, running = torch.zeros(self.rows, WORLDS), torch.zeros(WORLDS)
        for row in reversed(range(self.rows)):
            going = 1 - self.kept["over"][row]
            value = self.kept["value"][row]
            delta = self.kept["reward"][row] + 0.99 * following * going - value
            running = found[row] = delta + 0.99 * 0.95 * going * running
            following = value
        return found

    def learn(self, seen: np.ndarray) -> None:
        """Several passes over the batch."""
        import torch

        advantages = self.advantages(seen)
        targets = (advantages + self.kept["value"]).flatten()
        scaled = ((advantages - advantages.mean()) / advantages.std()).flatten()
        action, chance = (self.kept[name].flatten() for name in ("action", "chance"))
        pictures = torch.from_numpy(self.views).flatten(0, 1)
        for _ in range(PASSES):
            for part in torch.randperm(BATCH).split(MINIBATCH):
                policy, value = self.decide(pictures[part])
                ratio = (policy.log_prob(action[part]) - chance[part]).exp()
                gain = torch.min(ratio * scaled[part], ratio.clamp(0.8, 1.2) * scaled[part]).mean()
                error = (value - targets[part]).square().mean()
                loss = -gain + 0.5 * error - 0.01 * policy.entropy().mean()
                self.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 0.5)
                self.optimizer.step()


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
