"""Experts in a GGUF file: llama.cpp keeps all of a layer's in one tensor, Transformers one by one, or by turns."""

import re
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from clearhead.models.weights.weights import Stored


def one_by_one(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Mixtral's: `blk.0.ffn_up_exps.weight (experts, out, in)` as `blk.0.ffn_up.3.weight`, which it once was called."""
    out: dict[str, Stored] = {}
    for name, stored in tensors.items():
        if "_exps." in name and len(stored.shape) == 3 and stored.part is not None:
            out |= {name.replace("_exps.", f".{e}."): stored.part(e) for e in range(stored.shape[0])}
        else:
            out[name] = stored
    return out


def by_turns(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """GPT-OSS's, as Transformers names them: the rows of gate and up take turns, and then inputs are rows."""
    out = dict(tensors)
    for name, gate in tensors.items():
        found = re.fullmatch(r"blk\.(\d+)\.ffn_gate_exps\.(weight|bias)", name)
        down, up = (tensors.get(name.replace("gate", other)) for other in ("down", "up"))
        if not found or down is None or up is None:
            continue
        suffix, dims = ("", 3) if found[2] == "weight" else ("_bias", 2)
        if gate.shape != up.shape or len(gate.shape) != dims or len(down.shape) != dims:
            continue  # it is complained of by its own name
        for other in ("gate", "down", "up"):
            del out[name.replace("gate", other)]
        experts = f"model.layers.{found[1]}.mlp.experts."
        shape = (gate.shape[0], 2 * gate.shape[1], *gate.shape[2:])
        both = Stored(shape, partial(_alternating, gate, up))
        out[f"{experts}gate_up_proj{suffix}"] = both if suffix else _transposed(both)
        out[f"{experts}down_proj{suffix}"] = down if suffix else _transposed(down)
    return out


def _alternating(first: Stored, second: Stored) -> Tensor:
    return torch.stack([first.read(), second.read()], 2).flatten(1, 2)


def _transposed(stored: Stored) -> Stored:
    experts, rows, columns = stored.shape
    return Stored((experts, columns, rows), lambda: stored.read().mT)
