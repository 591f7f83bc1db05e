"""The public names, and where each is defined: read by `__init__.py`, type checkers and editors."""

from .config import Config
from .embeddings import embed
from .families.original import base, big
from .generate import Generated, Stream
from .loading import load
from .sound import log_mel
from .stack import Memory, Stack
from .tokens import Tokenizer
from .transformer import Transformer

__all__ = [
    "Config",
    "Generated",
    "Memory",
    "Stack",
    "Stream",
    "Tokenizer",
    "Transformer",
    "base",
    "big",
    "embed",
    "load",
    "log_mel",
]
