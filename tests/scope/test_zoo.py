"""For every kind of model: what a record gives back of a watch is what the model has on eager attention."""

import pytest
import torch

from clearhead.scope.record import Record
from clearhead.scope.watch import Watch


@pytest.fixture
def watched(specimen):
    """A record of the specimen, and its true weights in float64, `[layer] (B, H, Tq, Tk)`."""
    with torch.no_grad(), Watch(specimen.model, record=Record) as record:
        specimen.run()
    return record, [w.double() for w in specimen.true_weights()]


def real_rows(layer, like):
    step = layer.steps[0]
    everything = torch.ones(like.shape[0], like.shape[2], dtype=torch.bool)
    return everything if step.real is None or layer.kind == "cross" else step.real[:, -like.shape[2] :]


def test_rows_are_the_weights_of_eager_attention(watched):
    record, true = watched
    assert len(record.layers) == len(true)
    for layer, weights in zip(record.layers, true, strict=True):
        B, _, Tq, Tk = weights.shape
        rows = torch.stack([layer.rows(range(Tq), batch=b) for b in range(B)])
        real = real_rows(layer, weights)
        ours, theirs = (w.double().transpose(1, 2)[real] for w in (rows[..., :Tk], weights))
        torch.testing.assert_close(ours, theirs[..., : rows.shape[-1]], rtol=0, atol=2e-5)


def test_the_self_check_finds_the_model_s_own_output(watched):
    record, _ = watched
    assert record.check < 1e-3


def test_statistics_are_those_of_the_weights_of_eager_attention(watched):
    record, true = watched
    for layer, w in zip(record.layers, true, strict=True):
        seen = layer.statistics
        real = real_rows(layer, w)[:, None].expand(w.shape[:3])
        for ours, theirs in ((seen.entropy, torch.special.entr(w).sum(-1)), (seen.peak, w.amax(-1))):
            torch.testing.assert_close(ours.double()[real], theirs[real], rtol=0, atol=1e-4)


def test_what_is_kept_is_linear_in_the_text(watched):
    record, true = watched
    for layer, weights in zip(record.layers, true, strict=True):
        if layer.name in record.in_full:
            continue
        call = layer.steps[0].call
        kept = [call.q, layer.steps[0].keys.whole, *call.bias_weights, call.runs.start, call.runs.stop]
        B, H, Tq, Tk = weights.shape
        assert all(x.numel() <= B * H * max(Tq, Tk) * max(call.q.shape[-1], 2) for x in kept)
