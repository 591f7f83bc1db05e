"""Names: how a checkpoint's names and shapes map to a model's, both ways from one description."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from clearhead.errors import ClearheadError, shortened
from clearhead.models.parts import Part, Place, read, write


@dataclass(frozen=True)
class Names:
    """How a family's checkpoints name and shape what our model holds.

    `weights` says, for each name of ours, what of theirs it is: a name, or a `Part` made of names. `{n}` stands for
    any layer's number. What our model does not have (a bias, a head that is tied) is passed over, so that one
    description serves all of a family. What a checkpoint has beyond is an error, unless it is `ignored`, where `*`
    matches anything, or one of the `copies` of another weight, such as a tied head, and equal to it; or stored in its
    place, where the other is not there. `prefix` begins
    the names in a checkpoint with a head, and may lack in one without. `endings` of names in old checkpoints say what
    they are today: `{".gamma": ".weight"}`.

        Names(
            {
                "tokens.weight": "model.embed_tokens.weight",
                "stack.blocks.{n}.attention.qkv.weight": Grouped(
                    "model.layers.{n}.self_attn.q_proj.weight",
                    "model.layers.{n}.self_attn.k_proj.weight",
                    "model.layers.{n}.self_attn.v_proj.weight",
                ),
            },
            ignored=("*.rotary_emb.inv_freq",),
            copies={"lm_head.weight": "model.embed_tokens.weight"},
            prefix="model.",
        )
    """

    weights: Mapping[str, str | Part]
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    endings: Mapping[str, str] = field(default_factory=dict)


def to_ours(
    names: Names, theirs: Mapping[str, Tensor], model: nn.Module, report: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Fill a model's parameters and buffers with a checkpoint's weights; the model may be on the meta device.

    Each keeps the dtype that it has in the model. What is on the meta device comes to lie on the CPU, in the
    checkpoint's own memory where dtype and shape allow. Beside the model, one weight is held at a time. `report` is
    told how many are filled, and of how many.

    Raises ClearheadError that names every weight that is missing, is not expected, or has another shape.
    """
    theirs = _Renamed(theirs, _today(theirs, names.endings)) if names.endings else theirs
    found = any(name.startswith(names.prefix) for name in theirs)
    lacking = "" if found else names.prefix
    plan, unnamed = _plan(names, model, lacking)
    expected = {
        name: tuple(weight.shape)
        for ours in plan
        for name, weight in write(ours.part, ours.weight.detach().to("meta"), ours.place)
    }
    copies = {copy.removeprefix(lacking): name.removeprefix(lacking) for copy, name in names.copies.items()}
    # A tied weight may be stored by the name of any of its copies alone.
    kept = {name: copy for copy, name in copies.items() if copy in theirs and copy not in expected}
    alone = {name: copy for name, copy in kept.items() if name not in theirs}
    if alone:
        theirs = _Renamed(theirs, {name: name for name in theirs} | alone)
    known = expected.keys() | copies.keys()
    odd = [
        name
        for name in theirs
        if name not in known and not any(fnmatchcase(lacking + name, pattern) for pattern in names.ignored)
    ]
    unlike = [
        f"{copy} is not {name}"
        for copy, name in copies.items()
        if copy in theirs and copy not in expected and name in theirs and not torch.equal(theirs[copy], theirs[name])
    ]
    _check(expected, theirs, odd, unlike, unnamed)
    for done, ours in enumerate(plan, 1):
        like = ours.weight.detach().to("meta")
        _fill(model, ours, read(ours.part, lambda name: theirs[name].to(like.dtype), like, ours.place))  # noqa: B023
        report(done, len(plan))


def to_theirs(names: Names, model: nn.Module) -> dict[str, Tensor]:
    """A model's weights by the checkpoint's names and in its shapes: the inverse of `to_ours`, bit for bit."""
    plan, _ = _plan(names, model)
    return {
        name: weight.contiguous()
        for ours in plan
        for name, weight in write(ours.part, ours.weight.detach(), ours.place)
    }


def _today(theirs: Mapping[str, Tensor], endings: Mapping[str, str]) -> dict[str, str]:
    """The names of today, where some endings were others, and what the checkpoint has for each."""
    names = {}
    for name in theirs:
        old = next((ending for ending in endings if name.endswith(ending)), "")
        names[name.removesuffix(old) + endings.get(old, "")] = name
    return names


