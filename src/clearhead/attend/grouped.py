"""Products in which G query heads share one key/value head, without repeating it."""

from jaxtyping import Float
from torch import Tensor


def expand_product(a: Float[Tensor, "*B H m x"], b: Float[Tensor, "*B K x n"]) -> Float[Tensor, "*B H m n"]:
    """a @ b, each head of b serving its H // K heads of a: the group is folded into a's rows."""
    return (_folded(a, b.shape[-3]) @ b).reshape(*a.shape[:-1], b.shape[-1])


def reduce_product(a: Float[Tensor, "*B H m n"], b: Float[Tensor, "*B H m x"], K: int) -> Float[Tensor, "*B K n x"]:
    """aᵀ @ b summed over the heads of each group: the gradient's way back to a shared head."""
    return _folded(a, K).mT @ _folded(b, K)


def _folded(a: Float[Tensor, "*B H m x"], K: int) -> Float[Tensor, "*B K Gm x"]:
    """Heads that share a key head, one under the other."""
    H, m = a.shape[-3:-1]
    return a.reshape(*a.shape[:-3], K, H // max(K, 1) * m, a.shape[-1])
