"""GGUF: llama.cpp's file, a header of metadata and of tensors' places, then the tensors, most of them quantised."""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clearhead.errors import ClearheadError, shortened
from clearhead.models.weights.weights import Stored

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""How the metadata's types are written, little-endian."""

PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
QUANTISED = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "MXFP4", "NVFP4"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0"),
)
"""Those that the package gguf knows how to make numbers of."""


@dataclass(frozen=True)
class Gguf:
    """A GGUF file: what it says of the model, and its tensors by llama.cpp's names."""

    metadata: dict[str, Any]
    tensors: dict[str, Stored]


def read_gguf(path: Path) -> Gguf:
    """The metadata and the tensors of one `.gguf` file, of version 2 or 3.

    Raises ClearheadError if the file is no GGUF file, is broken or not whole, or holds a tensor of a type that
    Clearhead does not read.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if path.stat().st_size else b""
    header = _Header(data)
    try:
        return _read(path, header)
    except (struct.error, UnicodeDecodeError, LookupError, ArithmeticError, MemoryError, RecursionError) as error:
        raise ClearheadError(
            f"The file '{path}' cannot be read as GGUF: its header is broken at byte {header.at}, or the file is not "
            "whole; get it again."
        ) from error


class _Header:
    """Reads one thing after another from the beginning of a file."""

    def __init__(self, data: "mmap.mmap | bytes") -> None:
        self.data, self.at = data, 0

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(code)
        return value

    def text(self) -> str:
        size = self.number("Q")
        if self.at + size > len(self.data):
            raise struct.error("a text goes beyond the end of the file")
        self.at += size
        return str(self.data[self.at - size : self.at], "utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.number(SCALARS[kind])
        kind, count = self.number("I"), self.number("Q")
        if kind in (STRING, ARRAY):
            return [self.value(kind) for _ in range(count)]
        code = f"<{count}{SCALARS[kind]}"
        values = struct.unpack_from(code, self.data, self.at)
        self.at += struct.calcsize(code)
        return list(values)


def _read(path: Path, header: _Header) -> Gguf:
    from clearhead.models.fields import check  # with pydantic, which only reading a model needs
    from clearhead.models.gguf_fields import GgufMetadata

    magic, version = header.data[:4], 0
    if magic == b"GGUF":
        header.at = 4
        version = header.number("I")
    if version not in (2, 3):
        raise ClearheadError(
            f"The file '{path}' is no GGUF file that can be read: it begins with {bytes(magic)!r}, version {version}; "
            "expected b'GGUF', version 2 or 3, little-endian."
        )
    tensors, pairs = header.number("Q"), header.number("Q")
    metadata = {}
    for _ in range(pairs):
        key = header.text()
        metadata[key] = header.value(header.number("I"))
    check(GgufMetadata, metadata, path)
    places = []
    for _ in range(tensors):
        name, dims = header.text(), header.number("I")
        shape = tuple(header.number("Q") for _ in range(dims))[::-1]
        places.append((name, shape, header.number("I"), header.number("Q")))
    align = metadata.get("general.alignment", 32)
    start = math.ceil(header.at / align) * align
    stored = {name: _stored(path, header.data, name, shape, kind, start + at) for name, shape, kind, at in places}
    return Gguf(metadata, stored)


def _stored(path: Path, data: Any, name: str, shape: tuple[int, ...], kind: int, at: int) -> Stored:
    gguf = _gguf()
    known = {int(number): number for number in gguf.GGMLQuantizationType}
    shown = shortened(name)
    kind_name = known[kind].name if kind in known else f"number {kind}"
    if kind_name not in (*PLAIN, *QUANTISED):
        raise ClearheadError(
            f"The tensor {shown} of '{path}' is of type {kind_name}; expected {', '.join((*PLAIN, *QUANTISED))}. "
            "Get the model in another quantisation."
        )
    if not math.prod(shape):
        raise ClearheadError(f"The tensor {shown} of '{path}' is of shape {shape}: it holds no numbers; get it again.")
    if shape[-1] % gguf.GGML_QUANT_SIZES[known[kind]][0]:
        raise struct.error("a row is no whole number of blocks")
    end = at + _nbytes(shape, known[kind])
    if end > len(data):
        raise ClearheadError(
            f"The file '{path}' ends after {len(data):,} bytes, but its tensor {shown} needs {end:,}: "
            "the file is not whole; get it again."
        )
    return _placed(data, shape, known[kind], at)


def _placed(data: Any, shape: tuple[int, ...], kind: Any, at: int) -> Stored:
    """The tensor of this shape and type that begins at byte `at`."""

    def read() -> Tensor:
        if kind.name in PLAIN:
            return torch.frombuffer(data, dtype=PLAIN[kind.name], count=math.prod(shape), offset=at).view(shape)
        rows = np.frombuffer(data, np.uint8, _nbytes(shape, kind), at).reshape(*shape[:-1], -1)
        return torch.from_numpy(_gguf().dequantize(rows, kind))

    def part(n: int) -> Stored:
        return _placed(data, shape[1:], kind, at + n * _nbytes(shape[1:], kind))

    return Stored(shape, read, part)


def _nbytes(shape: tuple[int, ...], kind: Any) -> int:
    weights, size = _gguf().GGML_QUANT_SIZES[kind]
    return int(math.prod(shape) // weights * size)


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ClearheadError("Reading a .gguf file needs gguf; get it with: pip install 'clearhead[hf]'.") from error
    return gguf
