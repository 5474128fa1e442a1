"""Munchausen reinforcement learning (Vieillard, Pietquin & Geist 2020, https://arxiv.org/abs/2007.14430).

The agent follows, in its targets, the soft policy pi = softmax(q / tau), and is rewarded for what it is sure of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dqn_cli.algorithm.targets import chosen


def log_policy(q: Tensor, tau: float) -> Tensor:
    """log softmax_a(q / tau) of q [B, A] -> [B, A], by way of the advantages: large q lose no digits (appendix B)."""
    return F.log_softmax((q - q.amax(dim=1, keepdim=True)) / tau, dim=1)


@dataclass(frozen=True, slots=True)
class Munchausen:
    """What Munchausen adds to a target: a bonus on the reward, and a soft value in the place of the greedy one.

    y = r_t + alpha [tau log pi(a_tm1|s_tm1)]_clip^0 + discount_t sum_a pi(a|s_t) (z(s_t, a) - tau log pi(a|s_t))
    (eq. 2; for quantiles z, M-IQN, appendix B). pi is everywhere the policy of the network that *selects*: of the
    target network with T-DQN, as in the paper, of the online network with V-DQN and DDQN, whose z is still the
    evaluating network's. With n-step returns only the first action's log-probability is added: it is the action that
    is learnt about; those in between were taken by policies that are not known any more.
    """

    alpha: float  # weight of the log-probability
    tau: float  # temperature, in units of discounted reward
    clip: float  # l_0 <= 0: the least that tau log pi counts

    def bonus(self, q_tm1: Tensor, a_tm1: Tensor) -> Tensor:
        """alpha clip(tau log pi(a_tm1|s_tm1), clip, 0) of q_tm1 [B, A] and a_tm1 [B] -> [B], to add to the reward."""
        return self.alpha * (self.tau * chosen(log_policy(q_tm1, self.tau), a_tm1)).clamp(self.clip, 0)

    def bootstrap(self, z_t: Tensor, q_select_t: Tensor) -> Tensor:
        """sum_a pi(a) (z_t[a] - tau log pi(a)) of z_t [B, A] or [B, A, N] and q_select_t [B, A] -> [B] or [B, N]."""
        pi = log_policy(q_select_t, self.tau).exp()
        entropy: Tensor = torch.special.entr(pi).sum(dim=1)  # 0 log 0 = 0, which a product would not know
        if z_t.dim() == 2:
            return (pi * z_t).sum(dim=1) + self.tau * entropy
        return (pi.unsqueeze(2) * z_t).sum(dim=1) + self.tau * entropy.unsqueeze(1)
