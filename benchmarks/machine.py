"""The machine: what it is, how many of its cores are used, and how much of them others take."""

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("clearhead", "torch", "numpy", "onnxruntime", "openvino", "jax", "jaxlib", "transformers")
TELLING = ("fma", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""The flags of a CPU that say how fast it multiplies."""


def use_cores(threads: int) -> None:
    """Bind this process to so many cores, so that each peer's own pool of threads has no more than these."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, _distinct(sorted(os.sched_getaffinity(0)))[:threads])
    torch.set_num_threads(threads)


def _distinct(cpus: list[int]) -> list[int]:
    """The CPUs, those first that share no core with an earlier one."""
    seen: set[str] = set()
    first: list[int] = []
    others: list[int] = []
    for cpu in cpus:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = siblings.read_text() if siblings.exists() else str(cpu)
        (others if core in seen else first).append(cpu)
        seen.add(core)
    return first + others


def described(threads: int) -> dict[str, Any]:
    """What was measured on: the machine, the threads, the versions and the commit."""
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in TELLING if flag in _cpuinfo("flags").split()],
        "cores": os.cpu_count(),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _cpuinfo(name: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


class Others:
    """How much of this machine's cores is taken by what is not this process, nor a child that it waited for."""

    def __init__(self) -> None:
        self._busy, self._own, self._time = _busy(), _own(), time.perf_counter()

    def share(self) -> float | None:
        """Since this was made, of all cores; None where the system doesn't say."""
        busy, own, seconds = _busy(), _own(), time.perf_counter() - self._time
        if busy is None or self._busy is None:
            return None
        return max(0.0, (busy - self._busy) - (own - self._own)) / (seconds * (os.cpu_count() or 1))


def _busy() -> float | None:
    """Seconds for which any core did not idle, taken by other virtual machines included."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    user, nice, system, _, _, interrupt, soft, stolen, *_ = map(int, path.read_text().split("\n")[0].split()[1:])
    return (user + nice + system + interrupt + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
