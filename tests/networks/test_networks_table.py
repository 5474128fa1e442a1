"""The look-up table as a network."""

from __future__ import annotations

import pytest
import torch

from dqn_cli.errors import ConfigError
from dqn_cli.networks.q_network import Table
from dqn_cli.types import ObsSpec

STATES = ObsSpec((5,), "float32")


def test_every_entry_begins_at_the_initial_value() -> None:
    table = Table(STATES, 3, (), -2.5)
    assert table(torch.eye(5)).tolist() == [[-2.5] * 3] * 5
    assert sum(w.numel() for w in table.parameters()) == 15


def test_a_state_looks_up_its_own_entries() -> None:
    table = Table(STATES, 3, (), 0.0)
    entries = torch.randn(3, 5)
    table.load_state_dict({"entries": entries})
    assert torch.equal(table(torch.eye(5)[[4, 0, 4]]), entries.T[[4, 0, 4]])


def test_one_hot_bytes_are_states_too() -> None:
    table = Table(ObsSpec((5,), "uint8"), 2, (), 1.5)
    assert table(torch.eye(5, dtype=torch.uint8)).tolist() == [[1.5, 1.5]] * 5


@pytest.mark.parametrize("spec", [ObsSpec((84, 84), "uint8"), ObsSpec((5,), "float32", stack=2)])
def test_observations_that_are_not_one_hot_vectors_are_refused(spec) -> None:
    with pytest.raises(ConfigError, match=r"network=table needs one-hot states, not shape \(.*write network=mlp"):
        Table(spec, 2, (), 0.0)


def test_an_entry_may_be_several_numbers() -> None:
    table = Table(STATES, 3, (4,), 0.5)
    assert table(torch.eye(5)).tolist() == [[[0.5] * 4] * 3] * 5
    entries = torch.randn(3, 4, 5)
    table.load_state_dict({"entries": entries})
    z = table(torch.eye(5)[[2, 2, 0]])
    assert torch.equal(z, entries[:, :, [2, 2, 0]].permute(2, 0, 1))


def test_a_table_takes_part_in_what_every_network_is_asked_for() -> None:
    table = Table(STATES, 3, (), 1.0)
    table.draw_noise(torch.Generator())
    table.iterate_norms()
    table.silence()
    assert table(torch.eye(5)).tolist() == [[1.0] * 3] * 5
