"""Which module of a model is running: hooks keep a stack of the modules that have begun and not ended."""

import inspect
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clearhead.errors import ClearheadError
from clearhead.scope.tokens import Arguments, Text

ATTENTION = re.compile("attention|attn", re.IGNORECASE)
CROSS = re.compile(r"cross_?att|encdecatt|encoder_attn|multihead_attn|attention_?pool", re.IGNORECASE)

APART = ({"q", "k", "v"}, {"query", "key", "value"}, {"queries", "keys", "values"})
JOINED = {"qkv", "kqv", "query_key_value", "c_attn"}
"""What projections of queries, keys and values are called, without what is put before or behind."""
_AFFIX = re.compile(r"^(to_?|w_?|linear_?|lin_?|proj_?|fc_?)(?=[qkv])|_?(proj|projection|lin|linear|layer|net)$")


def class_name(module: nn.Module) -> str:
    """The name of the module's class; of the class it was scripted from, if it was."""
    return str(getattr(module, "original_name", type(module).__name__))


def named_modules(model: nn.Module) -> dict[nn.Module, str]:
    """Every module under its name. The model itself goes by its class; `torch.compile` leaves no trace."""
    names = {}
    for path, module in model.named_modules():
        name = ".".join(part for part in path.split(".") if part != "_orig_mod") if "_orig_mod" in path else path
        names[module] = name or class_name(getattr(module, "_orig_mod", module))
    return names


def attentions(model: nn.Module) -> list[str]:
    """The names of the modules that look like attentions, in the order in which the model defines them."""
    return attentions_among(named_modules(model))


def attentions_among(names: Mapping[nn.Module, str]) -> list[str]:
    """The same of modules with their names.

    Such a module says so in its class's name, has parameters, and holds no other such module.
    """

    def looks(module: nn.Module) -> bool:
        return bool(ATTENTION.search(class_name(module))) and any(True for _ in module.parameters())

    found = [
        name
        for module, name in names.items()
        if looks(module) and not any(looks(inner) for inner in module.modules() if inner is not module)
    ]
    return list(dict.fromkeys(found))


def suspects(names: Mapping[nn.Module, str], shown: set[str]) -> list[str]:
    """The names of further modules that may attend, though their class is not named so.

    They hold projections of queries, keys and values; or are held under a name of an attention and have several
    matrices; or are of the class of one of `shown`, that was seen to attend, and stand at the same place as it in
    another layer. None is inside of a module that is named an attention, or around one, or inside another of these.
    """
    named = {module for module in names if ATTENTION.search(class_name(module))}
    inside = {inner for module in named for inner in module.modules()}
    places = {(type(module), _numberless(name)) for module, name in names.items() if name in shown}
    found: dict[nn.Module, str] = {}
    for module, name in names.items():
        is_leaf = type(module).__module__.startswith("torch.nn.")
        if module in inside or is_leaf or any(inner in named for inner in module.modules()):
            continue
        matrices = sum(parameter.ndim == 2 for parameter in module.parameters())
        held_so = "." in name and ATTENTION.search(name.rpartition(".")[2]) and matrices > 1
        if _projects(module) or held_so or (type(module), _numberless(name)) in places:
            found[module] = name
    deeper = {inner for module in found for inner in module.modules() if inner is not module}
    return [name for module, name in found.items() if module not in deeper]


def _projects(module: nn.Module) -> bool:
    """Whether the module holds projections to queries, keys and values, apart or in one."""
    parts = {_AFFIX.sub("", name.lower()) for name, _ in module.named_children()}
    return bool(parts & JOINED) or any(apart <= parts for apart in APART)


def bypassed(names: Mapping[nn.Module, str], attending: list[str], shown: set[str], ran: set[str]) -> list[str]:
    """Those that did not run, while others at the same place in another layer did, in a module that ran."""
    running = {_numberless(name) for name in shown}
    by_name = {name: module for module, name in names.items()}

    def owner_ran(name: str) -> bool:
        """Whether the innermost module around all layers ran."""
        outside = re.split(r"(?:^|\.)\d+(?:\.|$)", name)[0]
        while outside and isinstance(by_name.get(outside), nn.ModuleList | nn.ModuleDict):
            outside = outside.rpartition(".")[0]
        return (outside or next(iter(names.values()))) in ran

    return [name for name in attending if name not in ran and _numberless(name) in running - {name} and owner_ran(name)]


def _numberless(name: str) -> str:
    """A module's place in its layer: its name without the layers' numbers."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "#", name)


def hosts(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that may call an attention: not PyTorch's own leaves (Linear, Softmax, ...)."""
    for module in dict.fromkeys(model.modules()):
        is_leaf = next(module.children(), None) is None
        if module is model or not (is_leaf and type(module).__module__.startswith("torch.nn.")):
            yield module


