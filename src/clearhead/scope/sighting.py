"""A sighting: what one attention of a watched model showed in one call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearhead.scope.added import Added
from clearhead.scope.interface import Asked
from clearhead.scope.taking import Taken


@dataclass(frozen=True, eq=False)
class Sighting:
    """One call of one attention: its tensors, detached, and the model's own result beside them.

    The weights are w = softmax(softcap(scale · q kᵀ) + mask + bias), with sinks joined to the denominator. A model
    that shows nothing but its softmax gives `scores` instead of q, k and v: then w = softmax(scores). Queries
    are the last Tq positions of the tokens, in self-attention.
    """

    name: str
    """The module's name in the model, "model.layers.3.self_attn"."""
    layer: int
    """Which of the model's attentions it is, in the order in which the model defines them, from 0."""
    kind: Literal["self", "cross"]
    step: int
    """Which call of the model inside the watch, from 0: generation with a cache makes one a token."""
    row: int | None = None
    """Which sequence of the batch this is, where sequences that differ in length attend one by one. B is then 1."""

    q: Float[Tensor, "B H Tq D"] | None = None
    k: Float[Tensor, "B K Tk D"] | None = None
    v: Float[Tensor, "B K Tk Dv"] | None = None
    scores: Float[Tensor, "B H Tq Tk"] | None = None

    mask: Bool[Tensor, "#B #H #Tq #Tk"] | Float[Tensor, "#B #H #Tq #Tk"] | None = None
    """The model's own: True = may attend, or floats added to the scores."""
    bias: Float[Tensor, "#B #H #Tq #Tk"] | None = None
    """A position bias, where the model hands it over by itself."""
    causal: bool = False
    """Query i may see keys 0 to i, and no more; never together with a mask."""
    scale: float = 1.0
    softcap: float | None = None
    sinks: Float[Tensor, " H"] | None = None
    dropout: float = 0.0
    """The probability with which the model dropped weights. Above 0, `out` is a matter of chance."""

    out: Tensor | None = None
    """What the model computed: (B, H, Tq, Dv), or what `project` makes of that. None where it isn't shown."""
    project: Callable[[Tensor], Tensor] | None = None
    """Takes n rows, (B, H, n, Dv), to n rows of `out`, where that is shown behind a projection only."""
    taken: Taken | None = None
    """What our kernel made of it, if it computed this: `out` is then its result, and the statistics are there."""
    added: Added = ()
    """The keys behind those of the tokens that the module added, by their names."""
    passed: str | None = None
    """Why the model's own kernel computed it, if it did."""

    ids_q: Int[Tensor, "B Tq"] | None = None
    ids_k: Int[Tensor, "B tokens"] | None = None
    """The tokens at the queries and at the keys, without those added; None where they are not known."""
    cache: object = None
    """Where the model keeps the keys and values of earlier tokens, if it was given that."""
    valid: Bool[Tensor, "B Tq"] | None = None
    """Which queries are no padding; None if nothing was said of padding."""

    @property
    def asked(self) -> Asked:
        """The attention alone."""
        q, k, v = self.q, self.k, self.v
        assert q is not None and k is not None and v is not None
        return Asked(q, k, v, self.mask, self.bias, self.causal, self.scale, self.softcap, self.sinks, self.dropout)


@runtime_checkable
class Recorder(Protocol):
    """What keeps the sightings."""

    def expect(self, asked: Asked, attentions: int, /) -> None:
        """Looks at the first attention before it is computed, of so many; raises if there is no room for them."""

    def add(self, sighting: Sighting, /) -> None:
        """Takes what one attention showed. The tensors may be the model's own: what is to last is copied."""

    def close(self, unseen: list[str], /) -> None:
        """Takes the names of the attentions that ran unseen, at the end of the watch."""
