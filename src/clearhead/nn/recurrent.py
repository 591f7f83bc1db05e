"""Attention for recurrent decoders: from a decoder's state to what an encoder left, additive and multiplicative."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearhead.attend import Pattern, Runs, Score, full, padding
from clearhead.errors import ClearheadError
from clearhead.nn.weighed import weighed

Remembered = tuple[Float[Tensor, "B Tk Em"], Float[Tensor, "B Tk A"]]
"""A memory and its keys, projected once for all the decoder's steps."""


@dataclass(frozen=True, eq=False)
class TanhOfSum(Score):
    """s = v · tanh(q + k), of queries and keys that have been projected."""

    v: Float[Tensor, " A"]

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """v."""
        return (self.v,)

    def __call__(self, q: Tensor, k: Tensor, *weights: Tensor) -> Float[Tensor, "*B H m n"]:
        """The score of each query with each key."""
        (v,) = weights
        return torch.tanh(q[..., :, None, :] + k[..., None, :, :]) @ v.to(q.dtype)


@dataclass(frozen=True, eq=False)
class around(Pattern):
    """Query i sees the keys at most `radius` from `centre[b, i]`, which may lie between two."""

    centre: Float[Tensor, "B Tq"]
    radius: int

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        centre = self.centre.detach()[:, None, :, None].to(device)
        return Runs.of((centre - self.radius).ceil().long(), (centre + self.radius).floor().long() + 1, Tk)


