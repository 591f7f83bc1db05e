"""MultiHeadAttention is its formula, for every count of heads, pattern, position and option."""

import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead import nn
from clearhead.errors import ClearheadError

B, T, E = 2, 11, 48


def by_definition(layer: nn.MultiHeadAttention, x: Tensor, memory: Tensor | None = None) -> Tensor:
    """The layer, head by head, from weights that are held."""
    source = x if memory is None else memory
    H, K, D = layer.heads, layer.kv_heads, layer.head_width
    if layer.fused:
        parts = (H * D, K * D, K * D)
        wq, wk, wv = layer.qkv.weight.split(parts)
        bq, bk, bv = (0, 0, 0) if layer.qkv.bias is None else layer.qkv.bias.split(parts)
    else:
        wq, wk, wv = layer.q.weight, layer.k.weight, layer.v.weight
        bq, bk, bv = (0, 0, 0) if layer.q.bias is None else (layer.q.bias, layer.k.bias, layer.v.bias)
    q, k, v = (
        (y @ w.T + b).unflatten(-1, (-1, D)).transpose(1, 2)
        for y, w, b in ((x, wq, bq), (source, wk, bk), (source, wv, bv))
    )
    if layer.q_norm is not None:
        q, k = layer.q_norm(q), layer.k_norm(k)
    Tq, Tk = q.shape[2], k.shape[2]
    if memory is None:
        q, k = layer.position.turn(q, k, layer.position.angles(torch.arange(Tk)[None]))
    scores = q @ k.repeat_interleave(H // K, 1).mT * (D**-0.5 if layer.scale is None else layer.scale)
    if layer.softcap is not None:
        scores = layer.softcap * torch.tanh(scores / layer.softcap)
    bias = layer.position.bias() if memory is None else None
    if bias is not None:
        scores = scores + bias.at(torch.arange(Tq)[:, None], torch.arange(Tk)[None], 0, *bias.weights)
    scores = scores.masked_fill(~layer.pattern.dense(Tq, Tk), -torch.inf)
    if layer.sinks is not None:
        scores = torch.cat((scores, layer.sinks.view(1, H, 1, 1).expand(len(x), H, Tq, 1)), -1)
    w = scores.softmax(-1)[..., :Tk]
    out = (w @ v.repeat_interleave(H // K, 1)).transpose(1, 2).flatten(2)
    if layer.gate is not None:
        out = out * layer.gate(x).sigmoid()
    return layer.out(out)


def made(**options: Any) -> nn.MultiHeadAttention:
    """A layer in float64, none of whose parameters is at its first value."""
    layer = nn.MultiHeadAttention(E, **({"heads": 6} | options)).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"kv_heads": 2},
    "multi-query": {"kv_heads": 1, "head_width": 10},
    "causal": {"pattern": ch.causal()},
    "window and sinks": {"pattern": ch.causal() & (ch.window(3) | ch.first(1)), "sinks": True},
    "rotary": {"position": nn.Rotary(8), "pattern": ch.causal(), "kv_heads": 3},
    "alibi": {"position": nn.Alibi(6), "pattern": ch.causal()},
    "t5": {"position": nn.T5(6, bidirectional=True), "scale": 1.0},
    "softcap": {"softcap": 1.5},
    "norm of q and k": {"qk_norm": partial(nn.RMSNorm, eps=1e-6)},
    "gated": {"gated": True},
    "no bias": {"bias": False, "out_bias": True},
    "separate": {"fused": False, "kv_heads": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_its_formula_and_so_are_its_gradients(name: str) -> None:
    layer, x = made(**OPTIONS[name]), torch.randn(B, T, E, dtype=torch.float64, requires_grad=True)
    wanted = [x, *layer.parameters()]
    out, exact = layer(x), by_definition(layer, x)
    torch.testing.assert_close(out, exact)
    weigh = torch.randn_like(out)
    for got, grad in zip(
        torch.autograd.grad((out * weigh).sum(), wanted),
        torch.autograd.grad((exact * weigh).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(got, grad, atol=1e-9, rtol=1e-7)


NORM = {"qk_norm": partial(nn.RMSNorm, eps=1e-6)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory_width": 20},
        {"kv_heads": 2, "fused": False},
        NORM,
        {**NORM, "memory_width": 20, "kv_heads": 2},
        {"softcap": 1.5, "sinks": True, "gated": True, "scale": 0.7, "kv_heads": 3},
        {"position": nn.Rotary(8)},
        {"position": nn.Alibi(6)},
        {"bias": False, "out_bias": True, "pattern": ch.first(3)},
    ],
    ids=lambda options: ", ".join(options) or "plain",
)
def test_it_attends_to_a_memory(options: dict[str, Any]) -> None:
    layer = made(**options)
    x, memory = (torch.randn(B, n, w, dtype=torch.float64) for n, w in ((T, E), (7, options.get("memory_width", E))))
    exact = by_definition(layer, x, memory)
    torch.testing.assert_close(layer(x, memory), exact)
    torch.testing.assert_close(layer(x, layer.remember(memory)), exact)


@pytest.mark.parametrize(
    "options",
    [{}, {**NORM, "kv_heads": 2}, {"sinks": True}, {"position": nn.Rotary(8)}],
    ids=lambda options: ", ".join(options) or "plain",
)
def test_padding_of_either_is_seen_by_none(options: dict[str, Any]) -> None:
    layer, lengths = made(**options), torch.tensor([T, 4])
    x = torch.randn(B, T, E, dtype=torch.float64)
    torch.testing.assert_close(layer(x, lengths=lengths)[1, :4], layer(x[1:, :4])[0])
    memory = x.clone()
    memory[1, 4:] = torch.nan
    torch.testing.assert_close(layer(x, memory, lengths=lengths)[1], layer(x[1:], memory[1:, :4])[0])


CACHED: dict[str, dict[str, Any]] = {
    **{name: OPTIONS[name] for name in ("causal", "rotary", "alibi", "window and sinks")},
    "rotary, norm, sinks": {"position": nn.Rotary(8), "pattern": ch.causal(), "kv_heads": 2, "sinks": True, **NORM},
    "alibi, softcap, gate": {"position": nn.Alibi(6), "pattern": ch.causal(), "softcap": 1.5, "gated": True},
    "t5, window": {"position": nn.T5(6, bidirectional=False), "pattern": ch.window(4), "scale": 0.7, "kv_heads": 1},
}
CACHES = {
    "growing": nn.Growing,
    "paged": lambda: nn.Paged(nn.Pool(blocks=32, block=3)),
    "sliding": lambda: nn.Sliding(T),
}


@pytest.mark.parametrize("gradient", [True, False], ids=["gradient recorded", "no gradient"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", CACHED)
def test_with_a_cache_pieces_give_what_the_whole_gives(name: str, cache: str, gradient: bool) -> None:
    """Of texts of unlike length too, each by its own positions, whatever the padding holds."""
    if (gradient and cache == "paged") or (cache == "sliding" and name == "window and sinks"):
        return  # which these refuse
    layer, x = made(**CACHED[name]), torch.randn(B, T, E, dtype=torch.float64)
    whole = layer(x)
    with torch.set_grad_enabled(gradient):
        kept = CACHES[cache]()
        pieces = [layer(x[:, start:stop], cache=kept) for start, stop in ((0, 6), (6, 7), (7, T))]
        torch.testing.assert_close(torch.cat(pieces, 1), whole)
        kept, at = CACHES[cache](), [0, 0]
        for lengths, most in (([6, 2], 6), ([1, 1], 1), ([0, 1], 1), ([2, 5], 5)):
            piece = torch.full((B, most, E), torch.nan, dtype=torch.float64)
            for b, n in enumerate(lengths):
                piece[b, :n] = x[b, at[b] : at[b] + n]
            out = layer(piece, lengths=torch.tensor(lengths), cache=kept)
            for b, n in enumerate(lengths):
                torch.testing.assert_close(out[b, :n], whole[b, at[b] : at[b] + n])
                at[b] += n


def test_weights_are_dropped_while_training_only() -> None:
    layer, x = made(dropout=0.5), torch.randn(B, T, E, dtype=torch.float64)
    assert not torch.allclose(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_it_runs_under_autocast() -> None:
    layer, x = nn.MultiHeadAttention(E, 6, pattern=ch.causal()), torch.randn(B, T, E)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
        out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x), atol=3e-2, rtol=3e-2)


COMPILED = """
import torch, clearhead as ch
layer, x = ch.nn.MultiHeadAttention(48, 6, pattern=ch.causal(), position=ch.nn.Rotary(8)), torch.randn(2, 11, 48)
torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
"""


def test_it_compiles_in_one_piece() -> None:
    subprocess.run([sys.executable, "-c", COMPILED], check=True)  # in a process whose types nobody checks


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads": 5}, "a width of 48 does not divide into 5 heads"),
        ({"kv_heads": 4}, "heads = 6 and kv_heads = 4"),
        *(
            ({name: wrong}, rf"^{name}: got {wrong}, expected a whole number, 1 or more\.$")
            for name in ("heads", "kv_heads", "head_width", "memory_width")
            for wrong in (0, 2.0, True)
        ),
    ],
)
def test_heads_that_do_not_fit_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ClearheadError, match=sentence):
        made(**options)
