"""Attention you can run fast and see through."""

from clearhead.attend import *  # noqa: F403
from clearhead.attend import __all__ as _attend
from clearhead.errors import ClearheadError, WatchWarning
from clearhead.scope.accelerate import accelerate
from clearhead.scope.weights import Weights
from clearhead.view.seen import Seen, watch

__version__ = "0.1.0"
__all__ = ["ClearheadError", "Seen", "WatchWarning", "Weights", "accelerate", "watch", *_attend]
