"""A stand-in: computes in place of the kernels that a model calls, and tells whoever listens what became of each."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from clearhead.attend.overrides import overriding
from clearhead.scope import interface
from clearhead.scope.dispatch import Kernel
from clearhead.scope.interface import Asked
from clearhead.scope.taking import Own, Taken, take

WEIGHTS = "nn.MultiheadAttention was asked for its weights; call it with need_weights=False"
Outcome = Taken | str
"""What our kernels made of an attention, or why they were not asked, as the end of a sentence."""


class _Here(threading.local):
    """What goes on in this thread."""

    def __init__(self) -> None:
        self.passing = False
        """Whether a call is on its way to the kernel that it was meant for."""
        self.told: list[list[Outcome]] = []
        """Whom to tell what became of an attention."""
        self.probing = 0
        """How many of those want the statistics too."""


_here = _Here()


@contextmanager
def passing() -> Iterator[None]:
    """In this block nothing is taken, in this thread."""
    before, _here.passing = _here.passing, True
    try:
        yield
    finally:
        _here.passing = before


@contextmanager
def listening(probe: bool) -> Iterator[list[Outcome]]:
    """What became of the attentions in this block, in this thread; if `probe`, with the statistics of the taken."""
    told: list[Outcome] = []
    _here.told.append(told)
    _here.probing += probe
    try:
        yield told
    finally:
        _here.told.pop()
        _here.probing -= probe


class StandIn:
    """One who computes in place of the kernels, and of PyTorch's functions: a `dispatch.Taker`."""

    backend: str = "native"

    @property
    def here(self) -> bool:
        """Whether attentions that are called now, in this thread, are to be taken by this one."""
        raise NotImplementedError

    def prepared(self, asked: Asked) -> Asked | str:
        """What is to be computed; or why it is left to the kernel that it was meant for."""
        return asked

    def batch(self, q: Tensor) -> int:
        """How many texts there are in queries (B · H, Tq, D)."""
        return 1

    def count(self, outcome: Outcome, module: Any) -> None:
        """Is told what became of a call; and by which module, where that is known."""

    def look(self, implementation: str | None, kernel: Kernel) -> Kernel:
        """A kernel of Transformers that computes on ours where it can."""
        if implementation not in interface.KNOWN or _here.passing:
            return kernel

        def replaced(
            module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
        ) -> Any:
            if overriding((query, key, value, attention_mask)):  # taken is what their classes call, if anything
                return kernel(module, query, key, value, attention_mask, **kwargs)
            outcome: Outcome | None = interface.wants_more(implementation, module, kwargs)
            if outcome is None:
                asked = interface.read(implementation, module, query, key, value, attention_mask, **kwargs)
                outcome = self._outcome(asked, _of_kernel(kernel, module, kwargs))
            self._tell(outcome, module)
            if isinstance(outcome, Taken):
                return outcome.out.transpose(1, 2).contiguous(), None
            with passing():
                return kernel(module, query, key, value, attention_mask, **kwargs)

        return replaced

    def attend(self, own: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """In place of PyTorch's own `scaled_dot_product_attention`."""
        if _here.passing:
            return own(*args, **kwargs)
        outcome: Outcome | Asked = asked_of(*args, **kwargs)
        if isinstance(outcome, Asked):
            outcome = self._outcome(with_four_axes(outcome, self.batch), _of_function(own))
        self._tell(outcome, None)
        if isinstance(outcome, Taken):
            return outcome.out.flatten(0, 4 - args[0].dim())
        return own(*args, **kwargs)

    def give_weights(self) -> None:
        """nn.MultiheadAttention makes weights when asked for them, and no kernel is called."""
        self._tell(WEIGHTS, None)

    def _outcome(self, asked: Asked, own: Own) -> Outcome:
        prepared = self.prepared(asked)
        return prepared if isinstance(prepared, str) else take(prepared, self.backend, _here.probing > 0, own)

    def _tell(self, outcome: Outcome, module: Any) -> None:
        for told in _here.told:
            told.append(outcome)
        self.count(outcome, module)


def asked_of(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Asked | str:
    """What `scaled_dot_product_attention` is asked for; or what it is that no kernel of ours is asked for."""
    if not all(isinstance(x, Tensor) for x in (query, key, value)) or not isinstance(attn_mask, Tensor | None):
        return "one of its arguments is no tensor"
    if query.is_nested:
        return "its tensors are nested"
    if not (query.dim() == key.dim() == value.dim() and 2 <= query.dim() <= 4):
        return f"its tensors have {query.dim()}, {key.dim()} and {value.dim()} dimensions, not 2, 3 or 4"
    if is_causal and attn_mask is not None:
        return "it has both a mask and is_causal, which PyTorch refuses"
    if query.dim() == 4 and not enable_gqa and key.shape[1] not in (1, query.shape[1]):
        return "its heads don't fit each other without enable_gqa"
    return Asked(
        q=query,
        k=key,
        v=value,
        mask=attn_mask,
        causal=bool(is_causal),
        scale=query.shape[-1] ** -0.5 if scale is None else float(scale),
        dropout=float(dropout_p),
    )


def with_four_axes(asked: Asked, batch: Callable[[Tensor], int]) -> Asked:
    """(T, D) and (B · H, T, D) as (B, H, T, D), the mask too."""
    if asked.q.dim() == 4:
        return asked
    B = batch(asked.q) if asked.q.dim() == 3 else 1
    mask = None if asked.mask is None else _four(asked.mask, B)
    return replace(asked, q=_four(asked.q, B), k=_four(asked.k, B), v=_four(asked.v, B), mask=mask)


def _four(x: Tensor, B: int) -> Tensor:
    batched = x.dim() == 3 and len(x) % B == 0
    return x.reshape(B, -1, *x.shape[1:]) if batched else x[(None,) * (4 - x.dim())]


# What the kernels themselves make of some queries, to check ours by


def _of_kernel(kernel: Kernel, module: Any, kwargs: dict[str, Any]) -> Own:
    def own(asked: Asked, rows: Tensor) -> Tensor:
        few = _few(asked, rows)
        more = {"dropout": 0.0} | ({} if few.bias is None else {"position_bias": few.bias})
        with passing():
            out: Tensor = kernel(module, few.q, few.k, few.v, few.mask, **kwargs | more)[0]
        return out.transpose(1, 2)

    return own


def _of_function(function: Callable[..., Tensor]) -> Own:
    def own(asked: Asked, rows: Tensor) -> Tensor:
        few = _few(asked, rows)
        grouped = few.q.shape[1] != few.k.shape[1]
        with passing():
            return function(few.q, few.k, few.v, few.mask, 0.0, False, scale=few.scale, enable_gqa=grouped)

    return own


def _few(asked: Asked, rows: Tensor) -> Asked:
    """The same for some of the queries, with their causality as a mask."""
    mask, bias = (
        x[..., rows, :] if x is not None and x.dim() > 1 and x.shape[-2] > 1 else x for x in (asked.mask, asked.bias)
    )
    if asked.causal:
        mask = (torch.arange(asked.k.shape[2], device=rows.device) <= rows[:, None])[None, None]
    return replace(asked, q=asked.q[:, :, rows], mask=mask, bias=bias, causal=False)
