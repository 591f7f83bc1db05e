"""Config: what a transformer is made of, as a description to be read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from clearhead.attend import Pattern, causal
from clearhead.nn.block import NormAt
from clearhead.nn.positions.position import Position


@dataclass(frozen=True, kw_only=True)
class Config:
    """A transformer, by its parts. A part is a layer's class with all but its width said: `partial(RMSNorm, eps=1e-5)`.

    >>> from functools import partial
    >>> import clearhead as ch
    >>> llama = Config(
    ...     vocabulary=49152,
    ...     width=576,
    ...     layers=30,
    ...     attention=partial(ch.nn.MultiHeadAttention, heads=9, kv_heads=3, bias=False),
    ...     position=ch.nn.Rotary(64, base=100_000),
    ...     feed_forward=partial(ch.nn.FeedForward, hidden=1536, activation="silu", gated=True, bias=False),
    ...     norm=partial(ch.nn.RMSNorm, eps=1e-5),
    ... )
    """

    width: int
    """Of the tokens' vectors, E."""
    layers: int
    attention: Callable[..., nn.Module]
    """Called with width, pattern and position; with memory_width, if it attends to a memory."""
    feed_forward: Callable[[int], nn.Module]
    norm: Callable[[int], nn.Module]
    pattern: Pattern | tuple[Pattern, ...] = field(default_factory=causal)
    """Who sees whom; of several, the first layer takes the first, and so on, round and round."""
    position: Position = field(default_factory=Position)
    """Shared by all layers. Each model has a copy of its own."""
    norm_at: NormAt = "before"
    parallel: bool = False
    """Attention and feed-forward side by side."""
    final_norm: bool = True
    dropout: float = 0.0

    vocabulary: int | None = None
    """How many tokens there are; None for a model whose tokens are no words."""
    context: int | None = None
    """How many tokens it can take; None where its positions have no end."""
    embedding_scale: float = 1.0
    embedding_norm: bool = False
    segments: int = 0
    """How many kinds of segment are told apart (BERT)."""

    head: Literal["tied", "own"] | None = "tied"
    """What makes logits of the last tokens: the embedding again, a matrix of its own, or nothing."""
    head_bias: bool = False
    """One number a token, added to its logit (BERT, Marian)."""
    head_scale: float = 1.0
    """On the tokens before a head (T5)."""
    logit_softcap: float | None = None

    encoder: "Config | None" = None
    """Makes it an encoder–decoder, both with the one embedding, and of one width."""
    memory_width: int | None = None
    """Of the tokens that its cross-attention reads; None is the encoder's width, or no cross-attention."""
    start: int | None = None
    """The token with which a decoder begins."""
