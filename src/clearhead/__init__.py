"""Attention you can run fast and see through."""

__version__ = "0.1.0"
