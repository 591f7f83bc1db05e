"""The public names, and where each is defined: read by `__init__.py`, type checkers and editors."""

from . import attend, errors, models, nn, scope, view
from .attend import (
    Additive,
    Bias,
    Explanation,
    Multiplicative,
    Pattern,
    Runs,
    Score,
    Statistics,
    alibi,
    attention,
    bigbird,
    blocks,
    causal,
    chunks,
    decode,
    dense,
    dilated,
    documents,
    explain,
    first,
    full,
    global_tokens,
    longformer,
    onnx_attention,
    padding,
    prefix,
    relative,
    sdpa,
    t5,
    where,
    window,
)
from .errors import ClearheadError, PerformanceWarning, WatchWarning
from .models.checkpoints import open_model
from .scope.accelerate import accelerate
from .scope.copying import copying
from .scope.corpus import Corpus
from .scope.randomised import randomised
from .scope.survey import Surveyed, survey
from .scope.weights import Weights
from .view.compared import compare
from .view.draw import draw, write_pixels
from .view.seen import Seen, watch

__version__: str
__all__ = [
    "Additive",
    "Bias",
    "ClearheadError",
    "Corpus",
    "Explanation",
    "Multiplicative",
    "Pattern",
    "PerformanceWarning",
    "Runs",
    "Score",
    "Seen",
    "Statistics",
    "Surveyed",
    "WatchWarning",
    "Weights",
    "accelerate",
    "alibi",
    "attend",
    "attention",
    "bigbird",
    "blocks",
    "causal",
    "chunks",
    "compare",
    "copying",
    "decode",
    "dense",
    "dilated",
    "documents",
    "draw",
    "errors",
    "explain",
    "first",
    "full",
    "global_tokens",
    "longformer",
    "models",
    "nn",
    "onnx_attention",
    "open_model",
    "padding",
    "prefix",
    "randomised",
    "relative",
    "scope",
    "sdpa",
    "survey",
    "t5",
    "view",
    "watch",
    "where",
    "window",
    "write_pixels",
]
