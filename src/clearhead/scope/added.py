"""Keys that nn.MultiheadAttention adds behind those of the tokens: a learned one, `bias_k`, and one of zeros."""

from dataclasses import replace

import torch
from torch import Tensor

from clearhead.attend import backends
from clearhead.attend.biases import dense
from clearhead.attend.call import Call
from clearhead.attend.runs import Runs
from clearhead.attend.statistics import Statistics

Added = tuple[str, ...]
"""What each added key is called in a list of tokens, in their order."""


def added_keys(bias_k: Tensor | None, add_zero_attn: bool) -> Added:
    """The keys that PyTorch's layer adds with these settings.

    >>> added_keys(torch.zeros(1, 1, 8), True)
    ('[bias_k]', '[zero_attn]')
    """
    return ("[bias_k]",) * (bias_k is not None) + ("[zero_attn]",) * bool(add_zero_attn)


def with_added(call: Call, added: int) -> Call:
    """The same call, its queries at the last positions of the tokens alone.

    A bias by distance counted from the last of all keys, so it is written out for each pair, as PyTorch's layer
    was given it.
    """
    if added == 0:
        return call
    if call.bias is not None and not isinstance(call.bias, dense):
        i, j = call.queries[:, None], torch.arange(call.k.shape[2], device=call.k.device)[None]
        pairs = call.bias.at(i, j, call.past, *call.bias_weights)
        call = replace(call, bias=dense(pairs), bias_weights=(pairs,))
    return replace(call, past=call.past - added)


def distance_of_tokens(call: Call, statistics: Statistics, added: int) -> Statistics:
    """The statistics with the distance between tokens: an added key stands at no position.

    It takes one more pass, over the keys of the tokens alone.
    """
    if added == 0:
        return statistics
    T = call.k.shape[2] - added
    runs = Runs(call.runs.start.clamp(max=T), call.runs.stop.clamp(max=T), T)
    weights = tuple(x[..., :T] for x in call.bias_weights)  # of pairs, (…, Tk or 1)
    k = call.k[:, :, :T]
    tokens = replace(call, k=k, v=k[..., :0], runs=runs, bias_weights=weights, dropout=0.0)
    return replace(statistics, distance=backends.choose(tokens, "auto").forward(tokens, True)[2].distance)
