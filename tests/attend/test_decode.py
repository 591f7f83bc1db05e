"""decode(): each sequence as attention over its valid keys, whatever the cache holds beyond and wherever it lies."""

import math
from collections.abc import Iterator
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


@pytest.fixture(params=("baseline", "avx2", "avx512", "avx512bf16", "amx"))
def native(request: pytest.FixtureRequest) -> Iterator[str]:
    """The native core, on each instruction set of this machine."""
    if library.missing():
        pytest.skip(str(library.missing()))
    if request.param not in library.isas():
        pytest.skip(f"this machine or this build has no {request.param}")
    with library.using(request.param):
        yield "native"


@pytest.fixture(params=("native", "tiled"))
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "native" and library.missing():
        pytest.skip(str(library.missing()))
    return request.param


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


def by_definition(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], **options: Any) -> list[Any]:
    """For each sequence, the reference in float64 over its valid keys."""
    q, k, v = (x.double() for x in (q, k, v))
    pattern = ch.causal() if options.get("window") is None else ch.window(options["window"])
    options.pop("window", None)
    return [
        ch.attention(q[b : b + 1], k[b : b + 1, :, :n], v[b : b + 1, :, :n], pattern=pattern, backend="reference",
                     return_lse=True, probe=True, **options)
        for b, n in enumerate(lengths)
    ]  # fmt: skip


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
    native: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    q, k, v = made(shape, dtype)
    Tk = shape[4]
    lengths = [Tk, Tk // 3][: shape[0]]
    ours = decode(q, k, v, lengths=torch.tensor(lengths), return_lse=True, probe=True, backend=native)
    assert_same(ours, by_definition(q, k, v, lengths), TOLERANCE[dtype])


@pytest.mark.parametrize(
    "options",
    [
        {"window": 1},
        {"window": 50, "softcap": 8.0},
        {"bias": ch.alibi(6)},
        {"bias": ch.relative(torch.linspace(-2, 1, 12).view(6, 2)), "scale": 0.7},
        {"sinks": torch.linspace(-1, 3, 6)},
    ],
    ids=lambda o: "+".join(o),
)
def test_every_option_is_attentions(native: str, options: dict[str, Any]) -> None:
    q, k, v = made((3, 6, 2, 3, 700, 64, 64))
    lengths = [700, 2, 321]
    ours = decode(q, k, v, lengths=torch.tensor(lengths), return_lse=True, probe=True, backend=native, **options)
    assert_same(ours, by_definition(q, k, v, lengths, **options), 5e-5)


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
    lengths = torch.tensor([333, 90])
    (pool_k, blocks), (pool_v, _) = paged(k, block), paged(v, block)
    ours = decode(q, pool_k, pool_v, lengths=lengths, blocks=blocks, return_lse=True, backend=backend)
    whole = decode(q, k, v, lengths=lengths, return_lse=True, backend=backend)
    for x, y in zip(ours, whole, strict=True):
        assert torch.equal(x, y)


def test_the_other_backends_give_what_native_gives(native: str) -> None:
    q, k, v = made((2, 4, 2, 3, 50, 16, 16))
    options = {"lengths": torch.tensor([50, 7]), "window": 9, "bias": ch.alibi(4), "return_lse": True, "probe": True}
    ours, theirs = (decode(q, k, v, backend=name, **options) for name in (native, "tiled"))
    for x, y in zip((*ours[:2], *vars(ours[2]).values()), (*theirs[:2], *vars(theirs[2]).values()), strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=2e-5)


def test_what_lies_beyond_the_length_is_never_looked_at(backend: str) -> None:
    q, k, v = made((2, 4, 2, 1, 60, 16, 16))
    lengths = torch.tensor([60, 11])
    expected = decode(q, k, v, lengths=lengths, backend=backend)
    k[1, :, 11:], v[1, :, 11:] = torch.nan, torch.inf
    assert torch.equal(decode(q, k, v, lengths=lengths, backend=backend), expected)
    (pool_k, blocks), (pool_v, _) = paged(k, 8), paged(v, 8)
    blocks[1, 2:] = -1
    assert torch.equal(decode(q, pool_k, pool_v, lengths=lengths, blocks=blocks, backend=backend), expected)


def test_a_key_that_only_later_queries_see_does_not_reach_the_earlier(native: str) -> None:
    q, k, v = made((1, 4, 2, 3, 40, 24, 24))
    expected = decode(q, k, v, backend=native)
    k[:, :, -1], v[:, :, -1] = torch.nan, torch.inf
    out = decode(q, k, v, backend=native)
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


def test_weights_among_huge_scores_are_exact(native: str) -> None:
    q, v = torch.full((1, 1, 1, 8), 3e4), torch.randn(1, 1, 1000, 8)
    k = torch.full((1, 1, 1000, 8), -3e4)
    out, seen = decode(q, k, v, probe=True, backend=native)
    torch.testing.assert_close(out[0, 0], v[0, 0].mean(0, keepdim=True), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen.entropy.item(), math.log(1000), rtol=1e-6, atol=0)


def test_an_entropy_near_zero_keeps_its_digits(native: str) -> None:
    q, k = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 600, 1)
    k[0, 0, 550] = 20.0
    seen = decode(q, k, k, probe=True, backend=native)[1]
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
        ({"window": 0}, r"window: got 0; it counts the query itself"),
        ({"softcap": -1.0}, r"softcap: got -1\.0"),
        ({"sinks": torch.zeros(3)}, r"sinks: got shape \(3,\), expected one logit a head, \(H,\) = \(4,\)"),
        ({"bias": torch.zeros(9)}, r"bias: got one for each pair.*attention\(\) takes the other"),
        ({"blocks": torch.zeros(3, 1, dtype=torch.int64)}, r"blocks: got torch\.int64 of shape \(3, 1\).*B = 2"),
        ({"blocks": torch.tensor([[0], [2]])}, r"block 2 for sequence 1, which has 9 keys; expected 0 to 1"),
        ({"backend": "fastest"}, r"backend: got 'fastest'"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(unchecked: None, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ch.ClearheadError, match=sentence):
        decode(*made((2, 4, 2, 1, 9, 8, 8)), **options)


def test_native_by_name_says_what_stands_in_its_way() -> None:
    q, k, v = (x.double() for x in made((1, 2, 1, 1, 5, 8, 8)))
    with pytest.raises(ch.ClearheadError, match=r"backend 'native' can't do this call: .* q is torch\.float64"):
        decode(q, k, v, backend="native")
    torch.testing.assert_close(decode(q, k, v), ch.attention(q, k, v, backend="reference"))
