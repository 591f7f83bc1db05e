"""Block: attention and a feed-forward layer, each beside a residual, with their norms where the model has them."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearhead.errors import ClearheadError
from clearhead.nn.step import step

NormAt = Literal["before", "after", "both"]
"""Where a norm stands: x + f(norm(x)); norm(x + f(x)); or x + norm(f(norm(x)))."""


class Block(nn.Module):
    """One layer of a transformer: x + attention(x), x + cross(x, memory) where there is a memory, x + feed_forward(x).

    Args:
        attention: a layer such as `MultiHeadAttention`, called with x and the options of `forward`.
        feed_forward: a layer such as `FeedForward` or `Experts`.
        norm: makes a norm: `partial(RMSNorm, 576)`.
        cross: a layer that attends to a memory, between the two.
        norm_at: "before" each (Xiong et al. 2020, nearly every model since GPT-2), "after" each residual (Vaswani et
            al. 2017, BERT), or "both" before and after each layer, inside the residual (Gemma 2).
        parallel: attention and feed-forward both read x, and x + both comes out (GPT-J, GPT-NeoX).
        dropout: on what each layer adds to the residual, while training.

    >>> import clearhead as ch, torch
    >>> from functools import partial
    >>> block = ch.nn.Block(
    ...     ch.nn.MultiHeadAttention(32, 4), ch.nn.FeedForward(32, 64), partial(ch.nn.RMSNorm, 32)
    ... )
    >>> block(torch.randn(1, 5, 32)).shape
    torch.Size([1, 5, 32])
    """

    def __init__(
        self,
        attention: nn.Module,
        feed_forward: nn.Module,
        norm: Callable[[], nn.Module],
        *,
        cross: nn.Module | None = None,
        norm_at: NormAt = "before",
        parallel: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if norm_at not in ("before", "after", "both"):
            raise ClearheadError(f"norm_at: got {norm_at!r}, expected 'before', 'after' or 'both'.")
        if parallel and (norm_at != "before" or cross is not None):
            raise ClearheadError("parallel: nothing comes between the two; expected norm_at='before' and no cross=.")
        self.norm_at, self.parallel = norm_at, parallel
        self.attention, self.attention_norm = attention, norm()
        self.cross, self.cross_norm = cross, norm() if cross is not None else None
        self.feed_forward, self.feed_forward_norm = feed_forward, norm()
        self.attention_norm_after = norm() if norm_at == "both" else None
        self.cross_norm_after = norm() if norm_at == "both" and cross is not None else None
        self.feed_forward_norm_after = norm() if norm_at == "both" else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B T E"],
        memory: Any = None,
        memory_lengths: Int[Tensor, " B"] | None = None,
        only: Int[Tensor, " B"] | None = None,
        **options: Any,
    ) -> Float[Tensor, "B tokens E"]:
        """The tokens, after this layer.

        `memory` is the cross-attention's; `options` are those of the attention. Of each sequence `only` one token
        goes on after them, `(B, 1, E)`, where no other is wanted.
        """
        if (memory is None) != (self.cross is None):
            raise ClearheadError(
                "Block: got no memory, which its cross-attention reads; pass memory=, model.encode(source)."
                if memory is None
                else "Block: got a memory, but has no cross-attention to read it; leave memory= out."
            )
        if type(self) is Block and memory is None and (only is None or x.shape[1] == 1):
            made = step(self, x, **options)
            if made is not None:
                return made
        if self.parallel:
            attended = self.attention(self.attention_norm(x), **options)
            x, attended = _chosen(x, only), _chosen(attended, only)
            both: Tensor = self.dropout(attended) + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
            return x + both
        x = self._beside(x, self.attention, self.attention_norm, self.attention_norm_after, **options)
        if self.cross is not None:
            how = {"memory": memory, "lengths": memory_lengths}
            x = self._beside(x, self.cross, self.cross_norm, self.cross_norm_after, **how)
        x = _chosen(x, only)
        return self._beside(x, self.feed_forward, self.feed_forward_norm, self.feed_forward_norm_after)

    def _beside(
        self, x: Float[Tensor, "B T E"], layer: nn.Module, norm: Any, after: nn.Module | None, **options: Any
    ) -> Float[Tensor, "B T E"]:
        """The residual: x and what a layer makes of it."""
        if self.norm_at == "after":
            whole: Tensor = norm(x + self.dropout(layer(x, **options)))
            return whole
        made = layer(norm(x), **options)
        added: Tensor = self.dropout(made if after is None else after(made))
        return x + added


def _chosen(x: Float[Tensor, "B T E"], only: Int[Tensor, " B"] | None) -> Float[Tensor, "B tokens E"]:
    return x if only is None else x[torch.arange(len(x), device=x.device), only][:, None]
