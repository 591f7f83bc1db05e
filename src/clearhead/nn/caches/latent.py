"""Latent: a growing cache whose values are a part of its keys."""

from jaxtyping import Float, Int
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.nn.caches.growing import Growing


class Latent(Growing):
    """For `MultiHeadLatentAttention`: values are the first `width` numbers of their keys, and are kept once.

    >>> import torch
    >>> cache, k = Latent(512), torch.randn(1, 1, 10, 576)
    >>> cache.write(k, k[..., :512])
    >>> cache.read()[1].shape
    torch.Size([1, 1, 10, 512])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def write(
        self, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T Dv"], new: Int[Tensor, " B"] | None = None
    ) -> None:
        """Write the keys."""
        if not v.shape[-1] == self.width <= k.shape[-1]:
            raise ClearheadError(
                f"a latent cache was made for values that are the first {self.width} numbers of their keys, but got "
                f"k {tuple(k.shape)} and v {tuple(v.shape)}."
            )
        slots, counts = self._next(k, v, new)
        self._k.put(k, slots)
        self._counts = counts

    def read(self) -> tuple[Float[Tensor, "B K Tk D"], Float[Tensor, "B K Tk Dv"]]:
        """Views of the keys, and of their first numbers."""
        k = self._k.first(max(self._counts, default=0))
        return k, k[..., : self.width]
