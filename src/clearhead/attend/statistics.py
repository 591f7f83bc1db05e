"""Statistics of attention rows: what they are, and how a kernel's pass gathers them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is seen of every head and query, each `(B, H, Tq)`, in natural logarithms.

    | name | is | first given in |
    |---|---|---|
    | `lse` | log Σ_j exp s[i,j], a sink's logit included | Dao et al. 2022 |
    | `entropy` | −Σ_j w log w | Clark et al. 2019 |
    | `entropy_normalised` | entropy / log(visible keys): 1 is uniform; 0 where fewer than two keys are visible | |
    | `peak`, `peak_at` | max_j w[i,j], and its key | Voita et al. 2019 (confidence) |
    | `distance` | Σ_j w |i − j| / Σ_j w, i the query's position | Vig & Belinkov 2019 |
    | `max_score` | max_j s[i,j] | |
    | `visible` | how many keys the query may see | |

    A query that may see nothing has lse and max_score −inf, peak_at −1 and the others 0. With a sink the
    weights of the keys sum to less than 1; the entropy is over the keys alone.
    """

    lse: Float[Tensor, "B H Tq"]
    entropy: Float[Tensor, "B H Tq"]
    entropy_normalised: Float[Tensor, "B H Tq"]
    peak: Float[Tensor, "B H Tq"]
    peak_at: Int[Tensor, "B H Tq"]
    distance: Float[Tensor, "B H Tq"]
    max_score: Float[Tensor, "B H Tq"]
    visible: Int[Tensor, "B H Tq"]


def of_weights(
    s: Float[Tensor, "B H Tq Tk"],
    w: Float[Tensor, "B H Tq Tk"],
    lse: Float[Tensor, "B H Tq"],
    sinks: Float[Tensor, " H"] | None,
    visible: Bool[Tensor, "#B #H Tq Tk"],
    i: Int[Tensor, "Tq 1"],
) -> Statistics:
    """The statistics by their definitions, from whole weights w and scores s; i are the queries' positions.

    A peak near 1 has lost the digits of 1 − peak, so its −log is taken from what all else weighs.
    """
    if w.shape[-1] == 0:  # no key to be the peak: an extra hidden one stands in
        pad = (0, 1)
        s, w = (torch.nn.functional.pad(x, pad, value=x_empty) for x, x_empty in ((s, -torch.inf), (w, 0.0)))
        visible = torch.nn.functional.pad(visible, pad)
    j = torch.arange(w.shape[-1], device=w.device)
    count = visible.expand(w.shape).sum(-1)
    max_score, at = s.masked_fill(~visible, -torch.inf).max(-1)
    peak, others = w.gather(-1, at[..., None])[..., 0], w.scatter(-1, at[..., None], 0)
    rest = others.sum(-1) + (0 if sinks is None else torch.exp(sinks[:, None].to(lse.dtype) - lse))
    of_peak = torch.where(peak > 0.5, -peak * torch.log1p(-rest), torch.special.entr(peak))
    entropy = of_peak + torch.special.entr(others).sum(-1)
    # Of the keys alone: beside a sink, all of their weights may round to 0.
    among_keys = s.masked_fill(~visible, -torch.inf).softmax(-1)
    among_keys = among_keys.masked_fill((max_score == -torch.inf)[..., None], 0)
    return Statistics(
        lse=lse,
        entropy=entropy,
        entropy_normalised=normalised(entropy, count),
        peak=peak,
        peak_at=at.masked_fill(max_score == -torch.inf, -1),
        distance=(among_keys * (i - j).abs()).sum(-1),
        max_score=max_score,
        visible=count,
    )


def normalised(entropy: Float[Tensor, "*rows"], visible: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
    """entropy / log(visible), 0 where fewer than two keys are visible."""
    return torch.where(visible > 1, entropy / visible.clamp(min=2).to(entropy.dtype).log(), 0)


class Gatherer:
    """Gathers the statistics of some rows tile by tile, as FlashAttention gathers its sum.

    With m the running maximum it holds, all relative to exp(m): `rest`, the sum of all weights but the
    peak's own 1; `spread` = Σ exp(s − m)(m − s); `moment` = Σ exp(s − m)|i − j|. Then
    entropy = log(1 + rest) + spread / (1 + rest), both terms positive: nothing cancels, and an entropy near
    0 keeps its digits, as lse − E[s] would not.
    """

    def __init__(self, shape: torch.Size, like: Tensor) -> None:
        self.m = like.new_full(shape, -torch.inf)
        self.at = torch.full(shape, -1, dtype=torch.int64, device=like.device)
        self.rest = like.new_zeros(shape)
        self.spread = like.new_zeros(shape)
        self.moment = like.new_zeros(shape)

    def add(self, s: Float[Tensor, "B H m n"], i: Int[Tensor, "m 1"], j: Int[Tensor, "1 n"]) -> None:
        """Takes in a tile of scores, hidden ones −inf; i and j are positions."""
        top, at = s.max(-1)
        m = torch.maximum(self.m, top)
        base = torch.where(m == -torch.inf, 0, m)
        p = torch.exp(s - base[..., None])
        shrink = torch.exp(self.m - base)
        fall = torch.where(self.m == -torch.inf, 0, base - self.m)
        new_peak = top > self.m
        had = (self.m > -torch.inf).to(p.dtype)
        # The peak's own 1 is left out of `rest`; an old peak that is passed by joins it.
        others = p.scatter_reduce(-1, at[..., None], (~new_peak).to(p.dtype)[..., None], "prod")
        # shrink · fall first: among huge scores fall · rest would overflow where shrink makes it 0.
        self.spread = (
            shrink * self.spread + (shrink * fall) * (self.rest + had) + _entropy_terms(p, base[..., None] - s)
        )
        self.moment = shrink * self.moment + (p * (i - j).abs()).sum(-1)
        self.rest = shrink * (self.rest + torch.where(new_peak, had, 0)) + others.sum(-1)
        self.at = torch.where(new_peak, at + j[0, 0], self.at)
        self.m = m

    def finish(self, sinks: Float[Tensor, " H"] | None, visible: Int[Tensor, "#B #H m"]) -> dict[str, Tensor]:
        """The statistics of the rows, by name."""
        some = self.m != -torch.inf
        base = torch.where(some, self.m, 0)
        gap = torch.log1p(self.rest)  # lse − m
        if sinks is not None:
            gap = torch.logaddexp(gap, sinks[:, None].to(gap.dtype) - base)
        peak = torch.where(some, torch.exp(-gap), 0)
        entropy = torch.where(some, (1 + self.rest) * peak * gap + self.spread * peak, 0)
        lse = base + gap if sinks is None else torch.where(some, base + gap, sinks[:, None].to(gap.dtype))
        return {
            "lse": torch.where(some, lse, -torch.inf) if sinks is None else lse,
            "entropy": entropy,
            "entropy_normalised": normalised(entropy, visible.expand(entropy.shape)),
            "peak": peak,
            "peak_at": self.at,
            "distance": torch.where(some, self.moment / (1 + self.rest), 0),
            "max_score": self.m,
            "visible": visible.expand(entropy.shape),
        }


def _entropy_terms(p: Tensor, below: Tensor) -> Tensor:
    """Σ p · below, where a hidden key's 0 · inf counts as 0."""
    return (p * torch.where(p > 0, below, 0)).sum(-1)
