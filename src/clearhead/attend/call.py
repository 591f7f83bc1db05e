"""A call of attention, checked and complete: what every backend gets."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import forward_ad

from clearhead.attend.biases import Bias
from clearhead.attend.dropout import keep
from clearhead.attend.grouped import expand_product
from clearhead.attend.runs import Runs
from clearhead.attend.scores import Score


@dataclass(frozen=True, eq=False)
class Call:
    """One attention: its tensors, and what is done with them.

    Scores are s[i, j] = softcap(scale · score(q_i, k_j)) + bias[i, j], over the keys in the query's runs.
    """

    q: Float[Tensor, "B H Tq D"]
    k: Float[Tensor, "B K Tk Dk"]
    v: Float[Tensor, "B K Tk Dv"]
    sinks: Float[Tensor, " H"] | None
    bias_weights: tuple[Tensor, ...]
    score_weights: tuple[Tensor, ...]
    runs: Runs
    bias: Bias | None
    score: Score
    scale: float
    softcap: float | None
    dropout: float
    queries: Int[Tensor, " Tq"]
    """Which query rows of the whole call these are: all, or those that `take` took."""
    past: int
    """Query row r sits at position r + past among the keys: Tk − Tq of the whole call."""
    seed: int = 0
    """Of the dropout, where a backend makes its mask twice."""
    finite: bool | None = None
    """Whether q, k, v and q kᵀ hold no NaN and no Inf, so that nothing can leak from under the mask; None: look."""

    @property
    def known_finite(self) -> bool:
        """`finite`; looked up only where a backend asks, as that reads all of q, k and v."""
        if torch.compiler.is_compiling():  # which can look at no value
            return False
        return self._found_finite if self.finite is None else self.finite

    @cached_property
    def _found_finite(self) -> bool:
        return _known_finite(self.q, self.k, self.v)

    @property
    def in_forward_mode(self) -> bool:
        """Whether a derivative is carried along with the tensors (jvp)."""
        if torch.compiler.is_compiling() or forward_ad._current_level < 0:
            return False
        if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in self.tensors):
            return True
        # In a Hessian the tangent is hidden within the tensors of another transform, which is the inner one.
        return self._transforms(torch._C._functorch.TransformType.Jvp) > 0

    @property
    def in_second_reverse_mode(self) -> bool:
        """Whether the gradient's gradient is taken by torch.func, as in jacrev(jacrev(f))."""
        return not torch.compiler.is_compiling() and self._transforms(torch._C._functorch.TransformType.Grad) > 1

    def _transforms(self, kind: Any) -> int:
        """How many of torch.func's transforms of this kind the call runs in, if its tensors take part in any."""
        transforms = torch._C._functorch.get_interpreter_stack() or []
        is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
        if not (transforms and any(t is not None and is_wrapped(t) for t in self.tensors)):
            return 0
        return sum(one.key() == kind for one in transforms)

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: float32, or float64 for float64 input."""
        return torch.float64 if self.q.dtype == torch.float64 else torch.float32

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All that may want a gradient, in one flat tuple."""
        return (self.q, self.k, self.v, self.sinks, *self.bias_weights, *self.score_weights)

    def with_tensors(self, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, *weights: Tensor) -> "Call":
        """The same call on other tensors, given in the order of `tensors`."""
        n = len(self.bias_weights)
        return replace(self, q=q, k=k, v=v, sinks=sinks, bias_weights=weights[:n], score_weights=weights[n:])

    def take(self, rows: Int[Tensor, " rows"]) -> "Call":
        """The same call for some of its queries."""
        return replace(self, q=self.q[:, :, rows], runs=self.runs.take(rows), queries=self.queries[rows])

    def rows(self, rows: slice) -> Int[Tensor, "m 1"]:
        """Indices of query rows, to broadcast against `columns`."""
        return self.queries[rows, None]

    def columns(self, columns: slice) -> Int[Tensor, "1 n"]:
        """Indices of keys, to broadcast against `rows`."""
        return torch.arange(columns.start, columns.stop, device=self.q.device)[None, :]

    def content(
        self, q: Float[Tensor, "*B H m D"], k: Float[Tensor, "*B K n Dk"], *score_weights: Tensor
    ) -> Float[Tensor, "*B H m n"]:
        """The part of the scores that q and k make: softcap(scale · score(q, k))."""
        if self.known_finite:
            return self._capped(self.score(q, k, *score_weights) * self.scale)
        # A hidden key's zero gradient times its NaN would be NaN. So the bad rows of q and k, and the scores that
        # overflow, are cut out of the graph, and what comes of them, NaN or Inf, is put in as a constant.
        good_q, good_k = _finite_rows(q), _finite_rows(k)
        raw = self.score(q.detach(), k.detach(), *(w.detach() for w in score_weights)) * self.scale
        group = q.shape[-3] // k.shape[-3]
        good = good_q & good_k.mT.repeat_interleave(group, -3) & raw.isfinite()
        clean = self.score(q.masked_fill(~good_q, 0), k.masked_fill(~good_k, 0), *score_weights) * self.scale
        return torch.where(good, self._capped(torch.where(good, clean, 0)), self._capped(raw))

    def _capped(self, s: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return s if self.softcap is None else self.softcap * torch.tanh(s / self.softcap)

    def scores(self, rows: slice, columns: slice) -> Float[Tensor, "B H m n"]:
        """A tile of the scores, bias included, before any mask."""
        q = self.q[:, :, rows].to(self.dtype)
        k = self.k[:, :, columns].to(self.dtype)
        s = self.content(q, k, *self.score_weights)
        if self.bias is not None:
            s = s + self.bias.at(self.rows(rows), self.columns(columns), self.past, *self.bias_weights).to(s.dtype)
        return s

    def weights(
        self, max_score: Float[Tensor, "B H Tq"], peak: Float[Tensor, "B H Tq"], rows: slice, columns: slice
    ) -> Float[Tensor, "B H m n"]:
        """A tile of the weights, made again from each row's highest score and its weight: exp(s − max) · peak.

        The same as exp(s − lse), but exact among huge scores too, where lse = max − log peak has lost the second.
        """
        top = max_score[:, :, rows, None]
        w = torch.exp(self.scores(rows, columns) - top.masked_fill(top == -torch.inf, 0)) * peak[:, :, rows, None]
        return w.masked_fill(~self.runs.mask(rows, columns), 0)

    def weigh(
        self, w: Float[Tensor, "B H m n"], v: Float[Tensor, "B K n Dv"], visible: Bool[Tensor, "#B #H m n"] | None
    ) -> Float[Tensor, "B H m Dv"]:
        """w @ v, in which what a hidden value holds, NaN or Inf, stays hidden."""
        if self.known_finite or visible is None:
            return expand_product(w, v)
        seen = visible.expand(w.shape).to(w.dtype)
        total = expand_product(w, torch.where(v.isfinite(), v, 0))
        nan, plus, minus = (
            expand_product(seen, bad.to(w.dtype)) > 0 for bad in (v.isnan(), v.isposinf(), v.isneginf())
        )
        nan = nan | (plus & minus) | total.isnan()  # the last where a weight is
        return total.masked_fill(plus, torch.inf).masked_fill(minus, -torch.inf).masked_fill(nan, torch.nan)

    def keep(self, rows: slice, columns: slice) -> Float[Tensor, "B H m n"]:
        """0 where dropout takes a weight of this tile, 1 / (1 − dropout) where it stays."""
        B, H = self.q.shape[:2]
        return keep(self.seed, self.dropout, B, H, self.queries[rows], columns).to(self.dtype)


def _finite_rows(x: Float[Tensor, "*B T D"]) -> Bool[Tensor, "*B T 1"]:
    return x.isfinite().all(-1, keepdim=True)


def _known_finite(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether all three, and q · k, hold finite numbers only."""
    try:
        largest_q, largest_k, largest_v = (float(x.detach().abs().amax()) if x.numel() else 0.0 for x in (q, k, v))
    except RuntimeError:  # under vmap no value can be looked at
        return False
    product = largest_q * largest_k * max(q.shape[-1], 1)
    return product < torch.finfo(torch.float32).max and isfinite(largest_v)
