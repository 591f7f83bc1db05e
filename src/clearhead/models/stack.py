"""Stack: the layers of a transformer, one on the other, with what they share."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clearhead.attend import Pattern, full, padding
from clearhead.errors import ClearheadError
from clearhead.models.config import Config
from clearhead.nn.block import Block
from clearhead.nn.caches.cache import Cache, positions
from clearhead.nn.heads import KeysValues


@dataclass(frozen=True)
class Memory:
    """What a decoder's cross-attentions read: the encoder's tokens as each layer's keys and values.

    `Stack.remember` and `Transformer.encode` make it. Of each layer `k (B, K, Ts, D)` and `v (B, K, Ts, D)`.

    >>> k, v = torch.randn(2, 2, 4, 8, 16)
    >>> memory = Memory(((k, v),), lengths=torch.tensor([8, 5]))
    >>> memory.take(torch.tensor([1, 1])).lengths
    tensor([5, 5])
    """

    layers: tuple[KeysValues, ...]
    lengths: Int[Tensor, " B"] | None
    """How many of them are real."""

    def take(self, rows: Int[Tensor, " rows"]) -> "Memory":
        """Of these sequences only; one may be named twice."""
        layers = tuple((k[rows], v[rows]) for k, v in self.layers)
        return Memory(layers, None if self.lengths is None else self.lengths[rows])


class Stack(nn.Module):
    """Blocks of attention and feed-forward, then a norm: tokens' vectors `(B, T, E)` in, the same shape out.

    Set `checkpointing` to True to keep only each block's input while training, and to run the block once more on the
    way back (Chen et al. 2016); an encoder has a switch of its own.

    >>> import clearhead as ch
    >>> from functools import partial
    >>> config = ch.models.Config(
    ...     width=32,
    ...     layers=2,
    ...     attention=partial(ch.nn.MultiHeadAttention, heads=4),
    ...     feed_forward=partial(ch.nn.FeedForward, hidden=64),
    ...     norm=ch.nn.LayerNorm,
    ... )
    >>> stack, x = ch.models.Stack(config), torch.randn(1, 5, 32)
    >>> stack(x).shape
    torch.Size([1, 5, 32])
    >>> len(list(stack.states(x)))
    2
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.layers < 1 or config.pattern == ():
            raise ClearheadError(
                f"Config: got {config.layers} layers and pattern {config.pattern!r}; expected at least 1 of each."
            )
        width = config.width
        self.position = copy.deepcopy(config.position)
        patterns = config.pattern if isinstance(config.pattern, tuple) else (config.pattern,)
        self.patterns = tuple(patterns[n % len(patterns)] for n in range(config.layers))
        self.blocks = nn.ModuleList(self._block(config, pattern) for pattern in self.patterns)
        self.norm = config.norm(width) if config.final_norm else nn.Identity()
        self.checkpointing = False

    def _block(self, config: Config, pattern: Pattern) -> Block:
        cross = None
        if config.memory_width is not None:
            cross = config.attention(config.width, memory_width=config.memory_width, pattern=full())
        return Block(
            config.attention(config.width, pattern=pattern, position=self.position),
            config.feed_forward(config.width),
            lambda: config.norm(config.width),
            cross=cross,
            norm_at=config.norm_at,
            parallel=config.parallel,
            dropout=config.dropout,
        )

    def forward(
        self, x: Float[Tensor, "B T E"], at: Int[Tensor, "_ T"] | None = None, **options: Any
    ) -> Float[Tensor, "B tokens E"]:
        """The tokens after all layers and the norm; the options are those of `states`."""
        for state in self.states(x, at, **options):
            x = state
        normed: Tensor = self.norm(x)
        return normed

    def states(
        self,
        x: Float[Tensor, "B T E"],
        at: Int[Tensor, "_ T"] | None = None,
        *,
        lengths: Int[Tensor, " B"] | None = None,
        memory: Memory | None = None,
        caches: Sequence[Cache] | None = None,
        only: Int[Tensor, " B"] | None = None,
    ) -> Iterator[Float[Tensor, "B tokens E"]]:
        """The tokens after each layer, before the last norm.

        Args:
            x: the tokens' vectors.
            at: where they stand; None is from 0.
            lengths: how many tokens of each sequence are real; the padding after them is seen by none.
            memory: what the cross-attentions read.
            caches: one a layer.
            only: the one token of each sequence that is wanted of the last layer, `(B, 1, E)`.
        """
        if caches is not None and not len({id(cache) for cache in caches}) == len(caches) == len(self.blocks):
            raise ClearheadError(
                f"caches: got {len(caches)} for {len(self.blocks)} layers; expected one a layer, none of them the same."
            )
        if at is None:
            at = positions(caches[0] if caches else None, x.shape[1], x.device)
        angles = self.position.angles(at)
        real = padding(lengths) if lengths is not None and caches is None else None  # a cache sees to it itself
        seen = {pattern: pattern if real is None else pattern & real for pattern in self.patterns}
        for n, (block, pattern) in enumerate(zip(self.blocks, self.patterns, strict=True)):
            options: dict[str, Any] = {"pattern": seen[pattern], "angles": angles}
            if memory is not None:
                options |= {"memory": memory.layers[n], "memory_lengths": memory.lengths}
            if caches is not None:
                options |= {"cache": caches[n], "lengths": lengths}
            if only is not None and n == len(self.blocks) - 1:
                options["only"] = only
            if self.checkpointing and torch.is_grad_enabled() and caches is None:
                x = checkpoint(block, x, use_reentrant=False, **options)
            else:
                x = block(x, **options)
            yield x

    def remember(self, x: Float[Tensor, "B Ts Em"], lengths: Int[Tensor, " B"] | None = None) -> Memory:
        """Another stack's tokens, as the memory that this one's cross-attentions read."""
        return Memory(tuple(cast(Any, block).cross.remember(x) for block in self.blocks), lengths)
