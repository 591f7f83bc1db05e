"""The fingerprint of a tensor: whether one that was read before still holds the same, however it was written to."""

import torch
import xxhash
from torch import Tensor


def fingerprint(x: Tensor) -> bytes:
    """A 128-bit hash of a tensor's contents.

    Its version does not count what is written through `.numpy()`, `.data` or in inference mode. One pass over the
    memory, without what is expanded: 67 MB, a boolean mask of 8,192 × 8,192, take about 10 ms.
    """
    x = x.detach()
    for dim, (stride, size) in enumerate(zip(x.stride(), x.shape, strict=True)):
        if stride == 0 and size > 1:
            x = x.narrow(dim, 0, 1)
    bytes_of_it = x.cpu().resolve_neg().contiguous().flatten().view(torch.uint8).numpy()
    return xxhash.xxh3_128_digest(bytes_of_it)  # type: ignore[arg-type]  # NumPy's types know no Buffer in Python 3.11
