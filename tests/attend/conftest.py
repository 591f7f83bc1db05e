"""What the tests of attention share: every backend, a plain float64 attention, and random calls."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import clearhead as ch
from clearhead.attend import library
from clearhead.attend.api import FLOATS, checked
from clearhead.attend.backends import BACKENDS


def takes(backend: str, dtype: torch.dtype = torch.float32, **options: Any) -> bool:
    """Whether a backend does a call of this type and these options; native is asked of its kernels, built or not."""
    x = torch.zeros(1, 1, 1, 1, dtype=dtype)
    return BACKENDS[backend].refuses(checked(x, x, x, **options)) in (None, library.missing())


@pytest.fixture(scope="session", params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    return built(request.param)


@pytest.fixture(params=[(b, dtype) for b in sorted(BACKENDS) for dtype in FLOATS if takes(b, dtype)], ids=str)
def typed(request: pytest.FixtureRequest) -> tuple[str, torch.dtype]:
    """A backend and a type that it takes."""
    name, dtype = request.param
    return built(name), dtype


@pytest.fixture(scope="session", params=[b for b in sorted(BACKENDS) if takes(b, torch.float64)])
def precise(request: pytest.FixtureRequest) -> str:
    """A backend that computes in float64, in which finite differences mean something."""
    return built(request.param)


@pytest.fixture(
    scope="session", params=[b for b in sorted(BACKENDS) if takes(b, score=ch.Multiplicative(torch.eye(1)))]
)
def scoring(request: pytest.FixtureRequest) -> str:
    """A backend that takes other scores than the dot product."""
    return built(request.param)


def built(name: str) -> str:
    """A backend's name, if it is here."""
    said = library.missing()
    if name == "native" and said:
        pytest.skip(said)
    return name


@pytest.fixture(scope="session")
def dtype(backend: str) -> torch.dtype:
    """The most precise type that the backend computes in."""
    return torch.float64 if takes(backend, torch.float64) else torch.float32


def assert_near(ours: Tensor, expected: Tensor, scores: Tensor | float = 4.0, times: float = 1.0) -> None:
    """Float64 to PyTorch's own tolerance; float32, against an expected in float64, to some roundings of the scores.

    A score s that is rounded moves its weight by a factor 1 ± |s| ε. Sums of many terms need `times` as much.
    """
    if ours.dtype == torch.float64:
        torch.testing.assert_close(ours, expected)
        return
    s = torch.as_tensor(scores, dtype=torch.float64)
    largest = float(s[s.isfinite()].abs().max()) if s.isfinite().any() else 0.0
    tolerance = 16 * torch.finfo(torch.float32).eps * (1 + largest) * times
    torch.testing.assert_close(ours.double(), expected.double(), atol=tolerance, rtol=tolerance)


