"""Dropout by a counter: Philox 4x32-7 (Salmon et al. 2011), the numbers of kernels/dropout.h.

Whether a weight is dropped depends on the seed, batch, head, query and key alone. So forward and backward drop the same
weights, in tiles of any size, and so do all backends with the same seed.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.errors import ClearheadError

ROUNDS = 7
LOW = 0xFFFFFFFF
"""A word has 32 bits; it is held in an int64, as PyTorch's unsigned types have few operations."""


def drawn_seed(backend: str) -> Int[Tensor, ""]:
    """A seed for the dropout of a call, from PyTorch's generator."""
    try:
        seed = torch.randint(2**31, ())
        if not torch.compiler.is_compiling():
            seed.item()  # which vmap refuses where each of its calls would draw another
        return seed
    except RuntimeError as error:
        raise ClearheadError(
            f"backend {backend!r} draws one seed for the dropout of a whole call, which vmap can't map; "
            "pass randomness='same' to vmap, or use backend='reference'."
        ) from error


def keep(
    seed: int, dropout: float, B: int, H: int, queries: Int[Tensor, " m"], columns: slice
) -> Float[Tensor, "B H m n"]:
    """0 where a weight of this tile is dropped, 1 / (1 − dropout) where it stays."""
    device, first = queries.device, columns.start // 4
    fours = torch.arange(first, -(-columns.stop // 4), device=device)  # one counter gives the numbers of four keys
    heads = torch.arange(B * H, device=device).view(B, H, 1, 1)
    words = torch.stack(torch.broadcast_tensors(*_philox(seed, fours, queries[:, None], heads)), -1).flatten(-2)
    words = words[..., columns.start - 4 * first : columns.stop - 4 * first]
    uniform = (words >> 8).float() * 2.0**-24  # as many bits as a float32 holds
    return (uniform >= dropout).float() / (1 - dropout)


def _philox(seed: int, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """Four words of random bits for each counter (a, b, c, 0), all of which broadcast."""
    d = torch.zeros_like(a)
    key0, key1 = seed & LOW, seed >> 32 & LOW
    for _ in range(ROUNDS):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57  # of 64 bits, which wrap into an int64's sign
        a, b = (right >> 32 & LOW) ^ b ^ key0, right & LOW
        c, d = (left >> 32 & LOW) ^ d ^ key1, left & LOW
        key0, key1 = key0 + 0x9E3779B9 & LOW, key1 + 0xBB67AE85 & LOW
    return a, b, c, d
