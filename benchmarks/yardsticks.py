"""Yardsticks: what the machine can do at best, measured in the same turns as everything else.

The peak of multiply–adds is that of the loops in peak.cpp, compiled for this machine when the run begins, on each
thread. They are not the library's, so that it isn't measured by a yardstick of its own. Where there is no compiler,
a large matrix product of PyTorch's stands in, which reaches less: about 80 % in float32, about a third on tile units.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from benchmarks.problem import NAMES

SOURCE = Path(__file__).with_name("peak.cpp")
STEPS = {torch.float32: 10_000_000, torch.bfloat16: 2_000_000}
"""Of a loop, so that a run takes some 20 ms."""


@dataclass(frozen=True)
class Yardstick:
    """Something that does nothing but multiply, or nothing but read."""

    name: str
    how: str
    unit: str
    work: float
    """What one run does, in FLOPs or in bytes."""
    run: Callable[[], object]


def multiplying(dtype: torch.dtype) -> Yardstick:
    """The peak of multiply–adds in float32 or bfloat16; for the latter with a CPU's unit for tiles, if it has one."""
    name, threads = f"FMA peak, {NAMES[dtype]}", torch.get_num_threads()
    loops = _loops()
    if loops is not None:
        loop, steps, pool = getattr(loops, NAMES[dtype]), STEPS[dtype], ThreadPoolExecutor(threads)
        loop.restype, loop.argtypes = ctypes.c_double, (ctypes.c_int64,)
        loops.bf16_by.restype = ctypes.c_char_p
        by = "float32" if dtype == torch.float32 else loops.bf16_by().decode()
        if (work := threads * loop(steps)) > 0:
            return Yardstick(name, f"a loop of {by}", "FLOP", work, lambda: list(pool.map(loop, threads * [steps])))
    n = 2048
    a, b = (torch.randn(n, n).to(dtype) for _ in range(2))
    out = torch.empty(n, n, dtype=dtype)
    how = f"PyTorch's product of two {n} × {n} matrices, which is below the true peak"
    return Yardstick(name, how, "FLOP", 2 * n**3, lambda: torch.mm(a, b, out=out))


def reading() -> Yardstick:
    """The bandwidth of reading memory, by a sum over 2 GiB: more than any cache holds."""
    x = torch.ones(1 << 29)
    return Yardstick("DRAM read", "PyTorch's sum of 2 GiB of float32", "B", x.nbytes, x.sum)


@cache
def _loops() -> ctypes.CDLL | None:
    """peak.cpp, compiled for this very machine; None where that can't be done."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "peak.so"
        command = [*compiler.split(), "-O3", "-march=native", "-fPIC", "-shared", str(SOURCE), "-o", str(target)]
        if subprocess.run(command, capture_output=True).returncode:
            return None
        return ctypes.CDLL(str(target))
