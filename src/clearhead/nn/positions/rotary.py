"""RoPE: queries and keys turned by their positions, so that their product knows only the distance."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.nn import native
from clearhead.nn.positions.position import Angles, Position, in_float64
from clearhead.nn.positions.scaling import Scaling

Layout = Literal["halves", "pairs"]


class Rotary(Position):
    """RoPE: each pair of a head's dimensions is turned by t · θ_n, with θ_n = base^(−2n / turned) (Su et al. 2021).

    (a, b) becomes (a · cos − b · sin, b · cos + a · sin). Turned by t_i and t_j, q · k hangs on t_j − t_i alone. Pair n
    is dimensions n and n + turned / 2 in `layout="halves"` (GPT-NeoX; Llama as Transformers has it), 2n and 2n + 1 in
    "pairs" (the paper, GPT-J). `turned` is how many of the head's first dimensions turn, all unless said. Beyond the
    training length come angles that the model never saw; a `scaling` bends the frequencies for that.

    Raises ClearheadError for a number to turn that is odd or more than the head has, or an unknown layout.

    >>> rotary = Rotary(64)
    >>> q, k = torch.randn(1, 9, 5, 64), torch.randn(1, 3, 5, 64)
    >>> q, k = rotary.turn(q, k, rotary.angles(torch.arange(5)[None]))
    >>> q.shape, k.shape
    (torch.Size([1, 9, 5, 64]), torch.Size([1, 3, 5, 64]))
    """

    def __init__(
        self,
        head_width: int,
        base: float = 10_000.0,
        *,
        turned: int | None = None,
        layout: Layout = "halves",
        scaling: Scaling | None = None,
    ) -> None:
        super().__init__()
        turned = head_width if turned is None else turned
        if turned % 2 or not 0 < turned <= head_width:
            raise ClearheadError(
                f"Rotary: got {turned} dimensions to turn in a head of {head_width}; "
                f"expected an even number from 2 to {head_width}, as they turn in pairs."
            )
        if layout not in ("halves", "pairs"):
            raise ClearheadError(f"Rotary: got layout {layout!r}; expected 'halves' (Llama) or 'pairs' (GPT-J).")
        self.head_width, self.base, self.turned, self.layout = head_width, base, turned, layout
        self.scaling = scaling or Scaling()
        self.temperature = self.scaling.temperature
        # No buffer: it would be cast with the weights, and be missing where they wait to be loaded.
        self.fixed = self.scaling.frequencies(base, turned, torch.tensor(0, device="cpu"))

    @property
    def grows(self) -> bool:
        """Whether the scaling looks at the text's length."""
        return self.scaling.grows

    def frequencies(self, at: Int[Tensor, "_ T"]) -> Float[Tensor, " R"]:
        """θ, in radians a token, of a text of which these are the last positions."""
        if self.scaling.grows:
            return self.scaling.frequencies(self.base, self.turned, at.max() + 1)
        return self.fixed.to(at.device)

    def angles(self, at: Int[Tensor, "_ T"]) -> Angles:
        """Cosine and ∓ sine of at · θ, times the scaling's temperature: `(B or 1, 1, T, turned)`, float32.

        Each angle stands at both of its pair's dimensions, with −sin at the first: what `turn` wants, made once for
        all layers. The angles are float64, as float32 would round those of position 30,000 by a thousandth.
        """
        exact = in_float64(at)
        angles = exact[:, None, :, None] * self.frequencies(exact).double()
        cos, sin = ((part * self.temperature).float().to(at.device) for part in (angles.cos(), angles.sin()))
        if self.layout == "halves":
            return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return torch.stack((cos, cos), -1).flatten(-2), torch.stack((-sin, sin), -1).flatten(-2)

    def turn(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B K T D"], angles: Angles | None
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B K T D"]]:
        """Queries and keys, turned."""
        if angles is None:
            raise ClearheadError("Rotary: got no angles to turn by; expected what angles(at) gives.")
        if q.shape[-1] != self.head_width:
            raise ClearheadError(
                f"Rotary: was made for heads {self.head_width} wide, but got q {tuple(q.shape)}; expected "
                f"D = {self.head_width}. Say how many of a head's dimensions turn by turned=."
            )
        return turn(q, *angles, self.layout), turn(k, *angles, self.layout)

    def extra_repr(self) -> str:
        """What it was made with."""
        turned = "" if self.turned == self.head_width else f", turned={self.turned}"
        scaling = "" if type(self.scaling) is Scaling else f", scaling={self.scaling}"
        return f"{self.head_width}, base={self.base:g}{turned}, layout={self.layout!r}{scaling}"


def turn(
    x: Float[Tensor, "B N T D"], cos: Float[Tensor, "_ 1 T R"], sin: Float[Tensor, "_ 1 T R"], layout: Layout = "halves"
) -> Float[Tensor, "B N T D"]:
    """x · cos + x' · sin in the first R dimensions, x' being each dimension's partner; the others are left as they are.

    `sin` has the minus for the first of a pair. It is computed in float32 at least, and rounded once to x's type.
    """
    R, D = cos.shape[-1], x.shape[-1]
    if layout == "halves" and len(cos) in (1, len(x)) and R <= D and native.takes(x) and native.takes_angles(cos, sin):
        return native.turn(x, cos, sin)
    part = x if R == D else x[..., :R]
    if layout == "halves":
        partners = part.roll(R // 2, -1)
    else:
        partners = part.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    turned = torch.addcmul(part * cos, partners, sin).to(x.dtype)
    return turned if R == D else torch.cat((turned, x[..., R:]), -1)
