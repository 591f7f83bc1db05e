"""Additive and multiplicative attention: their papers' formulas, and a small translator that learns with them."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clearhead.errors import ClearheadError
from clearhead.nn.recurrent import AdditiveAttention, MultiplicativeAttention

B, T, TK, E, EM = 3, 4, 9, 6, 8
LENGTHS = torch.tensor([9, 5, 1])
KINDS: list[dict[str, Any]] = [
    {"score": "dot", "memory_width": E},
    {"score": "general"},
    {"score": "concat"},
    {"score": "concat", "hidden": 11},
    {"local": "monotonic", "radius": 2},
    {"local": "predictive", "radius": 2},
    {"score": "concat", "local": "predictive", "radius": 3},
]


def multiplicative(memory_width: int = EM, **options: Any) -> MultiplicativeAttention:
    return randomised(MultiplicativeAttention(E, memory_width, **options))


def randomised(layer: Any) -> Any:
    for p in layer.parameters():
        nn.init.normal_(p, 0, 0.7)
    return layer.double()


def inputs(memory_width: int = EM) -> tuple[Tensor, Tensor]:
    made = torch.randn(B, T, E), torch.randn(B, TK, memory_width)
    return made[0].double().requires_grad_(), made[1].double().requires_grad_()


def luong(layer: MultiplicativeAttention, h: Tensor, m: Tensor, length: int, t: int) -> tuple[Tensor, Tensor]:
    """The paper's formula, for one state and one memory."""
    p = dict(layer.named_parameters())
    s = torch.zeros(length, dtype=h.dtype)
    for j in range(length):
        if layer.score == "dot":
            s[j] = h @ m[j]
        elif layer.score == "general":
            s[j] = h @ p["key.weight"] @ m[j]
        else:
            W = torch.cat([p["query.weight"], p["key.weight"]], 1)
            s[j] = p["v"] @ torch.tanh(W @ torch.cat([h, m[j]]))
    j = torch.arange(length)
    if layer.local is None:
        w = s.softmax(0)
    else:
        centre = torch.tensor(float(t)).double()
        if layer.local == "predictive":
            between, last = layer.place[0].weight, layer.place[2].weight
            centre = length * torch.sigmoid(last[0] @ torch.tanh(between @ h))
        seen = (j - centre).abs() <= layer.radius
        w = s.masked_fill(~seen, -torch.inf).softmax(0) if seen.any() else s * 0
        if layer.local == "predictive":
            w = w * torch.exp(-((j - centre) ** 2) / (2 * (layer.radius / 2) ** 2))
    return w @ m[:length], torch.cat([w, w.new_zeros(TK - length)])


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("options", KINDS)
def test_multiplicative_is_its_papers_formula_with_gradients(options: dict[str, Any], padded: bool) -> None:
    layer = multiplicative(**options)
    state, memory = inputs(options.get("memory_width", EM))
    context, weights = layer(state, memory, LENGTHS if padded else None)
    lengths = LENGTHS.tolist() if padded else [TK] * B
    rows = [luong(layer, state[b, t], memory[b], lengths[b], t) for b in range(B) for t in range(T)]
    want = torch.stack([row[0] for row in rows]).view(B, T, -1)
    want_weights = torch.stack([row[1] for row in rows]).view(B, T, TK)
    torch.testing.assert_close(context, want)
    torch.testing.assert_close(weights, want_weights)
    tensors = [state, memory, *layer.parameters()]
    got = torch.autograd.grad(context.square().sum() + weights.pow(3).sum(), tensors)
    expected = torch.autograd.grad(want.square().sum() + want_weights.pow(3).sum(), tensors)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e)


@pytest.mark.parametrize("padded", [True, False])
def test_additive_is_its_papers_formula_with_gradients(padded: bool) -> None:
    layer = randomised(AdditiveAttention(E, EM, 5))
    state, memory = inputs()
    context, weights = layer(state, memory, LENGTHS if padded else None)
    hidden = state @ layer.query.weight.T
    s = torch.tanh(hidden[:, :, None] + (memory @ layer.key.weight.T)[:, None]) @ layer.v
    if padded:
        s = s.masked_fill(torch.arange(TK) >= LENGTHS[:, None, None], -torch.inf)
    want = s.softmax(-1)
    torch.testing.assert_close(weights, want)
    torch.testing.assert_close(context, want @ memory)
    tensors = [state, memory, *layer.parameters()]
    got = torch.autograd.grad(context.square().sum(), tensors)
    for g, e in zip(got, torch.autograd.grad((want @ memory).square().sum(), tensors), strict=True):
        torch.testing.assert_close(g, e)


@pytest.mark.parametrize("options", [None, *KINDS])
def test_step_by_step_with_a_remembered_memory_is_all_at_once(options: dict[str, Any] | None) -> None:
    layer = randomised(AdditiveAttention(E, EM, 5)) if options is None else multiplicative(**options)
    state, memory = inputs((options or {}).get("memory_width", EM))
    context, weights = layer(state, memory, LENGTHS)
    remembered = layer.remember(memory)
    for t in range(T):
        at = {"at": t} if options and options.get("local") else {}
        one, its = layer(state[:, t], remembered, LENGTHS, **at)
        torch.testing.assert_close(one, context[:, t])
        torch.testing.assert_close(its, weights[:, t])