class _Renamed(Mapping[str, Tensor]):
    """A checkpoint by other names: for each of `names`, what the checkpoint calls it."""

    def __init__(self, theirs: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
        self._theirs, self._names = theirs, names

    def shape(self, name: str) -> tuple[int, ...]:
        return shape_of(self._theirs, self._names[name])

    def __getitem__(self, name: str) -> Tensor:
        return self._theirs[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class _Ours:
    """One weight of ours, and what it is made of."""

    names: list[str]
    """Several, where layers share it."""
    weight: Tensor
    part: str | Part
    place: Place


def _plan(names: Names, model: nn.Module, lacking: str = "") -> tuple[list[_Ours], list[str]]:
    """What each weight of the model is made of, and the names of those that `names` says nothing of."""
    patterns = {re.compile(re.escape(ours).replace(r"\{n\}", r"(\d+)")): part for ours, part in names.weights.items()}
    state = model.state_dict(keep_vars=True)
    shared: dict[int, list[str]] = {}
    for name, weight in state.items():
        shared.setdefault(id(weight), []).append(name)
    plan, unnamed = [], []
    for group in shared.values():
        found = [(match, part) for ours, part in patterns.items() for name in group if (match := ours.fullmatch(name))]
        if found:
            match, part = found[0]
            place = Place("".join(match.groups()), 0, _heads(model, match.string), lacking)
            plan.append(_Ours(group, state[group[0]], part, place))
        else:
            unnamed.append(group[0])
    return plan, unnamed


def _heads(model: nn.Module, name: str) -> tuple[int, int]:
    """H and K of the attention that a weight belongs to; (1, 1) outside every attention."""
    while name:
        name = name.rpartition(".")[0]
        layer: Any = model.get_submodule(name)
        if hasattr(layer, "heads"):
            return layer.heads, layer.kv_heads
    return 1, 1


def _fill(model: nn.Module, ours: _Ours, value: Tensor) -> None:
    """Put a value where a weight is; what is on the meta device is replaced, wherever it is shared."""
    if not ours.weight.is_meta:
        with torch.no_grad():
            ours.weight.copy_(value)
        return
    weight = nn.Parameter(value, ours.weight.requires_grad) if isinstance(ours.weight, nn.Parameter) else value
    for name in ours.names:
        layer, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(layer), leaf, weight)


def _check(
    expected: Mapping[str, tuple[int, ...]],
    theirs: Mapping[str, Tensor],
    odd: list[str],
    unlike: list[str],
    unnamed: list[str],
) -> None:
    """Raises ClearheadError that names all that does not fit, at once."""
    shapes = {name: shape_of(theirs, name) for name in theirs if name in expected}
    faults = {
        "of ours that the description of names says nothing of": unnamed,
        "missing": [f"{name} {_sizes(shape)}" for name, shape in expected.items() if name not in theirs],
        "not expected": odd,
        "tied by the config, but unlike": unlike,
        "of another shape": [
            f"{name} {_sizes(shape)}, expected {_sizes(expected[name])}"
            for name, shape in shapes.items()
            if shape != expected[name]
        ],
    }
    said = [f"{len(lines)} {fault}: {_dozen(lines)}" for fault, lines in faults.items() if lines]
    if said:
        raise ClearheadError(
            f"The checkpoint's weights do not fit the model. {'. '.join(said)}. "
            "See whether the weights and the config are of the same model."
        )


def shape_of(weights: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """The shape of one weight, without reading it where the checkpoint can say so."""
    shape: Callable[[str], tuple[int, ...]] | None = getattr(weights, "shape", None)
    return tuple(weights[name].shape) if shape is None else shape(name)


def _dozen(lines: list[str]) -> str:
    """The first twelve; those that differ in a layer's number alone are one: `layers.{0…29}.bias`."""
    layers: dict[str, list[str]] = {}
    for line in lines:
        number = re.search(r"(?<=\.)\d+(?=\.)", line)
        folded = line if number is None else f"{line[: number.start()]}{{}}{line[number.end() :]}"
        layers.setdefault(folded, []).append("" if number is None else number.group())
    said = [
        line.replace("{}", numbers[0] if len(numbers) == 1 else f"{{{_spans(numbers)}}}", 1)
        for line, numbers in layers.items()
    ]
    return "; ".join(shortened(line, 200) for line in said[:12]) + ("; …" if len(said) > 12 else "")


def _spans(numbers: list[str]) -> str:
    """Where they follow one another, 0…29; else 0, 2, 5."""
    first, last = int(numbers[0]), int(numbers[-1])
    return f"{first}…{last}" if list(map(int, numbers)) == list(range(first, last + 1)) else ", ".join(numbers)


def _sizes(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
