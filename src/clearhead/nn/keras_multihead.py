"""KerasMultiHeadAttention: Keras's layer, with its calling convention and weights, as a PyTorch module."""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clearhead.attend import Pattern, attention, causal, full, where, window
from clearhead.attend.arguments import count, described, flag, probability, whole_number
from clearhead.errors import ClearheadError
from clearhead.nn.tokens import check_tokens, check_types
from clearhead.nn.weighed import weighed


class Dense(nn.Module):
    """y = x · kernel + bias, over the first of the kernel's dimensions, or the first two; as Keras's EinsumDense."""

    def __init__(self, before: tuple[int, ...], after: tuple[int, ...], bias: bool) -> None:
        super().__init__()
        self.dims = len(before)
        self.kernel = nn.Parameter(nn.init.xavier_uniform_(torch.empty(prod(before), prod(after))).view(before + after))
        self.bias = nn.Parameter(torch.zeros(after)) if bias else None

    def forward(self, x: Float[Tensor, "B T *before"]) -> Float[Tensor, "B T *after"]:
        """Each token by itself."""
        n = self.dims
        if x.shape[-n:] != self.kernel.shape[:n]:
            raise ClearheadError(
                f"got tokens of shape {tuple(x.shape)} for a kernel {tuple(self.kernel.shape)}; expected tokens "
                f"{', '.join(map(str, self.kernel.shape[:n]))} wide, as those for which the weights were made."
            )
        y: Tensor = (x.flatten(-n) @ self.kernel.flatten(n).flatten(0, n - 1)).unflatten(-1, self.kernel.shape[n:])
        return y if self.bias is None else y + self.bias


