"""attention() beside PyTorch's SDPA: interleaved runs, medians, ratios. Run it by `make bench`.

A ratio above 1 means that we are slower. Two threads, float32, B 1, H 8, D 64.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

import clearhead as ch

Run = Callable[[], object]
CAUSAL, WINDOW = ch.causal(), ch.causal() & ch.window(256)


def cases(T: int) -> dict[str, tuple[Run, Run]]:
    """Each case: ours, and the peer's way to the same result."""
    q, k, v = (torch.randn(1, 8, T, 64) for _ in range(3))
    mask = WINDOW.dense(T, T)
    return {
        f"causal, T {T}": (
            lambda: ch.attention(q, k, v, pattern=CAUSAL),
            lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        ),
        f"causal window of 256, T {T}, against a bool mask": (
            lambda: ch.attention(q, k, v, pattern=WINDOW),
            lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        ),
        f"causal with every statistic, T {T}, against ours without": (
            lambda: ch.attention(q, k, v, pattern=CAUSAL, probe=True),
            lambda: ch.attention(q, k, v, pattern=CAUSAL),
        ),
    }


def measured(ours: Run, peer: Run, runs: int = 9) -> tuple[float, float, float]:
    """Median seconds of both, and the median of their ratios, taken in turn after one run that isn't counted."""
    taken = []
    for _ in range(runs + 1):
        marks = [time.perf_counter()]
        for run in (ours, peer):
            run()
            marks.append(time.perf_counter())
        taken.append((marks[1] - marks[0], marks[2] - marks[1]))
    one, other = zip(*taken[1:], strict=True)
    return statistics.median(one), statistics.median(other), statistics.median(a / b for a, b in taken[1:])


if __name__ == "__main__":
    torch.set_num_threads(2)
    table = Table("case", "ours, ms", "peer, ms", "ratio", box=None)
    for T in (512, 2048, 4096):
        for name, (ours, peer) in cases(T).items():
            mine, theirs, ratio = measured(ours, peer)
            table.add_row(name, f"{mine * 1e3:.1f}", f"{theirs * 1e3:.1f}", f"{ratio:.2f}")
    Console().print(table)
