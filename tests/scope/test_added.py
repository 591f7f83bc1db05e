"""Keys that nn.MultiheadAttention adds stand behind those of the tokens, as in PyTorch, and are counted as no token."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clearhead as ch
from clearhead.scope.added import with_added
from clearhead.view import outline

B, T, S, E, H = 2, 6, 4, 8, 2
OPTIONS = [{"add_bias_kv": True}, {"add_bias_kv": True, "add_zero_attn": True}]


class Tokenizer:
    """A letter a token, "a" the first."""

    all_special_ids = ()

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [chr(97 + n) for n in ids]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


class Model(nn.Module):
    """Tokens, embedded, and one attention."""

    def __init__(self, layer: type[nn.MultiheadAttention], need_weights: bool, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(26, E)
        self.attention = layer(E, H, batch_first=True, **options)
        self.need_weights = need_weights

    def forward(self, input_ids: Tensor, **masks: Any) -> Tensor:
        x = self.embedding(input_ids)
        out: Tensor = self.attention(x, x, x, need_weights=self.need_weights, **masks)[0]
        return out

    def weights(self, input_ids: Tensor, **masks: Any) -> Tensor:
        """PyTorch's own, (B, H, T, keys)."""
        x = self.embedding(input_ids)
        made: Tensor = nn.MultiheadAttention.forward(self.attention, x, x, x, average_attn_weights=False, **masks)[1]
        return made


def masks() -> list[dict[str, Any]]:
    i = torch.arange(T)
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    padding = torch.arange(T) >= torch.tensor([[T], [T - 2]])
    by_distance = -0.5 * (i[:, None] - i).abs().float()
    return [
        {},
        {"attn_mask": later},
        {"attn_mask": by_distance},
        {"attn_mask": by_distance.masked_fill(later, -torch.inf)},
        {"attn_mask": later, "key_padding_mask": padding},
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("layer", "kernels", "need_weights"),
    [
        (nn.MultiheadAttention, "clearhead", False),
        (nn.MultiheadAttention, "model", False),
        (nn.MultiheadAttention, "model", True),
        (ch.nn.TorchMultiheadAttention, "clearhead", False),
    ],
)
def test_rows_statistics_and_roles_are_pytorchs_and_those_of_the_tokens(
    layer: type[nn.MultiheadAttention], kernels: Any, need_weights: bool, options: dict[str, bool]
) -> None:
    model = Model(layer, need_weights, **options).eval()
    ids = torch.tensor([[0, 1, 2, 1, 0, 3], [4, 5, 4, 6, 7, 8]])
    for given in masks():
        with torch.no_grad(), ch.watch(model, Tokenizer(), kernels=kernels) as seen:
            model(ids, **given)
        w = model.weights(ids, **given).detach().double()
        one = seen[0]
        for b in range(B):
            torch.testing.assert_close(one.rows(range(T), batch=b).double(), w[b], atol=2e-6, rtol=0)
        tokens = w[..., :T]
        apart = (torch.arange(T)[:, None] - torch.arange(T)).abs()
        stats = one.statistics
        distance = (tokens * apart).sum(-1) / tokens.sum(-1)
        torch.testing.assert_close(stats.distance.double(), distance, atol=1e-5, rtol=0)
        assert torch.equal(stats.peak_at, w.argmax(-1))
        torch.testing.assert_close(stats.entropy.double(), torch.special.entr(w).sum(-1), atol=1e-5, rtol=0)

        if layer is ch.nn.TorchMultiheadAttention and "key_padding_mask" in given:
            continue  # a watch is shown the attention of Clearhead's own layer, and not which queries are padding
        real = ~given.get("key_padding_mask", torch.zeros(B, T, dtype=torch.bool))
        for row in seen.heads(pandas=False):
            of = {
                name: torch.cat([tokens[b, row["head"]].diagonal(by)[real[b, -by:]] for b in range(B)]).mean()
                for name, by in (("self_token", 0), ("previous_token", -1))
            }
            first = torch.cat([tokens[b, row["head"], 1:, 0][real[b, 1:]] for b in range(B)]).mean()
            for name, want in (of | {"first_token": first, "distance": distance[:, row["head"]][real].mean()}).items():
                assert row[name] == pytest.approx(float(want), abs=1e-5), name


