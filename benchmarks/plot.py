"""The plot docs/bench.png: milliseconds against T, both in logarithms, one line a peer.

Its ground is transparent and its ink of a middle tone, so that it can be read on a light page and on a dark one.
"""

from pathlib import Path
from typing import Any

from benchmarks.cases import DRAM, FMA

INK = "#808080"
COLOURS = (
    "#e5484d", "#3b82f6", "#d97706", "#2ea36b", "#a259d9", "#0ea5b7", "#c2559d", "#8a8f2a", "#8d6e63", "#5c7cab",
)  # fmt: skip
"""Ours has the first."""


def draw(path: Path, results: dict[str, Any]) -> None:
    """A panel for float32 and one for bfloat16, causal, H 8, D 64."""
    from matplotlib import pyplot

    sweep, ours = results["sweep"], results["ours"]
    peers = list(dict.fromkeys(name for case in sweep for name in case["times"] if name not in (FMA, DRAM)))
    peers.sort(key=lambda name: name != ours)
    colours = dict(zip(peers, COLOURS * (1 + len(peers) // len(COLOURS)), strict=False))
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for panel, (dtype, name) in zip(panels, (("fp32", "float32"), ("bf16", "bfloat16")), strict=True):
        cases = [case for case in sweep if case["problem"]["dtype"] == dtype]
        for peer in peers:
            known = [(case["problem"]["T"], case["times"][peer]) for case in cases if peer in case["times"]]
            if not known:
                continue
            T, times = zip(*known, strict=True)
            thick = peer == ours
            panel.plot(
                T,
                [1e3 * one["median"] for one in times],
                label=peer,
                color=colours[peer],
                linewidth=3 if thick else 1.5,
                marker="o",
                markersize=5 if thick else 3,
                zorder=3 if thick else 2,
            )
        bound = [1e3 * case["limit"] for case in cases]
        panel.plot(
            [case["problem"]["T"] for case in cases], bound, "--", label="at the FMA peak", color=INK, linewidth=1
        )
        panel.set(xscale="log", yscale="log", title=name, xlabel="T, tokens")
        panel.set_xticks([case["problem"]["T"] for case in cases], [f"{case['problem']['T']:,}" for case in cases])
        panel.minorticks_off()
        panel.yaxis.set_major_formatter("{x:g}")
        panel.grid(color=INK, alpha=0.25, linewidth=0.8)
        panel.title.set_color(INK)
        panel.xaxis.label.set_color(INK)
        panel.tick_params(colors=INK)
        panel.spines[:].set_visible(False)
    panels[0].set_ylabel("milliseconds a call", color=INK)
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside right center", frameon=False, labelcolor=INK)
    threads = results["machine"]["threads"]
    figure.suptitle(f"Causal attention, B 1, H 8, D 64, {threads} threads of {results['machine']['cpu']}", color=INK)
    figure.savefig(path, dpi=150, transparent=True)
    pyplot.close(figure)
