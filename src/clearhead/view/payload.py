"""The payload: what the page holds, the heaviest keys of every query, in few bytes."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from clearhead.errors import ClearheadError

STEPS = 255
"""A weight is kept as round(STEPS · √w): 8 bits that are finest where weights are small."""


@dataclass(frozen=True)
class LayerView:
    """One attention as the page shows it: the heaviest keys of each query, of every head.

    `queries` and `keys` are the tokens' texts, true to the text: the page makes spaces and newlines
    visible. `top_keys` names a key at most once a query, heaviest first, and is -1 where a query needs
    fewer than n; `top_weights` is 0 there.

    >>> import torch
    >>> keys = torch.tensor([[[0, -1], [1, 0]]])
    >>> weights = torch.tensor([[[1.0, 0.0], [0.75, 0.25]]])
    >>> LayerView("model.layers.0.self_attn", "self", ["Oh", " dear"], ["Oh", " dear"], keys, weights).heads
    1

    Raises:
        ClearheadError: a kind that is neither "self" nor "cross", texts that are not one a query and one a
            key, a key that is not there or named twice, a weight outside [0, 1].
    """

    name: str
    kind: str
    queries: list[str]
    keys: list[str]
    top_keys: Int[Tensor, "H Tq n"]
    top_weights: Float[Tensor, "H Tq n"]
    added: int = 0
    """How many of the keys, the last ones, are those of no token, as nn.MultiheadAttention adds them."""

    def __post_init__(self) -> None:
        Tq, Tk = self.top_keys.shape[1], len(self.keys)
        if self.kind not in ("self", "cross"):
            raise ClearheadError(f'{self.name}: got kind {self.kind!r}, expected "self" or "cross".')
        if len(self.queries) != Tq:
            raise ClearheadError(
                f"{self.name}: got the texts of {len(self.queries)} queries and the keys of {Tq}. "
                "Give one text a query."
            )
        if self.top_keys.numel() and not -1 <= int(self.top_keys.min()) <= int(self.top_keys.max()) < Tk:
            raise ClearheadError(
                f"{self.name}: got keys from {int(self.top_keys.min())} to {int(self.top_keys.max())}, "
                f"expected -1 (none) to {Tk - 1}, as there are the texts of {Tk} keys."
            )
        ascending = np.sort(self.top_keys.cpu().numpy())
        if ((np.diff(ascending) == 0) & (ascending[..., 1:] >= 0)).any():
            raise ClearheadError(f"{self.name}: a query names a key twice. Give each of its keys once.")
        # A sum of rounded exponentials may pass 1 by a little, in half precision by more.
        if not bool(((self.top_weights >= 0) & (self.top_weights <= 1.01)).all()):
            raise ClearheadError(f"{self.name}: got a weight that is NaN or outside [0, 1].")

    @property
    def heads(self) -> int:
        """H."""
        return self.top_keys.shape[0]

    @property
    def listed(self) -> Bool[Tensor, "H Tq n"]:
        """Which entries name a key."""
        return self.top_keys >= 0

    def shares(self) -> Float[Tensor, "H Tq"]:
        """The share of each query's weight that the listed keys hold; NaN for a query that lists none."""
        share = (self.top_weights.float() * self.listed).sum(-1).clamp(max=1)
        return share.masked_fill(~self.listed.any(-1), math.nan)


def pack(layer: LayerView) -> bytes:
    """The keys and weights of one attention.

    Four arrays, one after another, each in the order head, query, key:

    - `counts (H, Tq)`: how many keys each query lists;
    - `gaps`: the listed keys in ascending order, each as its distance from the one before (the first from 0);
    - `rests (H, Tq)`: the part of the query's weight that is on no listed key, written as a weight is;
    - `weights`: round(255 · √w) in one byte, so that |w - what is read| ≤ (√w + 1/1020) / 255.

    Counts and gaps are little-endian integers of `width(Tk)` bytes, rests and weights one byte each.
    A key whose weight rounds to 0 is not listed.
    """
    # By NumPy: PyTorch's threads, which wait for one another by spinning, slow down many small steps where cores are
    # shared.
    codes = _code(layer.top_weights)
    keys = np.where(codes == 0, -1, layer.top_keys.cpu().numpy())
    order = keys.argsort()
    keys = np.take_along_axis(keys, order, -1)
    kept = keys >= 0
    # Ascending, the -1 come first: the entry before a row's first key is a -1 or the row's edge.
    before = np.pad(keys[..., :-1], ((0, 0), (0, 0), (1, 0))).clip(min=0)
    integer = f"<u{width(len(layer.keys))}"
    parts = [
        kept.sum(-1).astype(integer),
        (keys - before)[kept].astype(integer),
        _code(1 - layer.shares().nan_to_num(0.0)),
        np.take_along_axis(codes, order, -1)[kept],
    ]
    return b"".join(part.tobytes() for part in parts)


def width(keys: int) -> int:
    """The bytes of an integer that reaches Tk: 1, 2 or 4."""
    return np.min_scalar_type(keys).itemsize


def _code(weights: Float[Tensor, "..."]) -> UInt8[np.ndarray, "..."]:
    roots = np.sqrt(weights.float().cpu().numpy())
    codes: np.ndarray = np.rint(roots * STEPS).clip(max=STEPS).astype(np.uint8)
    return codes
