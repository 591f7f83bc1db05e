"""MultiHeadAttention: the attention layer, of tokens to themselves or to a memory, with as many heads as one likes."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearhead.attend import Pattern, attention, full, padding
from clearhead.attend.arguments import count
from clearhead.errors import ClearheadError
from clearhead.nn.caches.cache import Cache, positions
from clearhead.nn.linear import Linear, linear
from clearhead.nn.positions.position import Angles, Position

KeysValues = tuple[Float[Tensor, "B K Tk D"], Float[Tensor, "B K Tk D"]]
"""A memory's keys and values, projected once for all the queries to come."""


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017): out = W_o · concat_h softmax(s_h) v_h, s from q = W_q x, k = W_k m.

    The memory m is x itself unless another is given. Fewer key/value heads than heads make it grouped-query
    attention (Ainslie et al. 2023), one makes it multi-query (Shazeer 2019).

    Args:
        width: of the tokens, E.
        heads: query heads, H.
        kv_heads: key/value heads, K; None is H.
        head_width: D; None is E // H.
        memory_width: of the memory's tokens, said of every cross-attention; None is self-attention.
        pattern: who may see whom, `causal() & window(256)`; the default is `full()`.
        position: turns q and k (`Rotary`) or adds to the scores (`Alibi`, `T5`, `Relative`).
        bias: whether q, k and v have a bias. out_bias: whether the output has one; None is as `bias`.
        qk_norm: makes the norm of each head's queries and of its keys, from D: `partial(RMSNorm, eps=1e-6)`.
        scale: the factor on q · k; None is 1/√D.
        softcap: c of c · tanh(s / c) (Gemma 2).
        sinks: whether each head has a learned logit in the softmax's denominator (GPT-OSS).
        gated: whether each head's output is multiplied by sigmoid(W_g x) (Qiu et al. 2025).
        fused: one projection `qkv` for all three, its rows those of q, k and v; else `q`, `k` and `v`, as for
            a memory of another width.
        dropout: the probability of dropping a weight while training, without a cache.

    Raises ClearheadError for a width that does not divide into the heads, heads that are no multiple of `kv_heads`,
    and where a memory is missing, or given beside a cache.

    >>> import clearhead as ch, torch
    >>> layer = ch.nn.MultiHeadAttention(64, 8, kv_heads=2, pattern=ch.causal())
    >>> layer(torch.randn(2, 10, 64)).shape
    torch.Size([2, 10, 64])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_width: int | None = None,
        memory_width: int | None = None,
        pattern: Pattern | None = None,
        position: Position | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        qk_norm: Callable[[int], nn.Module] | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: bool = False,
        gated: bool = False,
        fused: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width, heads = count("width", width), count("heads", heads)
        if head_width is None and width % heads:
            raise ClearheadError(
                f"MultiHeadAttention: a width of {width} does not divide into {heads} heads; "
                "give another number of heads, or head_width=."
            )
        self.heads, self.kv_heads = heads, heads if kv_heads is None else count("kv_heads", kv_heads)
        if heads % self.kv_heads:
            raise ClearheadError(
                f"MultiHeadAttention: got heads = {heads} and kv_heads = {kv_heads}; "
                "expected the first to be a multiple of the second."
            )
        self.head_width = D = width // heads if head_width is None else count("head_width", head_width)
        self.is_cross_attention = memory_width is not None  # a watch asks for it
        self.pattern = full() if pattern is None else pattern
        self.position = Position() if position is None else position
        self.scale, self.softcap, self.dropout = scale, softcap, dropout
        inner, kv_inner = heads * D, self.kv_heads * D
        memory_width = width if memory_width is None else count("memory_width", memory_width)
        self.fused = fused and memory_width == width
        if self.fused:
            self.qkv = Linear(width, inner + 2 * kv_inner, bias=bias)
        else:
            self.q = Linear(width, inner, bias=bias)
            self.k = Linear(memory_width, kv_inner, bias=bias)
            self.v = Linear(memory_width, kv_inner, bias=bias)
        self.out = Linear(inner, width, bias=bias if out_bias is None else out_bias)
        self.gate = Linear(width, inner, bias=bias) if gated else None
        self.q_norm = qk_norm(D) if qk_norm else None
        self.k_norm = qk_norm(D) if qk_norm else None
        self.sinks = nn.Parameter(torch.zeros(heads)) if sinks else None

    def forward(
        self,
        x: Float[Tensor, "B T E"],
        memory: Float[Tensor, "B Tk Em"] | KeysValues | None = None,
        *,
        lengths: Int[Tensor, " B"] | None = None,
        pattern: Pattern | None = None,
        angles: Angles | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B T E"]:
        """Attend from x to itself, to what `cache` holds as well, or to a memory.

        Args:
            x: the tokens.
            memory: what is attended to instead, or its keys and values as `remember` gives them. No position.
            lengths: how many tokens of each sequence are real, the memory's where there is one; the rest is padding.
            pattern: in place of the layer's own.
            angles: of the tokens' positions, where a model has them for all its layers.
            cache: keeps the keys and values of x beside those before, which are attended to as well.
        """
        options: dict[str, Any] = {"scale": self.scale, "softcap": self.softcap, "sinks": self.sinks}
        pattern = self.pattern if pattern is None else pattern
        if memory is None and self.is_cross_attention:
            raise ClearheadError("MultiHeadAttention: got no memory, but was made to attend to one; pass memory=.")
        if memory is not None and cache is not None:
            raise ClearheadError(
                "MultiHeadAttention: got a memory and a cache, which is of the text; pass one of the two. What "
                "remember(memory) gives may be kept instead."
            )
        if memory is not None:
            q = self._normed(self._queries(x), self.q_norm)
            k, v = self.remember(memory) if isinstance(memory, Tensor) else memory
        else:
            q, k, v = self._project(x)
            if angles is None:
                angles = self.position.angles(positions(cache, x.shape[1], x.device))
            q, k = self.position.turn(q, k, angles)
            options["bias"] = self.position.bias()
        if cache is not None:
            out = cache.attend(q, k, v, lengths, pattern=pattern, **options)
        else:
            pattern = pattern if lengths is None else pattern & padding(lengths)
            dropout = self.dropout if self.training else 0.0
            out = attention(q, k, v, pattern=pattern, dropout=dropout, **options)
        joined = out.transpose(1, 2).flatten(2)
        if self.gate is not None:
            joined = joined * self.gate(x).sigmoid()
        projected: Tensor = self.out(joined)
        return projected

    def remember(self, memory: Float[Tensor, "B Tk Em"]) -> KeysValues:
        """A memory's keys and values, to be given to `forward` in its place as often as one likes."""
        if self.fused:
            weight, bias = self.qkv.weight, self.qkv.bias
            inner = self.heads * self.head_width
            k, v = self._split(linear(memory, weight[inner:], None if bias is None else bias[inner:])).chunk(2, 1)
        else:
            k, v = self._split(self.k(memory)), self._split(self.v(memory))
        return self._normed(k, self.k_norm), v

    def _queries(self, x: Float[Tensor, "B T E"]) -> Float[Tensor, "B H T D"]:
        if not self.fused:
            return self._split(self.q(x))
        inner = self.heads * self.head_width
        bias = self.qkv.bias
        return self._split(linear(x, self.qkv.weight[:inner], None if bias is None else bias[:inner]))

    def _project(
        self, x: Float[Tensor, "B T E"]
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B K T D"], Float[Tensor, "B K T D"]]:
        """Queries, keys and values of x."""
        if self.fused:
            q, k, v = self._split(self.qkv(x)).split((self.heads, self.kv_heads, self.kv_heads), 1)
        else:
            q, k, v = self._split(self.q(x)), self._split(self.k(x)), self._split(self.v(x))
        return self._normed(q, self.q_norm), self._normed(k, self.k_norm), v

    def _split(self, x: Float[Tensor, "B T inner"]) -> Float[Tensor, "B heads T D"]:
        """The heads of a projection, apart."""
        B, T, _ = x.shape
        return x.view(B, T, x.shape[-1] // self.head_width, self.head_width).transpose(1, 2)

    @staticmethod
    def _normed(
        x: Float[Tensor, "B heads T D"], norm: Callable[[Tensor], Tensor] | None
    ) -> Float[Tensor, "B heads T D"]:
        return x if norm is None else norm(x)

    def extra_repr(self) -> str:
        """Heads and pattern."""
        return f"heads={self.heads}, kv_heads={self.kv_heads}, head_width={self.head_width}, pattern={self.pattern!r}"
