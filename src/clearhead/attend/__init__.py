"""Attention itself: one call, described by a pattern, a bias and a score, on any backend."""

from clearhead.attend.api import attention
from clearhead.attend.biases import Bias, alibi, dense, relative, t5
from clearhead.attend.pattern import Pattern
from clearhead.attend.patterns import (
    bigbird,
    blocks,
    causal,
    chunks,
    dilated,
    documents,
    first,
    full,
    global_tokens,
    longformer,
    padding,
    prefix,
    where,
    window,
)
from clearhead.attend.runs import Runs
from clearhead.attend.scores import Additive, Multiplicative, Score
from clearhead.attend.statistics import Statistics

__all__ = [
    "Additive",
    "Bias",
    "Multiplicative",
    "Pattern",
    "Runs",
    "Score",
    "Statistics",
    "alibi",
    "attention",
    "bigbird",
    "blocks",
    "causal",
    "chunks",
    "dense",
    "dilated",
    "documents",
    "first",
    "full",
    "global_tokens",
    "longformer",
    "padding",
    "prefix",
    "relative",
    "t5",
    "where",
    "window",
]