@pytest.mark.parametrize("Tq", [1, 4])
def test_a_mask_by_distance_is_the_same_mask_when_the_queries_are_placed_among_the_tokens(Tq: int) -> None:
    """A reader may find the row of one query, zeros for the added keys and all, to be a table over distance."""
    attention, x = nn.MultiheadAttention(E, H, add_bias_kv=True, batch_first=True).eval(), torch.randn(1, T, E)
    mask = torch.randn(Tq, T)
    with torch.no_grad(), ch.watch(attention, kernels="model") as seen:
        attention(x[:, :Tq], x, x, attn_mask=mask, need_weights=False)
    want = attention(x[:, :Tq], x, x, attn_mask=mask, average_attn_weights=False)[1][0]
    torch.testing.assert_close(seen[0].rows(range(Tq)), want.detach(), atol=1e-6, rtol=0)

    q, k = torch.randn(1, H, T, E), torch.randn(1, H, T + 2, E)
    call = ch.Weights(q, k, bias=ch.alibi(H)).call
    placed = with_added(call, 2)
    assert (call.past, placed.past) == (2, 0)
    for backend in ("native", "tiled", "reference"):
        made = ch.attend.backends.BACKENDS[backend].forward(placed, False)[1]
        torch.testing.assert_close(made, ch.attend.backends.BACKENDS[backend].forward(call, False)[1])


def test_lists_and_words_name_the_added_keys_last() -> None:
    model = Model(nn.MultiheadAttention, False, add_bias_kv=True, add_zero_attn=True).eval()
    with torch.no_grad(), ch.watch(model, Tokenizer()) as seen:
        model(torch.tensor([[7, 8, 0, 1]]))
    assert seen[0].queries() == list("hiab")
    assert seen[0].keys() == [*"hiab", "[bias_k]", "[zero_attn]"]
    words = seen[0].words([0], head=0)
    assert [word.text for word in words.keys] == ["hiab", "[bias_k]", "[zero_attn]"]
    assert float(words.weights.sum()) == pytest.approx(1)
    torch.testing.assert_close(words.weights[0, 1:], seen[0].rows(range(4), head=0)[:, 4:].mean(0))
    with torch.no_grad(), ch.watch(model) as seen:
        model(torch.tensor([[7, 8, 0, 1]]))
    assert seen[0].keys()[4:] == ["[bias_k]", "[zero_attn]"]


def test_memories_of_one_length_are_two_sequences_although_their_last_key_is_one() -> None:
    attention = nn.MultiheadAttention(E, H, add_bias_kv=True, batch_first=True).eval()
    q, one, other = torch.randn(1, 2, E), torch.randn(1, S, E), torch.randn(1, S, E)
    with torch.no_grad(), ch.watch(attention) as seen:
        for memory in (one, one, other):
            attention(q, memory, memory, need_weights=False)
    assert [len(sequence) for sequence in seen[0].sequences] == [2, 1]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "every token may see every other; all may see the added keys"),
        ({"attn_mask": torch.ones(T, T).bool().triu(1)}, "causal: no token sees what comes after it; all may see the"),
        (
            {"attn_mask": torch.ones(T, T).bool().triu(1), "key_padding_mask": (torch.arange(T) > 3)[None]},
            "causal: no token sees what comes after it, padding left out; all may see the added keys",
        ),
        ({"attn_mask": torch.eye(T).bool()}, None),
    ],
)
def test_an_outline_says_who_may_see_the_tokens_and_that_all_see_the_added_keys(
    given: dict[str, Any], word: str | None
) -> None:
    model = Model(nn.MultiheadAttention, True, add_bias_kv=True).eval()
    with torch.no_grad(), ch.watch(model) as seen:
        model(torch.arange(T)[None], **given)
    (found,) = outline.outlines(seen.layers, 0)
    assert found is not None and (found["says"] is None) == (word is None)
    assert word is None or found["says"].startswith(word)
