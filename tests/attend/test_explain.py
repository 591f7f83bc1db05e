"""explain(): what it says of a call is what the call does."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import clearhead as ch
from clearhead.attend import library
from clearhead.attend.backends import BACKENDS

WINDOW = ch.causal() & ch.window(64)
NOT_NATIVE = library.missing() or "its kernels compute in float32, and q is torch.float64"


def qkv(T: int = 512, **kind: Any) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(2, heads, T, D, **kind) for heads, D in ((4, 16), (2, 16), (2, 8)))


def test_it_names_the_backend_taken_and_why_the_others_were_passed_over() -> None:
    tensors = qkv(dtype=torch.float64)
    auto = ch.explain(*tensors)
    assert auto.backend == "tiled"
    assert auto.passed_over == {"native": NOT_NATIVE, "reference": "would do, but comes after tiled"}
    named = ch.explain(*tensors, backend="reference")
    assert named.backend == "reference"
    assert named.passed_over == {"native": NOT_NATIVE, "tiled": "would do, but reference was asked for"}


def test_a_backend_that_cannot_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKENDS["tiled"], "refuses", lambda call: "softcap is beyond it" if call.softcap else None)
    q, k, v = qkv(dtype=torch.float64)
    told = ch.explain(q, k, v, softcap=2.0)
    assert told.backend == "reference"
    assert told.passed_over == {"native": NOT_NATIVE, "tiled": "softcap is beyond it"}
    for call in (ch.explain, ch.attention):
        with pytest.raises(ch.ClearheadError, match=r"backend 'tiled' can't do this call: softcap is beyond it\."):
            call(q, k, v, softcap=2.0, backend="tiled")


def test_pairs_are_those_of_the_pattern_over_all_batches_and_heads(backend: str) -> None:
    lengths = torch.tensor([100, 400])
    told = ch.explain(*qkv(), pattern=ch.causal() & ch.padding(lengths), backend=backend)
    visible = 4 * (ch.causal() & ch.padding(lengths)).dense(512, 512).sum().item()
    assert told.pairs == 2 * 4 * 512 * 512
    assert told.visible == visible
    assert told.visible <= told.visited <= told.pairs
    assert told.skipped == told.pairs - told.visited


@pytest.mark.parametrize(("Tq", "Tk"), [(9, 9), (1, 33), (13, 13), (3, 70), (65, 65), (1, 1), (70, 9)])
@pytest.mark.parametrize("pattern", [None, ch.causal(), ch.window(2), ch.first(1)], ids=str)
def test_no_pair_is_visited_twice(backend: str, Tq: int, Tk: int, pattern: ch.Pattern | None) -> None:
    q, k = torch.randn(2, 4, Tq, 16), torch.randn(2, 2, Tk, 16)
    told = ch.explain(q, k, k, pattern=pattern, backend=backend)
    assert told.visible <= told.visited <= told.pairs


def test_tiled_skips_what_a_window_hides_and_the_reference_nothing() -> None:
    tiled, reference = (ch.explain(*qkv(2048), pattern=WINDOW, backend=b) for b in ("tiled", "reference"))
    assert tiled.visible == reference.visible
    assert tiled.visited < 0.15 * tiled.pairs
    assert reference.skipped == 0
    assert tiled.workspace_bytes * 4 < reference.workspace_bytes


@pytest.mark.parametrize("pattern", [None, WINDOW], ids=str)
def test_flops_are_those_that_pytorch_counts(backend: str, pattern: ch.Pattern | None) -> None:
    q, k, v = qkv()
    with FlopCounterMode(display=False) as counted:
        ch.attention(q, k, v, pattern=pattern, backend=backend)
    assert ch.explain(q, k, v, pattern=pattern, backend=backend).flops == counted.get_total_flops()


def test_bytes_are_those_of_what_goes_in_and_comes_out(backend: str) -> None:
    q, k, v = qkv(dtype=torch.bfloat16)
    bias = torch.randn(4, 512, 512)
    told = ch.explain(q, k, v, bias=bias, return_lse=True, probe=True, backend=backend)
    out, lse, seen = ch.attention(q, k, v, bias=bias, return_lse=True, probe=True, backend=backend)
    assert told.input_bytes == sum(x.numel() * x.element_size() for x in (q, k, v, bias))
    assert told.output_bytes == sum(x.numel() * x.element_size() for x in (out, lse, *vars(seen).values()))
    assert ch.explain(q, k, v, backend=backend).output_bytes == out.numel() * 2


ERRORS = {
    torch.float64: (0, 1e-12),
    torch.float32: (1e-9, 1e-5),
    torch.bfloat16: (1e-4, 0.05),
    torch.float16: (1e-5, 0.005),
}


def test_the_error_is_measured(typed: tuple[str, torch.dtype]) -> None:
    backend, dtype = typed
    least, most = ERRORS[dtype]
    told = ch.explain(*qkv(dtype=dtype), pattern=WINDOW, softcap=5.0, sinks=torch.zeros(4), backend=backend)
    assert told.sampled == 16
    assert least <= told.error <= most


def test_the_error_of_a_wrong_backend_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = BACKENDS["tiled"].forward
    monkeypatch.setattr(BACKENDS["tiled"], "forward", lambda *a: (right(*a)[0] + 0.25, *right(*a)[1:]))
    assert abs(ch.explain(*qkv(), backend="tiled").error - 0.25) < 1e-4


def test_it_takes_all_that_attention_takes(backend: str) -> None:
    q, k, v = qkv(20)
    told = ch.explain(
        q,
        k,
        v,
        pattern=WINDOW,
        bias=ch.alibi(4),
        scale=0.3,
        softcap=4.0,
        sinks=torch.zeros(4),
        dropout=0.5,
        backend=backend,
    )
    assert told.flops == 2 * (16 + 8) * told.visited
    assert told.error < 1e-5  # dropout is left out
    with pytest.raises(ch.ClearheadError, match="softcap: got -1"):
        ch.explain(q, k, v, softcap=-1, backend=backend)


def test_the_flops_of_additive_scores_are_those_of_their_hidden_width(scoring: str) -> None:
    score = ch.Additive(torch.randn(6, 16), torch.randn(6, 16), torch.randn(6))
    told = ch.explain(*qkv(20), score=score, backend=scoring)
    assert told.flops == 2 * (6 + 8) * told.visited
    assert told.error < 1e-5


def test_it_follows_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert "bfloat16" in ch.explain(*qkv()).call


def test_a_call_without_queries_or_keys_is_explained_too(backend: str) -> None:
    q, k, v = qkv()
    assert ch.explain(q[:, :, :0], k, v, backend=backend).sampled == 0
    assert ch.explain(q, k[:, :, :0], v[:, :, :0], backend=backend).pairs == 0


def test_it_prints_as_a_small_table() -> None:
    lines = repr(ch.explain(*qkv(), pattern=WINDOW, backend="tiled")).splitlines()
    assert len(lines) == 11
    assert max(len(line) for line in lines if "native" not in line) < 100
    assert lines[0] == "attention    B 2, H 4, K 2, Tq 512, Tk 512, D 16, Dv 8, float32 on cpu"
    assert lines[1] == "backend      tiled"
    assert [line[:12].strip() for line in lines] == [
        "attention",
        "backend",
        "passed over",
        "passed over",
        "pairs",
        "visible",
        "visited",
        "skipped",
        "FLOPs",
        "bytes",
        "error",
    ]
