"""Attention you can run fast and see through."""

from clearhead import models, nn
from clearhead.attend import *  # noqa: F403
from clearhead.attend import __all__ as _attend
from clearhead.errors import ClearheadError, PerformanceWarning, WatchWarning
from clearhead.models.checkpoints import open_model
from clearhead.registration import register_with_transformers
from clearhead.scope.accelerate import accelerate
from clearhead.scope.copying import copying
from clearhead.scope.corpus import Corpus
from clearhead.scope.randomised import randomised
from clearhead.scope.survey import Surveyed, survey
from clearhead.scope.weights import Weights
from clearhead.view.compared import compare
from clearhead.view.draw import draw, write_pixels
from clearhead.view.seen import Seen, watch

register_with_transformers()
__version__ = "0.1.0"
__all__ = [
    "ClearheadError",
    "Corpus",
    "PerformanceWarning",
    "Seen",
    "Surveyed",
    "WatchWarning",
    "Weights",
    "accelerate",
    "compare",
    "copying",
    "draw",
    "models",
    "nn",
    "open_model",
    "randomised",
    "survey",
    "watch",
    "write_pixels",
    *_attend,
]
