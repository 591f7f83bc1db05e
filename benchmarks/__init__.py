"""Clearhead beside its peers, measured: `python -m benchmarks`, or `make bench`."""
