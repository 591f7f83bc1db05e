"""Qwen 2 and 3: Llama, but q, k and v have a bias (2), or each head's q and k are normed (3).

The bias lets RoPE read on beyond the training length (Su 2023; Yang et al. 2024). A norm on each head's q and k
before they are turned keeps scores from growing in training (Dehghani et al. 2023; Yang et al. 2025). Either may have
windows in its upper layers.
"""

from functools import partial

from clearhead.attend import Pattern, causal
from clearhead.models.config import Config
from clearhead.models.families import llama
from clearhead.models.families.family import Family, Theirs, by_turns
from clearhead.models.transformer import Transformer
from clearhead.nn import RMSNorm


def config(theirs: Theirs) -> Config:
    """The description of a model of this family."""
    if theirs["model_type"] == "qwen2":
        return llama.config(theirs, pattern(theirs), bias=True, out_bias=False)
    return llama.config(theirs, pattern(theirs), qk_norm=partial(RMSNorm, eps=theirs["rms_norm_eps"]))


def pattern(theirs: Theirs) -> Pattern | tuple[Pattern, ...]:
    """Causal; with `use_sliding_window`, a window in the layers from `max_window_layers` on."""
    theirs = {"sliding_window": 4096, **theirs}
    if not (theirs.get("use_sliding_window") and theirs["sliding_window"]):
        return causal()
    layers, first = theirs["num_hidden_layers"], theirs.get("max_window_layers", 28)
    return by_turns(theirs, *("full_attention" if n < first else "sliding_attention" for n in range(layers)))


QWEN = Family(("qwen2", "qwen3"), lambda theirs: Transformer(config(theirs)), llama.NAMES)
