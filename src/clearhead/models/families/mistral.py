"""Mistral: Llama, but each query sees only the last 4,096 keys.

Layer upon layer what is farther still reaches a token: after n layers, n windows back (Jiang et al. 2023). A cache
need hold no more than the window. Later versions (0.2 on) have no window any more.
"""

from clearhead.attend import causal, window
from clearhead.models.config import Config
from clearhead.models.families import llama
from clearhead.models.families.family import Family, Theirs
from clearhead.models.transformer import Transformer


def config(theirs: Theirs) -> Config:
    """The description of a model of this family."""
    size = theirs.get("sliding_window", 4096)  # null is none; unsaid, it is that of the first version
    return llama.config(theirs, window(size) if size else causal())


MISTRAL = Family(("mistral",), lambda theirs: Transformer(config(theirs)), llama.NAMES)
