"""Attention you can run fast and see through."""

from clearhead.attend import *  # noqa: F403
from clearhead.attend import __all__ as _attend
from clearhead.errors import ClearheadError, WatchWarning
from clearhead.scope.weights import Weights

__version__ = "0.1.0"
__all__ = ["ClearheadError", "WatchWarning", "Weights", *_attend]
