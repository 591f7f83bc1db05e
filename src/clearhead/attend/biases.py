"""Biases: what is added to the scores by position, in O(T) where a table over distance says it."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.errors import ClearheadError


class Bias:
    """Something added to the scores by position. Its tensors may be learned: they get gradients."""

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Learned tensors."""
        raise NotImplementedError

    def check(self, B: int, H: int, Tq: int, Tk: int) -> None:
        """Raises if the bias does not fit a call of this shape."""
        raise NotImplementedError

    def at(self, i: Tensor, j: Tensor, past: int, *weights: Tensor) -> Tensor:
        """The bias of query rows i on keys j (indices that broadcast): `(B or 1, H or 1, *shape of i, j)`.

        Query row i sits at position i + past, past being Tk − Tq.
        """
        raise NotImplementedError

    def add_gradient(self, grads: tuple[Tensor, ...], i: Tensor, j: Tensor, past: int, ds: Tensor) -> None:
        """Adds to `grads` what a tile's gradient ds `(B, H, m, n)` says of the weights."""
        raise NotImplementedError

    def of_sequence(self, b: int) -> "Bias":
        """The bias of one sequence of the batch."""
        return self


@dataclass(frozen=True, eq=False)
class relative(Bias):
    """A table over distance: s[i, j] += table[h, j − i + zero], one row a head or one for all.

    `table` is `(H or 1, N)` and may be learned; `zero` is the entry of distance 0, its middle unless said.
    Distances beyond an end take that end's value (Shaw et al. 2018). O(T) memory.

    >>> import clearhead as ch, torch
    >>> q = k = v = torch.randn(1, 2, 6, 8)
    >>> ch.attention(q, k, v, bias=ch.relative(torch.randn(2, 11))).shape
    torch.Size([1, 2, 6, 8])
    """

    table: Float[Tensor, "H N"]
    zero: int | None = None

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The table."""
        return (self.table,)

    def check(self, B: int, H: int, Tq: int, Tk: int) -> None:
        """The table has a row a head, or one."""
        if self.table.dim() != 2 or self.table.shape[0] not in (1, H) or self.table.shape[1] == 0:
            raise ClearheadError(
                f"relative: got a table of shape {tuple(self.table.shape)} for H = {H} heads; "
                f"expected ({H}, N) or (1, N), one row a head and one entry a distance."
            )

    def _entry(self, i: Tensor, j: Tensor, past: int, N: int) -> Int[Tensor, "..."]:
        zero = N // 2 if self.zero is None else self.zero
        return (j - i - past + zero).clamp(0, N - 1)

    def at(self, i: Tensor, j: Tensor, past: int, *weights: Tensor) -> Float[Tensor, "1 H *tile"]:
        """The table's entries at these distances."""
        (table,) = weights
        return table[:, self._entry(i, j, past, table.shape[1])][None]

    def add_gradient(self, grads: tuple[Tensor, ...], i: Tensor, j: Tensor, past: int, ds: Tensor) -> None:
        """Sums ds over all pairs of the same distance."""
        (grad,) = grads
        entry = self._entry(i, j, past, grad.shape[1]).flatten()
        by_head = ds.sum(0) if grad.shape[0] > 1 else ds.sum((0, 1))[None]
        grad.index_add_(1, entry, by_head.reshape(len(by_head), -1).to(grad.dtype))


def t5(weights: Float[Tensor, "buckets H"], *, bidirectional: bool, max_distance: int = 128) -> relative:
    """T5's relative bias: distances share buckets, exact near, logarithmic far (Raffel et al. 2020).

    `weights` is `(buckets, H)`, as in a checkpoint's `relative_attention_bias.weight`.

    >>> t5(torch.zeros(32, 4), bidirectional=True).table.shape
    torch.Size([4, 257])
    """
    exact = len(weights) // (4 if bidirectional else 2)
    if not 1 <= exact < max_distance:
        raise ClearheadError(
            f"t5: {len(weights)} buckets make {exact} exact distances to a side, and max_distance is {max_distance}; "
            "expected at least 1 exact distance, and max_distance beyond them."
        )
    distance = torch.arange(-max_distance, max_distance + 1, device=weights.device)
    return relative(weights[t5_bucket(distance, len(weights), bidirectional, max_distance)].T)


