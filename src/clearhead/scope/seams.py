"""Where a running model shows its attentions: in functions of PyTorch, and in the kernels of Transformers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clearhead.attend import reference
from clearhead.attend.call import Call
from clearhead.attend.heard import Row, current_row
from clearhead.attend.overrides import called_by, overriding
from clearhead.scope import interface, multihead, softmax
from clearhead.scope.added import Added, added_keys
from clearhead.scope.dispatch import Kernel
from clearhead.scope.ended import Ended
from clearhead.scope.interface import Asked
from clearhead.scope.modules import Frame, Running
from clearhead.scope.replaced import original, pytorch_s_own, replacement
from clearhead.scope.sighting import Recorder, Sighting
from clearhead.scope.standin import Outcome, asked_of, listening, passing, with_four_axes
from clearhead.scope.taking import Taken
from clearhead.scope.tokens import Memory, of_row

Kernels = Literal["clearhead", "model"]
LEFT = "the watch leaves them to it: kernels='model'"
DROPS = "dropout is a matter of chance, which is left to the model"
CHECKPOINT = "what they save is packed by hooks, as in a checkpoint, and has to be the same when it computes again"
NOTHING = "some of their queries may see nothing, by a mask of floats, and kernels differ in what that gives"
ON_META = "they ran on the meta device, which holds no values"
UNASKED = "they were not chosen"
SOFTMAX = "nothing was seen of them but a softmax"
OTHERS = "they were called where none of ours can stand in"


class Seams(TorchFunctionMode):
    """A mode under which every attention of a running model is noted.

    Each is noted at the outermost place where it shows and sought no deeper, so that none is noted twice. What
    computes it is called at the innermost: our kernel, which gives the statistics too, or the model's own.
    """

    def __init__(
        self,
        running: Running,
        attentions: list[str],
        recorder: Recorder,
        layers: set[str] | None,
        kernels: Kernels,
    ) -> None:
        super().__init__()
        self.seen: set[str] = set()
        """Every module inside which an attention was seen."""
        self.shown: set[str] = set()
        """The names of the attentions that were seen, chosen or not."""
        self.handed_on: set[str] = set()
        """The names of those that were passed on."""
        self.noted = 0
        """How many were passed on."""
        self.on_meta = False
        """Whether one ran on the meta device, which has shapes and no values."""
        self.running = running
        self.kernels = kernels
        self._recorder = recorder
        self._is_expected = False
        self._layers = layers
        self._numbers = {name: number for number, name in enumerate(attentions)}
        self._attentions = frozenset(self._numbers)
        self._memory = Memory()
        self.ended = Ended()
        """Which texts of the batch that `generate` writes have ended."""
        self._is_quiet = False
        self._pending: softmax.Pending | None = None

    @property
    def here(self) -> bool:
        """Whether the model is running now, in this thread, and is to be looked at."""
        return self.running.here and not self._is_quiet

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        reader = _READERS.get(original(func))
        if self._pending is not None and func in softmax.PRODUCTS and self.here:
            self._multiplied((*args, *kwargs.values()))
        if reader is None:
            return func(*args, **kwargs)
        arguments = (*args, *kwargs.values())
        if func is SDPA:
            func = replacement(func)  # whoever imported PyTorch's own by its name gets ours too
        if not self.here:
            return func(*args, **kwargs)
        overridden = overriding(arguments)
        if overridden:  # what is computed is for their classes to say: seen is what they call
            with self, pytorch_s_own():
                return called_by(overridden, original(func), types, args, kwargs)
        with self._listening() as told:
            result = func(*args, **kwargs)
        with torch.no_grad(), passing():
            reader(self, result, told, *args, **kwargs)
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
            # A kernel that fills pages itself, or a class that overrides functions: seen further in, if at all.
            if kwargs.get("cache") is not None or overriding((query, key, value, attention_mask)):
                return kernel(module, query, key, value, attention_mask, **kwargs)
            with self._quiet(), self._listening() as told:
                result = kernel(module, query, key, value, attention_mask, **kwargs)
            with self._quiet(), torch.no_grad(), passing(), torch._C.DisableTorchFunction():
                asked = interface.read(implementation, module, query, key, value, attention_mask, **kwargs)
                self._note(asked, result[0].transpose(1, 2), *_heard(told))
            return result

        return looked_at

    def hear(self, call: Call, backend: Any, probe: bool) -> Any:
        """An attention of Clearhead's own, as its layers call it: who sees whom is said by the call."""
        if call.q.is_meta or not self.is_chosen:
            self.on_meta |= call.q.is_meta
            self.seen |= {outer.name for outer in self.running.stack}
            return backend.forward(call, probe)
        asked = Asked(
            call.q, call.k, call.v, scale=call.scale, softcap=call.softcap, sinks=call.sinks, dropout=call.dropout
        )
        self.expect(asked)
        with self._quiet():
            out, lse, statistics = backend.forward(call, True)
            with torch.no_grad(), passing(), torch._C.DisableTorchFunction():
                own = partial(_by_reference, call)
                taken = Taken(asked, call, "native", out, statistics, own)
                self._note(asked, out, taken, None, added=self._added)
        return out, lse, statistics if probe else None

    @property
    def attention(self) -> Frame:
        """The running module that attends: the innermost that is named an attention, else the innermost."""
        stack = self.running.stack
        return next((frame for frame in reversed(stack) if frame.name in self._attentions), stack[-1])

    @property
    def _added(self) -> Added:
        """The keys that a layer of Clearhead's own adds as PyTorch's does."""
        module = self.attention.module
        if not isinstance(module, nn.MultiheadAttention):
            return ()
        return added_keys(module.bias_k, module.add_zero_attn)

    @property
    def is_chosen(self) -> bool:
        """Whether the running attention is one that is to be handed on."""
        return self._layers is None or any(outer.name in self._layers for outer in self.running.stack)

    def batch(self, q: Tensor) -> int:
        """How many texts there are in queries (B · H, Tq, D)."""
        heads, (B, T) = self.attention.heads, self.attention.sequence or (1, 0)
        if heads and len(q) % heads == 0:
            return len(q) // heads  # which says more than a sequence, that may be (T, B, E)
        return B if B and len(q) % B == 0 and T == q.shape[1] else 1

    def expect(self, asked: Asked) -> None:
        """Has the recorder look at the first attention before anything computes it."""
        if not self._is_expected:
            self._is_expected = True
            chosen = self._attentions if self._layers is None else self._layers & self._attentions
            self._recorder.expect(asked, max(len(chosen), 1))

    def cut(self, asked: Asked) -> Asked:
        """Without the keys that a cache of fixed size has room for but doesn't hold yet."""
        Tq, Tk = asked.q.shape[2], asked.k.shape[2]
        written = self._written(Tq, Tk)
        if written == Tk or self.attention.kind == "cross":
            return asked
        mask, bias = (x if x is None or x.shape[-1] != Tk else x[..., :written] for x in (asked.mask, asked.bias))
        return replace(asked, k=asked.k[:, :, :written], v=asked.v[:, :, :written], mask=mask, bias=bias)

    def _written(self, Tq: int, Tk: int) -> int:
        """How many of the keys are those of tokens."""
        layer = getattr(self.attention.module, "layer_idx", None)
        cache = self.running.cache
        if Tk <= Tq or layer is None or not hasattr(cache, "get_seq_length"):
            return Tk
        written = int(cache.get_seq_length(layer))
        return written if Tq <= written else Tk

    @contextmanager
    def _listening(self) -> Iterator[list[Outcome]]:
        with listening(probe=self.kernels == "clearhead" and self.is_chosen) as told:
            yield told

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        before, self._is_quiet = self._is_quiet, True
        try:
            yield
        finally:
            self._is_quiet = before

    def _sdpa(self, out: Tensor, told: list[Outcome], *args: Any, **kwargs: Any) -> None:
        """`F.scaled_dot_product_attention`, called by a model."""
        asked = asked_of(*args, **kwargs)
        if isinstance(asked, Asked):
            asked, axes = with_four_axes(asked, self.batch), out.dim()
            self._note(asked, out if axes == 4 else out.reshape(*asked.q.shape[:3], out.shape[-1]), *_heard(told))

    def _multi_head(self, result: tuple[Tensor, Tensor | None], told: list[Outcome], *args: Any, **kwargs: Any) -> None:
        """`F.multi_head_attention_forward`, which nn.MultiheadAttention calls."""
        taken, passed = _heard(told)
        shown = multihead.read(result, args, kwargs, None if taken is None else taken.asked)
        self._note(**shown, taken=taken, passed=passed)

    def _softmax(
        self, weights: Tensor, told: list[Outcome], scores: Tensor, dim: int | None = None, *_: Any, **__: Any
    ) -> None:
        """A softmax that an attention takes itself, over the keys of each query.

        A module that is not named an attention may take another softmax of that shape: it is one if its result is
        multiplied with something next.
        """
        frame, self._pending = self.attention, None
        whole = softmax.with_four_axes(scores, frame) if dim in (-1, scores.ndim - 1) else None
        if whole is None:
            return
        Tq, Tk = whole.shape[2:]
        if frame.looks_like_attention:
            if Tk == Tq or frame.kind == "cross" or self.running.cache is not None:
                self._show_scores(whole)
        elif Tk > 1 and (Tk == Tq or frame.name in self._numbers):
            self._pending = softmax.Pending(frame.name, weights, whole.detach())

    def _multiplied(self, args: tuple[Any, ...]) -> None:
        """A product, after a softmax that may have been an attention's."""
        pending = self._pending
        assert pending is not None
        if pending.name == self.attention.name and softmax.is_product_with(args, pending.weights):
            self._pending = None
            with torch.no_grad(), passing():
                self._show_scores(pending.scores)

    def _show_scores(self, scores: Tensor) -> None:
        """Passes on scores (B, H, Tq, Tk) of which a model took the softmax itself."""
        B, _, Tq, Tk = scores.shape
        kind: Literal["self", "cross"] = "cross" if Tk < Tq else self.attention.kind
        if kind == "self":
            scores = scores[..., : self._written(Tq, Tk)]
        self._hand_on(kind, (B, Tq, scores.shape[3]), None, scores=scores.detach(), passed=SOFTMAX)

    def _note(
        self,
        asked: Asked,
        out: Tensor,
        taken: Taken | None,
        passed: str | None,
        *,
        kind: Literal["self", "cross"] | None = None,
        valid: Tensor | None = None,
        project: Callable[[Tensor], Tensor] | None = None,
        added: Added = (),
    ) -> None:
        """Notes an attention that was asked for, and what computed it."""
        asked = self.cut(asked)
        if taken is not None and _shapes(taken.asked) == _shapes(asked):
            taken = taken.detached()
            asked, out, project = taken.asked, taken.out, None
        else:
            taken = None  # others took it, who saw more keys or other axes
        B, Tq, Tk = len(out), asked.q.shape[2], asked.k.shape[2] - len(added)
        kind = kind or self.attention.kind
        if Tk < Tq:
            kind = "cross"  # keys that were pooled, say: they are not the queries' own positions
        # One text may serve the whole batch.
        q, k, v = (x.detach().expand(B, -1, -1, -1) for x in (asked.q, asked.k, asked.v))
        self._hand_on(
            kind,
            (B, Tq, Tk),
            valid,
            q=q,
            k=k,
            v=v,
            mask=_wide(asked.mask),
            bias=_wide(asked.bias),
            causal=asked.causal,
            scale=asked.scale,
            softcap=asked.softcap,
            sinks=None if asked.sinks is None else asked.sinks.detach(),
            dropout=asked.dropout,
            out=out.detach(),
            project=project,
            added=added,
            taken=taken,
            passed=passed,
        )

    def _hand_on(
        self,
        kind: Literal["self", "cross"],
        shape: tuple[int, int, int],
        valid: Tensor | None,
        **shown: Any,
    ) -> None:
        """Passes on what was shown, with whose it is and which tokens it is about: (B, Tq, Tk) of these."""
        frame, row = self.attention, current_row()
        self.shown.add(frame.name)
        self.seen |= {outer.name for outer in self.running.stack}
        if any(isinstance(x, Tensor) and x.is_meta for x in shown.values()):
            self.on_meta = True
            return
        ids_q, ids_k, padding = self._tokens(kind, *shape, shown.get("k") if self.is_chosen else None, row)
        if not self.is_chosen:
            return
        self.noted += 1
        self.handed_on.add(frame.name)
        self._recorder.add(
            Sighting(
                name=frame.name,
                layer=self._numbers.setdefault(frame.name, len(self._numbers)),
                kind=kind,
                step=self.running.step,
                row=None if row is None else row.number,
                ids_q=ids_q,
                ids_k=ids_k,
                cache=self.running.cache,
                valid=padding if valid is None else valid,
                **shown,
            )
        )

    def _tokens(
        self, kind: str, B: int, Tq: int, Tk: int, k: Tensor | None, row: Row | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The tokens at the queries and at the keys, and which queries are no padding; None if not known."""
        reader, ids, valid = self.running.reading()
        if row is not None:
            ids, valid = of_row(ids, row, Tq), of_row(valid, row, Tq)
        ids_q = ids if ids is not None and ids.shape == (B, Tq) else None
        if valid is not None:
            valid = valid[:, : self._written(Tq, valid.shape[1])]  # a mask may have room for tokens to come
            fits = valid.shape == (B, Tq) or (ids_q is not None and valid.shape[1] > Tq)
            valid = valid[:, -Tq:] if fits else None
        going_on = None if ids_q is None else self.ended.going_on(ids_q)
        if going_on is not None:
            valid = going_on[:, None].expand(B, Tq) if valid is None else valid & going_on[:, None]
        if kind == "cross":
            return ids_q, self._memory.elsewhere({f.name for f in self.running.stack}, B, Tk), valid
        if ids_q is None:
            return None, None, valid
        if Tq == Tk and reader is not None:
            self._memory.remember(reader, ids_q)
        if k is None:
            return ids_q, ids_q if Tq == Tk else None, valid
        return ids_q, self._memory.extended(self.attention.name, ids_q, k[:, :, :Tk], row, self.running.cache), valid


def _by_reference(call: Call, asked: Asked, rows: Tensor) -> Tensor:
    """Some of a call's queries, from weights that are held."""
    return reference.forward(replace(call.take(rows), finite=False, dropout=0.0), False)[0].detach()


def _wide(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.detach()[(None,) * (4 - mask.dim())]


def _heard(told: list[Outcome]) -> tuple[Taken | None, str | None]:
    """What computed an attention: a kernel of ours, or the model's own, for a reason."""
    last = told[-1] if told else OTHERS
    return (last, None) if isinstance(last, Taken) else (None, last)


def _shapes(asked: Asked) -> tuple[torch.Size, torch.Size]:
    return asked.q.shape, asked.k.shape


SDPA = F.scaled_dot_product_attention
_READERS: dict[Callable[..., Any], Callable[..., None]] = {
    SDPA: Seams._sdpa,
    F.multi_head_attention_forward: Seams._multi_head,
    F.softmax: Seams._softmax,
    torch.softmax: Seams._softmax,
    torch.special.softmax: Seams._softmax,
    Tensor.softmax: Seams._softmax,
}
