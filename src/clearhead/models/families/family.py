"""Family: how a checkpoint's config and names become one of our models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from clearhead.attend import Pattern, causal, window
from clearhead.errors import ClearheadError
from clearhead.models.names import Names

Theirs = Mapping[str, Any]
"""What a checkpoint's config.json says, by Transformers' names."""


@dataclass(frozen=True)
class Family:
    """Models that differ in numbers alone."""

    types: tuple[str, ...]
    """Their `model_type` in config.json."""
    build: Callable[[Theirs], nn.Module]
    """The model of a config, its weights not yet read."""
    names: Names | Callable[[Theirs], Names]
    """How its checkpoints name and shape the weights, or what says so of a config."""

    def names_of(self, theirs: Theirs) -> Names:
        """How a checkpoint of this config names and shapes its weights."""
        return self.names if isinstance(self.names, Names) else self.names(theirs)


ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "swish": "silu",
}
"""Transformers' names of activations where ours are others."""


def activation(theirs: str) -> str:
    """Our name of an activation of theirs; one that we have not is complained of by `FeedForward`."""
    return ACTIVATIONS.get(theirs, theirs)


def said(theirs: Theirs, *names: str) -> Any:
    """What a config says by the first of these names that it has."""
    found = [theirs[name] for name in names if theirs.get(name) is not None]
    if not found:
        raise ClearheadError(f"config.json of a {theirs['model_type']} model: got no {names[0]!r}; expected it there.")
    return found[0]


def expect(theirs: Theirs, **expected: Any) -> None:
    """Complains of what a config says otherwise than the one thing that is done; what it leaves out is as expected."""
    for name, value in expected.items():
        got = theirs.get(name, value)
        if (got or None) != (value or None):  # false, null and left out are one
            raise ClearheadError(
                f"config.json of a {theirs.get('model_type', 'this')} model: got {name} = {got!r}; "
                f"expected {value!r}, as no other is done here."
            )


def by_turns(theirs: Theirs, *types: str) -> tuple[Pattern, ...]:
    """Each layer's pattern, a window or causal, as `layer_types` says; unsaid, `types` take turns."""
    kinds = theirs.get("layer_types") or types or ("sliding_attention", "full_attention")
    patterns: dict[str, Callable[[], Pattern]] = {
        "full_attention": causal,
        "sliding_attention": lambda: window(said(theirs, "sliding_window")),
    }
    if unknown := set(kinds) - set(patterns):
        raise ClearheadError(
            f"config.json of a {theirs['model_type']} model: got layer_types with {', '.join(sorted(unknown))}; "
            f"expected {' and '.join(patterns)} only."
        )
    return tuple(patterns[kind]() for kind in kinds)
