"""What a peer is: a name, and a way to make ready for a problem."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.problem import Problem


class Cannot(Exception):
    """A peer that can't do a problem says why."""


@dataclass(frozen=True)
class Ready:
    """A call that can be timed, with its inputs as the peer wants them, and how to read what it returns."""

    run: Callable[[], Any]
    read: Callable[[Any], Any] = lambda result: result

    def results(self) -> tuple[Tensor, ...]:
        """One run's output `(B, H, Tq, D)`, or the gradients of q, k and v, in float32."""
        results = self.read(self.run())
        return tuple(x.float() for x in (results if isinstance(results, tuple) else (results,)))


Bind = Callable[[Tensor, Tensor, Tensor], Ready]
"""Takes q, k, v; what it does with them before the run isn't timed."""


@dataclass(frozen=True)
class Peer:
    """A way to compute attention."""

    name: str
    prepare: Callable[[Problem], Bind]
    """Builds what isn't timed: a session, a compiled function, a mask. Raises Cannot, with the reason."""
    package: str | None = None
    """What must be installed for it."""
    when_named: bool = False
    """Takes part only where a case's goal or `--peers` names it."""

    def ready(self, problem: Problem) -> Bind:
        """prepare(), if the package is there."""
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            raise Cannot(f"not installed; get it with: pip install {self.package}")
        return self.prepare(problem)


def of_torch(problem: Problem, attend: Callable[[Tensor, Tensor, Tensor], Any]) -> Bind:
    """The timed call of anything that PyTorch differentiates: attend itself, or the gradients alone."""

    def bind(q: Tensor, k: Tensor, v: Tensor) -> Ready:
        if not problem.backward:
            return Ready(lambda: attend(q, k, v))
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        out, gradient = attend(*leaves), problem.gradient()
        return Ready(lambda: torch.autograd.grad(out, leaves, gradient, retain_graph=True))

    return bind