def refuse_scripted(names: Mapping[nn.Module, str], done: str, do: str) -> None:
    """TorchScript runs its attentions where no hook and no function of ours is reached."""
    for module, name in names.items():
        if isinstance(module, torch.jit.ScriptModule):
            raise ClearheadError(
                f"{name} is scripted, and inside TorchScript no attention can be {done}. "
                f"{do} the model as it was before torch.jit.script or torch.jit.trace."
            )


def listed(names: list[str], most: int = 6) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


_PARAMETERS: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()
"""What the `forward` of a class takes, by that function: to ask takes 50 µs, and a watch asks of every module."""


def parameters_of(module: nn.Module) -> list[str]:
    """The names of what the module's `forward` takes."""
    if "forward" in vars(module):  # put there for this module alone
        return list(inspect.signature(module.forward).parameters)
    function = type(module).forward
    if function not in _PARAMETERS:
        _PARAMETERS[function] = list(inspect.signature(module.forward).parameters)
    return _PARAMETERS[function]


def in_backward() -> bool:
    """Whether autograd is running: what a checkpoint computes again there has been seen already."""
    return bool(torch._C._current_graph_task_id() != -1)


@dataclass(frozen=True, eq=False)
class Frame:
    """One running module, and what it was given."""

    module: nn.Module
    name: str
    text: Text | None
    """The tokens, if this module was given some."""
    sequence: tuple[int, int] | None
    """(B, T) of its first argument of shape (B, T, E)."""

    @property
    def looks_like_attention(self) -> bool:
        """Whether the class is named so."""
        return bool(ATTENTION.search(class_name(self.module)))

    @property
    def heads(self) -> int | None:
        """H, as the module or its configuration says it."""
        for source in (self.module, getattr(self.module, "config", None), getattr(self.module, "cfg", None)):
            for attribute in ("num_attention_heads", "num_heads", "n_heads", "n_head", "nhead", "heads"):
                heads = getattr(source, attribute, None)
                if isinstance(heads, int):
                    return heads
        return None

    @property
    def kind(self) -> Literal["self", "cross"]:
        """Whether the keys are of another sequence than the queries, by what the module says of itself."""
        says = getattr(self.module, "is_cross_attention", None)
        if isinstance(says, bool):
            return "cross" if says else "self"
        own_name = ".".join(self.name.split(".")[-2:])
        return "cross" if CROSS.search(class_name(self.module)) or CROSS.search(own_name) else "self"


@dataclass(eq=False)
class Running:
    """The stack of a model's running modules, in the thread that watches."""

    model: nn.Module
    stack: list[Frame] = field(default_factory=list)
    step: int = -1
    """Which call from outside it is, from 0."""
    ran: set[str] = field(default_factory=set)
    """Every module that has run."""
    elsewhere: str | None = None
    """Another thread in which the model ran."""

    def __post_init__(self) -> None:
        self.names: Mapping[nn.Module, str] = named_modules(self.model)
        self.thread = threading.get_ident()
        self._parameters: dict[nn.Module, list[str]] = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> "Running":
        for module in self.names:
            for hook in module._forward_pre_hooks.values():
                other = getattr(hook, "__self__", None)
                if isinstance(other, Running) and other.thread != self.thread:
                    raise ClearheadError(
                        f"{self.names[module]} is being watched in another thread. "
                        "Wait until that watch has ended, or watch a copy of the model."
                    )
        for module in hosts(self.model):
            self._parameters[module] = parameters_of(module)
            self._hooks += [
                module.register_forward_pre_hook(self._begin, with_kwargs=True),
                module.register_forward_hook(self._end, always_call=True),
            ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.stack.clear()

    @property
    def here(self) -> bool:
        """Whether the model is running now, in this thread, and not as a part of a backward pass."""
        return bool(self.stack) and threading.get_ident() == self.thread and not in_backward()

    @property
    def cache(self) -> Any:
        """The keys and values of earlier tokens that the innermost module with such was given."""
        return next((f.text.cache for f in reversed(self.stack) if f.text and f.text.cache is not None), None)

    def reading(self) -> tuple[str | None, Tensor | None, Tensor | None]:
        """Which module was given tokens last, these tokens, and which are no padding, where known."""
        valid = None
        for frame in reversed(self.stack):
            if frame.text is not None:
                valid = frame.text.valid if valid is None else valid
                if not frame.text.is_open:
                    return frame.name, frame.text.ids, valid
        return None, None, valid

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if in_backward():
            return
        if threading.get_ident() != self.thread:
            self.elsewhere = threading.current_thread().name
            return
        if not self.stack:
            self.step += 1
        arguments = Arguments(self._parameters[module], args, kwargs)
        name = self.names[module]
        self.ran.add(name)
        self.stack.append(Frame(module, name, Text.of(arguments), _sequence(args, kwargs)))

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.here and self.stack[-1].module is module:
            self.stack.pop()


def _sequence(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, int] | None:
    """(B, T) of the first tensor of floats with three axes."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
            return value.shape[0], value.shape[1]
    return None