def t5_bucket(distance: Int[Tensor, "..."], buckets: int, bidirectional: bool, max_distance: int) -> Int[Tensor, "..."]:
    """The bucket of each distance j − i: half of them exact, the rest logarithmic up to max_distance."""
    side = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        side = (distance > 0) * buckets
        back = distance.abs()
    else:
        back = -distance.clamp(max=0)
    exact = buckets // 2
    ratio = (back.clamp(min=1) / exact).log() / math.log(max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return side + torch.where(back < exact, back, far)


@dataclass(frozen=True, eq=False)
class _Linear(Bias):
    """s[i, j] −= slope_h · |j − i|."""

    slopes: Float[Tensor, "*B H"]

    @property
    def weights(self) -> tuple[Tensor, ...]:
        return ((self.slopes if self.slopes.dim() > 1 else self.slopes[None])[..., None, None],)

    def check(self, B: int, H: int, Tq: int, Tk: int) -> None:
        if self.slopes.shape not in ((H,), (1, H), (B, H)):
            raise ClearheadError(
                f"alibi: got slopes of shape {tuple(self.slopes.shape)} for (B, H) = ({B}, {H}); expected one a head, "
                f"({H},), or one a sequence and head, ({B}, {H})."
            )

    def at(self, i: Tensor, j: Tensor, past: int, *weights: Tensor) -> Float[Tensor, "B H *tile"]:
        (slopes,) = weights
        distance = (j - i - past).abs()
        return -slopes.reshape(*slopes.shape[:2], *(1,) * distance.dim()) * distance

    def add_gradient(self, grads: tuple[Tensor, ...], i: Tensor, j: Tensor, past: int, ds: Tensor) -> None:
        (grad,) = grads
        grad.sub_((ds * (j - i - past).abs()).sum_to_size(grad.shape).to(grad.dtype))

    def of_sequence(self, b: int) -> Bias:
        return _Linear(self.slopes[b]) if self.slopes.dim() > 1 and len(self.slopes) > 1 else self

    def __repr__(self) -> str:
        by_batch = f", by {len(self.slopes)} sequences" if self.slopes.dim() > 1 else ""
        return f"alibi({self.slopes.shape[-1]} heads{by_batch})"


def alibi(heads: int | Float[Tensor, "*B H"]) -> Bias:
    """ALiBi: s[i, j] −= slope_h · |j − i| (Press et al. 2022). Give the number of heads, or slopes of your own.

    The slopes are one a head `(H,)`, or one a sequence and head `(B, H)`.

    For n heads, n a power of two, the slopes are 2^(−8/n), 2^(−16/n), …; otherwise those of the power of two
    below, then every other one of the power of two above.

    >>> alibi(8).slopes[:3].tolist()
    [0.5, 0.25, 0.125]
    """
    if isinstance(heads, Tensor):
        if heads.dim() not in (1, 2):
            raise ClearheadError(f"alibi: got slopes of shape {tuple(heads.shape)}; expected (H,) or (B, H).")
        return _Linear(heads)
    if heads < 1:
        raise ClearheadError(f"alibi: got {heads} heads; expected at least 1.")
    below = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (n + 1) / below) for n in range(below)]
    slopes += [2 ** (-4 * (n + 1) / below) for n in range(0, 2 * (heads - below), 2)]
    return _Linear(torch.tensor(slopes))


@dataclass(frozen=True, eq=False)
class dense(Bias):
    """A bias for each pair, `(B or 1, H or 1, Tq or 1, Tk or 1)` or fewer leading dimensions; may be learned.

    Where it is −inf the key is hidden, just as a pattern would hide it. `attention(bias=tensor)` says the same.
    """

    tensor: Float[Tensor, "..."]

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The tensor, with four dimensions."""
        return (self.tensor[(None,) * (4 - self.tensor.dim())],)

    def check(self, B: int, H: int, Tq: int, Tk: int) -> None:
        """The tensor is of floats and broadcasts to the scores."""
        if not self.tensor.is_floating_point():
            raise ClearheadError(
                f"bias: got a tensor of {self.tensor.dtype}, expected floats that are added to the scores. "
                "A boolean mask is a pattern: pattern=where(mask), True = may attend."
            )
        shape = (1,) * (4 - self.tensor.dim()) + tuple(self.tensor.shape)
        if len(shape) != 4 or any(n not in (1, want) for n, want in zip(shape, (B, H, Tq, Tk), strict=True)):
            raise ClearheadError(
                f"bias: got a tensor of shape {tuple(self.tensor.shape)}; expected one that broadcasts to the scores, "
                f"(B, H, Tq, Tk) = ({B}, {H}, {Tq}, {Tk})."
            )

    def at(self, i: Tensor, j: Tensor, past: int, *weights: Tensor) -> Float[Tensor, "B H *tile"]:
        """The entries of these pairs."""
        (tensor,) = weights
        return tensor[:, :, *_entries(tensor, i, j)]

    def add_gradient(self, grads: tuple[Tensor, ...], i: Tensor, j: Tensor, past: int, ds: Tensor) -> None:
        """Adds ds at these pairs, summed over the dimensions that the bias shares."""
        (grad,) = grads
        ds = ds.sum_to_size(*(n if g != 1 else 1 for n, g in zip(ds.shape, grad.shape, strict=True)))
        rows, columns = _entries(grad, i, j)
        grad[:, :, rows, columns] += ds.to(grad.dtype)


def _entries(tensor: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """The indices of pairs in a tensor that may have one row, or one column, for all."""
    one = (1,) * i.dim()
    return (
        i if tensor.shape[-2] != 1 else i.new_zeros(one),
        j if tensor.shape[-1] != 1 else j.new_zeros(one),
    )
