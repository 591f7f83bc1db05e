"""MXFP4: weights of four bits, 32 of them sharing a power of two, as GPT-OSS's experts are kept."""

import torch
from jaxtyping import BFloat16, UInt8
from torch import Tensor

from clearhead.errors import ClearheadError, shortened
from clearhead.models.weights.weights import Stored

POSITIVE = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
VALUES = [*POSITIVE, *(-value for value in POSITIVE)]
"""What four bits stand for: a sign, two bits of exponent, one of mantissa."""


def unpacked(stored: dict[str, Stored]) -> dict[str, Stored]:
    """A checkpoint's tensors, each pair `NAME_blocks` and `NAME_scales` as the weight NAME that they are.

    Raises ClearheadError if the two of a pair do not belong together.
    """
    pairs = {
        name.removesuffix("_blocks"): (blocks, stored[scales])
        for name, blocks in stored.items()
        if name.endswith("_blocks") and (scales := name.removesuffix("_blocks") + "_scales") in stored
    }
    plain = {
        name: weight
        for name, weight in stored.items()
        if name.removesuffix("_blocks").removesuffix("_scales") not in pairs
    }
    return plain | {name: _weight(name, *pair) for name, pair in pairs.items()}


def _weight(name: str, blocks: Stored, scales: Stored) -> Stored:
    if len(blocks.shape) != 4 or blocks.shape[3] != 16 or blocks.shape[:3] != scales.shape:
        raise ClearheadError(
            f"The weight {shortened(name)} is packed as blocks {blocks.shape} and scales {scales.shape}; expected "
            "(experts, rows, blocks, 16) and (experts, rows, blocks). The files are not of the same checkpoint; get "
            "them again."
        )
    experts, rows, count, _ = blocks.shape
    return Stored((experts, 32 * count, rows), lambda: unpack(blocks.read(), scales.read()))


def unpack(
    blocks: UInt8[Tensor, "experts rows blocks 16"], scales: UInt8[Tensor, "experts rows blocks"]
) -> BFloat16[Tensor, "experts inputs rows"]:
    """2^(scale − 127) times the value of each four bits, the lower four first, and transposed.

    bfloat16 holds exactly what float32 holds (Open Compute Project, Microscaling Formats Specification, 2023).

    >>> blocks = torch.full((1, 1, 1, 16), 0x2A, dtype=torch.uint8)
    >>> scales = torch.full((1, 1, 1), 128, dtype=torch.uint8)
    >>> unpack(blocks, scales)[0, :4, 0]
    tensor([-2.,  2., -2.,  2.], dtype=torch.bfloat16)
    """
    pairs = torch.tensor([(VALUES[byte & 15], VALUES[byte >> 4]) for byte in range(256)], dtype=torch.bfloat16)
    experts, rows, count, _ = blocks.shape
    out = torch.empty(experts, rows, count, 32, dtype=torch.bfloat16)
    for e in range(experts):  # one at a time, as the indices take more than the weights
        torch.ldexp(pairs[blocks[e].int()].flatten(-2), scales[e, ..., None].int() - 127, out=out[e])
    return out.flatten(2).mT
