"""What the value of an action should have been: pure functions of a batch of B transitions and A actions.

Time runs as in the papers: s_tm1, a_tm1 -> r_t, discount_t, s_t.
"""

from __future__ import annotations

from torch import Tensor


def greedy_action(q: Tensor) -> Tensor:
    """argmax_a q [..., A] -> [...] int64; the first of equal values, in acting and learning alike."""
    return q.argmax(dim=-1)


def value_of(q: Tensor, action: Tensor) -> Tensor:
    """q [B, A] at action [B] int64 -> [B]."""
    return q.gather(1, action.unsqueeze(1)).squeeze(1)


def q_learning_target(r_t: Tensor, discount_t: Tensor, q_evaluate_t: Tensor, a_t: Tensor) -> Tensor:
    """y = r_t + discount_t q_evaluate_t[a_t], for r_t [B], discount_t [B], q_evaluate_t [B, A], a_t [B] -> [B].

    With a_t = argmax_a q_select_t this is every variant: V-DQN (select = evaluate = online; Mnih et al. 2013,
    https://arxiv.org/abs/1312.5602), T-DQN (both target; Mnih et al. 2015, https://doi.org/10.1038/nature14236), DDQN
    (select online, evaluate target; van Hasselt et al. 2016, https://arxiv.org/abs/1509.06461). After m steps r_t is
    their discounted sum and discount_t = gamma^m, or 0 at a terminal state (Sutton & Barto 2018, eq. 7.1).
    """
    return r_t + discount_t * value_of(q_evaluate_t, a_t)
