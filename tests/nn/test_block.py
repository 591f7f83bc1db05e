"""A block puts attention, cross-attention and feed-forward beside the residual, with its norms where they belong."""

from functools import partial
from typing import Any

import pytest
import torch

from clearhead import nn
from clearhead.errors import ClearheadError

E = 16


def made(**options: Any) -> nn.Block:
    block = nn.Block(
        nn.MultiHeadAttention(E, 2),
        nn.FeedForward(E, 24),
        partial(nn.LayerNorm, E),
        **options,
    ).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block


X = torch.randn(2, 5, E, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_norms_before() -> None:
    b = made()
    x = X + b.attention(b.attention_norm(X))
    torch.testing.assert_close(b(X), x + b.feed_forward(b.feed_forward_norm(x)))


def test_norms_after() -> None:
    b = made(norm_at="after")
    x = b.attention_norm(X + b.attention(X))
    torch.testing.assert_close(b(X), b.feed_forward_norm(x + b.feed_forward(x)))


def test_norms_before_and_after() -> None:
    b = made(norm_at="both")
    x = X + b.attention_norm_after(b.attention(b.attention_norm(X)))
    torch.testing.assert_close(b(X), x + b.feed_forward_norm_after(b.feed_forward(b.feed_forward_norm(x))))


def test_in_parallel() -> None:
    b = made(parallel=True)
    exact = X + b.attention(b.attention_norm(X)) + b.feed_forward(b.feed_forward_norm(X))
    torch.testing.assert_close(b(X), exact)


def test_a_memory_is_attended_to_between_the_two() -> None:
    b, memory = made(cross=nn.MultiHeadAttention(E, 2)), torch.randn(2, 7, E, dtype=torch.float64)
    x = X + b.attention(b.attention_norm(X))
    x = x + b.cross(b.cross_norm(x), memory)
    torch.testing.assert_close(b(X, memory), x + b.feed_forward(b.feed_forward_norm(x)))


@pytest.mark.parametrize("options", [{}, {"norm_at": "after"}, {"norm_at": "both"}, {"parallel": True}])
def test_of_only_one_token_the_rest_is_spared(options: dict[str, Any]) -> None:
    b, only = made(**options), torch.tensor([4, 1])
    torch.testing.assert_close(b(X, only=only), b(X)[torch.arange(2), only][:, None])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"norm_at": "pre"}, "norm_at: got 'pre'"), ({"parallel": True, "norm_at": "after"}, "par")],
)
@pytest.mark.usefixtures("unchecked")
def test_what_makes_no_sense_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ClearheadError, match=sentence):
        made(**options)
