"""Position: where tokens stand, told to a model at one of three places."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from clearhead.attend import Bias

Angles = tuple[Float[Tensor, "_ 1 T R"], Float[Tensor, "_ 1 T R"]]
"""Cosine and ∓ sine of each new token's angles, `(B or 1, 1, T, R)`, as the R dimensions that turn lie in a head."""


def in_float64(at: Int[Tensor, "_ T"]) -> Int[Tensor, "_ T"]:
    """The positions, where angles of them can be float64: Apple's GPU has no such numbers, so for it on the CPU."""
    return at.cpu() if at.device.type == "mps" else at


class Position(nn.Module):
    """Tells a model where its tokens stand, by one of `add`, `turn` and `bias`. This one tells nothing.

    Without any position a decoder still knows the order, by how much each query sees (NoPE, Kazemnejad et al.
    2023); an encoder treats its tokens as a set. Every other position is one of these and overrides one place.
    `at (B or 1, T)` says where the tokens stand, counted from 0.

    >>> import clearhead as ch, torch
    >>> nothing, at = ch.nn.Position(), torch.arange(5)[None]
    >>> nothing.angles(at), nothing.bias()
    (None, None)
    """

    @property
    def grows(self) -> bool:
        """Whether where one token stands hangs on how long the text is, so that it is to be read in one piece."""
        return False

    def add(self, x: Float[Tensor, "B T E"], at: Int[Tensor, "_ T"]) -> Float[Tensor, "B T E"]:
        """The tokens' vectors, with their positions added."""
        return x

    def angles(self, at: Int[Tensor, "_ T"]) -> Angles | None:
        """What `turn` turns by; asked for once in a forward pass, as it is the same in every layer."""
        return None

    def turn(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B K T D"], angles: Angles | None
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B K T D"]]:
        """Queries and keys, turned by their positions."""
        return q, k

    def bias(self) -> Bias | None:
        """What is added to the scores, by the distance j − i."""
        return None
