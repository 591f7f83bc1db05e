"""weighed(): attention together with all its weights, for layers whose callers may ask for them. O(T²) memory."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from clearhead.attend import reference
from clearhead.attend.api import autocasted, checked, without_autocast


def weighed(
    q: Float[Tensor, "B H Tq D"],
    k: Float[Tensor, "B K Tk Dk"],
    v: Float[Tensor, "B K Tk Dv"],
    *,
    change: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "B H Tq Dv"], Float[Tensor, "B H Tq Tk"], Float[Tensor, "B H Tq Tk"]]:
    """The output, the weights, and what `change`, such as dropout, makes of these before they meet the values.

    `options` are those of `attention`. Gradients flow through all three.
    """
    q, k, v = autocasted(q, k, v)
    with without_autocast(q):
        call = checked(q, k, v, **options)
        _, w, _ = reference.softmax(call)
        changed = w if change is None else change(w)
        out = call.weigh(changed, v.to(w.dtype), call.runs.dense())
    return out.to(q.dtype), w.to(q.dtype), changed.to(q.dtype)