def test_each_sequence_may_stand_at_a_place_of_its_own() -> None:
    layer = multiplicative(local="monotonic", radius=1)
    state, memory = inputs()
    weights = layer(state[:, 0], memory, at=torch.tensor([0, 4, 20]))[1]
    assert (weights > 0).nonzero().tolist() == [[0, 0], [0, 1], [1, 3], [1, 4], [1, 5]]


@pytest.mark.parametrize("options", [None, *KINDS])
def test_a_memory_of_none_gives_a_context_of_0_and_padding_never_leaks(options: dict[str, Any] | None) -> None:
    layer = randomised(AdditiveAttention(E, EM, 5)) if options is None else multiplicative(**options)
    state, memory = inputs((options or {}).get("memory_width", EM))
    lengths = torch.tensor([9, 5, 0])
    want, _ = layer(state, memory, lengths)
    spoilt = memory.detach().clone()
    spoilt[1, 5:], spoilt[2] = torch.nan, torch.inf
    context, weights = layer(state, spoilt, lengths)
    torch.testing.assert_close(context, want)
    assert not context[2].any()
    assert not weights[2].any()


@pytest.mark.parametrize("kind", ["additive", "general", "predictive"])
def test_it_works_under_autocast(kind: str) -> None:
    local = {"local": "predictive"} if kind == "predictive" else {}
    layer = AdditiveAttention(E, EM, 5) if kind == "additive" else MultiplicativeAttention(E, EM, **local)
    state, memory = torch.randn(B, E), torch.randn(B, TK, EM)
    want = layer(state, memory, LENGTHS)[0]
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(state, layer.remember(memory), LENGTHS)[0]
    torch.testing.assert_close(out.float(), want, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score": "cosine"}, r"^score: got 'cosine', expected 'dot', 'general' or 'concat'\.$"),
        ({"local": "near"}, r"^local: got 'near', expected None, 'monotonic' or 'predictive'\.$"),
        ({"score": "dot"}, r"^score 'dot' needs states and memory of one width: got 6 and 8\. 'general' has a matrix"),
        ({"local": "monotonic", "radius": 0}, r"^radius: got 0, expected a number of keys, at least 1\.$"),
    ],
)
def test_what_makes_no_sense_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ClearheadError, match=said):
        MultiplicativeAttention(E, EM, **options)


def test_a_single_state_needs_its_place() -> None:
    layer = MultiplicativeAttention(E, EM, local="monotonic")
    with pytest.raises(ClearheadError, match=r"^at: a single state's place is needed by local='monotonic'; pass at=s"):
        layer(torch.zeros(B, E), torch.zeros(B, TK, EM))


class Reverser(nn.Module):
    """Reads a word with a GRU and writes it backwards with another, which attends to what the first one left."""

    LETTERS, LONGEST, WIDTH = 8, 6, 32

    def __init__(self, kind: str) -> None:
        super().__init__()
        W = self.WIDTH
        self.embedding = nn.Embedding(self.LETTERS + 1, W)  # the last one begins
        self.encoder, self.decoder = nn.GRU(W, W, batch_first=True), nn.GRU(W, W, batch_first=True)
        self.attention = AdditiveAttention(W, W, W) if kind == "additive" else MultiplicativeAttention(W, W)
        self.out = nn.Linear(W, self.LETTERS)  # from the context alone: nothing goes past the attention

    def forward(self, word: Tensor, backwards: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        memory, _ = self.encoder(self.embedding(word))
        last = memory[torch.arange(len(word)), lengths - 1]
        begun = torch.cat([torch.full((len(word), 1), self.LETTERS), backwards[:, :-1]], 1)
        states, _ = self.decoder(self.embedding(begun), last[None])
        context, weights = self.attention(states, memory, lengths)
        return self.out(context), weights


def words(B: int) -> tuple[Tensor, Tensor, Tensor]:
    """Words of unlike length, the same backwards, and their lengths."""
    word = torch.randint(Reverser.LETTERS, (B, Reverser.LONGEST))
    lengths = torch.randint(3, Reverser.LONGEST + 1, (B,))
    source = (lengths[:, None] - 1 - torch.arange(Reverser.LONGEST)).clamp(min=0)
    return word, word.gather(1, source), lengths


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So small a model waits for a second thread more than it gains by it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["additive", "multiplicative"])
def test_a_translator_learns_to_reverse_words_and_looks_at_the_letter_that_it_writes(kind: str) -> None:
    model = Reverser(kind)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(300):
        word, backwards, lengths = words(128)
        logits, _ = model(word, backwards, lengths)
        real = torch.arange(Reverser.LONGEST) < lengths[:, None]
        loss = nn.functional.cross_entropy(logits[real], backwards[real])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    word, backwards, lengths = words(500)
    logits, weights = model(word, backwards, lengths)
    real = torch.arange(Reverser.LONGEST) < lengths[:, None]
    source = lengths[:, None] - 1 - torch.arange(Reverser.LONGEST)
    right, found = (logits.argmax(-1) == backwards)[real], (weights.argmax(-1) == source)[real]
    assert right.float().mean() > 0.95
    assert found.float().mean() > 0.85
