"""Transformer: tokens in, logits out; an encoder, a decoder or both, as its Config says."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearhead.errors import ClearheadError
from clearhead.models.config import Config
from clearhead.models.generate import Generated, Prompt, Stream, generate, stream
from clearhead.models.stack import Memory, Stack
from clearhead.nn.caches.cache import Cache, positions
from clearhead.nn.caches.growing import Growing
from clearhead.nn.linear import Linear, linear


class Transformer(nn.Module):
    """A transformer (Vaswani et al. 2017), of the parts that a `Config` names.

    Its weights are drawn at random; `clearhead.models.load` makes one with those of a checkpoint. Raises
    ClearheadError for a config without a vocabulary, or one whose encoder is of another vocabulary or width.

    >>> import clearhead as ch, torch
    >>> from functools import partial
    >>> tiny = ch.models.Config(
    ...     vocabulary=100,
    ...     width=32,
    ...     layers=2,
    ...     attention=partial(ch.nn.MultiHeadAttention, heads=4),
    ...     feed_forward=partial(ch.nn.FeedForward, hidden=64),
    ...     norm=ch.nn.LayerNorm,
    ...     position=ch.nn.Rotary(8),
    ... )
    >>> model = ch.models.Transformer(tiny)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 100])
    """

    tokenizer: Any = None
    """Makes tokens of text, where a checkpoint brought one."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.encoder is not None:
            if config.encoder.vocabulary not in (None, config.vocabulary) or config.encoder.width != config.width:
                raise ClearheadError(
                    "Config: encoder and decoder share one embedding; expected the encoder's vocabulary to be None or "
                    "the decoder's, and one width for both."
                )
            config = replace(config, memory_width=config.encoder.width)
        self.config = config
        width = config.width
        self.tokens = nn.Embedding(_vocabulary(config), width)
        self.segments = nn.Embedding(config.segments, width) if config.segments else None
        self.embedding_norm = config.norm(width) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout)
        self.stack = Stack(config)
        self.head = Linear(width, _vocabulary(config), bias=False) if config.head == "own" else None
        self.head_bias = nn.Parameter(torch.zeros(_vocabulary(config))) if config.head_bias else None
        self.encoder = None
        if config.encoder is not None:
            self.encoder = Transformer(replace(config.encoder, vocabulary=_vocabulary(config), head=None))
            self.encoder.tokens = self.tokens
        self.apply(_initialise)

    @property
    def context(self) -> int | None:
        """How many tokens it can take; None where its positions have no end."""
        return self.config.context

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        lengths: Int[Tensor, " B"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        memory: Memory | None = None,
        caches: Sequence[Cache] | None = None,
        last: bool = False,
    ) -> Float[Tensor, "..."]:
        """Logits `(B, T, V)`, or the tokens' last vectors `(B, T, E)` of a model without a head.

        Args:
            tokens: their numbers; with `caches`, those after the tokens that were given before.
            lengths: how many of each sequence are real; the padding after them is seen by none.
            segments: the segment of each token (BERT); None is 0.
            memory: what the cross-attentions read: `encode(source)`.
            caches: of `caches()`; they grow by these tokens.
            last: only the logits of each sequence's last real token, `(B, V)`.
        """
        only = None
        if last:
            B, T = tokens.shape
            if T == 0:
                raise ClearheadError("last: got no tokens; expected at least one.")
            only = torch.full((B,), T - 1) if lengths is None else (lengths - 1).clamp(min=0)
        x = self.hidden(tokens, lengths=lengths, segments=segments, memory=memory, caches=caches, only=only)
        return self.logits(x[:, 0] if last else x)

    def hidden(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        lengths: Int[Tensor, " B"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        memory: Memory | None = None,
        caches: Sequence[Cache] | None = None,
        only: Int[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B tokens E"]:
        """The tokens' vectors after the last layer and its norm; of each sequence `only` one token's, `(B, 1, E)`."""
        at = positions(caches[0] if caches else None, tokens.shape[1], tokens.device)
        x = self.embed(tokens, at, segments)
        made: Tensor = self.stack(x, at, lengths=lengths, memory=memory, caches=caches, only=only)
        return made

    def embed(
        self, tokens: Int[Tensor, "B T"], at: Int[Tensor, "_ T"], segments: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T E"]:
        """The tokens' vectors before the first layer."""
        try:
            x = self.tokens(tokens)
        except IndexError as error:
            raise ClearheadError(
                f"tokens: got numbers from {int(tokens.min())} to {int(tokens.max())}; expected those of the "
                f"vocabulary, from 0 to {len(self.tokens.weight) - 1}."
            ) from error
        if self.config.embedding_scale != 1:
            x = x * self.config.embedding_scale
        x = self.stack.position.add(x, at)
        if self.segments is None and segments is not None:
            raise ClearheadError("segments: this model tells none apart; leave them out, or give its Config segments=.")
        if self.segments is not None:
            x = x + (self.segments.weight[0] if segments is None else self.segments(segments))
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        dropped: Tensor = self.dropout(x)
        return dropped

    def logits(self, x: Float[Tensor, "*tokens E"]) -> Float[Tensor, "*tokens out"]:
        """What the head makes of the last vectors."""
        config = self.config
        if config.head is None:
            return x
        x = x if config.head_scale == 1 else x * config.head_scale
        logits = linear(x, self.tokens.weight) if self.head is None else self.head(x)
        if self.head_bias is not None:
            logits = logits + self.head_bias
        if config.logit_softcap is not None:
            logits = config.logit_softcap * torch.tanh(logits / config.logit_softcap)
        return logits

    def encode(self, source: Int[Tensor, "B Ts"], lengths: Int[Tensor, " B"] | None = None) -> Memory:
        """A source text, as the memory that the decoder reads."""
        if self.encoder is None:
            raise ClearheadError("encode: this model has no encoder; only an encoder–decoder, such as T5, has one.")
        return self.stack.remember(self.encoder(source, lengths=lengths), lengths)

    def generate(self, prompts: Prompt | Sequence[Prompt], **options: Any) -> Generated | list[Generated]:
        """What the model writes after a prompt, or after each of a list of them; see `generate.Generation`.

        >>> import clearhead as ch
        >>> ch.models.load("smollm2").generate("The capital of France is", max_new_tokens=2).text
        ' Paris.'
        """
        return generate(self, prompts, **options)

    def stream(self, prompt: Prompt, **options: Any) -> Stream:
        """The same for one prompt, in pieces of text as they come."""
        return stream(self, prompt, **options)

    def caches(self, kind: Callable[[], Cache] = Growing) -> list[Cache]:
        """A cache for each layer, to be given to `forward` with each next piece of a text."""
        return [kind() for _ in self.stack.blocks]


def _vocabulary(config: Config) -> int:
    if config.vocabulary is None:
        raise ClearheadError("Config: a Transformer reads tokens, so it needs a vocabulary=; a Stack alone needs none.")
    return config.vocabulary


def _initialise(module: nn.Module) -> None:
    """Small random weights (GPT-2): a normal distribution of 0.02."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