@pytest.fixture(scope="session")
def near() -> Any:
    return assert_near


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor | bool = True,
    *,
    bias: Tensor | float = 0.0,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> SimpleNamespace:
    """Attention as a textbook writes it, in float64: out, lse, weights w and masked scores s."""
    q, k, v = q.double(), k.double(), v.double()
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    s = torch.einsum("bhid,bhjd->bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    s = torch.where(torch.as_tensor(visible), s + bias, -torch.inf)
    terms = s
    if sinks is not None:
        terms = torch.cat([s, sinks.double().view(1, -1, 1, 1).expand(*s.shape[:3], 1)], -1)
    lse = torch.logsumexp(terms, -1)
    w = torch.exp(s - lse.masked_fill(lse == -torch.inf, 0)[..., None])
    return SimpleNamespace(out=w @ v, lse=lse, w=w, s=s)


@pytest.fixture(scope="session")
def plain() -> Any:
    return plain_attention


def random_patterns(Tq: int, Tk: int, B: int) -> st.SearchStrategy[ch.Pattern | None]:
    """Patterns of every kind, and what `&`, `|` and `~` make of them."""
    small = st.integers(0, Tk + 2)
    ids = st.lists(st.integers(0, 2), min_size=Tk, max_size=Tk)
    per_batch = st.lists(small, min_size=B, max_size=B).map(torch.tensor)
    kinds = [
        st.just(ch.full()),
        st.builds(ch.causal, st.sampled_from(["end", "start", 1])),
        st.builds(ch.window, st.integers(1, 4)),
        st.builds(ch.window, small, small),
        st.builds(ch.first, small | per_batch),
        st.builds(ch.prefix, small),
        st.builds(ch.padding, per_batch, st.sampled_from(["left", "right"])),
        st.builds(ch.chunks, st.integers(1, 4), st.integers(0, 2)),
        st.builds(ch.dilated, st.integers(1, 3), st.integers(1, 3)),
        st.integers(0, 99).map(lambda seed: ch.where(random_mask(seed, B, Tq, Tk))),
    ]
    of_queries = st.lists(st.integers(0, 3), min_size=Tq, max_size=Tq)
    whole = lambda ids: torch.tensor(ids, dtype=torch.int64)  # noqa: E731
    kinds.append(st.tuples(ids, of_queries).map(lambda both: ch.documents(*map(whole, both))))
    if Tq <= Tk:
        kinds.append(ids.map(lambda ids: ch.documents(whole(ids))))
    leaves = st.one_of(kinds)
    return st.none() | st.recursive(
        leaves,
        lambda inner: (
            st.builds(lambda a, b: a & b, inner, inner)
            | st.builds(lambda a, b: a | b, inner, inner)
            | st.builds(lambda a: ~a, inner)
        ),
        max_leaves=4,
    )


def random_mask(seed: int, B: int, Tq: int, Tk: int) -> Tensor:
    return torch.rand(B, 1, Tq, Tk, generator=torch.Generator().manual_seed(seed)) < 0.4


@st.composite
def random_calls(draw: Any, dtype: torch.dtype) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Any], dict[str, Any]]:
    """(q, k, v) of a type, the options of `attention` and the same options for `plain_attention`."""
    B, K, G = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    Tq, Tk = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    D, Dv, H = draw(st.integers(1, 4)), draw(st.integers(1, 4)), K * G
    g = torch.Generator().manual_seed(draw(st.integers(0, 999)))

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    i, j = torch.arange(Tq)[:, None] + Tk - Tq, torch.arange(Tk)
    pattern = draw(random_patterns(Tq, Tk, B))
    scale = draw(st.none() | st.floats(0.1, 2))
    softcap = draw(st.none() | st.floats(0.5, 5))
    sinks = draw(st.none() | st.just(randn(H)))
    table, slopes = randn(H, 5), randn(draw(st.sampled_from([1, B])), H).abs()
    over = randn(draw(st.sampled_from([1, B])), draw(st.sampled_from([1, H])), draw(st.sampled_from([1, Tq])), Tk)
    bias, dense = draw(
        st.sampled_from(
            [
                (None, 0.0),
                (ch.relative(table), table[:, (j - i).clamp(-2, 2) + 2]),
                (ch.alibi(slopes), -slopes[..., None, None] * (j - i).abs()),
                (over, over),
                (over[..., :1], over[..., :1]),
            ]
        )
    )
    options = {"pattern": pattern, "bias": bias, "scale": scale, "softcap": softcap, "sinks": sinks}
    visible = True if pattern is None else pattern.dense(Tq, Tk)
    plainly = {"visible": visible, "bias": dense, "scale": scale, "softcap": softcap, "sinks": sinks}
    return (randn(B, H, Tq, D), randn(B, K, Tk, D), randn(B, K, Tk, Dv)), options, plainly


@pytest.fixture(scope="session")
def calls(dtype: torch.dtype) -> st.SearchStrategy[Any]:
    """Of the type that the backend computes in."""
    return random_calls(dtype)
