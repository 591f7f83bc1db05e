"""Makes the pictures of looking.md and prints its numbers: all, or some parts, as in: python docs/looking.py map."""

import itertools
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from texts.pairs import pairs

import clearhead as ch
from clearhead.cli import reading
from clearhead.cli.steps import Steps, telling
from clearhead.models.checkpoints import Opened, open_model
from clearhead.scope.classes import CLASSES, MOST, head_class

HERE = Path(__file__).parent
TEXT = (HERE / "texts/alice.txt").read_text(encoding="utf-8")
TOKENS, FEWER, PAIRS = 8192, 2048, 200
PARTS = ("heads", "map", "alike", "flow", "compare", "pairs")
ROLES = ("previous_token", "induction", "duplicate_token", "first_token", "punctuation")
CALM = 0.05
"""A head of which fewer queries have a sink is none."""
SINKS_BEGIN = 12
"""The first layer of SmolLM2 that has sinks."""
MARGIN = 24
"""How many tokens a near picture shows on each side."""

Row = Mapping[str, Any]


class Looking:
    """Two real models and what they were seen to do. Each part of the page is a method."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    @cached_property
    def smollm2(self) -> Opened:
        """SmolLM2-135M."""
        return open_model("smollm2", report=self.steps.begin)

    @cached_property
    def seen(self) -> ch.Seen:
        """It reads as much of the text as it takes."""
        return self.watched(self.smollm2, TOKENS)

    @cached_property
    def table(self) -> list[Row]:
        """Its heads."""
        self.steps.begin("counting")
        rows: list[Row] = self.seen.heads(copying=ch.copying(self.smollm2.model), pandas=False)
        return rows

    def watched(self, opened: Opened, tokens: int) -> ch.Seen:
        """A model reads the beginning of the text."""
        return reading.watched(opened, reading.inputs(opened, (TEXT,), tokens), self.steps, "qk")

    def heads(self) -> None:
        """The strongest head of each role; sinks and effective context by layer."""
        for role in ROLES:
            for row in sorted(self.table, key=lambda row: -row[role])[:2]:
                told = f"weight {row[role]:.3f}, uniform {row[f'{role}_uniform']:.4f}, copying {row['copying']:.2f}"
                print(f"{role}: {place(row)}, {told}")
        copying = sorted((row["copying"], place(row)) for row in self.table if row["copying"] > 0.9)
        print(f"{len(copying)} heads copy (over 0.9), most of all {copying[-1]}")
        keys = sorted((row["effective_context"], place(row)) for row in self.table)
        print(f"narrowest head {keys[0]}, widest {keys[-1]}")
        sinks = [row for row in self.table if row["sink"] > 0.5]
        print(f"{len(sinks)} of {len(self.table)} heads are sinks for more than half of their queries")
        for layer, rows in by_layer(self.table):
            keys = [row["effective_context"] for row in rows]
            told = f"{min(keys):.0f}, {statistics.mean(keys):.0f}, {max(keys):.0f}"
            sink = statistics.mean(row["sink"] for row in rows)
            print(f"layer {layer}: sink for {sink:.0%} of queries; least, mean, most effective context {told}")
        self.steps.begin("drawing layers.png")
        draw_layers(self.table)

    def map(self) -> None:
        """The strongest induction head, whole, and from near where the text repeats itself at most length."""
        row = strongest(self.table, "induction")
        layer, head = row["layer"], row["head"]
        self.steps.begin("drawing map.png and near.png")
        ch.write_pixels(self.seen.map(layer, head), HERE / "map.png", force=True)
        tokens = self.seen[layer].queries()
        stars = longest_repeat(tokens)
        words = longest_repeat([token if token.strip(" *\n") else f"{token}{n}" for n, token in enumerate(tokens)])
        for later, earlier, length in (stars, words):
            i = torch.arange(later, later + length)
            weights = self.seen[layer].rows(i, head)[torch.arange(length), i - later + earlier + 1]
            text = "".join(tokens[later : later + length])
            print(f"tokens {later} to {later + length - 1} stood at {earlier} too: {text!r}")
            print(f"{place(row)}, on what came after the same token there: mean {weights.mean():.2f}")
            print([round(weight, 2) for weight in weights.tolist()])
        rows, columns = (slice(start - MARGIN, start + stars[2] + MARGIN) for start in stars[:2])
        ch.draw(self.seen.map(layer, head, rows, columns), HERE / "near.png", force=True)

    def alike(self) -> None:
        """Which heads are alike, beside random weights."""
        self.steps.begin("drawing random weights")
        fresh = replace(self.smollm2, name="random weights", model=ch.randomised(self.smollm2.model))
        random = self.watched(fresh, TOKENS)
        self.steps.begin("comparing heads")
        found = self.seen.alike(against=random)
        for threshold in (0.1, 0.2, 0.3):
            print(found.verdict(threshold))
            print("clusters:", [" ".join(f"{layer}·{head}" for layer, head in c) for c in found.clusters(threshold)])
        print(f"nearest: median {found.nearest.median():.2f}, random weights {found.baseline.nearest.median():.2f}")
        early = torch.tensor([layer < SINKS_BEGIN for layer, _ in found.heads])
        for name, one, other in (
            ("below", early, early),
            ("above", ~early, ~early),
            ("across", early, ~early),
        ):
            between = found.distances[one][:, other]
            between = between[between > 0]  # a head and itself
            print(f"{name} the beginning of layer {SINKS_BEGIN}: mean distance {between.mean():.2f}")
        self.steps.begin("drawing alike.png")
        path = ch.draw(found, HERE / "alike.png", force=True)
        Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
            path, optimize=True
        )  # half the size

    def flow(self) -> None:
        """Where the last token comes from, by all heads and by those that are no sinks."""
        self.steps.begin("following the last token")
        calm = [(row["layer"], row["head"]) for row in self.table if row["sink"] < CALM]
        for heads, name in ((None, "flow.png"), (calm, "calm.png")):
            found = self.seen.flow(-1, heads=heads)
            print(f"{len(self.table) if heads is None else len(heads)} heads:")
            for layer, shares in zip(found.layers, found.shares[:, 0], strict=True):
                told = f"first token {shares[0]:.3f}, itself {shares[-1]:.3f}, last 100 {shares[-100:].sum():.3f}"
                print(f"at the input of layer {layer}: {told}")
            ch.draw(found, HERE / name, force=True)
        most = found.shares[5, 0, :-1000].topk(24).indices
        tokens = self.seen[0].queries()
        print("heaviest at the input of layer 5, before the last thousand:", Counter(tokens[j] for j in most.tolist()))

    def compare(self) -> None:
        """What changes in the other heads if the strongest previous-token head is silenced."""
        opened = self.smollm2
        before = self.watched(opened, FEWER)
        table = before.heads(pandas=False)
        gone = strongest(table, "previous_token")
        out = opened.model.get_submodule(gone["name"]).o_proj.weight
        own = out.unflatten(1, (before[gone["layer"]].heads, -1))[:, gone["head"]]
        with torch.no_grad():
            kept = own.clone()
            own.zero_()
            after = self.watched(opened, FEWER)
            own.copy_(kept)
        self.steps.begin("comparing")
        rows = ch.compare(before, after).heads(pandas=False)
        print(f"without {place(gone)}, whose rows differ most:")
        for row in rows[:8]:
            told = f"induction {row['induction_a']:.3f} → {row['induction_b']:.3f}"
            print(f"{place(row)}: distance {row['js_distance']:.3f}, {told}, most {row['most']} {row['change']:+.3f}")
        head = strongest(table, "induction")
        n, row = next((n, row) for n, row in enumerate(rows, 1) if place(row) == place(head))
        told = f"induction {row['induction_a']:.3f} → {row['induction_b']:.3f}"
        print(f"the strongest induction head, {place(head)}, is number {n}: distance {row['js_distance']:.3f}, {told}")

    def pairs(self) -> None:
        """MiniLM's heads in the classes of Clark et al. 2019, over pairs of sentences."""
        opened = open_model("minilm", report=self.steps.begin)
        self.steps.begin(f"watching minilm on {PAIRS} pairs", PAIRS)
        with torch.inference_mode(), ch.watch(opened.model, opened.tokenizer, keep="statistics") as seen:
            for one, other in pairs(TEXT, PAIRS):
                opened.model(**opened.inputs(one, other))
                self.steps.advance()
        table = seen.heads(pandas=False)
        print(f"{len(table)} heads, means over {table[0]['queries']:,} queries")
        classes = {place(row): head_class(row) for row in table}
        print(Counter(classes.values()))
        print(f"{sum(row['special_tokens'] > MOST for row in table)} heads put more than half on special tokens")
        for layer, rows in by_layer(table):
            print(f"layer {layer}: {' '.join(f'{classes[place(row)]:>11}' for row in rows)}")
        for name, role in CLASSES.items():
            row = strongest(table, role)
            print(f"{name}: {place(row)}, weight {row[role]:.2f}, uniform {row[f'{role}_uniform']:.3f}")
        row = strongest(table, "entropy_normalised")
        least = min(table, key=lambda row: row["peak"])
        print(f"broadest: {place(row)}, {row['entropy_normalised']:.2f} of even weights' entropy")
        print(f"least peak: {place(least)}, {least['peak']:.2f}")


