"""`clearhead look`: a picture of every head of a real model reading a real text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor

from clearhead.cli import reading
from clearhead.cli.files import check_writable, writing
from clearhead.cli.steps import Steps, telling
from clearhead.errors import ClearheadError
from clearhead.models.checkpoints import Opened, open_model
from clearhead.scope.byte_sizes import in_bytes
from clearhead.scope.columns import BY, HeadTable
from clearhead.scope.record import TOLERANCE
from clearhead.view import export, spelling, terminal
from clearhead.view.seen import Seen, watch

QUERIES = 40
"""How many queries of one head the terminal shows; the page has all."""


def run(
    texts: tuple[str, ...],
    name: str,
    most: int | None,
    layer: int | None,
    head: int | None,
    by: str,
    html: Path,
    budget: str,
    data: Path | None,
    force: bool,
) -> None:
    """Has the model `name` read the texts, draws its heads here, and writes the page and the numbers."""
    check_writable(html, data, force=force)
    room = in_bytes(budget, "--budget")

    with telling() as steps:
        opened = open_model(name, report=steps.begin)
        inputs = reading.inputs(opened, texts, most)
        if layer is not None:
            _check_place(reading.first_token(opened, inputs), layer, head)
        seen, changed = _run(opened, inputs, steps)
        steps.begin("counting")
        looked = Looked(opened, seen, seen.heads(pandas=False), changed)
    out = Console(highlight=False)
    looked.draw(out, by, layer, head)
    with telling() as steps:
        steps.begin(f"writing {html}")
        with writing(html):
            looked.page(html, room, force)
        if data is not None:
            steps.begin(f"writing {data}")
            with writing(data):
                looked.json(data, force)
    told = {"layer": layer, "head": head, "by": None if by == BY else by}
    place = urlencode({name: value for name, value in told.items() if value is not None})
    at = f"#{place}" if place else ""
    out.print(Text.assemble("→ ", (f"{html}{at}", f"bold link {html.resolve().as_uri()}{at}")))


@dataclass(frozen=True)
class Looked:
    """What a look found, and its pictures."""

    opened: Opened
    seen: Seen
    table: HeadTable
    changed: terminal.Change | None
    """How far looking changed the model's output; None: not a bit."""

    def draw(self, out: Console, by: str, layer: int | None, head: int | None) -> None:
        """In the terminal: all heads, or one layer, or one head of it."""
        seen = self.seen
        heads = " or ".join(map(str, sorted({layer.heads for layer in seen.layers})))
        size = f"{len(seen)} layers × {heads} heads · {len(seen[0].queries())} tokens"
        out.print(Text.assemble((self.opened.name, "bold"), (f"  {self.opened.architecture} · {size}", "dim")))
        out.print()
        if layer is None:
            out.print(terminal.Overview(self.table, by))
            best = (terminal.strongest(self.table, "induction", 1) or self.table)[0]
            nearer = f"--layer {best['layer']} --head {best['head']}"
            hint = f"{nearer} shows that head from near; --by induction colours by that role."
        else:
            near = seen[layer]
            place = f"layer {layer}" if head is None else f"layer {layer}, head {head}"
            out.print(Text.assemble((place, "bold"), (f"  {near.name}, {near.kind}-attention", "dim")))
            out.print(terminal.Numbers(self.table, layer, head))
            hint = "--head 0 shows where the queries of one head look."
        if layer is not None and head is not None:
            queries, keys = spelling.queries(near), spelling.keys(near)
            shown = range(max(len(queries) - QUERIES, 0), len(queries))
            out.print()
            out.print(terminal.Looks(queries, keys, near.rows(shown, head), shown))
            hint = f"The last {QUERIES} of {len(queries)} queries; the page has all." if shown.start else ""
        out.print()
        out.print(terminal.verdict(seen.calls, len(seen), self.changed, seen.check, seen.checked))
        if hint:
            out.print(Text(hint, "dim"))

    def page(self, path: Path, budget: int, force: bool) -> None:
        """As a page."""
        model = f"{self.opened.name} ({self.opened.architecture})"
        facts = {"Model": model, "Output": terminal.outcome(self.changed)}
        self.seen.page(path, facts=facts, budget=budget, force=force)

    def json(self, path: Path, force: bool) -> None:
        """As numbers. What is no number, as a role that the text has no target for, is null."""
        seen = self.seen
        numbers = {
            "model": self.opened.name,
            "architecture": self.opened.architecture,
            "tokens": seen[0].queries(),
            "layers": len(seen),
            "attentions_seen": seen.calls,
            "output_unchanged": self.changed is None or self.changed.is_rounding,
            "output_largest_difference": 0.0 if self.changed is None else self.changed.difference,
            "self_check": seen.check if seen.checked else None,
        }
        export.write_rows(path, self.table, numbers, kind="json", force=force)


def _run(opened: Opened, inputs: dict[str, Tensor], steps: Steps) -> tuple[Seen, terminal.Change | None]:
    """Run the model unwatched, then watched: what was seen, and how far its output changed (None: not a bit)."""
    model = opened.model
    tokens = inputs["input_ids"].shape[1]
    with torch.no_grad():
        with reading.advancing(opened, steps, f"running {opened.name} on {tokens} tokens"):
            try:
                before = model(**inputs)
            except Exception as error:
                raise reading.cannot_read(opened, error) from error
        with (
            reading.advancing(opened, steps, f"watching {opened.name} on {tokens} tokens"),
            watch(model, opened.tokenizer) as seen,
        ):
            after = model(**inputs)
    return seen, _change(before.to_tuple(), after.to_tuple())


def _change(before: tuple[Any, ...], after: tuple[Any, ...]) -> terminal.Change | None:
    """How far one output is from another; None if all their bits are the same."""
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, Tensor)]
    if all(torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8)) for a, b in pairs):
        return None
    difference = max(float((a - b).abs().max()) for a, b in pairs)
    largest = max(float(a.abs().max()) for a, _ in pairs)
    tolerance = max(TOLERANCE.get(a.dtype, 0.0) for a, _ in pairs)
    return terminal.Change(difference, largest, difference <= tolerance * max(1.0, largest))


def _check_place(seen: Seen, layer: int, head: int | None) -> None:
    reading.check_layer(layer, len(seen))
    heads = seen[layer].heads
    if head is not None and not 0 <= head < heads:
        raise ClearheadError(f"There is no head {head}: layer {layer} has {heads}, from 0 to {heads - 1}.")
