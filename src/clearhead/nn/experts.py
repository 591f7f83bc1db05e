"""Experts: many feed-forward layers, of which each token visits a few."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from clearhead.errors import ClearheadError
from clearhead.nn.feed_forward import ACTIVATIONS, FeedForward, gated, quick_gelu
from clearhead.nn.linear import Linear, linear


@dataclass(frozen=True, eq=False)
class Routing:
    """Which experts N tokens visit, and what each visit counts."""

    probabilities: Float[Tensor, "N experts"]
    """Softmax of the router's logits, over all experts."""
    chosen: Int[Tensor, "N k"]
    """Each token's experts, the likeliest first."""
    weights: Float[Tensor, "N k"]
    """By what each chosen expert's output is multiplied."""
    capacity: int | None
    """The most tokens that one expert takes, if that is limited."""

    @property
    def load(self) -> Int[Tensor, " experts"]:
        """How many tokens chose each expert."""
        return torch.bincount(self.chosen.flatten(), minlength=self.probabilities.shape[-1])

    @property
    def dropped(self) -> int:
        """How many visits come to nothing, as their expert was full."""
        return 0 if self.capacity is None else int((self.load - self.capacity).clamp(min=0).sum())


class Router(nn.Module):
    """Chooses each token's experts: the k highest of softmax(W x + b)."""

    def __init__(
        self, width: int, experts: int, top_k: int, *, bias: bool, normalise: bool, capacity: float | None
    ) -> None:
        super().__init__()
        self.top_k, self.normalise, self.capacity = top_k, normalise, capacity
        self.weight = nn.Parameter(torch.empty(experts, width).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(experts)) if bias else None

    def forward(self, x: Float[Tensor, "N E"]) -> Routing:
        """The experts of these tokens."""
        logits = linear(x, self.weight, self.bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probabilities = logits.softmax(-1)
        highest, chosen = logits.topk(self.top_k)
        weights = highest.softmax(-1) if self.normalise else probabilities.gather(-1, chosen)
        capacity = None
        if self.training and self.capacity is not None:
            capacity = ceil(self.capacity * chosen.numel() / len(self.weight))
        return Routing(probabilities, chosen, weights, capacity)


class Experts(nn.Module):
    """out = Σ_e w_e · down_e(f(gate_e x) ⊙ up_e x) over the token's top_k experts (Shazeer et al. 2017).

    w = softmax of the router's logits, over the chosen experts, or over all with `normalise=False`. Tokens are
    sorted by expert, and each expert multiplies its own tokens only: nothing is padded, an idle expert costs nothing.

    Args:
        width: of the tokens, E.
        hidden: of each expert.
        experts: how many there are.
        top_k: how many of them each token visits.
        activation: f, as of `FeedForward`; or "clamped_swiglu", GPT-OSS's own.
        bias: whether router and experts have biases (GPT-OSS).
        normalise: whether a token's weights sum to 1 (Mixtral, GPT-OSS, Qwen3); in Qwen2 they don't.
        shared: hidden width of an expert that every token visits beside its own, times sigmoid(W_s x) (Qwen2);
            0 is none.
        capacity: while training, an expert takes at most capacity · tokens · top_k / experts visits, first choices
            first, and drops the rest (Fedus et al. 2022); None drops nothing.

    Parameters are `router.weight (experts, E)`, `up (experts, 2 · hidden, E)`, the gate's rows first, and
    `down (experts, E, hidden)`; with bias `router.bias`, `up_bias` and `down_bias`. `routings` tells what a model's
    routers chose, and `balance_loss` what keeps them from choosing the same.

    Raises:
        ClearheadError: for a `top_k` that is not from 1 to experts, an unknown activation, a capacity not above 0.

    >>> import clearhead as ch, torch
    >>> layer = ch.nn.Experts(64, 128, experts=8, top_k=2)
    >>> layer(torch.randn(2, 10, 64)).shape
    torch.Size([2, 10, 64])
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        experts: int,
        top_k: int,
        *,
        activation: str = "silu",
        bias: bool = False,
        normalise: bool = True,
        shared: int = 0,
        capacity: float | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= experts:
            raise ClearheadError(f"Experts: got top_k = {top_k} of {experts} experts; expected 1 to {experts}.")
        if activation not in (*ACTIVATIONS, "clamped_swiglu"):
            known = ", ".join(map(repr, ACTIVATIONS))
            raise ClearheadError(f"activation: got {activation!r}, expected one of {known}, 'clamped_swiglu'.")
        if capacity is not None and capacity <= 0:
            raise ClearheadError(
                f"capacity: got {capacity!r}, expected a factor above 0, such as 1.25 for a quarter more than an "
                "expert's even share, or None to drop nothing."
            )
        self.activation = activation
        self.router = Router(width, experts, top_k, bias=bias, normalise=normalise, capacity=capacity)
        self.up = nn.Parameter(torch.empty(experts, 2 * hidden, width).uniform_(-(width**-0.5), width**-0.5))
        self.down = nn.Parameter(torch.empty(experts, width, hidden).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.up_bias = nn.Parameter(torch.zeros(experts, 2 * hidden)) if bias else None
        self.down_bias = nn.Parameter(torch.zeros(experts, width)) if bias else None
        self.shared = FeedForward(width, shared, activation, gated=True, bias=False) if shared else None
        self.shared_gate = Linear(width, 1, bias=False) if shared else None

    def forward(self, x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
        """Each token by its own experts."""
        tokens = x.reshape(-1, x.shape[-1])
        out = self._visited(tokens, self.router(tokens))
        if self.shared is not None and self.shared_gate is not None:
            out = out + self.shared_gate(tokens).sigmoid() * self.shared(tokens)
        return out.view(x.shape)

    def _visited(self, x: Float[Tensor, "N E"], routing: Routing) -> Float[Tensor, "N E"]:
        """The sum of what each token's experts make of it."""
        if x.is_meta:  # which expert takes which token is not known there, and changes no shape
            return torch.empty_like(x)
        N = len(x)
        # All first choices stand before all second ones, so that a full expert drops the latter.
        visits, weights = routing.chosen.T.flatten(), routing.weights.T.flatten()
        by_expert = visits.argsort(stable=True).split(routing.load.tolist())
        ups, downs = self.up.unbind(), self.down.unbind()  # apart at once: a gradient of each alone would be as large
        out = torch.zeros_like(x)
        for e, mine in enumerate(by_expert):
            mine = mine[: routing.capacity]
            if not len(mine):
                continue
            token = mine % N
            h = linear(x[token], ups[e], None if self.up_bias is None else self.up_bias[e])
            h = clamped_swiglu(h) if self.activation == "clamped_swiglu" else gated(self.activation, h)
            y = linear(h, downs[e], None if self.down_bias is None else self.down_bias[e])
            out.index_add_(0, token, (y * weights[mine, None]).to(out.dtype))
        return out

    def extra_repr(self) -> str:
        """What the modules below do not say."""
        experts, width, hidden = self.down.shape
        return f"{width}, {hidden}, experts={experts}, top_k={self.router.top_k}, activation={self.activation!r}"


def clamped_swiglu(h: Float[Tensor, "*B both"]) -> Float[Tensor, "*B hidden"]:
    """g · sigmoid(1.702 g) · (u + 1), where `h` = [gate; up], g = min(gate, 7) and u = up kept within ±7 (GPT-OSS)."""
    gate, up = h.chunk(2, -1)
    return quick_gelu(gate.clamp(max=7.0)) * (up.clamp(-7.0, 7.0) + 1)


@contextmanager
def routings(model: nn.Module) -> Iterator[list[Routing]]:
    """Gathers what each router of a model chooses within the `with` block, in the order in which they run.

    >>> import clearhead as ch, torch
    >>> model = torch.nn.Sequential(ch.nn.Experts(8, 16, 4, top_k=2), ch.nn.Experts(8, 16, 4, top_k=2))
    >>> with ch.nn.routings(model) as seen:
    ...     loss = model(torch.randn(1, 10, 8)).square().mean()
    >>> loss = loss + 0.01 * ch.nn.balance_loss(seen)
    >>> [len(routing.chosen) for routing in seen]
    [10, 10]
    """
    routers = [module for module in model.modules() if isinstance(module, Router)]
    if not routers:
        raise ClearheadError(f"routings: {type(model).__name__} has no Experts layer; expected a model with one.")
    seen: list[Routing] = []
    handles = [router.register_forward_hook(lambda _, __, routing: seen.append(routing)) for router in routers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def balance_loss(routings: Sequence[Routing], real: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, ""]:
    """experts · Σ_e f_e P_e, top_k where all experts are chosen alike, more where few are (Fedus et al. 2022).

    f_e is the share of the tokens that chose expert e, P_e the mean of its probability, both over all layers'
    tokens together, as for Mixtral. `real (B, T)` leaves padding out. Added to the loss with a small factor.

    Raises ClearheadError for no routing, and for a `real` of other tokens.

    >>> layer = Experts(8, 16, experts=4, top_k=2)
    >>> with routings(layer) as seen:
    ...     out = layer(torch.randn(1, 10, 8))
    >>> balance_loss(seen).shape
    torch.Size([])
    """
    if not routings:
        raise ClearheadError("balance_loss: got no routing; run the model within `with routings(model) as seen`.")
    P = torch.cat([routing.probabilities for routing in routings])
    chosen = torch.cat([routing.chosen for routing in routings])
    N, experts = P.shape
    counted = P.new_ones(N) if real is None else real.flatten().to(P).repeat(len(routings))
    if len(counted) != N:
        raise ClearheadError(
            f"real: got shape {tuple(real.shape) if real is not None else ()}, expected (B, T) of the model's call, "
            f"with {N // len(routings)} tokens."
        )
    f = P.new_zeros(experts).index_add_(0, chosen.flatten(), counted.repeat_interleave(chosen.shape[-1]))
    return experts * (f * (P * counted[:, None]).sum(0)).sum() / counted.sum() ** 2
