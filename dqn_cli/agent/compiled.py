"""The gradient of a batch as one function in C++, by torch.compile: of small networks' time the most goes into calls.

What autograd does for one batch is noted down, backward pass and all, and handed to the compiler as a flat list of
operations on the batch and the parameters. So nothing of the networks' Python runs again, and there is little to guard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from dqn_cli.agent.gradient import ByAutograd, Method, Slope, targets
from dqn_cli.algorithm.rules import Network
from dqn_cli.algorithm.values import Look
from dqn_cli.networks.q_network import ValueNetwork
from dqn_cli.types import Batch

Program = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, ...]]  # of a batch and of noise


class Compiled:
    """`Gradient` of networks without spectral norms, of values that draw nothing; arguments as of `ByAutograd`.

    A batch of a size that is new is compiled for first: minutes on a busy machine. Where that fails, there being no
    compiler for example, `say` is told so in a line, and from then on it is autograd that answers. `backend` is
    torch.compile's.
    """

    def __init__(
        self,
        network: Callable[[str], ValueNetwork],
        method: Method,
        rng: torch.Generator,
        say: Callable[[str], None],
        backend: str = "inductor",
    ) -> None:
        self.compile_seconds = 0.0  # spent so far
        self._network, self._method, self._rng, self._say, self._backend = network, method, rng, say, backend
        self._online = network(Network.ONLINE)
        self._parameters = list(self._online.parameters())
        self._by_autograd = ByAutograd(network, method, rng)
        self._programs: dict[tuple[object, ...], Program] = {}
        self._passes: list[ValueNetwork] = []  # which network each pass is through, in their order
        self._failed = False
        self.pausing: Callable[[], AbstractContextManager[None]] = nullcontext  # entered while the compiler is at work

    @property
    def way(self) -> str:
        """How gradients are found, in words."""
        return "by autograd" if self._failed else "compiled"

    def __call__(self, batch: Batch) -> Slope:
        """See `Gradient`."""
        numbers = _tensors(batch)
        program = self._programs.get(_form(numbers))
        if program is None and (program := self._made(numbers)) is None:
            return self._by_autograd(batch)
        noise = [network.noise_vector(self._rng) for network in self._passes]
        with torch.no_grad():  # the backward pass is in the program
            loss, mean_q, priority, *gradients = program(numbers, noise)
        for w, gradient in zip(self._parameters, gradients, strict=True):
            # optimizers' fused kernels pair numbers by their place in memory
            w.grad = gradient if gradient.stride() == w.stride() else torch.empty_like(w).copy_(gradient)
        return Slope(loss, mean_q, priority)

    def _made(self, numbers: list[Tensor]) -> Program | None:
        """The program for such batches, run once; None where there can be none."""
        if self._failed:
            return None
        begin, position = time.perf_counter(), self._rng.get_state()
        try:
            with self.pausing():
                program = self._programs[_form(numbers)] = self._compiled(numbers)
        except Exception as error:  # whatever a compiler may raise: a run does not end for being slower
            self._failed = True
            reason = " ".join(str(error).split())[:160]
            self._say(f"note: compile=true: updates are made by autograd, {type(error).__name__}: {reason}")
            return None
        finally:
            self._rng.set_state(position)
            self.compile_seconds += time.perf_counter() - begin
        return program

    def _compiled(self, numbers: list[Tensor]) -> Program:
        self._passes = []
        _slope(numbers, self._method, self._network, self._noted)
        noise = [network.noise_vector(self._rng) for network in self._passes]
        graph = make_fx(lambda numbers, noise: self._traced(numbers, noise))(numbers, noise)  # which takes no method
        for network in self._passes:
            network.silence()
        program: Any = torch.compile(graph, backend=self._backend, fullgraph=True, dynamic=False)
        with torch.no_grad():
            program(numbers, noise)
        made: Program = program
        return made

    def _noted(self, network: ValueNetwork, obs: Tensor, ahead: bool = False) -> Look:
        self._passes.append(network)
        return self._method.value.look(network, obs, self._rng, ahead)

    def _traced(self, numbers: Sequence[Tensor], noise: Sequence[Tensor]) -> tuple[Tensor, ...]:
        following = iter(noise)

        def look(network: ValueNetwork, obs: Tensor, ahead: bool = False) -> Look:
            network.hold_noise(next(following))
            return self._method.value.look(network, obs, self._rng, ahead)

        loss, mean_q, priority = _slope(numbers, self._method, self._network, look)
        return loss.detach(), mean_q, priority, *torch.autograd.grad(loss, self._parameters)


def _slope(
    numbers: Sequence[Tensor], method: Method, network: Callable[[str], ValueNetwork], look: Callable[..., Look]
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, mean Q and priorities, as `ByAutograd` has them before its backward pass; the loss carries gradients."""
    obs, action, reward, discount, next_obs, *weight = numbers
    batch = Batch(obs, action, reward, discount, next_obs, weight[0] if weight else None)
    with torch.no_grad():
        y = targets(batch, method, network, look)
    error = method.value.error(look(network(Network.ONLINE), batch.obs), batch.action, y)
    loss = (error.loss if batch.weight is None else batch.weight * error.loss).mean()
    return loss, error.q.detach().mean(), error.priority


def _tensors(batch: Batch) -> list[Tensor]:
    """What is learnt from, in the order of `Batch`."""
    numbers = [batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs]
    return numbers if batch.weight is None else [*numbers, batch.weight]


def _form(numbers: list[Tensor]) -> tuple[object, ...]:
    """What a program is made for: the batch's size, how its observations lie, and whether it has weights."""
    return len(numbers), len(numbers[1]), numbers[0].stride(), numbers[4].stride()
