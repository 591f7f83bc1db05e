"""Makes the pictures of positions.md from the real layers and prints its numbers: all, or `pictures` or `price`."""

import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from clearhead.cli.steps import Steps, telling
from clearhead.models.known import KNOWN
from clearhead.models.loading import load
from clearhead.models.tokens import tokenizer_of
from clearhead.nn.positions import T5, Alibi, Learned, Position, Relative, Rotary, Sinusoidal
from clearhead.nn.positions.scaling import NTK, DynamicNTK, Linear, Llama3, LongRoPE, Proportional, Scaling, YaRN

HERE = Path(__file__).parent / "positions"
TRAINED, FACTOR, WIDTH, HEADS = 2048, 8, 64, 3
FAR = FACTOR * TRAINED
INSIDE, BEYOND, INK, PAPER = "#0072b2", "#d55e00", "#333333", "#f2f2f2"
"""Blue and vermilion, which everyone can tell apart (Okabe & Ito)."""

PLAIN = Rotary(WIDTH).fixed
ONCE = int((TRAINED * PLAIN >= 2 * math.pi).sum())
"""So many pairs turn at least once within the training length."""
LISTS = tuple(FACTOR ** min(1.0, n / ONCE) for n in range(len(PLAIN)))
"""For LongRoPE, whose lists are searched for, one of our own: from 1 up to `FACTOR` at the first pair that doesn't."""
SCALINGS: dict[str, Scaling] = {
    "linear": Linear(FACTOR),
    "NTK-aware": NTK(FACTOR),
    "dynamic NTK": DynamicNTK(FACTOR, TRAINED),
    "YaRN": YaRN(FACTOR, TRAINED),
    "Llama 3": Llama3(FACTOR, trained=TRAINED),
    "LongRoPE": LongRoPE((1.0,) * len(LISTS), LISTS, TRAINED, FACTOR),
}
POSITIONS: dict[str, Callable[[], Position]] = {
    "none (NoPE)": Position,
    "sinusoidal": lambda: Sinusoidal(WIDTH),
    "learned": lambda: Learned(TRAINED, WIDTH),
    "ALiBi": lambda: Alibi(HEADS),
    "T5's buckets": lambda: T5(HEADS, bidirectional=False),
    "table over distance": lambda: Relative(HEADS, 128),
    "RoPE": lambda: Rotary(WIDTH),
    "RoPE, a quarter": lambda: Rotary(WIDTH, turned=WIDTH // 4),
    "RoPE, proportional": lambda: Rotary(WIDTH, scaling=Proportional(0.25)),
    **{f"RoPE, {name}": lambda scaling=scaling: Rotary(WIDTH, scaling=scaling) for name, scaling in SCALINGS.items()},
}


def by_distance(position: Position, far: int = FAR) -> Tensor:
    """What a query scores a key just like itself, `far` distances back: one row a head, NaN where it can't say."""
    at = torch.arange(far)[None]
    if isinstance(position, Sinusoidal | Learned):
        last = min(far, TRAINED) if isinstance(position, Learned) else far
        places = position.add(torch.zeros(1, last, WIDTH), at[:, :last])[0]
        alike = places @ places[0] / places[0].square().sum()
        return torch.cat((alike, alike.new_full((far - last,), torch.nan)))[None]
    bias = position.bias()
    if bias is not None:
        return bias.at(torch.tensor([far - 1]), torch.arange(far), 0, *bias.weights)[0].flip(-1)
    same = torch.ones(1, 1, far, WIDTH)
    q, k = position.turn(same, same, position.angles(at))
    return (q[0, 0] @ k[0, 0, 0] / WIDTH)[None]


def new_angles(rotary: Rotary) -> int:
    """How many pairs come, `FAR` tokens apart, to angles that plain RoPE never had within the training length."""
    seen = TRAINED * Rotary(WIDTH, turned=rotary.turned).fixed
    reached = FAR * rotary.frequencies(torch.tensor([[FAR - 1]]))
    return int(((seen < 2 * math.pi) & (reached > seen * 1.0001)).sum())


def draw_distances() -> None:
    """A panel a position: the score by distance, inside and beyond the training length."""
    figure = Figure(figsize=(12, 7.4), layout="constrained")
    panels = figure.subplots(3, 5, sharex=True)
    for panel, (name, make) in zip(panels.flat, POSITIONS.items(), strict=True):
        torch.manual_seed(1)
        position = make()
        if isinstance(position, T5 | Relative):
            draw_at_random(position)
        panel.axvspan(TRAINED, FAR, color=PAPER, linewidth=0)
        for row in by_distance(position).detach():
            for start, stop, colour in ((1, TRAINED, INSIDE), (TRAINED, FAR, BEYOND)):
                draw_band(panel, row, start, stop, colour)
        dress(panel, name, position)
    for panel in panels[-1]:
        panel.set_xlabel("tokens apart", color=INK)
    save(figure, "distances.png")


@torch.no_grad()
def draw_at_random(position: T5 | Relative) -> None:
    """Learned numbers, as nothing was learned here: a random walk from each distance to the next."""
    buckets = 0 if isinstance(position, T5) else 1
    steps = torch.randn_like(position.table)
    position.table.copy_(steps.cumsum(buckets) / steps.shape[buckets] ** 0.5)


def draw_band(panel: Any, row: Tensor, start: int, stop: int, colour: str) -> None:
    """The score's least and most, and its mean, over distances that fall into one step of the picture."""
    edges = (
        torch.logspace(math.log2(start), math.log2(stop), 16 * int(math.log2(stop / start)), 2).round().unique().int()
    )
    steps = [row[a:b] for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    panel.fill_between(
        edges[:-1], *([f(x).item() for x in steps] for f in (torch.min, torch.max)), color=colour, alpha=0.3
    )
    panel.plot(edges[:-1], [step.mean().item() for step in steps], color=colour, linewidth=1.4)


def dress(panel: Any, name: str, position: Position) -> None:
    """Title, scales, and what is beyond the training length."""
    panel.set_title(name, color=INK, fontsize=11)
    panel.set_xscale("log", base=2)
    panel.set_xlim(1, FAR)
    panel.set_xticks([1, 16, 256, TRAINED, FAR], ["1", "16", "256", f"{TRAINED:,}", ""], fontsize=8)
    if isinstance(position, Alibi):
        panel.set(ylim=(-12, 0.5), yticks=(-12, -8, -4, 0))
    elif isinstance(position, T5 | Relative):
        panel.set(ylim=(-2.4, 2.4), yticks=(-2, -1, 0, 1, 2))
    else:
        panel.set(ylim=(-0.4, 1.6), yticks=(0, 0.5, 1, 1.5))
    panel.tick_params(colors=INK, labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    told = None
    if isinstance(position, Rotary):
        told = f"{new_angles(position)} of {position.turned // 2} pairs\nat new angles"
    elif isinstance(position, Learned):
        told = "no more"
    if told:
        panel.text(0.98, 0.96, told, transform=panel.transAxes, ha="right", va="top", fontsize=8, color=BEYOND)


def draw_frequencies() -> None:
    """What each scaling makes of each pair's frequency."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panel = figure.subplots()
    panel.axvspan(ONCE - 0.5, len(PLAIN) - 1, color=PAPER, linewidth=0)
    panel.text(ONCE, 0.75, "turn less than once\nwithin the training length", color=INK, fontsize=9, va="center")
    colours = ("#0072b2", "#e69f00", "#cc79a7", "#d55e00", "#009e73", "#000000")
    styles = ("-", "-", "--", "-", "-", ":")
    for (name, scaling), colour, style in zip(SCALINGS.items(), colours, styles, strict=True):
        ratio = scaling.frequencies(10_000.0, WIDTH, torch.tensor(FAR)) / PLAIN
        panel.plot(ratio, style, color=colour, linewidth=1.8, label=name)
    panel.set_yscale("log", base=2)
    panel.set_yticks([1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 64], ["1", "1/2", "1/4", "1/8", "1/16", "1/64"])
    panel.set(
        xlim=(0, len(PLAIN) - 1), xlabel="pair of dimensions, the fastest first", ylabel="frequency, of plain RoPE's"
    )
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="lower left")
    save(figure, "frequencies.png")


def save(figure: Figure, name: str) -> None:
    """A picture in 256 colours, which its flat areas need no more than."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=130)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(HERE / name, optimize=True)


def pictures(steps: Steps) -> None:
    """Both pictures, and what is said in them."""
    HERE.mkdir(exist_ok=True)
    steps.begin("drawing distances.png")
    draw_distances()
    steps.begin("drawing frequencies.png")
    draw_frequencies()
    for name, make in POSITIONS.items():
        if isinstance(position := make(), Rotary):
            told = f"{new_angles(position)} of {position.turned // 2} pairs at new angles {FAR:,} tokens apart"
            print(f"{name}: {told}, temperature {position.temperature:.3f}")


def price(steps: Steps) -> None:
    """What each scaling costs SmolLM2 on a short text, as nothing was trained on with it."""
    steps.begin("reading smollm2")
    model: Any = load("smollm2")
    text = (Path(__file__).parent / "texts/alice.txt").read_text(encoding="utf-8")
    tokens = torch.tensor([tokenizer_of(KNOWN["smollm2"].path).encode(text)[:TRAINED]])
    plain, trained = model.stack.position, model.context
    for scaling in (Scaling(), Linear(FACTOR), NTK(FACTOR), YaRN(FACTOR, trained), Llama3(FACTOR, trained=trained)):
        name = type(scaling).__name__ if scaling != Scaling() else "plain"
        steps.begin(f"reading with RoPE {name}")
        model.stack.position = Rotary(plain.head_width, plain.base, scaling=scaling)
        with torch.inference_mode():
            loss = torch.nn.functional.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:])
        print(f"{name}: loss {loss:.3f}, perplexity {loss.exp():.1f}")


PARTS = {"pictures": pictures, "price": price}

if __name__ == "__main__":
    asked = sys.argv[1:] or list(PARTS)
    if unknown := sorted(set(asked) - set(PARTS)):
        raise SystemExit(f"Got {', '.join(unknown)}, expected some of {', '.join(PARTS)}.")
    try:
        with telling() as steps:
            for part in asked:
                PARTS[part](steps)
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
