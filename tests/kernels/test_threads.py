"""Threads, forks and interrupts: the same numbers to the last bit, whatever happens around a call."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import clearhead as ch

STREAMING = ch.causal() & ch.window(90) | ch.first(4)


def everything(tensors: tuple[Tensor, ...], **options: Any) -> list[Tensor]:
    """Output, log-sum-exp, statistics and gradients, with the same dropout each time."""
    torch.manual_seed(3)
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    learned = [x for x in (options.get("bias"), options.get("sinks")) if isinstance(x, Tensor)]
    out, lse, seen = ch.attention(*leaves, **options, return_lse=True, probe=True, backend="native")
    some = lse[lse.isfinite()]
    grads = torch.autograd.grad(out.float().sin().sum() + some.cos().sum(), [*leaves, *learned])
    return [x.detach() for x in (out, lse, *vars(seen).values(), *grads)]


def identical(ours: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(ours, expected, strict=True))


CALLS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "full": ((1, 2, 2, 200, 200, 64, 64), {}),
    "streaming, of groups": ((2, 4, 2, 150, 300, 40, 24), {"pattern": STREAMING, "softcap": 3.0}),
    "one query": ((1, 8, 2, 1, 900, 64, 64), {}),
    "one head": ((1, 1, 1, 500, 500, 32, 32), {"pattern": ch.causal()}),
    "dropout": ((1, 2, 1, 200, 200, 16, 16), {"pattern": ch.causal(), "dropout": 0.3}),
    "learned": (
        (1, 4, 2, 150, 200, 16, 16),
        {"bias": torch.randn(1, 200, requires_grad=True), "sinks": torch.randn(4, requires_grad=True)},
    ),
    "learned by distance": ((2, 2, 2, 150, 150, 16, 16), {"bias": ch.alibi(2), "pattern": STREAMING}),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_two_or_three_threads_make_the_same_bits_time_after_time(
    isa: str, qkv: Any, dtype: torch.dtype, name: str
) -> None:
    shape, options = CALLS[name]
    tensors = qkv(*shape, dtype)
    expected = everything(tensors, **options)
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)  # which conftest.py's `core` takes back
        assert identical(everything(tensors, **options), expected), f"{threads} threads"


def test_python_threads_may_call_all_at_once(isa: str, qkv: Any) -> None:
    torch.set_num_threads(2)
    problems = [qkv(1, 2, 1, 20 + 17 * n, 150, 16, 24) for n in range(8)]
    expected = [forward_and_backward(p) for p in problems]
    start = threading.Barrier(len(problems))

    def work(n: int) -> bool:
        start.wait()
        return all(identical(forward_and_backward(problems[n]), expected[n]) for _ in range(10))

    with ThreadPoolExecutor(len(problems)) as pool:
        assert all(pool.map(work, range(len(problems))))


def forward_and_backward(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    out = ch.attention(*leaves, pattern=ch.causal(), backend="native")
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]


@pytest.fixture
def interrupt() -> Iterator[threading.Timer]:
    """Ctrl-C in a moment, also where it is ignored at the start, as under nohup."""
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield timer
    timer.cancel()
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_stops_a_run_of_calls_and_harms_no_later_one(interrupt: threading.Timer, qkv: Any) -> None:
    torch.set_num_threads(2)
    small, large = qkv(1, 2, 1, 60, 60, 16, 16), qkv(1, 8, 8, 1500, 1500, 64, 64)
    expected = everything(small)

    def forever() -> None:
        interrupt.start()
        while True:
            everything(large)

    with pytest.raises(KeyboardInterrupt):
        forever()
    assert identical(everything(small), expected)


FORKING = """
import multiprocessing, sys, torch
import clearhead as ch
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(2)
q, k, v = (torch.randn(1, 4, 200, 16) for _ in range(3))

def work():
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = ch.attention(*leaves, pattern=ch.causal(), backend="native")
    return torch.stack([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])

def send(pipe):
    assert torch.get_num_threads() == 2
    pipe.send(work().numpy())

class Items(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, n):
        return work()

expected = work()  # the parent's workers are there now
fork = multiprocessing.get_context("fork")
for _ in range(2):
    ours, theirs = fork.Pipe()
    child = fork.Process(target=send, args=(theirs,))
    child.start()
    assert ours.poll(60), "a forked child hangs"
    assert torch.equal(torch.from_numpy(ours.recv()), expected), "a forked child computes something else"
    child.join()
    assert torch.equal(work(), expected), "the parent is harmed"
for batch in DataLoader(Items(), batch_size=3, num_workers=2, multiprocessing_context="fork", timeout=60):
    assert torch.equal(batch, expected.expand_as(batch)), "a DataLoader's worker computes something else"
print("all the same")
"""


def test_forked_children_and_a_dataloader_s_workers_compute_the_same() -> None:
    """In a process of its own, whose children hold nothing of pytest's."""
    script = [sys.executable, "-W", "ignore", "-c", FORKING]
    done = subprocess.run(script, capture_output=True, text=True, timeout=200)
    assert done.stdout == "all the same\n", done.stderr[-3000:]
