"""TorchMultiheadAttention: PyTorch's layer, argument for argument, on Clearhead's attention."""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clearhead.attend import Pattern, attention, causal, full, where
from clearhead.attend.arguments import check_tensor, count, flag, probability
from clearhead.errors import ClearheadError
from clearhead.nn.tokens import check_tokens, check_types
from clearhead.nn.weighed import weighed


class TorchMultiheadAttention(nn.MultiheadAttention):
    """A drop-in for `torch.nn.MultiheadAttention`, of which it is one: its arguments, masks and state dict.

    Its masks say who may *not* be seen: True hides, −inf hides, other floats are added to the scores. What differs:

    - a query that may see nothing gets weights of 0, and the output's bias, where PyTorch gives NaN;
    - `need_weights=False` holds nothing of size Tq × Tk but the masks that it is given;
    - `is_causal=True` needs no `attn_mask` beside it, and hides none of the keys that `add_bias_kv` and
      `add_zero_attn` put behind the others;
    - nested tensors are refused.

    With `need_weights=True`, the default as in PyTorch, all weights are made, and gradients flow through them.
    Inside `nn.TransformerEncoderLayer` in eval mode, PyTorch's fast path passes any layer by;
    `torch.backends.mha.set_fastpath_enabled(False)` keeps it from that.

    >>> import clearhead as ch, torch
    >>> theirs = torch.nn.MultiheadAttention(64, 8, batch_first=True)
    >>> ours = ch.nn.TorchMultiheadAttention(64, 8, batch_first=True)
    >>> keys = ours.load_state_dict(theirs.state_dict())
    >>> x = torch.randn(2, 10, 64)
    >>> torch.allclose(ours(x, x, x)[0], theirs(x, x, x)[0], atol=1e-5)
    True
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        embed_dim, num_heads = count("embed_dim", embed_dim), count("num_heads", num_heads)
        if embed_dim % num_heads:
            raise ClearheadError(
                f"TorchMultiheadAttention: got embed_dim = {embed_dim} and num_heads = {num_heads}; "
                "expected the first to be a multiple of the second."
            )
        super().__init__(
            embed_dim,
            num_heads,
            dropout=probability("dropout", dropout),
            bias=flag("bias", bias),
            add_bias_kv=flag("add_bias_kv", add_bias_kv),
            add_zero_attn=flag("add_zero_attn", add_zero_attn),
            kdim=None if kdim is None else count("kdim", kdim),
            vdim=None if vdim is None else count("vdim", vdim),
            batch_first=flag("batch_first", batch_first),
            device=device,
            dtype=dtype,
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."] | None]:
        """Attend from the query's tokens to the key's.

        Args:
            query: `(Tq, B, E)`, with `batch_first` `(B, Tq, E)`, or `(Tq, E)` of one sequence.
            key: `(Tk, B, kdim)`, and so on.
            value: `(Tk, B, vdim)`, and so on.
            key_padding_mask: `(B, Tk)`, of one sequence `(Tk,)`: the keys that no query may see.
            need_weights: whether to return the weights too.
            attn_mask: `(Tq, Tk)`, or one a head `(B · H, Tq, Tk)`.
            average_attn_weights: the mean over heads, `(B, Tq, Tk)`, or each head's weights, `(B, H, Tq, Tk)`.
            is_causal: query i sees keys 0 … i; `attn_mask`, if it is there, is taken to say the same.

        Returns:
            The output, shaped as the query, and the weights, or None.

        Raises:
            ClearheadError: for shapes or types that do not fit.
        """
        x = [self._batched(name, t) for name, t in (("query", query), ("key", key), ("value", value))]
        self._check(*x)
        check_types(self.out_proj.weight.dtype, query=query, key=key, value=value)
        (B, Tq, _), Tk, H, single = x[0].shape, x[1].shape[1], self.num_heads, query.dim() == 2
        q, k, v = (t.unflatten(-1, (H, -1)).transpose(1, 2) for t in self._project(*x))
        k, v = self._with_added(k, self.bias_k), self._with_added(v, self.bias_v)

        added = k.shape[2] - Tk
        pattern: Pattern = full()
        if is_causal:
            behind = torch.arange(Tk + added, device=k.device) >= Tk
            pattern, attn_mask = causal(align="start") | where(behind[None]), None
        masks = (
            _mask("attn_mask", attn_mask, {(Tq, Tk): (1, 1, Tq, Tk), (B * H, Tq, Tk): (B, H, Tq, Tk)}),
            _mask("key_padding_mask", key_padding_mask, {(Tk,) if single else (B, Tk): (B, 1, 1, Tk)}),
        )
        bias: Tensor | None = None
        for mask in (F.pad(mask, (0, added)) for mask in masks if mask is not None):  # what was added is seen by all
            if mask.dtype == torch.bool:
                pattern = pattern & where(~mask)
            else:
                bias = mask if bias is None else bias + mask

        dropout, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            out, _, weights = weighed(q, k, v, change=partial(F.dropout, p=dropout), pattern=pattern, bias=bias)
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights[0] if single else weights
        else:
            out = attention(q, k, v, pattern=pattern, bias=bias, dropout=dropout)
        joined = self.out_proj(out.transpose(1, 2).flatten(2))
        if single:
            return joined[0], weights
        return joined if self.batch_first else joined.transpose(0, 1), weights

    def _batched(self, name: str, x: Tensor) -> Float[Tensor, "B T E"]:
        if isinstance(x, Tensor) and x.is_nested:
            raise ClearheadError(f"{name} is a nested tensor; pad it, and say what is padding by key_padding_mask=.")
        check_tokens(name, x)
        if x.dim() not in (2, 3):
            order = "(B, T, E)" if self.batch_first else "(T, B, E)"
            raise ClearheadError(f"{name} has shape {tuple(x.shape)}; expected {order}, or (T, E) of one sequence.")
        if x.dim() == 2:
            return x[None]
        return x if self.batch_first else x.transpose(0, 1)

    def _check(
        self, query: Float[Tensor, "B Tq E"], key: Float[Tensor, "Bk Tk Ek"], value: Float[Tensor, "Bv Tv Ev"]
    ) -> None:
        if not (len(query) == len(key) == len(value)) or key.shape[1] != value.shape[1]:
            raise ClearheadError(
                f"query, key and value are, with the batch first, {tuple(query.shape)}, {tuple(key.shape)} and "
                f"{tuple(value.shape)}; expected one B, and one Tk for key and value. Is batch_first as it should be?"
            )
        got, want = (query.shape[-1], key.shape[-1], value.shape[-1]), (self.embed_dim, self.kdim, self.vdim)
        if got != want:
            raise ClearheadError(
                f"query, key and value are {got} wide; expected {want}, which are embed_dim, kdim and vdim."
            )

    def _project(
        self, query: Float[Tensor, "B Tq E"], key: Float[Tensor, "B Tk Ek"], value: Float[Tensor, "B Tk Ev"]
    ) -> tuple[Float[Tensor, "B Tq E"], Float[Tensor, "B Tk E"], Float[Tensor, "B Tk E"]]:
        """Queries, keys and values, heads side by side."""
        if self.in_proj_weight is None:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        else:
            weights = self.in_proj_weight.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(x, W, b) for x, W, b in zip((query, key, value), weights, biases, strict=True))
        return q, k, v

    def _with_added(
        self, x: Float[Tensor, "B H Tk D"], learned: Float[Tensor, "1 1 E"] | None
    ) -> Float[Tensor, "B H more D"]:
        """Keys or values, the learned one behind them, and one of zeros."""
        if learned is not None:
            one = learned.to(x.dtype).view(1, self.num_heads, 1, self.head_dim)
            x = torch.cat([x, one.expand(len(x), -1, -1, -1)], 2)
        return F.pad(x, (0, 0, 0, 1)) if self.add_zero_attn else x


def _mask(
    name: str, mask: Tensor | None, fits: dict[tuple[int, ...], tuple[int, ...]]
) -> Bool[Tensor, "b h tq Tk"] | Float[Tensor, "b h tq Tk"] | None:
    """A mask of PyTorch's, of one of the shapes in `fits`, as four dimensions; True still hides."""
    if mask is None:
        return None
    check_tensor(name, mask, " or ".join(map(str, fits)))
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ClearheadError(
            f"{name} is {mask.dtype}; expected torch.bool, of which True hides, or floats that are added to the scores."
        )
    if tuple(mask.shape) not in fits:
        raise ClearheadError(f"{name} has shape {tuple(mask.shape)}; expected {' or '.join(map(str, fits))}.")
    return mask.reshape(fits[tuple(mask.shape)])
