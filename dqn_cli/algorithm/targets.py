"""What the value of an action should have been: pure functions of a batch of B transitions and A actions.

Time runs as in the papers: s_tm1, a_tm1 -> r_t, discount_t, s_t. What is known of a return is one number, or N of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def greedy_action(q: Tensor) -> Tensor:
    """argmax_a q [..., A] -> [...] int64; the first of equal values, in acting and learning alike."""
    return q.argmax(dim=-1)


def chosen(z: Tensor, action: Tensor) -> Tensor:
    """The part of z [B, A] or [B, A, N] that belongs to action [B] int64: [B] or [B, N]."""
    if z.dim() == 2:
        return z.gather(1, action.unsqueeze(1)).squeeze(1)
    return z.gather(1, action.view(-1, 1, 1).expand(-1, 1, z.shape[2])).squeeze(1)


def bellman_target(r_t: Tensor, discount_t: Tensor, z_t: Tensor) -> Tensor:
    """y = r_t + discount_t z_t, for r_t [B], discount_t [B], z_t [B] or [B, N] -> the shape of z_t.

    With z_t the evaluating network's value of a_t = argmax_a q_select_t this is every variant: V-DQN (select = evaluate
    = online; Mnih et al. 2013, https://arxiv.org/abs/1312.5602), T-DQN (both target; Mnih et al. 2015,
    https://doi.org/10.1038/nature14236), DDQN (select online, evaluate target; van Hasselt et al. 2016,
    https://arxiv.org/abs/1509.06461). After m steps r_t is their discounted sum and discount_t = gamma^m, or 0 at a
    terminal state (Sutton & Barto 2018, eq. 7.1). Applied to quantiles it moves the whole distribution of the return:
    r + d z has the quantiles of r + d Z where d >= 0 (Dabney et al. 2018, https://arxiv.org/abs/1710.10044).
    """
    if z_t.dim() == 1:
        return r_t + discount_t * z_t
    return r_t.unsqueeze(1) + discount_t.unsqueeze(1) * z_t


def categorical_target(r_t: Tensor, discount_t: Tensor, p_t: Tensor, atoms: Tensor) -> Tensor:
    """Probabilities [B, N] of the atoms after r_t + discount_t Z, for Z with probabilities p_t [B, N] of `atoms` [N].

    Each moved atom, clipped to the ends, gives its probability to its two neighbors, the nearer the more. Mass is kept,
    and so is the mean wherever nothing was clipped (Bellemare et al. 2017, algorithm 1, https://arxiv.org/abs/1707.06887).
    `atoms` are evenly spaced and ascending. The sum over moved atoms is a product with the hat function around each
    atom, not a scatter: the same bits every time on a GPU too.
    """
    last = len(atoms) - 1
    step = (atoms[-1] - atoms[0]) / last
    moved = (bellman_target(r_t, discount_t, atoms.expand_as(p_t)) - atoms[0]) / step  # in steps from the first atom
    share = moved.clamp(0, last).unsqueeze(2) - torch.arange(last + 1, device=atoms.device)  # [B, N moved, N]
    share = share.abs_().neg_().add_(1).clamp_(min=0)
    return (p_t.unsqueeze(1) @ share).squeeze(1)
