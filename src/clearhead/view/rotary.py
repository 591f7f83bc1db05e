"""Rotary: by how much a model's position embedding turns each pair of dimensions of q and k (Su et al. 2021)."""

import copy
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_ALL_OF_BOTH = re.compile(
    r"^ {8}(query\w*), (key\w*) = apply_rotary_pos_emb\(\s*\1, \2, cos, sin(?:, unsqueeze_dim=1)?,?\s*\)$", re.MULTILINE
)
"""The line of an attention's code that turns the whole of q and of k, unasked."""


@dataclass(frozen=True)
class Rotary:
    """Pair m of the dimensions of a query or key at position p is turned by p · frequencies[m] radians.

    With n frequencies, pair m is the dimensions (m, m + n), or (2m, 2m + 1) if `neighbours`; dimensions from 2n on
    are not turned.

    >>> turned = Rotary((1.0,), neighbours=False).turned(torch.tensor([[1.0, 0.0]]), torch.tensor([torch.pi / 2]))
    >>> turned.round().abs()
    tensor([[0., 1.]])
    """

    frequencies: tuple[float, ...]
    neighbours: bool

    def turned(self, x: Float[Tensor, "T D"], positions: Float[Tensor, " T"]) -> Float[Tensor, "T D"]:
        """Each row turned as at its position; a negative position turns back."""
        n = len(self.frequencies)
        angle = positions[:, None] * torch.tensor(self.frequencies, dtype=x.dtype)
        one, other = (slice(0, 2 * n, 2), slice(1, 2 * n, 2)) if self.neighbours else (slice(0, n), slice(n, 2 * n))
        made = x.clone()
        made[:, one] = x[:, one] * angle.cos() - x[:, other] * angle.sin()
        made[:, other] = x[:, other] * angle.cos() + x[:, one] * angle.sin()
        return made


def found(model: nn.Module, widths: Mapping[str, int]) -> dict[str, Rotary]:
    """The turning of each attention, by its name; `widths` has the D of those that are asked for.

    It is told of models of Transformers alone whose attention passes the whole of q and of k through its module's
    `apply_rotary_pos_emb`, always and last. That function is then tried on random vectors, and left out is
    what it does not turn as `Rotary` says. So nothing is told of what was only guessed.
    """
    known: dict[Any, Rotary | None] = {}
    return {name: rotary for name, D in widths.items() if (rotary := _of(model, name, D, known)) is not None}


def told(seen: Any) -> dict[str, Any]:
    """For a page, of a record: `kinds`, each as frequencies and neighbours, and for each layer which one, or null."""
    by_name: Mapping[str, Rotary] = getattr(seen, "rotary", {})
    kinds = list(dict.fromkeys(by_name.values()))
    return {
        "kinds": [{"frequencies": rotary.frequencies, "neighbours": rotary.neighbours} for rotary in kinds],
        "of": [kinds.index(by_name[layer.name]) if layer.name in by_name else None for layer in seen.layers],
    }


def _of(model: nn.Module, name: str, D: int, known: dict[Any, Rotary | None]) -> Rotary | None:
    """The turning of one attention; `known` are those of its like, by class, kind of layer and D."""
    try:
        attention = model.get_submodule(name)
    except AttributeError:
        return None
    like = type(attention), _layer_type(attention), D
    if like not in known:
        known[like] = _first(model, attention, D)
    return known[like]


def _first(model: nn.Module, attention: nn.Module, D: int) -> Rotary | None:
    """The turning of the first attention of its like."""
    turn = getattr(sys.modules.get(type(attention).__module__), "apply_rotary_pos_emb", None)
    if turn is None or not _turns_all(attention):
        return None
    kind = _layer_type(attention)
    buffer = "inv_freq" if kind is None else f"{kind}_inv_freq"
    modules = [x for x in model.modules() if type(x).__module__ == type(attention).__module__]
    for own, asked in ((buffer, {} if kind is None else {"layer_type": kind}), ("inv_freq", {})):
        having = [x for x in modules if isinstance(getattr(x, own, None), Tensor)]
        if len(having) == 1:
            return _tried(having[0], getattr(having[0], own), turn, D, asked)
    return None


def _turns_all(attention: nn.Module) -> bool:
    """Whether its code turns all of q and k, whatever its configuration, and changes neither of them afterwards."""
    try:
        code = inspect.getsource(type(attention).forward)
    except (OSError, TypeError):
        return False
    line = _ALL_OF_BOTH.search(code)
    if line is None:
        return False
    q, k = map(re.escape, line.groups())
    # A cache puts earlier keys before these; anything else that is assigned to one of the two changes it.
    changed = rf"^\s*(?:\w+, )*(?:{q}|{k})(?:, \w+)* [-+*/@]?= (?!\w+\.update\()"
    return re.search(changed, code[line.end() :], re.MULTILINE) is None


def _layer_type(attention: nn.Module) -> str | None:
    kinds, number = getattr(getattr(attention, "config", None), "layer_types", None), getattr(attention, "layer_idx", 0)
    return kinds[number] if isinstance(kinds, list) and isinstance(number, int) and number < len(kinds) else None


@torch.no_grad()
def _tried(module: nn.Module, frequencies: Tensor, turn: Any, D: int, asked: Mapping[str, str]) -> Rotary | None:
    """The turning with these frequencies, if that is what the module and the function do."""
    known = tuple(frequencies.double().flatten().tolist())
    if 2 * len(known) > D:
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 4, D, generator=generator).to(frequencies.device)
    positions = torch.arange(4, device=x.device)
    try:  # on a copy, as some modules change their frequencies with the length of what they turn
        cos, sin = copy.deepcopy(module)(x[:, 0], positions[None], **asked)
        turned = turn(x, x, cos, sin)[0][0, 0].double().cpu()
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return None  # another signature: nothing is known of it
    for neighbours in (False, True):
        rotary = Rotary(known, neighbours)
        ours = rotary.turned(x[0, 0].double().cpu(), positions.double().cpu())
        ours[:, : 2 * len(known)] *= float(getattr(module, "attention_scaling", 1.0))
        if torch.allclose(turned, ours, rtol=1e-3, atol=1e-3):
            return rotary
    return None