def strongest(table: Iterable[Row], column: str) -> Row:
    """The head with the most of a column."""
    return max(table, key=lambda row: row[column])


def place(row: Row) -> str:
    """Layer and head."""
    return f"{row['layer']}·{row['head']}"


def by_layer(table: Iterable[Row]) -> Iterator[tuple[int, list[Row]]]:
    """The heads of each layer."""
    for layer, rows in itertools.groupby(table, key=lambda row: row["layer"]):
        yield layer, list(rows)


def longest_repeat(tokens: list[str]) -> tuple[int, int, int]:
    """Where the longest passage begins that stood there before, where it stood first, and its length in tokens."""
    best, length = None, 1
    while True:
        first: dict[tuple[str, ...], int] = {}
        starts = range(len(tokens) - length + 1)
        grams = (tuple(tokens[i : i + length]) for i in starts)
        known = ((i, first.setdefault(gram, i)) for i, gram in enumerate(grams))
        found = next(((i, j) for i, j in known if j + length <= i), None)
        if found is None:
            assert best is not None
            return *best, length - 1
        best, length = found, length + 1


def draw_layers(table: list[Row]) -> None:
    """Sinks and effective context by layer: a dot a head, a line for the mean."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = (
        ("effective_context", "keys that hold 90 % of the weight"),
        ("sink", "queries with over 0.3 on the first token"),
    )
    for panel, (column, title) in zip(panels, titles, strict=True):
        layers = [row["layer"] for row in table]
        panel.scatter(layers, [row[column] for row in table], s=14, color="#21918c", alpha=0.55, linewidths=0)
        means = [(layer, statistics.mean(row[column] for row in rows)) for layer, rows in by_layer(table)]
        panel.plot(*zip(*means, strict=True), color="#440154", linewidth=1.6)
        panel.set(title=title, xlabel="layer")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_formatter(lambda keys, _: f"{keys:,.0f}")
    panels[1].yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    figure.savefig(HERE / "layers.png", dpi=150)


if __name__ == "__main__":
    asked = sys.argv[1:] or PARTS
    if unknown := sorted(set(asked) - set(PARTS)):
        raise SystemExit(f"Got {', '.join(unknown)}, expected some of {', '.join(PARTS)}.")
    try:
        with telling() as steps:
            looking = Looking(steps)
            for part in asked:
                getattr(looking, part)()
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
