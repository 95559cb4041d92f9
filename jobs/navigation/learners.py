"""What is minimised: plain policy gradient here, PPO in RLlib."""

from typing import Any

from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor


def policy_gradient_loss(log_probabilities: Tensor, advantages: Tensor) -> Tensor:
    """-E[log pi(action | state) * advantage], whose gradient is that of the expected return.

    Williams (1992, REINFORCE) with a baseline; Sutton and Barto (2018, eq. 13.11). Both (N,); the
    advantages are constants: return minus V(state).
    """
    return -(log_probabilities * advantages.detach()).mean()


class ReinforceLearner(PPOTorchLearner):
    """REINFORCE with V(state) as its baseline, learnt beside it.

    The advantages come from the connector that PPO has, with lambda 1: the return that was seen (at
    the end of a piece of an episode the value expected from there on) minus V, brought to mean 0
    and standard deviation 1 over the batch.
    """

    def compute_loss_for_module(
        self, *, module_id: str, config: PPOConfig, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """The loss of a batch, with what is reported of it."""
        module: Any = self.module[module_id].unwrapped()
        counts = batch.get(Columns.LOSS_MASK, ...)
        policy: Any = module.get_train_action_dist_cls().from_logits(
            fwd_out[Columns.ACTION_DIST_INPUTS]
        )
        log_probabilities = policy.logp(batch[Columns.ACTIONS])[counts]
        advantages = batch[Postprocessing.ADVANTAGES][counts]
        values = module.compute_values(batch, embeddings=fwd_out[Columns.EMBEDDINGS])[counts]
        policy_loss = policy_gradient_loss(log_probabilities, advantages)
        value_loss = (values - batch[Postprocessing.VALUE_TARGETS][counts]).square().mean()
        entropy = policy.entropy()[counts].mean()
        told = {POLICY_LOSS_KEY: policy_loss, VF_LOSS_KEY: value_loss, ENTROPY_KEY: entropy}
        self.metrics.log_dict(told, key=module_id, window=1)
        bonus: Any = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        return policy_loss + config.vf_loss_coeff * value_loss - bonus * entropy
