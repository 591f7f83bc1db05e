"""Static: compiled once however full it is, and full in a sentence."""

import subprocess
import sys

import pytest
import torch

from clearhead.errors import ClearheadError
from clearhead.nn.caches import Static

# In a process of its own, as torch.compile can't trace the checks of shapes that the tests add.
SCRIPT = """
import torch, clearhead as ch
from torch._dynamo.testing import CompileCounterWithBackend
from clearhead.nn.caches import Static
torch.manual_seed(0)
torch.set_grad_enabled(False)
B, H, K, T, D = 2, 6, 2, 30, 16
q, k, v = (torch.randn(B, n, T, D) for n in (H, K, K))
"""
A_STEP_A_TOKEN = (
    SCRIPT
    + """
for pattern, options in (
    (ch.causal(), {}),
    (ch.window(5), {}),
    (ch.causal(), {"bias": ch.alibi(H)}),
    (ch.causal(), {"bias": ch.relative(torch.randn(H, 9))}),
):
    torch._dynamo.reset()
    expected = ch.attention(q, k, v, pattern=pattern, backend="reference", **options)
    counter = CompileCounterWithBackend("aot_eager")
    step = lambda cache, q, k, v: cache.attend(q, k, v, pattern=pattern, **options)
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    cache = Static(B, K, D, T)
    step(cache, *(x[:, :, :6] for x in (q, k, v)))
    for n in range(6, T):
        out = compiled(cache, *(x[:, :, n : n + 1] for x in (q, k, v)))
        torch.testing.assert_close(out, expected[:, :, n : n + 1], atol=2e-6, rtol=1e-5)
    assert cache.counts == [T] * B
    assert counter.frame_count == 1, counter.frame_count
    try:
        compiled(cache, *(x[:, :, :1] for x in (q, k, v)))
    except RuntimeError as error:
        assert "room for 30 tokens of each sequence, and is full" in str(error)
    else:
        raise AssertionError("it wrote beyond its room")
"""
)
UNLIKE_LENGTHS = (
    SCRIPT
    + """
expected = ch.attention(q, k, v, pattern=ch.causal(), backend="reference")
step = torch.compile(lambda cache, *x: cache.attend(*x, pattern=ch.causal()), fullgraph=True, backend="aot_eager")
cache, at = Static(B, K, D, T), [0, 0]
for fresh in ([7, 3], [0, 7], [2, 5]):
    part = [torch.stack([x[b, :, n : n + 7] for b, n in enumerate(at)]) for x in (q, k, v)]
    out = step(cache, *part, torch.tensor(fresh))
    for b, n in enumerate(fresh):
        torch.testing.assert_close(out[b, :, :n], expected[b, :, at[b] : at[b] + n], atol=2e-6, rtol=1e-5)
        assert (out[b, :, n:] == 0).all()
        at[b] += n
assert cache.counts == at
"""
)
REFUSED = (
    SCRIPT
    + """
step = torch.compile(lambda cache, *x, **o: cache.attend(*x, **o), backend="eager", fullgraph=True)
for said, T, options in (
    ("compiles with causal() or window(w), and the pattern is full()", 1, {"pattern": ch.full()}),
    ("a bias by distance and at most 4 new tokens", 5, {"pattern": ch.causal(), "bias": ch.alibi(H)}),
):
    try:
        step(Static(B, K, D, 30), *(x[:, :, :T] for x in (q, k, v)), **options)
    except Exception as error:
        assert said in str(error), error
    else:
        raise AssertionError(said)
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [A_STEP_A_TOKEN, UNLIKE_LENGTHS, REFUSED],
    ids=["is compiled once and not again as it fills", "takes unlike lengths", "says what it can't do"],
)
def test_a_compiled_step(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_it_can_not_do_is_said() -> None:
    cache = Static(1, 2, 8, 4)
    k = torch.randn(1, 2, 3, 8)
    cache.write(k, k)
    with pytest.raises(ClearheadError, match="6 tokens: the cache has room for 4 tokens of each sequence, and is full"):
        cache.write(k, k)
    assert cache.counts == [3]
    with pytest.raises(ClearheadError, match=r"keeps no gradient: call under torch.no_grad\(\), or take Growing"):
        cache.write(k[:, :, :1].clone().requires_grad_(), k[:, :, :1])
    with pytest.raises(ClearheadError, match=r"made for k \(1, 2, T, 8\) and v \(1, 2, T, 8\), but got \(1, 2, 3, 7\)"):
        cache.write(k[..., :7], k)


def test_its_memory_never_moves() -> None:
    cache = Static(2, 2, 8, 20)
    held = cache.nbytes
    k = torch.randn(2, 2, 5, 8)
    cache.write(k, k)
    place = cache.read()[0].data_ptr()
    cache.take(torch.tensor([1, 0]))
    cache.write(k, k)
    assert cache.read()[0].data_ptr() == place
    assert cache.nbytes == held == 2 * 2 * 2 * 21 * 8 * 4
