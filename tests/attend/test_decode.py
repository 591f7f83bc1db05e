"""decode(): each sequence as attention over its valid keys, whatever the cache holds beyond and wherever it lies."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import clearhead as ch
from clearhead.attend import library
from clearhead.attend.decode import decode

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SHAPES = {  # B, H, K, Tq, Tk, D, Dv
    "one query": (2, 8, 2, 1, 300, 64, 64),
    "one head a group": (1, 3, 3, 1, 77, 128, 128),
    "a few queries": (2, 6, 2, 4, 130, 80, 40),
    "long": (1, 4, 2, 2, 1500, 32, 96),
    "odd widths": (2, 5, 1, 2, 65, 13, 7),
    "wide": (1, 2, 1, 1, 40, 512, 512),
    "many rows": (1, 6, 1, 20, 90, 24, 24),
    "many queries": (1, 2, 1, 60, 70, 16, 16),
}


ISAS = ("baseline", "avx2", "avx512", "avx512bf16", "amx")
OTHERS = ("tiled", "reference")


@pytest.fixture(params=ISAS)
def native(request: pytest.FixtureRequest) -> Iterator[str]:
    """The native core, on each instruction set of this machine."""
    with built(request.param):
        yield "native"


@pytest.fixture(params=(*ISAS, *OTHERS))
def any_core(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend, the native one on each instruction set of this machine."""
    with nullcontext() if request.param in OTHERS else built(request.param):
        yield request.param if request.param in OTHERS else "native"


@pytest.fixture(params=("native", *OTHERS))
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and library.missing():
        pytest.skip(str(library.missing()))
    return request.param


def built(isa: str) -> AbstractContextManager[None]:
    if library.missing():
        pytest.skip(str(library.missing()))
    if isa not in library.isas():
        pytest.skip(f"this machine or this build has no {isa}")
    return library.using(isa)


