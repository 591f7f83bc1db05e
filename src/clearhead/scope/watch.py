"""Watch: a `with` block in which every attention of a model is seen."""

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Generic, SupportsIndex, TypeVar

from torch import nn

from clearhead.attend.arguments import whole_number
from clearhead.attend.heard import LISTENERS
from clearhead.errors import ClearheadError, WatchWarning
from clearhead.scope.beneath import Beneath
from clearhead.scope.dispatch import looked_at_by
from clearhead.scope.modules import (
    Running,
    attentions_among,
    bypassed,
    class_name,
    listed,
    named_modules,
    refuse_scripted,
    suspects,
)
from clearhead.scope.seams import Kernels, Seams
from clearhead.scope.sighting import Recorder

SEEN = (
    "What can be seen is scaled_dot_product_attention, nn.MultiheadAttention, the sdpa and eager kernels of "
    "Transformers, a softmax of shape (B, H, Tq, Tk), (B · H, Tq, Tk) or (B, Tq, Tk) whose result is multiplied with "
    "values, and Longformer's band without global tokens."
)
"""Said of attentions that were not."""


R = TypeVar("R", bound=Recorder)


class Watch(Generic[R]):
    """Sees every attention that a model computes in a `with` block, and hands each to a recorder.

    On the CPU, Clearhead's kernels compute, which give the statistics in the same pass: outputs and gradients are
    the model's own up to rounding. What they can't take, and what would differ by more (dropout; a mask of floats
    that hides all keys from a query), is left to the model's own kernel; so is what hooks on saved tensors pack, as
    checkpoints do, which are to compute the same when the watch is over. The recorder is told which and why. Our
    kernels have no second derivative. With `kernels="model"` the model's own kernels compute all, with the arguments
    that they ever had: outputs and gradients stay the same to the bit, and looking costs a pass of its own.

    The fast path of nn.MultiheadAttention and nn.TransformerEncoder in eval mode shows nothing and is never taken:
    results differ by rounding, and at padding, where it writes zeros. What `torch.compile` has compiled runs eagerly
    meanwhile, in the whole process.

    Seen is what runs in the thread that entered the watch, and in the forward pass: what checkpoints compute
    again in the backward pass is not counted twice.

    Args:
        model: any PyTorch module.
        tokenizer: given to the recorder, to name tokens.
        record: makes the recorder, called as `record(tokenizer, **options)`.
        layers: which attentions to hand on; all if None. A number is one of the model's attentions, from 0;
            a name is that of a module, and means the attentions inside it. The others run as they ever did.
        kernels: whose kernels compute, "clearhead" or "model".
        expect: how many attentions there are to be seen, by their modules' names; any number if None.
        options: the recorder's.

    Raises:
        ClearheadError: at once, for layers that the model doesn't have and for a scripted model; on entry, if
            another thread is watching the model; at the end, if nothing was seen, if another number of
            attentions was seen than `expect` says, or if the model ran in another thread.

    Warns:
        WatchWarning: at the end, if some of the attentions that ran were not seen, if some layers did not run though
            others at the same place did, or if the model ran on the meta device, where there is nothing to see. An
            attention is known by its class's name, by the name under which it is held, by its projections of
            queries, keys and values, or by its class, if others of it attended.

    >>> import torch
    >>> from torch import nn
    >>> class Sightings(list):
    ...     def __init__(self, tokenizer, **options):
    ...         self.add, self.close, self.expect = self.append, print, lambda *_: None
    >>> attention = nn.MultiheadAttention(embed_dim=8, num_heads=2)
    >>> x = torch.randn(5, 1, 8)
    >>> with Watch(attention, record=Sightings) as seen:
    ...     _ = attention(x, x, x)
    []
    >>> seen[0].q.shape
    torch.Size([1, 2, 5, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        *,
        record: Callable[..., R],
        layers: SupportsIndex | str | Iterable[SupportsIndex | str] | None = None,
        kernels: Kernels = "clearhead",
        expect: int | None = None,
        **options: Any,
    ) -> None:
        if expect is not None and (whole_number(expect) or 0) < 1:
            raise ClearheadError(f"expect: got {expect!r}, expected the number of attentions that are to be seen.")
        self._expect = expect
        if kernels not in ("clearhead", "model"):
            raise ClearheadError(f"kernels: got {kernels!r}, expected 'clearhead' or 'model'.")
        self._model = model
        names = named_modules(model)
        refuse_scripted(names, "seen", "Watch")
        self._attentions = attentions_among(names)
        self._layers = None if layers is None else _chosen(model, names, self._attentions, layers)
        self._kernels = kernels
        self._make_record = partial(record, tokenizer, **options)
        self._switches: ExitStack | None = None

    def __enter__(self) -> R:
        if self._switches is not None:
            raise ClearheadError("This watch was entered before. A watch serves one with block: make another.")
        self._running = Running(self._model)
        self._recorder = self._make_record()
        self._seams = Seams(self._running, self._attentions, self._recorder, self._layers, self._kernels)
        with ExitStack() as switches:
            switches.enter_context(self._running)
            switches.enter_context(self._seams.ended)
            switches.enter_context(looked_at_by(Beneath(self._seams)))
            switches.enter_context(looked_at_by(self._seams))
            switches.enter_context(self._seams)
            LISTENERS.append(self._seams)
            switches.callback(LISTENERS.remove, self._seams)
            self._switches = switches.pop_all()
        return self._recorder

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._switches is not None:
            self._switches.close()
        names, ran = self._running.names, self._running.ran
        attending = [*self._attentions, *suspects(names, self._seams.shown)]
        attending = [name for name in attending if self._layers is None or name in self._layers]
        unseen = [name for name in attending if name in ran - self._seams.seen]
        self._recorder.close(unseen)
        if error is None:
            self._verdict(unseen, bypassed(names, attending, self._seams.shown, ran))

    def _verdict(self, unseen: list[str], skipped: list[str]) -> None:
        """Raises if nothing was seen, warns if less than ran."""
        model = class_name(self._model)
        if self._running.elsewhere is not None:
            raise ClearheadError(
                f"{model} ran in the thread {self._running.elsewhere!r}, but the watch was entered in "
                f"{threading.current_thread().name!r}, and a watch sees its own thread only. "
                "Enter the watch in the thread that runs the model."
            )
        if not self._running.ran:
            raise ClearheadError(
                f"{model} was not run inside the watch, so nothing was seen. Run it in the with block."
            )
        if self._seams.on_meta:
            warnings.warn(
                f"{model} ran on the meta device, whose tensors have shapes and no values: there was nothing to see. "
                "Load its weights on another device to see its attention.",
                WatchWarning,
                3,
            )
            return
        if self._seams.noted == 0:
            if unseen:
                why = f"Unseen ran {listed(unseen)}. {SEEN}"
            elif self._layers is not None:
                why = "None of the chosen layers ran an attention: leave out layers= to see all that run."
            else:
                why = f"None of the modules that ran is named an attention. {SEEN}"
            raise ClearheadError(f"{model} ran, but no attention was seen. {why}")
        if unseen:
            warnings.warn(f"Some attentions of {model} ran unseen: {listed(unseen)}. {SEEN}", WatchWarning, 3)
        if skipped:
            warnings.warn(
                f"Some layers of {model} did not run, though others like them did, or ran without their modules being "
                f"called: {listed(skipped)}. expect= says how many attentions are to be seen.",
                WatchWarning,
                3,
            )
        seen = len(self._seams.handed_on)
        if self._expect is not None and seen != self._expect:
            missing = f" Unseen ran {listed(unseen)}." if unseen else ""
            missing += f" Did not run: {listed(skipped)}." if skipped else ""
            raise ClearheadError(
                f"{model}: {seen} attentions were seen, but expect={self._expect}. Seen: "
                f"{listed(sorted(self._seams.handed_on))}.{missing}"
            )


def _chosen(
    model: nn.Module,
    names: Mapping[nn.Module, str],
    there: list[str],
    layers: SupportsIndex | str | Iterable[SupportsIndex | str],
) -> set[str]:
    """The names of the modules in which attentions are wanted."""
    wanted: set[str] = set()
    alone = isinstance(layers, str) or not isinstance(layers, Iterable) or whole_number(layers) is not None
    for layer in [layers] if alone else layers:  # type: ignore[union-attr]
        number = whole_number(layer)
        if number is not None:
            found = {there[number]} if -len(there) <= number < len(there) else set()
        else:
            named = (module for module, name in names.items() if name == layer)
            found = {names[inner] for module in named for inner in module.modules()}
        if not found:
            raise ClearheadError(
                f"{class_name(model)} has no layer {layer!r}. It has {len(there)} attentions, from 0: "
                f"{listed(there)}. A layer is such a number, or the name of a module."
            )
        wanted |= found
    return wanted
