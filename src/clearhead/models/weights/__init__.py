"""Weights: reading a checkpoint's tensors as they are asked for, out of memory that its files are mapped to."""

from clearhead.models.weights.opening import open_weights
from clearhead.models.weights.weights import Weights

__all__ = ["Weights", "open_weights"]
