"""Tokens go through a whole block in one native call, to the same numbers as part by part."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead.attend import causal, library, window
from clearhead.models import Config, Transformer
from clearhead.nn import Alibi, Block, FeedForward, LayerNorm, MultiHeadAttention, Position, RMSNorm, Rotary, native
from clearhead.nn import block as module_of_block
from clearhead.nn.caches.growing import Growing
from clearhead.nn.step import step

pytestmark = pytest.mark.skipif(library.missing() is not None, reason="there is no native core here")
MULTIPLIES = library.missing() is None and library.isa() in native.AVX512
many = pytest.mark.skipif(not MULTIPLIES, reason="without AVX-512 PyTorch multiplies many rows")
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def made(dtype: torch.dtype = torch.float32, norm: Any = RMSNorm, gated: bool = True, **attention: Any) -> Block:
    """A block as Llama has them, with random weights, whose attention has these options."""
    options = {"kv_heads": 2, "pattern": causal(), "position": Rotary(16), "bias": False} | attention
    block = Block(
        MultiHeadAttention(64, 4, **options),
        FeedForward(64, 96, "silu", gated=gated, bias=options["bias"]),
        partial(norm, 64),
    )
    for weight in block.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return block.to(dtype).eval()


def filled(block: Block, B: int = 1, n: int = 5) -> Growing:
    """A cache of n tokens, the same for every call."""
    cache = Growing()
    x = torch.randn(B, n, 64, generator=torch.Generator().manual_seed(7)).to(block.attention.out.weight.dtype)
    with torch.no_grad():
        block(x, cache=cache)
    return cache


def in_one_call(block: Block, x: Tensor, cache: Growing) -> Tensor | None:
    """What `step` makes of the tokens behind the cache."""
    T = x.shape[1]
    angles = block.attention.position.angles(cache.positions(T))
    with torch.no_grad():
        return step(block, x, cache=cache, angles=angles)


def by_parts(block: Block, x: Tensor, cache: Growing, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(module_of_block, "step", lambda *_, **__: None)
        return block(x, cache=cache)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": True},
        {"kv_heads": 4, "pattern": window(3)},
        {"softcap": 5.0, "scale": 0.1, "pattern": window(2**64)},
        {"position": Rotary(16, turned=6)},
        {"position": Position()},
        {"head_width": 40, "position": Rotary(40)},
    ],
    ids=str,
)
def test_one_call_gives_what_the_parts_give(
    options: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = made(dtype, **options)
    for B, T in ((1, 1), (1, 3), (3, 1), (2, 4)):
        one, parts = filled(block, B), filled(block, B)
        for _ in range(40 if B * T == 1 else 3):  # beyond the room that the cache began with
            x = torch.randn(B, T, 64).to(dtype)
            expected = by_parts(block, x, parts, monkeypatch)
            got = in_one_call(block, x, one)
            assert got is not None
            torch.testing.assert_close(got, expected, rtol=1e-5 if dtype == torch.float32 else 0.02, atol=1e-3)
        assert one.counts == parts.counts
        for mine, theirs in zip(one.read(), parts.read(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5 if dtype == torch.float32 else 0.02, atol=1e-3)


@many
@pytest.mark.parametrize("options", [{}, {"pattern": window(30), "bias": True}, {"position": Position()}], ids=str)
def test_so_do_many_floats_at_once_from_the_first_on(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    block = made(**options)
    for B, T in ((1, 600), (3, 50)):  # beyond the chunks of the feed-forward
        one, parts = Growing(), Growing()
        for _ in range(3):
            x = torch.randn(B, T, 64)
            expected = by_parts(block, x, parts, monkeypatch)
            got = in_one_call(block, x, one)
            assert got is not None
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-3)
        for mine, theirs in zip(one.read(), parts.read(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)


def test_a_block_takes_it_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    block = made()
    cache = filled(block)
    angles = block.attention.position.angles(torch.tensor([[5]]))

    def told(*args: Any, **options: Any) -> Tensor | None:
        taken.append(step(*args, **options))
        return taken[-1]

    monkeypatch.setattr(module_of_block, "step", told)
    with torch.no_grad():
        y = block(torch.randn(1, 1, 64), cache=cache, angles=angles, pattern=causal())
    assert taken[0] is y


@pytest.mark.parametrize(
    "block",
    [
        made(norm=LayerNorm),
        made(gated=False),
        made(position=Alibi(4)),
        made(position=Rotary(16, layout="pairs")),
        made(qk_norm=RMSNorm),
        made(sinks=True),
        made(fused=False),
        made(pattern=ch.full()),
    ],
    ids=["LayerNorm", "ungated", "alibi", "pairs", "qk_norm", "sinks", "apart", "full"],
)
def test_blocks_of_other_kinds_go_by_parts(block: Block) -> None:
    assert in_one_call(block, torch.randn(1, 1, 64), filled(block)) is None


def test_tokens_by_the_dozen_a_gradient_and_unlike_lengths_go_by_parts() -> None:
    block = made()
    assert in_one_call(block, torch.randn(1, 9, 64), filled(block)) is None
    assert in_one_call(block, torch.randn(1, 1, 64).double(), filled(block)) is None
    uneven = filled(block, 2)
    uneven.crop(torch.tensor([5, 3]))
    assert in_one_call(block, torch.randn(2, 1, 64), uneven) is None
    assert (
        step(block, torch.randn(1, 1, 64), cache=filled(block), angles=Rotary(16).angles(torch.tensor([[5]]))) is None
    )
    with torch.no_grad():
        assert step(block, torch.randn(1, 1, 64)) is None


PARTS = ["attention", "attention.qkv", "feed_forward", "feed_forward.down", "attention_norm", "dropout"]


@pytest.mark.parametrize("part", PARTS)
def test_a_hook_inside_is_called(part: str) -> None:
    block = made()
    seen = []
    handle = block.get_submodule(part).register_forward_hook(lambda *_: seen.append(part))
    assert in_one_call(block, torch.randn(1, 1, 64), filled(block)) is None
    with torch.no_grad():
        block(torch.randn(1, 1, 64), cache=filled(block))
    assert seen
    handle.remove()
    assert in_one_call(block, torch.randn(1, 1, 64), filled(block)) is not None


def test_what_somebody_put_in_place_of_a_part_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Growing):
        pass

    block, x = made(), torch.randn(1, 1, 64)
    cache = Counting()
    with torch.no_grad():
        block(torch.randn(1, 5, 64), cache=cache)
    assert in_one_call(block, x, cache) is None
    assert in_one_call(block, x, filled(block)) is not None
    angles = block.attention.position.angles(torch.tensor([[5]]))
    with torch.no_grad():
        assert step(block, x, cache=filled(block), angles=(angles[0].double(), angles[1].double())) is None
    monkeypatch.setattr(FeedForward, "forward", lambda self, x: x)
    assert in_one_call(block, x, filled(block)) is None
    block.dropout = torch.nn.Identity()
    monkeypatch.undo()
    assert in_one_call(block, x, filled(block)) is None


def test_a_gradient_that_still_needs_the_cache_notices() -> None:
    block, cache = made(), Growing()
    y = block(torch.randn(1, 5, 64, requires_grad=True), cache=cache)
    y = y + block(torch.randn(1, 2, 64), cache=cache).sum()
    cache.crop(torch.tensor([5]))
    with torch.no_grad():
        block(torch.randn(1, 1, 64), cache=cache, angles=block.attention.position.angles(torch.tensor([[5]])))
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


@pytest.mark.usefixtures("unchecked")
def test_a_weight_that_does_not_fit_is_refused_in_pytorchs_words() -> None:
    block = made()
    cache = filled(block)
    block.feed_forward.down.weight = torch.nn.Parameter(torch.randn(64, 95))
    with torch.no_grad(), pytest.raises(RuntimeError):
        block(torch.randn(1, 1, 64), cache=cache)


def test_a_watch_sees_the_tokens_of_a_step() -> None:
    config = Config(
        vocabulary=50,
        width=64,
        layers=3,
        attention=partial(MultiHeadAttention, heads=4, kv_heads=2, bias=False),
        feed_forward=partial(FeedForward, hidden=96, activation="silu", gated=True, bias=False),
        norm=RMSNorm,
        position=Rotary(16),
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        caches = model.caches()
        model(torch.tensor([[1, 2, 3, 4]]), caches=caches)
        with ch.watch(model) as seen:
            model(torch.tensor([[5]]), caches=caches)
    assert len(seen.layers) == 3
