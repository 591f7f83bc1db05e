"""Clearhead's own backends, each a peer like the others."""

from dataclasses import replace
from functools import partial

from torch import Tensor

import clearhead as ch
from benchmarks.peers.peer import Bind, Peer, Ready, of_torch
from benchmarks.problem import Problem
from clearhead.attend import library
from clearhead.attend.backends import BACKENDS

OURS = "clearhead tiled" if library.missing() else "clearhead native"
"""The one that the goals are about."""
PLAIN = f"{OURS}, no statistics"


def prepare(problem: Problem, backend: str) -> Bind:
    """attention() on this backend."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> object:
        return ch.attention(q, k, v, pattern=pattern, bias=problem.relative, probe=problem.probe, backend=backend)

    pattern = problem.pattern
    bind = of_torch(problem, attend)
    if not problem.probe:
        return bind
    return lambda q, k, v: Ready(bind(q, k, v).run, lambda result: result[0])


def without_statistics(problem: Problem) -> Bind:
    """The same call without its statistics."""
    return prepare(replace(problem, probe=False), OURS.removeprefix("clearhead "))


PEERS = [
    Peer(f"clearhead {name}", partial(prepare, backend=name), when_named=name == "reference")  # which is PyTorch eager
    for name in BACKENDS
]
PEERS.append(Peer(PLAIN, without_statistics, when_named=True))
