"""A model's attention on our kernels gives what PyTorch gives, whatever masks, biases and causality come together."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import clearhead as ch
from clearhead.attend import library
from clearhead.scope import taking
from clearhead.scope.interface import Asked

BACKENDS = [
    pytest.param("native", marks=pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))),
    "tiled",
    "reference",
]
LOW = {
    torch.float32: (-1e4, -1e9, torch.finfo(torch.float32).min),
    torch.bfloat16: (-1e4, -1e9, torch.finfo(torch.bfloat16).min),
    torch.float16: (-1e4, torch.finfo(torch.float16).min),
}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
CASES = [(dtype, low) for dtype, lows in LOW.items() for low in (*lows, -torch.inf)]
T = 6


def padded(dtype, low, Tq=T):
    """A causal mask (2, 1, Tq, T) whose second text begins with two tokens of padding, which see nothing."""
    allowed = torch.ones(Tq, T).bool().tril(T - Tq).repeat(2, 1, 1, 1)
    allowed[1, :, :, :2] = False
    return torch.zeros(2, 1, Tq, T, dtype=dtype).masked_fill(~allowed, low)


def heads(dtype, Tq=T):
    """q of four heads, k and v of two."""
    return [torch.randn(2, H, n, 8).to(dtype) for H, n in ((4, Tq), (2, T), (2, T))]


@pytest.mark.parametrize("Tq", [T, 3])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "low"), CASES)
def test_a_query_from_which_a_mask_hides_all_gets_what_pytorch_gives(dtype, low, backend, Tq):
    mask, inputs = padded(dtype, low, Tq), heads(dtype, Tq)
    mask[1, :, 0] = low
    expected = F.scaled_dot_product_attention(*inputs, mask, enable_gqa=True)
    with ch.accelerate(backend=backend) as run:
        out = F.scaled_dot_product_attention(*inputs, mask, enable_gqa=True)
    assert run.taken == 1
    torch.testing.assert_close(out, expected, rtol=0, atol=TOLERANCE[dtype])
    torch.testing.assert_close(ch.sdpa(*inputs, mask, enable_gqa=True), expected, rtol=0, atol=TOLERANCE[dtype])
    if low == -torch.inf:
        assert not out[1, :, 0].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("low", LOW[torch.float32])
def test_the_gradients_of_such_a_query_are_those_of_the_formula(low, backend):
    """Those of PyTorch's fused kernel are not: it makes them from the log-sum-exp, in which log T is rounded away."""
    mask, (q, k, v) = padded(torch.float32, low), (inputs := [x.requires_grad_() for x in heads(torch.float32)])
    scores = q @ k.repeat_interleave(2, 1).mT / 8**0.5 + mask
    formula = scores.softmax(-1) @ v.repeat_interleave(2, 1)
    with ch.accelerate(backend=backend):
        out = F.scaled_dot_product_attention(*inputs, mask, enable_gqa=True)
    loss = torch.randn(2, 4, T, 8)
    grads = [torch.autograd.grad(x, inputs, loss) for x in (out, formula)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class Attention(nn.Module):
    def forward(self, q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


@pytest.mark.parametrize("kernels", ["clearhead", "model"])
@pytest.mark.parametrize(("dtype", "low"), CASES)
def test_a_watch_shows_such_a_query_s_weights_and_counts_it_as_padding(dtype, low, kernels):
    mask, (q, k, v) = padded(dtype, low), heads(dtype)
    model = Attention()
    expected = model(q, k, v, mask)
    with ch.watch(model, kernels=kernels) as seen:
        out = model(q, k, v, mask)
    torch.testing.assert_close(out, expected, rtol=0, atol=TOLERANCE[dtype])
    assert torch.equal(out, expected) or kernels == "clearhead"
    assert seen.kernels.taken == (kernels == "clearhead" and low > -torch.inf)
    assert seen.check <= TOLERANCE[dtype] and seen.in_full == []
    scores = q.float() @ k.float().repeat_interleave(2, 1).mT / 8**0.5 + mask.float()
    weights = scores.softmax(-1).nan_to_num(0)
    for b in range(2):
        torch.testing.assert_close(seen[0].rows(range(T), batch=b), weights[b], rtol=0, atol=1e-5)
    assert [row["queries"] for row in seen.heads(pandas=False)] == 4 * [T + T - 2]


def table(Tq):
    """A bias by distance, (1, 4, Tq, T)."""
    return torch.randn(4, 2 * T)[:, torch.arange(T) - torch.arange(Tq)[:, None] + T - 1][None]


def sparse(shape, low):
    """Zeros, and `low` at random, throughout in a row of the first text and in a column of the second."""
    mask = torch.zeros(shape).masked_fill(torch.rand(shape) < 0.4, low)
    mask[0, 0, -1] = mask[-1, :, :, 0] = low
    return mask


def crossings(Tq):
    """What a model may ask for at once: a mask, a position bias, causality."""
    smallest = torch.finfo(torch.float32).min
    yield {"mask": torch.randn(2, 1, Tq, T), "bias": table(Tq)}
    for low in (-1e4, -1e9, smallest, -torch.inf):
        mask = sparse((2, 1, Tq, T), low)
        yield {"mask": mask, "bias": table(Tq)}
        yield {"mask": mask + torch.randn(2, 1, Tq, T), "bias": table(Tq)}
        yield {"mask": mask > low, "bias": table(Tq)}
        yield {"mask": mask > low, "bias": sparse((1, 4, Tq, T), low)}
        yield {"bias": mask + table(Tq), "causal": True}
        for lower in (-1e4, -1e9, smallest):
            yield {"mask": mask, "bias": sparse((1, 4, Tq, T), lower) + table(Tq)}


def added(asked):
    """All that is added to the scores, (2, 4, Tq, T)."""
    total = torch.zeros(2, 4, asked.q.shape[2], T)
    for mask in (asked.mask, asked.bias):
        if mask is not None:
            total = total + (
                torch.zeros(mask.shape).masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask
            )
    return total.masked_fill(torch.ones_like(total).triu(1).bool(), -torch.inf) if asked.causal else total


@pytest.mark.parametrize("Tq", [T, 3, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_biases_and_causality_are_added_together(backend, Tq):
    for extra in crossings(Tq):
        q, k, v = heads(torch.float32, Tq)
        asked = Asked(q, k, v, scale=0.3, **extra)
        taken = taking.take(asked, backend)
        scores = 0.3 * q @ k.repeat_interleave(2, 1).mT + added(asked)
        weights = scores.softmax(-1).nan_to_num(0)
        torch.testing.assert_close(taken.out, weights @ v.repeat_interleave(2, 1), rtol=0, atol=1e-5)
        out = ch.attention(q, k, v, backend=backend, **taking.options(asked))
        torch.testing.assert_close(out, taken.out, rtol=0, atol=1e-5)
