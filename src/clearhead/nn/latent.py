"""MultiHeadLatentAttention: keys and values of all heads made from one small vector a token."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearhead.attend import Pattern, attention, causal, padding
from clearhead.attend.heard import listener
from clearhead.errors import ClearheadError
from clearhead.nn.caches.cache import FEW, Cache, positions
from clearhead.nn.caches.sliding import Sliding
from clearhead.nn.linear import Linear
from clearhead.nn.norms import RMSNorm
from clearhead.nn.positions.position import Angles
from clearhead.nn.positions.rotary import Rotary


class MultiHeadLatentAttention(nn.Module):
    """MLA (DeepSeek-V2, Liu et al. 2024): c_j = norm(W_c x_j), and each head's k_j = [W_k c_j, r_j], v_j = W_v c_j.

    r_j = turn(W_r x_j) is one rotary key for all heads, as a turned key could not be made from c afterwards. The
    queries are [W_q x_i, turn(W_p x_i)], from a latent of their own where `q_latent` is given.

    A cache holds [c_j, r_j] alone: latent + R numbers a token, where plain heads keep H · (D + R + Dv). DeepSeek-V3's
    are 576 for 40,960. With it W_k and W_v are absorbed: q · W_k c = (W_kᵀ q) · c, so all heads attend to one key of
    latent + R numbers, whose first are the value, as multi-query attention. The native kernels take that up to 512
    wide; beyond, as DeepSeek's 576, another backend does it.

    Args:
        width: of the tokens, E.
        heads: H.
        latent: numbers of c, `kv_lora_rank` in DeepSeek's configuration.
        head_width: D, the part of a query and key without position, `qk_nope_head_dim`.
        value_width: Dv, `v_head_dim`.
        position: the rotary part; R is its head_width. DeepSeek's is `Rotary(64, layout="pairs")`.
        q_latent: numbers of the queries' latent, `q_lora_rank`; None is none.
        pattern: who may see whom; the default is `causal()`.
        scale: the factor on q · k; None is 1/√(D + R).
        bias: whether the projections into latents and the output have a bias.
        eps: of the latents' norms.

    Raises ClearheadError for a width, or a number of heads, below 1.

    >>> import torch
    >>> from clearhead.nn.caches import Latent
    >>> layer = MultiHeadLatentAttention(64, 8, latent=32, head_width=16, value_width=16, position=Rotary(8))
    >>> x, cache = torch.randn(2, 10, 64), Latent(32)
    >>> whole = layer(x)
    >>> pieces = torch.cat([layer(x[:, :7], cache=cache), layer(x[:, 7:], cache=cache)], 1)
    >>> torch.allclose(whole, pieces, atol=1e-5)
    True
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        latent: int,
        head_width: int,
        value_width: int,
        position: Rotary,
        q_latent: int | None = None,
        pattern: Pattern | None = None,
        scale: float | None = None,
        bias: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if min(width, heads, latent, head_width, value_width) < 1:
            raise ClearheadError(
                f"MultiHeadLatentAttention: got width {width}, heads {heads}, latent {latent}, head_width {head_width} "
                f"and value_width {value_width}; expected at least 1 of each."
            )
        self.heads, self.latent, self.head_width, self.value_width = heads, latent, head_width, value_width
        self.position, self.pattern = position, causal() if pattern is None else pattern
        query = head_width + position.head_width
        self.scale = query**-0.5 if scale is None else scale
        self.q_down = None if q_latent is None else Linear(width, q_latent, bias=bias)
        self.q_norm = None if q_latent is None else RMSNorm(q_latent, eps)
        self.q_up = Linear(width if q_latent is None else q_latent, heads * query, bias=False)
        self.kv_down = Linear(width, latent + position.head_width, bias=bias)
        self.kv_norm = RMSNorm(latent, eps)
        self.kv_up = Linear(latent, heads * (head_width + value_width), bias=False)
        self.out = Linear(heads * value_width, width, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "B T E"],
        *,
        lengths: Int[Tensor, " B"] | None = None,
        pattern: Pattern | None = None,
        angles: Angles | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B T E"]:
        """Attend from x to itself, and to what `cache` holds.

        Args:
            x: the tokens.
            lengths: how many tokens of each sequence are real; the rest is padding.
            pattern: in place of the layer's own.
            angles: of the tokens' positions, where a model has them for all its layers.
            cache: any but `Sliding` with a position; `Latent(latent)` keeps nothing twice.
        """
        T = x.shape[1]
        if angles is None:
            angles = self.position.angles(positions(cache, T, x.device))
        pattern = self.pattern if pattern is None else pattern
        q, q_turned = self._queries(x).split((self.head_width, self.position.head_width), -1)
        c, k_turned = self.kv_down(x).split((self.latent, self.position.head_width), -1)
        c = self.kv_norm(c)
        q_turned, k_turned = self.position.turn(q_turned, k_turned[:, None], angles)
        if cache is None:
            pattern = pattern if lengths is None else pattern & padding(lengths)
            out = self._apart(q, q_turned, c, k_turned, pattern)
        elif T > FEW and not any(cache.counts) and not isinstance(cache, Sliding) and not listener():
            # A first text needs no absorbing, whose heads are wider; but of a window the cache itself knows, and a
            # watch goes on with the keys that the cache keeps.
            out = self._apart(q, q_turned, c, k_turned, pattern if lengths is None else pattern & padding(lengths))
            cache.write(torch.cat((c[:, None], k_turned), -1), c[:, None], lengths)
        else:
            out = self._absorbed(q, q_turned, c, k_turned, cache, lengths, pattern)
        return self.out(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _queries(self, x: Float[Tensor, "B T E"]) -> Float[Tensor, "B H T both"]:
        if self.q_down is not None and self.q_norm is not None:
            x = self.q_norm(self.q_down(x))
        return self.q_up(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]

    def _apart(
        self,
        q: Float[Tensor, "B H T D"],
        q_turned: Float[Tensor, "B H T R"],
        c: Float[Tensor, "B T latent"],
        k_turned: Float[Tensor, "B 1 T R"],
        pattern: Pattern,
    ) -> Float[Tensor, "B H T Dv"]:
        """Each head with keys and values of its own."""
        kv = self.kv_up(c).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = kv.split((self.head_width, self.value_width), -1)
        k = torch.cat((k, k_turned.expand(-1, self.heads, -1, -1)), -1)
        out: Tensor = attention(torch.cat((q, q_turned), -1), k, v, pattern=pattern, scale=self.scale)
        return out

    def _absorbed(
        self,
        q: Float[Tensor, "B H T D"],
        q_turned: Float[Tensor, "B H T R"],
        c: Float[Tensor, "B T latent"],
        k_turned: Float[Tensor, "B 1 T R"],
        cache: Cache,
        lengths: Int[Tensor, " B"] | None,
        pattern: Pattern,
    ) -> Float[Tensor, "B H T Dv"]:
        """All heads with one key, the latent and its rotary part, of which the latent is the value."""
        up: Tensor = self.kv_up.weight.unflatten(0, (self.heads, -1))
        w_k, w_v = up[:, : self.head_width], up[:, self.head_width :]
        options: dict[str, Any] = {"pattern": pattern, "scale": self.scale}
        queries = torch.cat((q @ w_k, q_turned), -1)
        keys = torch.cat((c[:, None], k_turned), -1)
        latents: Tensor = cache.attend(queries, keys, c[:, None], lengths, **options)
        return latents @ w_v.transpose(1, 2)
