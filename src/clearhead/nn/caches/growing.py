"""Growing: a cache of every token, with room that doubles."""

from jaxtyping import Float, Int
from torch import Tensor

from clearhead.nn.caches.cache import Cache, cropped, taken
from clearhead.nn.caches.rows import Rows


class Growing(Cache):
    """Keeps every key and value, as they are. Memory: T · K · (D + Dv) numbers a sequence, and at most as much again.

    Gradients flow to the tokens written while they are recorded; each write then copies what is there.

    >>> import clearhead as ch, torch
    >>> cache = Growing()
    >>> q, k, v = torch.randn(1, 8, 5, 64), torch.randn(1, 2, 5, 64), torch.randn(1, 2, 5, 64)
    >>> first = cache.attend(q[:, :, :4], k[:, :, :4], v[:, :, :4], pattern=ch.causal())
    >>> last = cache.attend(q[:, :, 4:], k[:, :, 4:], v[:, :, 4:], pattern=ch.causal())
    >>> torch.allclose(torch.cat([first, last], 2), ch.attention(q, k, v, pattern=ch.causal()), atol=1e-6)
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self._k, self._v = Rows(), Rows()

    def write(
        self, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T Dv"], new: Int[Tensor, " B"] | None = None
    ) -> None:
        """Write behind what is there, in place."""
        slots, counts = self._next(k, v, new)
        self._k.put(k, slots)
        self._v.put(v, slots)
        self._counts = counts

    def reserve(
        self, like: Float[Tensor, "B K 0 D"], T: int
    ) -> tuple[Float[Tensor, "B K room D"], Float[Tensor, "B K room Dv"]]:
        """Keys and values, with room behind those of every sequence for T more like these, which `advance` counts."""
        needed = max(self._counts, default=0) + T
        return self._k.reserve(like, needed), self._v.reserve(like, needed)

    def advance(self, T: int) -> None:
        """Count T more tokens of every sequence, which were written where `reserve` said."""
        self._counts = [n + T for n in self._counts or [0] * len(self._k.first(0))]

    def read(self) -> tuple[Float[Tensor, "B K Tk D"], Float[Tensor, "B K Tk Dv"]]:
        """Views of what is kept: the next write may change what lies beyond a sequence's length."""
        longest = max(self._counts, default=0)
        return self._k.first(longest), self._v.first(longest)

    def take(self, rows: Int[Tensor, " rows"]) -> None:
        """Copies these sequences."""
        longest = max(self._counts, default=0)
        self._counts = taken(self._counts, rows)
        self._k.take(rows, longest)
        self._v.take(rows, longest)

    def crop(self, lengths: Int[Tensor, " B"]) -> None:
        """Forgets by counting; the room stays."""
        self._counts = cropped(self._counts, lengths)

    def _clear(self) -> None:
        self._counts, self._k, self._v = [], Rows(), Rows()

    @property
    def nbytes(self) -> int:
        """Of the keys and values and the room for more."""
        return self._k.nbytes + self._v.nbytes
