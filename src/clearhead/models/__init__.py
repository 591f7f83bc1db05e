"""Models: whole transformers, described by their parts, with the weights of real checkpoints."""

from clearhead.models.config import Config
from clearhead.models.embeddings import embed
from clearhead.models.families.original import base, big
from clearhead.models.generate import Generated, Stream
from clearhead.models.loading import load
from clearhead.models.sound import log_mel
from clearhead.models.stack import Memory, Stack
from clearhead.models.tokens import Tokenizer
from clearhead.models.transformer import Transformer

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
