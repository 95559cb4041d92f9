"""RLlib's module around a policy of `vision_ops`: pixels in, logits of the actions and values out.

    observation  uint8  (B, F, H, W, 3), with memory (B, T, F, H, W, 3)

A fresh process restores it by the class alone: the spec's `model_config` holds what it is made of.
"""

from dataclasses import dataclass
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from jobs.navigation.agent import build_of, decide
from vision_ops.card import Card, card_from_json, card_to_json
from vision_ops.models.policy import Decision, Policy

MAX_SEQUENCE = 32
"""steps that gradients go back through a memory"""


@dataclass(frozen=True, kw_only=True)
class ModuleConfig:
    """What a module is made of."""

    card: Card
    """of the policy"""
    frozen: bool = False
    """the encoder learns nothing"""


def module_spec(config: ModuleConfig) -> RLModuleSpec:
    """What RLlib makes modules by, in every process."""
    model_config = {"card": card_to_json(config.card), "frozen": config.frozen}
    if config.card.network.startswith("policy_gru:"):
        model_config["max_seq_len"] = MAX_SEQUENCE
    return RLModuleSpec(module_class=PolicyModule, model_config=model_config)


class PolicyModule(TorchRLModule, ValueFunctionAPI):
    """Explores by pi(action | state), and tells the learner V(state)."""

    policy: Policy

    def setup(self) -> None:
        """Build the policy from `model_config`, with fresh weights."""
        self.card = card_from_json(self.model_config["card"])
        self.policy = build_of(self.card)
        if self.model_config["frozen"]:
            self.policy.freeze()

    def get_initial_state(self) -> dict[str, Any]:
        """What is remembered at the start of an episode: zeros, or nothing."""
        size = self.policy.memory_size
        return {"memory": torch.zeros(size).numpy()} if size else {}

    def _decide(self, batch: dict[str, Any]) -> Decision:
        seen: Tensor = batch[Columns.OBS]
        if not self.policy.memory_size:
            nothing = torch.zeros(len(seen), 0, device=seen.device)
            decision = decide(self.policy, self.card, seen[:, None], nothing)
            return Decision(decision.logits[:, 0], decision.value[:, 0], decision.memory)
        return decide(self.policy, self.card, seen, batch[Columns.STATE_IN]["memory"])

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        decision = self._decide(batch)
        result: dict[str, Any] = {Columns.ACTION_DIST_INPUTS: decision.logits}
        if self.policy.memory_size:
            result[Columns.STATE_OUT] = {"memory": decision.memory}
        return result

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        decision = self._decide(batch)
        return {
            Columns.ACTION_DIST_INPUTS: decision.logits,
            # what `compute_values` is given back: the values themselves, of the same pass
            Columns.EMBEDDINGS: decision.value,
        }

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """V of each step: of the pass that gave the logits, else of one without gradients."""
        if embeddings is not None:
            return embeddings
        with torch.no_grad():  # asked by the advantages, which are constants to the gradient
            return self._decide(batch).value
