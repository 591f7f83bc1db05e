"""Backend `reference`: attention as its formula says it, weights and all. O(T²) memory."""

import torch
from jaxtyping import Float
from torch import Tensor

from clearhead.attend.call import Call
from clearhead.attend.statistics import Statistics, of_weights


def softmax(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Scores `(B, H, Tq, Tk)`, weights `(B, H, Tq, Tk)` and log-sum-exp `(B, H, Tq)`, differentiable."""
    s = call.scores(slice(0, call.q.shape[-2]), slice(0, call.k.shape[-2]))
    hidden = ~call.runs.dense()
    sink = s.new_full((1,), -torch.inf) if call.sinks is None else call.sinks.to(s.dtype)
    logits = torch.cat([s.masked_fill(hidden, -torch.inf), sink.view(1, -1, 1, 1).expand(*s.shape[:-1], 1)], -1)
    m = logits.detach().amax(-1, keepdim=True)
    m = m.masked_fill(m == -torch.inf, 0)  # an empty row has no maximum
    e = torch.exp(logits - m)
    z = e.sum(-1, keepdim=True)
    empty = z == 0
    z = z.masked_fill(empty, 1)
    lse = (m + z.log()).masked_fill(empty, -torch.inf)
    w = (e / z)[..., :-1].masked_fill(hidden, 0)  # 0 already, unless NaN is in sight
    return s, w, lse[..., 0]


def forward(call: Call, probe: bool) -> tuple[Float[Tensor, "B H Tq Dv"], Float[Tensor, "B H Tq"], Statistics | None]:
    """softmax(s) v, row by row over the visible keys."""
    visible = call.runs.dense()
    s, w, lse = softmax(call)
    statistics = None
    if probe:
        i = call.queries[:, None] + call.past
        statistics = of_weights(s.detach(), w.detach(), lse.detach(), call.sinks, visible, i)
    if call.dropout:
        w = torch.nn.functional.dropout(w, call.dropout)
    out = call.weigh(w, call.v.to(w.dtype), visible)
    return out.to(call.q.dtype), lse, statistics


def work(call: Call) -> tuple[int, int]:
    """How many pairs are scored, and the most at a time, over all batches and heads: all at once."""
    B, H, Tq, _ = call.q.shape
    pairs = B * H * Tq * call.k.shape[2]
    return pairs, pairs


def refuses(call: Call) -> str | None:
    """Why this backend can't take the call: there is no such reason."""
    return None
