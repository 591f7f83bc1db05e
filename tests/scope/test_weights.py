"""Weights recomputed from q, k and lse are the weights, whatever is asked of them."""

import pytest
import torch

from clearhead import ClearheadError, Weights, alibi, attention, causal, dense, first, relative, window
from clearhead.attend import library, native, tiled
from clearhead.scope import sampled
from clearhead.scope.aims import of_text
from tests.attend.test_second import OPTIONS, SHAPES, a_call, assert_all_is_found

CALLS = {
    "plain": {},
    "window and sink tokens": {"pattern": causal() & window(9) | first(2)},
    "bias, softcap, sinks": {"bias": alibi(4), "softcap": 3.0, "sinks": torch.tensor([0.3, -1.0, 2.0, 0.0])},
    "table and empty rows": {"bias": relative(torch.linspace(-1, 1, 41)[None]), "pattern": causal(align=-5)},
    "dense bias of its own for each batch": {"bias": dense(torch.linspace(-2, 2, 2 * 30 * 50).view(2, 1, 30, 50))},
}


@pytest.fixture(params=["native", "tiled"])
def backend(request):
    """By the kernels, if they are here, and by PyTorch."""
    said = library.missing()
    if request.param == "native" and said:
        pytest.skip(said)
    return request.param


@pytest.fixture(params=CALLS.values(), ids=CALLS.keys())
def looked_at(request, backend):
    """Weights made from a call, and the whole matrices in float64, made by giving the identity as values."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 30, 8), torch.randn(2, 2, 50, 8)
    eye = torch.eye(50, dtype=torch.float64).expand(2, 2, 50, 50)
    W = attention(q.double(), k.double(), eye, backend="reference", **request.param)
    return Weights(q, k, backend=backend, **request.param), W


def test_rows_are_exact(looked_at):
    weights, W = looked_at
    torch.testing.assert_close(weights.rows([5, 9], head=2).double(), W[0, 2, [5, 9]], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weights.rows([-1], batch=1).double(), W[1, :, [-1]], atol=1e-6, rtol=1e-5)


def test_the_whole_matrix_is_all_rows(looked_at):
    weights, W = looked_at
    torch.testing.assert_close(weights.weights(batch=1).double(), W[1], atol=1e-6, rtol=1e-5)


def test_received_is_the_column_mass(looked_at):
    weights, W = looked_at
    torch.testing.assert_close(weights.received().double(), W.sum(-2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("region", [(slice(0, 30), slice(0, 50)), (slice(7, 29), slice(11, 48))])
def test_map_pools_the_mean_weight_of_each_cell(looked_at, region):
    weights, W = looked_at
    part = W[:, :, region[0], region[1]]
    height, width = part.shape[-2:]
    rows, columns = torch.arange(height) * 6 // height, torch.arange(width) * 5 // width
    expected = torch.stack(
        [
            torch.stack([part[:, :, rows == y][..., columns == x].mean((-2, -1)) for x in range(5)], -1)
            for y in range(6)
        ],
        -2,
    )
    torch.testing.assert_close(weights.map(*region, size=(6, 5)).double(), expected, atol=1e-6, rtol=1e-5)


def test_a_map_of_a_small_region_shows_single_weights(looked_at):
    weights, W = looked_at
    picture = weights.map(slice(3, 6), slice(0, 4), size=(100, 100))
    torch.testing.assert_close(picture.double(), W[:, :, 3:6, 0:4], atol=1e-6, rtol=1e-5)


def test_top_gives_the_heaviest_keys_in_order(looked_at):
    weights, W = looked_at
    keys, values = weights.top(7)
    torch.testing.assert_close(values.double(), W.topk(7, -1).values, atol=1e-6, rtol=1e-5)
    at_keys = W.gather(-1, keys.clamp(min=0)).masked_fill(keys < 0, 0)
    torch.testing.assert_close(values.double(), at_keys, atol=1e-6, rtol=1e-5)


def test_top_stops_where_the_share_is_held_and_not_before(looked_at):
    weights, W = looked_at
    keys, values = weights.top(50, share=0.9)
    held, total = values.sum(-1).double(), W.sum(-1)
    assert (held >= 0.9 * total - 1e-5).all()
    lightest = values.masked_fill(keys < 0, 2).amin(-1).clamp(max=1).double()
    assert (held - lightest < 0.9 * total + 1e-5).all()


def test_top_of_more_keys_than_the_kernels_list_is_sorted_all_the_same(backend, monkeypatch):
    q, k = torch.randn(1, 2, 30, 8), torch.randn(1, 2, 50, 8)
    weights = Weights(q, k, backend=backend)
    some = weights.top(20)
    monkeypatch.setattr("clearhead.attend.second.LONGEST", 10)
    for x, y in zip(weights.top(20), some, strict=True):
        torch.testing.assert_close(x, y)


def test_a_native_pass_needs_no_tile_of_pytorchs(monkeypatch):
    if library.missing():
        pytest.skip(library.missing())
    weights = Weights(torch.randn(1, 2, 30, 8), torch.randn(1, 2, 50, 8))
    monkeypatch.setattr("clearhead.attend.call.Call.weights", None)
    weights.received(), weights.top(3), weights.map()


class OfPyTorch:
    """What stands for the functions of `second` where the kernels do not take a call."""

    def received(self, call, max_score, peak):
        return self.weights(call).received()

    def top(self, call, max_score, peak, k):
        return self.weights(call).top(k)

    def picture(self, call, max_score, peak, columns, size):
        return self.weights(call).map(columns=columns, size=size)

    def fewest(self, call, max_score, peak, share):
        assert share == sampled.HELD
        some = torch.arange(call.q.shape[2])
        texts = [
            sampled.effective_context(of_text(call, b), self.weights(of_text(call, b)).statistics, some)
            for b in range(len(call.q))
        ]
        return torch.stack(texts)

    def weights(self, call):
        return Weights.made(call, tiled.forward(call, True)[2])


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_pytorch_finds_what_the_kernels_are_held_to(shape, options, monkeypatch):
    """The grid of tests/attend/test_second.py, without the kernels."""
    monkeypatch.setattr(native, "refuses", lambda call: "the test says so")
    assert_all_is_found(a_call(*SHAPES[shape], **OPTIONS[options]), by=OfPyTorch())


def test_toward_is_the_weight_on_the_named_key(looked_at):
    weights, W = looked_at
    targets = torch.randint(-1, 50, (2, 30))
    expected = W.gather(-1, targets.clamp(min=0)[:, None, :, None].expand(2, 4, 30, 1))[..., 0]
    expected = expected.masked_fill(targets[:, None] < 0, 0)
    torch.testing.assert_close(weights.toward(targets).double(), expected, atol=1e-6, rtol=1e-5)


def test_one_pass_by_tiles_equals_one_pass_over_the_whole(backend):
    q, k = torch.randn(1, 2, 300, 8), torch.randn(1, 1, 700, 8)
    one, other = (Weights(q, k, pattern=causal() & window(200), backend=b) for b in (backend, "reference"))
    for name in ("received", "map"):
        torch.testing.assert_close(getattr(one, name)(), getattr(other, name)(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(one.top(3)[1], other.top(3)[1])


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda w: w.rows([30]), "query i: got 30, but there are 30, counted from 0."),
        (lambda w: w.rows([0], head=4), "head: got 4, but there are 4, counted from 0."),
        (
            lambda w: w.toward(torch.zeros(7, dtype=torch.int64)),
            r"targets of shape \(7,\), expected one key a query",
        ),
        (lambda w: w.toward(torch.full((30,), 50)), "target: got 50, but there are 50"),
        (lambda w: w.top(0), "got k = 0"),
        (lambda w: w.map(rows=slice(5, 5)), "is empty"),
    ],
)
def test_a_wrong_question_is_answered_with_a_sentence(ask, sentence):
    weights = Weights(torch.randn(1, 4, 30, 8), torch.randn(1, 2, 50, 8))
    with pytest.raises(ClearheadError, match=sentence):
        ask(weights)


def test_the_whole_matrix_is_refused_beyond_a_size_unless_forced(monkeypatch):
    monkeypatch.setattr("clearhead.scope.weights.LARGEST", 100)
    weights = Weights(torch.randn(1, 2, 8, 4), torch.randn(1, 2, 8, 4))
    with pytest.raises(ClearheadError, match=r"make 128 weights, more than 100\. Ask for rows"):
        weights.weights()
    assert weights.weights(force=True).shape == (2, 8, 8)
