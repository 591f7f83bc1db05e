"""Slips that are easily made give a sentence, and inputs at the edge of float32 the right numbers."""

import pytest
import torch

import clearhead as ch

pytestmark = pytest.mark.usefixtures("unchecked")

Q, K, V = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)


@pytest.mark.parametrize(
    ("slip", "sentence"),
    [
        (lambda: ch.attention(Q, K, V, bias=torch.ones(6, 6).bool()), r"torch\.bool.*pattern=where\(mask\)"),
        (lambda: ch.attention(Q, K, V, bias=ch.causal()), r"bias: got causal\(\), expected .* pattern="),
        (lambda: ch.attention(Q, K, V, score=None), r"score: got None; expected 'scaled'"),
        (lambda: ch.attention(Q, K, V, sinks=[0.0] * 4), r"sinks: got list, expected one logit a head"),
        (lambda: ch.attention(Q, K, V, softcap="5"), r"softcap: got '5', expected a number"),
        (lambda: ch.attention(Q, K, V, dropout=None), r"dropout: got None, expected a probability"),
        (lambda: ch.causal() and ch.window(2), r"causal\(\) is neither true nor false; compose patterns with & \| ~"),
        (lambda: not ch.causal(), r"not with and, or, not"),
        (lambda: ch.window(2.5), r"window: got 2\.5, expected whole numbers"),
        (
            lambda: ch.padding(torch.tensor([2.7])).dense(3, 3),
            r"got a number of torch\.float32, expected whole numbers",
        ),
        (lambda: ch.longformer(-3), r"longformer: got a width of -3"),
        (lambda: ch.bigbird(0), r"bigbird\(0\): size must be at least 1"),
        (lambda: ch.blocks(torch.ones(2, 2), 4), r"blocks: got a matrix of torch\.float32"),
        (lambda: ch.blocks(torch.ones(2, 3).bool(), 4), r"expected torch\.bool, as many rows as columns"),
        (lambda: ch.where([[True]]), r"where: got list, expected a tensor of torch\.bool"),
        (lambda: ch.causal().draw(0), r"draw: Tq = 0 and Tk = 0 leave nothing to draw"),
        (lambda: ch.t5(torch.zeros(32, 4), bidirectional=False, max_distance=16), r"t5: 32 buckets .* max_distance"),
        (lambda: ch.t5(torch.zeros(2, 4), bidirectional=True), r"t5: 2 buckets make 0 exact distances"),
        (
            lambda: (ch.padding(torch.tensor([1, 2])) & ch.padding(torch.tensor([1, 2, 3]))).runs(4, 4),
            r"two patterns differ over \(B, H, Tq\): \(2, 1, 4\) and \(3, 1, 4\)",
        ),
    ],
)
def test_a_slip_is_answered_with_a_sentence(slip, sentence):
    with pytest.raises(ch.ClearheadError, match=sentence):
        slip()


@pytest.mark.parametrize("low", [-1e9, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("T", [40, 700])
def test_rows_whose_scores_are_all_hugely_low_are_exact(backend, low, T):
    """Left padding, as models write it: the rows of the padding see nothing but −1e9, and so all alike."""
    padded = T // 4
    mask = torch.zeros(T, T).masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), low)
    mask[:, :padded] = low
    q, k, v = (torch.randn(1, 2, T, 8, requires_grad=True) for _ in range(3))
    results = []
    for name in ("reference", backend):
        out, seen = ch.attention(q, k, v, bias=mask, probe=True, backend=name)
        results.append((out, seen.entropy, *torch.autograd.grad(out.square().sum(), (q, k, v))))
        assert torch.isfinite(seen.entropy).all()
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    weights = ch.Weights(q.detach(), k.detach(), bias=mask)
    whole = weights.weights()
    torch.testing.assert_close(weights.received()[0], whole.sum(-2), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(weights.top(3)[1][0], whole.topk(3).values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(weights.toward(torch.zeros(T, dtype=torch.int64))[0], whole[..., 0])


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_a_hidden_key_whose_scores_overflow_leaves_gradients_untouched(backend, softcap):
    q, k, v = (100 * torch.randn(1, 1, 4, 8) for _ in range(3))
    grads = []
    for hidden in (0.0, 1e38):
        k = k.clone()
        k[:, :, 3] = hidden
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        pattern = ch.padding(torch.tensor([3]))
        out = ch.attention(*leaves, pattern=pattern, softcap=softcap, backend=backend)
        grads.append(torch.autograd.grad(out.square().sum(), leaves))
    for clean, dirty in zip(*grads, strict=True):
        torch.testing.assert_close(dirty, clean)