class KerasMultiHeadAttention(nn.Module):
    """`keras.layers.MultiHeadAttention`, called and loaded as it is: query, then value, then key.

    Its masks say who may be seen. As in Keras, weights are made by the first call, in its query's type, or by `build`
    from the inputs' shapes, or by `set_weights`, which takes what the Keras layer's `get_weights` gives. The state dict
    has Keras's names: `query.kernel (E, H, D)`, `key.kernel`, `value.kernel`, `attention_output.kernel (H, Dv, out)`,
    and each one's `bias`.

    Args:
        num_heads: H.
        key_dim: width of each head's queries and keys, D.
        value_dim: width of each head's values, Dv; None is `key_dim`.
        dropout: the probability of dropping a weight while training.
        use_bias: whether the projections have biases.
        output_shape: of each token that comes out, a number or several; None is the query's width.
        attention_axes: only the default, the tokens, axis 1.
        sliding_window: query i sees the keys less than so many from it, to both sides.
        use_gate: whether each head's output is multiplied by sigmoid(W_g query) (Qiu et al. 2025), as `gate.kernel`.

    Two things are PyTorch's way: a layer trains until `eval()` is called, where `training` says nothing else, and
    there are no Keras initialisers or regularisers. A query that may see nothing gets weights of 0 and the output's
    bias; Keras gives it the mean of all values, unless it returns the weights.

    Raises ClearheadError for other axes, for counts that are no whole numbers above 0, and for inputs, weights or masks
    that do not fit.

    >>> import clearhead as ch, torch
    >>> layer = ch.nn.KerasMultiHeadAttention(num_heads=2, key_dim=16)
    >>> x, memory = torch.randn(1, 8, 32), torch.randn(1, 4, 24)
    >>> out, weights = layer(x, memory, return_attention_scores=True)
    >>> out.shape, weights.shape
    (torch.Size([1, 8, 32]), torch.Size([1, 2, 8, 4]))
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | Sequence[int] | None = None,
        attention_axes: int | Sequence[int] | None = None,
        sliding_window: int | None = None,
        use_gate: bool = False,
    ) -> None:
        super().__init__()
        if attention_axes is not None and [whole_number(axis) for axis in _listed(attention_axes)] != [1]:
            raise ClearheadError(
                f"attention_axes: got {attention_axes!r}; this layer attends over axis 1, the tokens. "
                "Bring the axes to attend over together with reshape."
            )
        self.num_heads, self.key_dim = count("num_heads", num_heads), count("key_dim", key_dim)
        self.value_dim = self.key_dim if value_dim is None else count("value_dim", value_dim)
        self.dropout = probability("dropout", dropout)
        self.use_bias, self.use_gate = flag("use_bias", use_bias), flag("use_gate", use_gate)
        self.output_shape: tuple[int, ...] | None = None
        if output_shape is not None:
            self.output_shape = tuple(count("output_shape", n) for n in _listed(output_shape))
            if not self.output_shape:
                raise ClearheadError(f"output_shape: got {output_shape!r}, expected a number, several, or None.")
        self.sliding_window = None if sliding_window is None else count("sliding_window", sliding_window)
        self.built = False

    @torch.inference_mode(False)  # a weight that is made in inference mode could never be trained
    def build(
        self, query_shape: Sequence[int], value_shape: Sequence[int], key_shape: Sequence[int] | None = None
    ) -> None:
        """Make the weights for inputs of these shapes, of which the last number counts."""
        H, width, value_width = self.num_heads, _width("query_shape", query_shape), _width("value_shape", value_shape)
        key_width = value_width if key_shape is None else _width("key_shape", key_shape)
        out = (width,) if self.output_shape is None else self.output_shape
        self.query = Dense((width,), (H, self.key_dim), self.use_bias)
        self.key = Dense((key_width,), (H, self.key_dim), self.use_bias)
        self.gate = Dense((width,), (H, self.value_dim), self.use_bias) if self.use_gate else None
        self.value = Dense((value_width,), (H, self.value_dim), self.use_bias)
        self.attention_output = Dense((H, self.value_dim), out, self.use_bias)
        self.built = True

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the weights, in Keras's order: query, key, gate, value, output, each its kernel, then its bias."""
        return [p.detach().cpu().numpy().copy() for p in self.parameters()]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Take over what `get_weights` of a Keras layer of the same arguments gives."""
        each = 2 if self.use_bias else 1
        arrays = _arrays(weights)
        if len(arrays) != each * (5 if self.use_gate else 4):
            raise ClearheadError(
                f"set_weights: got {len(arrays)} arrays, expected {each * (5 if self.use_gate else 4)}. "
                "Are use_bias and use_gate as in the Keras layer?"
            )
        if not self.built:
            query, key, value = (arrays[each * n].shape[:1] for n in (0, 1, 3 if self.use_gate else 2))
            self.build(query, value, key)
        parameters = dict(self.named_parameters())
        for (name, p), array in zip(parameters.items(), arrays, strict=True):
            if tuple(p.shape) != tuple(array.shape):
                raise ClearheadError(
                    f"set_weights: {name} is {tuple(p.shape)} here and {tuple(array.shape)} in what was given. "
                    "Are num_heads, key_dim, value_dim and output_shape as in the Keras layer?"
                )
        with torch.no_grad():
            for p, array in zip(parameters.values(), arrays, strict=True):
                p.copy_(array)

    def forward(
        self,
        query: Tensor | np.ndarray,
        value: Tensor | np.ndarray,
        key: Tensor | np.ndarray | None = None,
        query_mask: Tensor | np.ndarray | None = None,
        value_mask: Tensor | np.ndarray | None = None,
        key_mask: Tensor | np.ndarray | None = None,
        attention_mask: Tensor | np.ndarray | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Float[Tensor, "B Tq *out"] | tuple[Float[Tensor, "B Tq *out"], Float[Tensor, "B H Tq Tk"]]:
        """Attend from the query's tokens to the value's.

        NumPy arrays are taken to the layer's device; of tokens, they become floats of its type, as Keras casts them.

        Args:
            query: `(B, Tq, E)`.
            value: `(B, Tk, Ev)`.
            key: `(B, Tk, Ek)`; None is `value`.
            query_mask: `(B, Tq)`, which queries are real; the others see nothing.
            value_mask, key_mask: `(B, Tk)`, which keys are real.
            attention_mask: `(B, Tq, Tk)`, `(Tq, Tk)` or `(B, H, Tq, Tk)`, 1 for any: True, or not 0, may attend.
            return_attention_scores: whether to return the weights too, from before dropout.
            training: whether to drop; None is as `train()` and `eval()` say.
            use_causal_mask: query i sees keys 0 … i.

        Raises:
            ClearheadError: for tokens or a mask that do not fit.
        """
        query, value, key = self._tokens(query, value, key)
        if not self.built:
            self.build(query.shape, value.shape, key.shape)
            with torch.inference_mode(False):
                self.to(query)
        check_types(self.query.kernel.dtype, query=query, value=value, key=key)
        q, k, v = (made.transpose(1, 2) for made in (self.query(query), self.key(key), self.value(value)))

        pattern: Pattern = causal(align="start") if use_causal_mask else full()
        if self.sliding_window is not None:
            pattern = pattern & window(self.sliding_window - 1, self.sliding_window - 1, align="start")
        scores = (*q.shape[:3], k.shape[2])
        for name, mask, axes in (
            ("query_mask", query_mask, (0, 2)),
            ("value_mask", value_mask, (0, 3)),
            ("key_mask", key_mask, (0, 3)),
            ("attention_mask", attention_mask, (0, 2, 3)),
        ):
            if mask is not None:
                pattern = pattern & _seen(name, mask, axes, scores, q.device)

        dropout = self.dropout if (self.training if training is None else training) else 0.0
        weights = None
        if return_attention_scores:
            out, weights, _ = weighed(q, k, v, change=partial(F.dropout, p=dropout), pattern=pattern)
        else:
            out = attention(q, k, v, pattern=pattern, dropout=dropout)
        out = out.transpose(1, 2)
        if self.gate is not None:
            out = out * self.gate(query).sigmoid()
        out = self.attention_output(out)
        return out if weights is None else (out, weights)

    def _tokens(
        self, query: Any, value: Any, key: Any
    ) -> tuple[Float[Tensor, "B Tq E"], Float[Tensor, "B Tk Ev"], Float[Tensor, "B Tk Ek"]]:
        """The inputs as tensors that fit together."""
        made = {"query": query, "value": value, "key": value if key is None else key}
        like = self.query.kernel if self.built else next((x for x in made.values() if isinstance(x, Tensor)), None)
        dtype, device = (torch.get_default_dtype(), None) if like is None else (like.dtype, like.device)
        for name, x in made.items():
            if isinstance(x, np.ndarray):
                x = _tensor(name, x).to(device)
                made[name] = x = x.to(dtype) if x.is_floating_point() else x
            check_tokens(name, x)
            if x.dim() != 3:
                T = "Tq" if name == "query" else "Tk"
                raise ClearheadError(f"{name} has shape {tuple(x.shape)}; expected (B, {T}, width), axis 1 the tokens.")
        q, v, k = made.values()
        if len({len(q), len(v), len(k)}) > 1 or v.shape[1] != k.shape[1]:
            raise ClearheadError(
                f"query, value and key are {tuple(q.shape)}, {tuple(v.shape)} and {tuple(k.shape)}; "
                "expected one B, and one Tk for value and key."
            )
        return q, v, k


def _seen(
    name: str, mask: Tensor | np.ndarray, axes: tuple[int, ...], scores: tuple[int, ...], device: torch.device
) -> Pattern:
    """What a mask over these of the scores' four axes leaves to be seen; an attention_mask may lack B, or have H."""
    if isinstance(mask, np.ndarray):
        mask = _tensor(name, mask).to(device)
    if not isinstance(mask, Tensor):
        raise ClearheadError(f"{name}: got {type(mask).__name__}, expected a tensor or an array.")
    if len(axes) == 3 and mask.dim() == 2:
        mask = mask[None]
    elif len(axes) == 3 and mask.dim() == 4:
        axes = (0, 1, 2, 3)
    want = tuple(scores[axis] for axis in axes)
    if mask.dim() != len(axes) or any(n not in (1, w) for n, w in zip(mask.shape, want, strict=True)):
        named = ", ".join(("B", "H", "Tq", "Tk")[axis] for axis in axes)
        raise ClearheadError(
            f"{name} has shape {tuple(mask.shape)}; expected ({named}) = {want}, or 1 in place of any of them."
        )
    shape = [1, 1, 1, 1]
    for axis, n in zip(axes, mask.shape, strict=True):
        shape[axis] = n
    return where(mask.bool().reshape(shape))


def _listed(given: Any) -> list[Any]:
    """One number or several, as a list."""
    return list(given) if isinstance(given, list | tuple | np.ndarray) and np.ndim(given) == 1 else [given]


def _width(name: str, shape: Sequence[int]) -> int:
    """The last number of a shape."""
    if not isinstance(shape, Sequence) or not len(shape):
        raise ClearheadError(f"{name}: got {shape!r}, expected a shape such as (B, T, width).")
    return count(f"{name}[-1]", shape[-1])


def _tensor(name: str, array: Any) -> Tensor:
    """A copy of an array of numbers or bools, which may be read-only."""
    try:
        return torch.from_numpy(np.array(array))
    except TypeError as error:
        raise ClearheadError(f"{name}: got an array of {np.asarray(array).dtype}, expected numbers.") from error


def _arrays(weights: Any) -> list[Tensor]:
    """What `set_weights` is given, as tensors."""
    if not isinstance(weights, list | tuple):
        raise ClearheadError(f"set_weights: got {described(weights)}, expected a list of arrays.")
    return [
        w.detach() if isinstance(w, Tensor) else _tensor(f"set_weights, weights[{n}]", w) for n, w in enumerate(weights)
    ]
