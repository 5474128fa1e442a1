"""Networks that give the return's quantile at any fraction, for IQN and FQF."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dqn_cli.networks.q_network import QNetwork, Torso


class CosineEmbedding(nn.Module):
    """How a fraction is seen: relu(linear(cos(pi i tau), i = 0 ... n - 1)), tau [B, T] -> [B, T, F].

    Dabney et al. 2018, IQN, eq. 4 (https://arxiv.org/abs/1806.06923).
    """

    def __init__(self, cosines: int, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(cosines, features)

    def forward(self, tau: Tensor) -> Tensor:
        """Features of fractions."""
        # not a buffer: networks are made on the meta device, to be filled with a checkpoint's weights
        frequencies = pi * torch.arange(self.linear.in_features, dtype=tau.dtype, device=tau.device)
        return F.relu(self.linear(torch.cos(tau.unsqueeze(2) * frequencies)))


class ImplicitQNetwork(QNetwork):
    """A torso, whose features are multiplied with those of fractions, then a head without outputs of its own.

    `cosines` is the embedding's n. With `fractions` N there is a layer `proposal`, from features [B, F] to logits
    [B, N] of the widths of N parts of [0, 1]; its small weights let them begin nearly even (Yang et al. 2019, FQF).
    """

    def __init__(self, torso: Torso, head: nn.Module, cosines: int, fractions: int | None) -> None:
        super().__init__(torso, head)
        self.embedding = CosineEmbedding(cosines, torso.features)
        if fractions is not None:
            self.proposal = nn.Linear(torso.features, fractions)
            nn.init.xavier_uniform_(self.proposal.weight, gain=0.01)
            nn.init.zeros_(self.proposal.bias)

    def at(self, features: Tensor, tau: Tensor) -> Tensor:
        """Quantiles [B, A, T] at fractions tau [B, T], of features [B, F]."""
        quantiles: Tensor = self.head(features.unsqueeze(1) * self.embedding(tau))  # [B, T, A]
        return quantiles.transpose(1, 2)

    def forward(self, obs: Tensor) -> Tensor:
        """Not defined: there are no values without fractions. Raises `TypeError`."""
        raise TypeError("an ImplicitQNetwork is asked for features, and for quantiles of them at fractions")