def made(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    B, H, K, Tq, Tk, D, Dv = shape
    return tuple(torch.randn(s).to(dtype) for s in ((B, H, Tq, D), (B, K, Tk, D), (B, K, Tk, Dv)))


def paged(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """A pool that holds (B, K, Tk, D) in shuffled blocks, kept as (blocks, block, K, D); and its block table."""
    B, K, Tk, D = x.shape
    n = -(-Tk // block)
    padded = torch.nn.functional.pad(x, (0, 0, 0, n * block - Tk), value=torch.nan)
    blocks = torch.arange(3 + B * n).flip(0)[: B * n].view(B, n)
    pool = torch.full((3 + B * n, block, K, D), torch.nan, dtype=x.dtype)
    pool[blocks] = padded.view(B, K, n, block, D).permute(0, 2, 3, 1, 4)
    return pool.transpose(1, 2), blocks


def by_definition(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: list[int],
    leftpad: list[int] | None = None,
    causal: bool = True,
    window: int | tuple[int | None, int | None] | None = None,
    **options: Any,
) -> list[Any]:
    """attention() in float64 on each sequence's valid keys alone: (out, lse, statistics) of each."""
    q, k, v = q.double(), k.double(), v.double()
    pattern = ch.causal() if causal else ch.full()
    if window is not None:
        pattern = pattern & (ch.window(*window) if isinstance(window, tuple) else ch.window(window))
    each = []
    for b, (p, n) in enumerate(zip(leftpad or [0] * len(lengths), lengths, strict=True)):
        bias = options.get("bias")
        if isinstance(bias, Tensor):  # ALiBi's slopes, of each sequence
            bias = ch.alibi(bias[b])
        one = (q[b : b + 1], k[b : b + 1, :, p:n], v[b : b + 1, :, p:n])
        out, lse, seen = ch.attention(
            *one, pattern=pattern, backend="reference", return_lse=True, probe=True, **options | {"bias": bias}
        )
        place = seen.peak_at + p * (seen.peak_at >= 0)  # counted from the cache's first key
        each.append((out, lse, replace(seen, peak_at=place)))
    return each


def assert_same(ours: tuple[Any, ...], expected: list[Any], tolerance: float) -> None:
    out, lse, statistics = ours
    theirs = [torch.cat(parts) for parts in list(zip(*expected, strict=True))[:2]]
    for x, y in zip((out, lse), theirs, strict=True):
        torch.testing.assert_close(x.double(), y, atol=tolerance, rtol=tolerance)
    for name in vars(statistics):
        y = torch.cat([getattr(each[2], name) for each in expected]).double()
        x = getattr(statistics, name).double()
        times = max(1.0, float(y.abs().max())) if name == "distance" else 1.0
        torch.testing.assert_close(x, y, atol=tolerance * times, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_sequence_is_attention_over_its_valid_keys(
    any_core: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    q, k, v = made(shape, dtype)
    Tk = shape[4]
    lengths = [Tk, Tk // 3][: shape[0]]
    ours = decode(q, k, v, lengths=torch.tensor(lengths), return_lse=True, probe=True, backend=any_core)
    assert_same(ours, by_definition(q, k, v, lengths), TOLERANCE[dtype])


@pytest.mark.parametrize(
    "options",
    [
        {"window": 1},
        {"window": 50, "softcap": 8.0},
        {"bias": ch.alibi(6)},
        {"bias": ch.relative(torch.linspace(-2, 1, 12).view(6, 2)), "scale": 0.7},
        {"sinks": torch.linspace(-1, 3, 6)},
        {"leftpad": [30, 0, 319]},
        {"leftpad": [699, 2, 300], "window": 7, "bias": ch.alibi(6)},
        {"causal": False},
        {"causal": False, "leftpad": [3, 1, 0], "bias": ch.relative(torch.linspace(-2, 1, 24).view(6, 4))},
        {"causal": False, "window": (40, 1)},
        {"causal": False, "window": (None, 1), "leftpad": [8, 0, 8]},
        {"window": (50, 2**40)},
        {"bias": torch.linspace(0, 2, 18).view(3, 6)},
    ],
    ids=lambda o: "+".join(o),
)
def test_every_option_is_attentions(any_core: str, options: dict[str, Any]) -> None:
    q, k, v = made((3, 6, 2, 3, 700, 64, 64))
    lengths, given = [700, 2, 321], dict(options)
    if "leftpad" in given:
        given["leftpad"] = torch.tensor(given["leftpad"])
    if isinstance(given.get("bias"), Tensor):
        given["bias"] = ch.alibi(given["bias"])
    ours = decode(q, k, v, lengths=torch.tensor(lengths), return_lse=True, probe=True, backend=any_core, **given)
    assert_same(ours, by_definition(q, k, v, lengths, **options), 5e-5)
    alone = decode(q, k, v, lengths=torch.tensor(lengths), backend=any_core, **given)
    torch.testing.assert_close(alone, ours[0], atol=1e-6, rtol=1e-5)


def test_a_left_padded_batch_gives_what_each_text_gives_alone(any_core: str) -> None:
    q, k, v = made((3, 4, 2, 2, 50, 16, 16))
    pads = [0, 11, 49]
    k[1, :, :11] = v[2, :, :49] = torch.nan
    ours = decode(q, k, v, leftpad=torch.tensor(pads), return_lse=True, probe=True, backend=any_core)
    assert_same(ours, by_definition(q, k, v, [50] * 3, pads), 2e-5)


@pytest.mark.parametrize("window", [2**31 - 1, 2**32, 2**64])
def test_a_window_wider_than_the_cache_hides_nothing(backend: str, window: int) -> None:
    q, k, v = made((2, 4, 2, 2, 9, 8, 8))
    lengths = torch.tensor([9, 3])
    assert torch.equal(
        decode(q, k, v, lengths=lengths, window=window, backend=backend),
        decode(q, k, v, lengths=lengths, backend=backend),
    )


@pytest.mark.parametrize("block", [1, 16, 100])
def test_a_paged_cache_gives_the_same_numbers(backend: str, block: int) -> None:
    q, k, v = made((2, 4, 2, 2, 333, 40, 24))
    options = {"lengths": torch.tensor([333, 90]), "leftpad": torch.tensor([0, 70])}
    (pool_k, blocks), (pool_v, _) = paged(k, block), paged(v, block)
    blocks[1, : 70 // block] = -1  # which nobody looks at
    ours = decode(q, pool_k, pool_v, blocks=blocks, return_lse=True, backend=backend, **options)
    whole = decode(q, k, v, return_lse=True, backend=backend, **options)
    for x, y in zip(ours, whole, strict=True):
        assert torch.equal(x, y)


def test_what_lies_beyond_the_length_is_never_looked_at(backend: str) -> None:
    q, k, v = made((2, 4, 2, 1, 60, 16, 16))
    lengths = torch.tensor([60, 11])
    expected = decode(q, k, v, lengths=lengths, backend=backend)
    k[1, :, 11:], v[1, :, 11:] = torch.nan, torch.inf
    assert torch.equal(decode(q, k, v, lengths=lengths, backend=backend), expected)
    (pool_k, blocks), (pool_v, _) = paged(k, 8), paged(v, 8)
    blocks[1, 2:] = -1
    assert torch.equal(decode(q, pool_k, pool_v, lengths=lengths, blocks=blocks, backend=backend), expected)


def test_a_key_that_only_later_queries_see_does_not_reach_the_earlier(any_core: str) -> None:
    q, k, v = made((1, 4, 2, 3, 40, 24, 24))
    expected = decode(q, k, v, backend=any_core)
    k[:, :, -1], v[:, :, -1] = torch.nan, torch.inf
    out = decode(q, k, v, backend=any_core)
    assert torch.equal(out[:, :, :2], expected[:, :, :2])
    assert out[:, :, 2].isnan().all()


def test_a_query_that_sees_nothing_gives_zero(backend: str) -> None:
    q, k, v = made((2, 4, 2, 3, 9, 8, 8))
    out, lse, seen = decode(q, k, v, lengths=torch.tensor([0, 2]), return_lse=True, probe=True, backend=backend)
    nothing = torch.tensor([[True, True, True], [True, False, False]])[:, None].expand(2, 4, 3)
    assert (out[nothing] == 0).all() and (lse[nothing] == -torch.inf).all() and (seen.entropy[nothing] == 0).all()
    assert (lse[~nothing].isfinite()).all() and (seen.peak_at[nothing] == -1).all()


@pytest.mark.parametrize("shape", [(0, 2, 1, 1, 5, 8, 8), (1, 2, 1, 0, 5, 8, 8), (1, 2, 1, 1, 0, 8, 8)], ids=str)
def test_empty_tensors_give_empty_or_zero(backend: str, shape: tuple[int, ...]) -> None:
    out = decode(*made(shape), backend=backend)
    assert out.shape == (shape[0], shape[1], shape[3], shape[6]) and (out == 0).all()


def test_results_do_not_depend_on_the_number_of_threads(native: str) -> None:
    q, k, v = made((1, 8, 2, 1, 4000, 64, 64))
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3, 7):
            torch.set_num_threads(n)
            out, lse, seen = decode(q, k, v, return_lse=True, probe=True, backend=native)
            results.append((out, lse, *vars(seen).values()))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for other in results[1:] for x, y in zip(results[0], other, strict=True))


def test_weights_among_huge_scores_are_exact(any_core: str) -> None:
    q, v = torch.full((1, 1, 1, 8), 3e4), torch.randn(1, 1, 1000, 8)
    k = torch.full((1, 1, 1000, 8), -3e4)
    out, seen = decode(q, k, v, probe=True, backend=any_core)
    torch.testing.assert_close(out[0, 0], v[0, 0].mean(0, keepdim=True), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen.entropy.item(), math.log(1000), rtol=1e-6, atol=0)


def test_an_entropy_near_zero_keeps_its_digits(any_core: str) -> None:
    q, k = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 600, 1)
    k[0, 0, 550] = 20.0
    seen = decode(q, k, k, probe=True, backend=any_core)[1]
    expected = ch.attention(q.double(), k.double(), k.double(), probe=True, backend="reference")[1]
    torch.testing.assert_close(seen.entropy.double(), expected.entropy, rtol=1e-5, atol=0)


def test_strided_caches_are_read_in_place(native: str) -> None:
    q, k, v = made((2, 4, 2, 1, 100, 16, 16))
    kv = torch.cat([k, v], -1).transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(decode(q, kv[..., :16], kv[..., 16:], backend=native), decode(q, k, v, backend=native))


def test_a_gradient_is_refused(backend: str) -> None:
    q, k, v = made((1, 2, 1, 1, 5, 8, 8))
    q.requires_grad_()
    with pytest.raises(ch.ClearheadError, match=r"decode has no gradient.*torch\.no_grad\(\)"):
        decode(q, k, v, backend=backend)
    with torch.no_grad():
        assert decode(q, k, v, backend=backend).shape == (1, 2, 1, 8)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lengths": torch.tensor([3, 10])}, r"lengths: got 3 to 10, expected 0 to Tk = 9"),
        ({"lengths": torch.tensor([-1, 4])}, r"lengths: got -1 to 4"),
        ({"lengths": torch.tensor([4])}, r"lengths: got torch\.int64 of shape \(1,\).*\(B,\) = \(2,\)"),
        ({"lengths": torch.tensor([4.0, 2.0])}, r"lengths: got torch\.float32"),
        ({"lengths": torch.tensor([True, False])}, r"lengths: got torch\.bool of shape \(2,\)"),
        ({"lengths": [4, 2]}, r"lengths: got list, expected one whole number a sequence"),
        ({"leftpad": (4, 2)}, r"leftpad: got tuple, expected one whole number a sequence"),
        ({"leftpad": torch.tensor([0, 10])}, r"leftpad: got 0 to 10, expected 0 to Tk = 9"),
        (
            {"leftpad": torch.tensor([3, 5]), "lengths": torch.tensor([3, 4])},
            r"leftpad: got \[3, 5\] where the valid keys end at \[3, 4\]",
        ),
        ({"window": 0}, r"window\(0\) counts the query itself"),
        ({"window": 2.5}, r"window: got 2\.5, expected whole numbers of keys"),
        ({"window": (1, 2, 3)}, r"window: got \(1, 2, 3\), expected a number of keys, or two"),
        ({"window": (1, -2)}, r"window\(1, -2\): a side counts keys"),
        ({"scale": "1"}, r"scale: got '1', expected a number"),
        ({"softcap": -1.0}, r"softcap: got -1\.0"),
        ({"softcap": "1"}, r"softcap: got '1'"),
        ({"sinks": torch.zeros(3)}, r"sinks: got shape \(3,\), expected one logit a head, a tensor \(H,\) = \(4,\)"),
        ({"sinks": [0.0] * 4}, r"sinks: got list, expected one logit a head"),
        ({"bias": torch.zeros(9)}, r"bias: got one for each pair.*attention\(\) takes the other"),
        ({"bias": 0.5}, r"bias: got 0\.5, expected alibi\(H\)"),
        ({"bias": ch.alibi(torch.zeros(3, 4))}, r"alibi: got slopes of shape \(3, 4\) for \(B, H\) = \(2, 4\)"),
        ({"blocks": torch.zeros(3, 1, dtype=torch.int64)}, r"blocks: got torch\.int64 of shape \(3, 1\).*B = 2"),
        ({"blocks": [[0], [1]]}, r"blocks: got list, expected whole numbers \(B, n\)"),
        ({"blocks": torch.tensor([[0], [2]])}, r"block 2 for sequence 1, which has 9 keys; expected 0 to 1"),
        ({"backend": "fastest"}, r"backend: got 'fastest'"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(unchecked: None, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ch.ClearheadError, match=sentence):
        decode(*made((2, 4, 2, 1, 9, 8, 8)), **options)


@pytest.mark.parametrize("blocks", [None, torch.zeros(2, 1, dtype=torch.int64)], ids=["cache", "pool"])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_tensors_are_checked_as_attentions_are(unchecked: None, name: str, blocks: Tensor | None) -> None:
    for wrong, says in (
        (torch.zeros(4, 8), r"has shape \(4, 8\); expected the four dimensions"),
        ([0.0], r"got list, expected a tensor"),
        (torch.zeros(2, 4, 1, 8, dtype=torch.int64), r"is torch\.int64; expected float16"),
    ):
        tensors = dict(zip("qkv", made((2, 4, 4, 1, 1, 8, 8)), strict=True)) | {name: wrong}
        with pytest.raises(ch.ClearheadError, match=says):
            decode(**tensors, blocks=blocks)


def test_queries_of_no_width_see_all_keys_alike(backend: str) -> None:
    q, k, v = made((2, 4, 2, 1, 9, 0, 8))
    out = decode(q, k, v, backend=backend)
    torch.testing.assert_close(out, v.mean(2, keepdim=True).repeat_interleave(2, 1))
    torch.testing.assert_close(ch.attention(q, k, v, backend=backend), out)


def test_native_by_name_says_what_stands_in_its_way() -> None:
    q, k, v = (x.double() for x in made((1, 2, 1, 1, 5, 8, 8)))
    with pytest.raises(ch.ClearheadError, match=r"backend 'native' can't do this call: .* q is torch\.float64"):
        decode(q, k, v, backend="native")
    torch.testing.assert_close(decode(q, k, v), ch.attention(q, k, v, backend="reference"))