class AdditiveAttention(nn.Module):
    """context = softmax over j of v · tanh(W_q state + W_k memory_j), times memory_j (Bahdanau et al. 2015).

    Args:
        query_width: of the decoder's state, E.
        memory_width: of the encoder's states, Em.
        hidden: of the layer between, A.

    Raises ClearheadError for a memory of another batch than the states.

    >>> import clearhead as ch, torch
    >>> layer = ch.nn.AdditiveAttention(query_width=32, memory_width=64, hidden=16)
    >>> memory = layer.remember(torch.randn(2, 10, 64))
    >>> context, weights = layer(torch.randn(2, 32), memory, lengths=torch.tensor([10, 7]))
    >>> context.shape, weights.shape
    (torch.Size([2, 64]), torch.Size([2, 10]))
    """

    def __init__(self, query_width: int, memory_width: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_width, hidden, bias=False)
        self.key = nn.Linear(memory_width, hidden, bias=False)
        self.v = nn.Parameter(torch.empty(hidden).uniform_(-(hidden**-0.5), hidden**-0.5))

    def remember(self, memory: Float[Tensor, "B Tk Em"]) -> Remembered:
        """The memory with its keys, to be given to `forward` in its place at each step."""
        return memory, self.key(memory)

    def forward(
        self,
        state: Float[Tensor, "B E"] | Float[Tensor, "B T E"],
        memory: Float[Tensor, "B Tk Em"] | Remembered,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B *T Em"], Float[Tensor, "B *T Tk"]]:
        """The context of a step's state `(B, E)`, or of several `(B, T, E)`, and the weights.

        `lengths` says how many of each memory are real; of none, the context is 0. T states hold T · Tk · A numbers.
        """
        memory, keys = self.remember(memory) if isinstance(memory, Tensor) else memory
        return _attended(self.query(state), keys, memory, lengths, TanhOfSum(self.v))


class MultiplicativeAttention(nn.Module):
    """context = Σ_j softmax_j(score(state, memory_j)) memory_j (Luong et al. 2015), over all of the memory or a part.

    The scores are "dot", state · memory_j; "general", stateᵀ W memory_j; and "concat", v · tanh(W [state; memory_j]).

    Args:
        query_width: of the decoder's state, E.
        memory_width: of the encoder's states, Em.
        score: "dot" (for E = Em), "general" or "concat".
        hidden: of "concat"; None is E.
        local: None sees all of the memory. "monotonic" (local-m) sees the keys at most `radius` from the state's own
            place, p = at. "predictive" (local-p) foretells the place, p = Tk · sigmoid(v_p · tanh(W_p state)), and
            multiplies the weights by exp(−(j − p)² / 2σ²), σ = radius / 2, through which p is learned.
        radius: the paper's D, in keys.

    Raises:
        ClearheadError: for a score or a kind that isn't one of these, or widths that differ with "dot".

    >>> import clearhead as ch, torch
    >>> layer = ch.nn.MultiplicativeAttention(32, 64, local="predictive", radius=3)
    >>> context, weights = layer(torch.randn(2, 5, 32), torch.randn(2, 10, 64))
    >>> context.shape, weights.shape
    (torch.Size([2, 5, 64]), torch.Size([2, 5, 10]))
    """

    def __init__(
        self,
        query_width: int,
        memory_width: int,
        score: str = "general",
        *,
        hidden: int | None = None,
        local: str | None = None,
        radius: int = 10,
    ) -> None:
        super().__init__()
        if score not in ("dot", "general", "concat"):
            raise ClearheadError(f"score: got {score!r}, expected 'dot', 'general' or 'concat'.")
        if local not in (None, "monotonic", "predictive"):
            raise ClearheadError(f"local: got {local!r}, expected None, 'monotonic' or 'predictive'.")
        if score == "dot" and query_width != memory_width:
            raise ClearheadError(
                f"score 'dot' needs states and memory of one width: got {query_width} and {memory_width}. "
                "'general' has a matrix between them."
            )
        if radius < 1:
            raise ClearheadError(f"radius: got {radius}, expected a number of keys, at least 1.")
        self.score, self.local, self.radius = score, local, radius
        A = query_width if hidden is None or score != "concat" else hidden
        self.query = nn.Linear(query_width, A, bias=False) if score == "concat" else nn.Identity()
        self.key = nn.Identity() if score == "dot" else nn.Linear(memory_width, A, bias=False)
        self.v = nn.Parameter(torch.empty(A).uniform_(-(A**-0.5), A**-0.5)) if score == "concat" else None
        self.place: nn.Module | None = None
        if local == "predictive":
            between = nn.Linear(query_width, query_width, bias=False)
            self.place = nn.Sequential(between, nn.Tanh(), nn.Linear(query_width, 1, bias=False), nn.Sigmoid())

    def remember(self, memory: Float[Tensor, "B Tk Em"]) -> Remembered:
        """The memory with its keys, to be given to `forward` in its place at each step."""
        return memory, self.key(memory)

    def forward(
        self,
        state: Float[Tensor, "B E"] | Float[Tensor, "B T E"],
        memory: Float[Tensor, "B Tk Em"] | Remembered,
        lengths: Int[Tensor, " B"] | None = None,
        at: int | Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B *T Em"], Float[Tensor, "B *T Tk"]]:
        """The context of a step's state `(B, E)`, or of several `(B, T, E)`, and the weights.

        `lengths` says how many of each memory are real; of none, the context is 0. `at` is the place of the state, or
        of the first of several, which is 0 unless it is told; "monotonic" needs it.
        """
        memory, keys = self.remember(memory) if isinstance(memory, Tensor) else memory
        pattern: Pattern = full()
        change: Callable[[Tensor], Tensor] | None = None
        if self.local is not None:
            centre = self._centre(state, keys, lengths, at)
            pattern = around(centre, self.radius)
            if self.local == "predictive":
                j = torch.arange(keys.shape[1], device=keys.device)
                near = torch.exp(-2 * ((j - centre[:, None, :, None]) / self.radius) ** 2)  # as σ = radius / 2
                change = partial(torch.mul, near)
        score = "dot" if self.v is None else TanhOfSum(self.v)
        return _attended(self.query(state), keys, memory, lengths, score, pattern, change)

    def _centre(
        self, state: Tensor, keys: Float[Tensor, "B Tk A"], lengths: Tensor | None, at: int | Tensor | None
    ) -> Float[Tensor, "B T"]:
        """The place in the memory around which each state looks."""
        states = state[:, None] if state.dim() == 2 else state
        B, T, _ = states.shape
        if self.place is not None:
            ends = torch.full((B,), keys.shape[1], device=keys.device) if lengths is None else lengths.to(keys.device)
            share: Tensor = self.place(states)[..., 0]
            return share.to(torch.promote_types(share.dtype, torch.float32)) * ends[:, None]
        if at is None and state.dim() == 2:
            raise ClearheadError("at: a single state's place is needed by local='monotonic'; pass at=step.")
        first = torch.as_tensor(0 if at is None else at, device=keys.device).view(-1, 1).float()
        return (first + torch.arange(T, device=keys.device)).expand(B, T)


def _attended(
    query: Float[Tensor, "B *T A"],
    keys: Float[Tensor, "B Tk A"],
    memory: Float[Tensor, "B Tk Em"],
    lengths: Int[Tensor, " B"] | None,
    score: str | Score,
    pattern: Pattern | None = None,
    change: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "B *T Em"], Float[Tensor, "B *T Tk"]]:
    """Context and weights, of one head."""
    if lengths is not None:
        pattern = padding(lengths) if pattern is None else pattern & padding(lengths)
    single = query.dim() == 2
    q = query[:, None, None] if single else query[:, None]
    context, _, weights = weighed(q, keys[:, None], memory[:, None], score=score, pattern=pattern, change=change)
    return (context[:, 0, 0], weights[:, 0, 0]) if single else (context[:, 0], weights[:, 0])
