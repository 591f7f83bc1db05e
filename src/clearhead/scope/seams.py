"""Where a running model shows its attentions: in functions of PyTorch, and in the kernels of Transformers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from clearhead.scope import interface, multihead
from clearhead.scope.dispatch import Kernel, stands_for
from clearhead.scope.modules import Frame, Running, attentions
from clearhead.scope.sighting import Sighting
from clearhead.scope.tokens import Memory


class Seams(TorchFunctionMode):
    """A mode under which every attention of a running model is noted, while the model's own kernel computes.

    Each is noted at the outermost place where it shows and sought no deeper, so that none is noted twice.
    """

    def __init__(self, running: Running, add: Callable[[Sighting], None], layers: set[str] | None) -> None:
        super().__init__()
        self.seen: set[str] = set()
        """Every module inside which an attention was seen."""
        self.noted = 0
        """How many were passed on."""
        self._running = running
        self._add = add
        self._layers = layers
        self._numbers = {name: number for number, name in enumerate(attentions(running.model))}
        self._attentions = frozenset(self._numbers)
        self._memory = Memory()
        self._is_quiet = False

    @property
    def here(self) -> bool:
        """Whether the model is running now, in this thread, and is to be looked at."""
        return self._running.here and not self._is_quiet

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        reader = _READERS.get(stands_for(func))
        if reader is not None and self.here:
            with torch.no_grad():
                reader(self, result, *args, **kwargs)
        return result

    def look(self, implementation: str | None, kernel: Kernel) -> Kernel:
        """A kernel of Transformers that does as this one does, and is looked at."""
        if implementation not in interface.KNOWN:
            return kernel

        def looked_at(
            module: Any,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None,
            **kwargs: Any,
        ) -> Any:
            if kwargs.get("cache") is not None:  # of pages that the kernel fills itself: seen further in, if at all
                return kernel(module, query, key, value, attention_mask, **kwargs)
            with self._quiet():
                result = kernel(module, query, key, value, attention_mask, **kwargs)
                with torch.no_grad():
                    asked = interface.read(implementation, module, query, key, value, attention_mask, **kwargs)
                    self._note(
                        q=asked.q,
                        k=asked.k,
                        v=asked.v,
                        mask=asked.whole_mask,
                        causal=asked.causal and asked.bias is None,
                        scale=asked.scale,
                        softcap=asked.softcap,
                        sinks=asked.sinks,
                        dropout=asked.dropout,
                        out=result[0].transpose(1, 2),
                    )
            return result

        return looked_at

    @property
    def _attention(self) -> Frame:
        """The running module that attends: the innermost that is named an attention, else the innermost."""
        stack = self._running.stack
        return next((frame for frame in reversed(stack) if frame.name in self._attentions), stack[-1])

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        self._is_quiet = True
        try:
            yield
        finally:
            self._is_quiet = False

    def _sdpa(
        self,
        out: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        """`F.scaled_dot_product_attention`, called by a model."""
        if query.is_nested or query.ndim > 4:
            return
        q, k, v, mask = query, key, value, attn_mask
        if query.ndim < 4:
            heads = self._attention.heads
            B, T = self._attention.sequence or (1, 0)
            if heads and len(query) % heads == 0:
                B = len(query) // heads  # which says more than a sequence, that may be (T, B, E)
            elif not B or len(query) % B or T != query.shape[1]:
                B = 1
            q, k, v, out = (_four(x, B) for x in (q, k, v, out))
            mask = None if mask is None else _four(mask, B)
        self._note(
            q=q,
            k=k,
            v=v,
            mask=mask,
            causal=bool(is_causal),
            scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
            dropout=float(dropout_p),
            out=out,
        )

    def _multi_head(self, result: tuple[Tensor, Tensor | None], *args: Any, **kwargs: Any) -> None:
        """`F.multi_head_attention_forward`, which nn.MultiheadAttention calls."""
        self._note(**multihead.read(result, args, kwargs))

    def _softmax(self, weights: Tensor, scores: Tensor, dim: int | None = None, *_: Any, **__: Any) -> None:
        """A softmax that an attention takes itself, if it is over (B, H, Tq, Tk) indeed."""
        frame = self._attention
        if not frame.looks_like_attention or frame.sequence is None or scores.ndim != 4 or dim not in (-1, 3):
            return
        B, Tq = frame.sequence
        fits = scores.shape[3] == Tq or frame.kind == "cross" or self._running.cache is not None
        if fits and scores.shape[:3] == (B, frame.heads, Tq):
            self._note(scores=scores)

    def _note(self, *, kind: Literal["self", "cross"] | None = None, valid: Tensor | None = None, **shown: Any) -> None:
        """Passes on what was shown, with whose it is and which tokens it is about."""
        frame = self._attention
        inside = {outer.name for outer in self._running.stack}
        self.seen |= inside
        shown = {name: x.detach() if isinstance(x, Tensor) else x for name, x in shown.items()}
        kind = kind or frame.kind
        if "scores" in shown:
            B, _, Tq, Tk = shown["scores"].shape
        else:
            B, Tq, Tk = len(shown["out"]), shown["q"].shape[2], shown["k"].shape[2]
            shown |= {name: shown[name].expand(B, -1, -1, -1) for name in "qkv"}  # one may serve the whole batch
        if Tk < Tq:
            kind = "cross"  # keys that were pooled, say: they are not the queries' own positions
        if kind == "self" and Tk > Tq:
            Tk = self._cut_unwritten(shown, Tq, Tk)
        ids_q, ids_k, padding = self._tokens(kind, B, Tq, Tk, shown.get("k"))
        if self._layers is not None and not inside & self._layers:
            return
        self.noted += 1
        self._add(
            Sighting(
                name=frame.name,
                layer=self._numbers.setdefault(frame.name, len(self._numbers)),
                kind=kind,
                step=self._running.step,
                ids_q=ids_q,
                ids_k=ids_k,
                valid=padding if valid is None else valid,
                **shown,
            )
        )

    def _tokens(
        self, kind: str, B: int, Tq: int, Tk: int, k: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The tokens at the queries and at the keys, and which queries are no padding; None if not known."""
        reader, ids, valid = self._running.reading()
        ids_q = ids if ids is not None and ids.shape == (B, Tq) else None
        if valid is not None:
            fits = valid.shape == (B, Tq) or (ids_q is not None and valid.shape[1] > Tq)
            valid = valid[:, -Tq:] if fits else None
        if kind == "cross":
            return ids_q, self._memory.elsewhere({f.name for f in self._running.stack}, B, Tk), valid
        if ids_q is None:
            return None, None, valid
        if Tq == Tk and reader is not None:
            self._memory.remember(reader, ids_q)
        if k is None:
            return ids_q, ids_q if Tq == Tk else None, valid
        return ids_q, self._memory.extended(self._attention.name, ids_q, k), valid

    def _cut_unwritten(self, shown: dict[str, Any], Tq: int, Tk: int) -> int:
        """Cuts keys that a cache of fixed size has room for but doesn't hold yet; says how many remain."""
        layer = getattr(self._attention.module, "layer_idx", None)
        cache = self._running.cache
        if layer is None or not hasattr(cache, "get_seq_length"):
            return Tk
        written = int(cache.get_seq_length(layer))
        if not Tq <= written < Tk:
            return Tk
        for name, axis in (("k", 2), ("v", 2), ("scores", 3), ("mask", 3)):
            if shown.get(name) is not None and shown[name].shape[axis] == Tk:
                shown[name] = shown[name].narrow(axis, 0, written)
        return written


def _four(x: Tensor, B: int) -> Tensor:
    """(T, D) or (B · H, T, D) to four axes; a mask of fewer axes too."""
    batched = x.ndim == 3 and len(x) % B == 0
    return x.reshape(B, -1, *x.shape[1:]) if batched else x[(None,) * (4 - x.ndim)]


_READERS: dict[Callable[..., Any], Callable[..., None]] = {
    F.scaled_dot_product_attention: Seams._sdpa,
    F.multi_head_attention_forward: Seams._multi_head,
    F.softmax: Seams._softmax,
    torch.softmax: Seams._softmax,
    torch.special.softmax: Seams._softmax,
    Tensor.softmax: Seams._softmax,
}
