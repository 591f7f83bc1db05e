"""Attention itself: one call, described by a pattern, a bias and a score, on any backend."""

from clearhead.attend.api import attention
from clearhead.attend.biases import Bias, alibi, dense, relative, t5
from clearhead.attend.decode import decode
from clearhead.attend.explain import Explanation, explain
from clearhead.attend.onnx import onnx_attention
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
from clearhead.attend.sdpa import sdpa
from clearhead.attend.statistics import Statistics

__all__ = [
    "Additive",
    "Bias",
    "Explanation",
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
    "decode",
    "dense",
    "dilated",
    "documents",
    "explain",
    "first",
    "full",
    "global_tokens",
    "longformer",
    "onnx_attention",
    "padding",
    "prefix",
    "relative",
    "sdpa",
    "t5",
    "where",
    "window",
]
