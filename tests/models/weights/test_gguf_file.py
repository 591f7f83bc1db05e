"""A GGUF file's metadata and tensors are read as the format says; what cannot be read is a sentence."""

import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clearhead import ClearheadError
from clearhead.models.known import KNOWN
from clearhead.models.weights.gguf_file import QUANTISED as read_as_quantised
from clearhead.models.weights.gguf_file import read_gguf
from tests.models.weights.writing import write

# Each type's block by its definition in ggml-quants.c, one number at a time.


def half(block: bytes, at: int) -> float:
    return float(np.frombuffer(block, np.float16, 1, at)[0])


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def q8_0(block: bytes) -> list[float]:
    return [half(block, 0) * signed(byte) for byte in block[2:]]


def q4_0(block: bytes) -> list[float]:
    low, high = [byte & 15 for byte in block[2:]], [byte >> 4 for byte in block[2:]]
    return [half(block, 0) * (number - 8) for number in low + high]


def q4_1(block: bytes) -> list[float]:
    low, high = [byte & 15 for byte in block[4:]], [byte >> 4 for byte in block[4:]]
    return [half(block, 0) * number + half(block, 2) for number in low + high]


def q4_k(block: bytes) -> list[float]:
    d, dmin, packed, numbers = half(block, 0), half(block, 2), block[4:16], block[16:]
    out = []
    for j in range(8):
        if j < 4:
            scale, least = packed[j] & 63, packed[j + 4] & 63
        else:
            scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4)
            least = (packed[j + 4] >> 4) | (packed[j] >> 6 << 4)
        for byte in numbers[j // 2 * 32 : j // 2 * 32 + 32]:
            out.append(d * scale * (byte >> 4 if j % 2 else byte & 15) - dmin * least)
    return out


def q6_k(block: bytes) -> list[float]:
    low, high, scales, d = block[:128], block[128:192], block[192:208], half(block, 208)
    out = [0.0] * 256
    for part in range(2):
        for n in range(32):
            a, b, c = low[64 * part + n], low[64 * part + 32 + n], high[32 * part + n]
            fours = (a & 15, b & 15, a >> 4, b >> 4)
            for quarter, four in enumerate(fours):
                number = (four | (c >> 2 * quarter & 3) << 4) - 32
                scale = signed(scales[8 * part + 2 * quarter + n // 16])
                out[128 * part + 32 * quarter + n] = d * scale * number
    return out


def q5_0(block: bytes) -> list[float]:
    high, low = int.from_bytes(block[2:6], "little"), [byte & 15 for byte in block[6:]]
    fours = low + [byte >> 4 for byte in block[6:]]
    return [half(block, 0) * ((four | (high >> j & 1) << 4) - 16) for j, four in enumerate(fours)]


def q5_1(block: bytes) -> list[float]:
    high, low = int.from_bytes(block[4:8], "little"), [byte & 15 for byte in block[8:]]
    fours = low + [byte >> 4 for byte in block[8:]]
    return [half(block, 0) * (four | (high >> j & 1) << 4) + half(block, 2) for j, four in enumerate(fours)]


def q5_k(block: bytes) -> list[float]:
    high, numbers = block[16:48], block[48:]
    scaled = q4_k(block[:16] + numbers)
    steps = q4_k(block[:2] + bytes(2) + block[4:16] + bytes([17] * 128))  # d · scale alone
    return [value + 16 * (high[j % 32] >> j // 32 & 1) * steps[j] for j, value in enumerate(scaled)]


def q2_k(block: bytes) -> list[float]:
    scales, numbers, d, dmin = block[:16], block[16:80], half(block, 80), half(block, 82)
    out = []
    for j in range(256):
        two = numbers[j // 128 * 32 + j % 32] >> j % 128 // 32 * 2 & 3
        out.append(d * (scales[j // 16] & 15) * two - dmin * (scales[j // 16] >> 4))
    return out


IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def iq4_nl(block: bytes) -> list[float]:
    fours = [byte & 15 for byte in block[2:]] + [byte >> 4 for byte in block[2:]]
    return [half(block, 0) * IQ4[four] for four in fours]


def mxfp4(block: bytes) -> list[float]:
    fours = [byte & 15 for byte in block[1:]] + [byte >> 4 for byte in block[1:]]
    values = (0, 0.5, 1, 1.5, 2, 3, 4, 6)
    return [2.0 ** (block[0] - 127) * values[four & 7] * (-1 if four & 8 else 1) for four in fours]


# The definition, and where a block has its half-precision numbers, which random bytes could make infinite.
QUANTISED: dict[str, tuple[Callable[[bytes], list[float]], tuple[int, ...]]] = {
    "Q8_0": (q8_0, (0,)),
    "Q4_0": (q4_0, (0,)),
    "Q4_1": (q4_1, (0, 2)),
    "Q4_K": (q4_k, (0, 2)),
    "Q6_K": (q6_k, (208,)),
    "Q5_0": (q5_0, (0,)),
    "Q5_1": (q5_1, (0, 2)),
    "Q5_K": (q5_k, (0, 2)),
    "Q2_K": (q2_k, (80, 82)),
    "IQ4_NL": (iq4_nl, (0,)),
    "MXFP4": (mxfp4, ()),
}


def blocks(kind: str, count: int) -> NDArray[np.uint8]:
    """Random blocks of a quantised type."""
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    generator = np.random.default_rng(0)
    made = generator.integers(0, 256, (count, size), dtype=np.uint8)
    if kind == "MXFP4":
        made[:, 0] = generator.integers(100, 140, count)
    for at in QUANTISED[kind][1]:
        made[:, at : at + 2] = generator.normal(size=(count, 1)).astype(np.float16).view(np.uint8)
    return made


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_blocks_are_what_their_definition_says(kind: str, tmp_path: Path) -> None:
    define, _ = QUANTISED[kind]
    made = blocks(kind, 6)
    file = write(tmp_path / "a.gguf", {"w": made.reshape(3, -1)}, {}, {"w": kind})
    expected = torch.tensor([define(block.tobytes()) for block in made], dtype=torch.float64).view(3, -1)
    stored = read_gguf(file).tensors["w"]
    assert stored.shape == expected.shape
    torch.testing.assert_close(stored.read().double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", read_as_quantised)
def test_rows_of_every_quantised_type_are_what_the_gguf_package_makes_of_them(kind: str, tmp_path: Path) -> None:
    code = gguf.GGMLQuantizationType[kind]
    numbers = np.random.default_rng(0).integers(0, 256, (2, 3, 2 * gguf.GGML_QUANT_SIZES[code][1]), dtype=np.uint8)
    with np.errstate(all="ignore"):  # random bytes may be infinite numbers
        expected = torch.from_numpy(gguf.dequantize(numbers, code))
        stored = read_gguf(write(tmp_path / "a.gguf", {"w": numbers}, {}, {"w": kind})).tensors["w"]
        assert stored.shape == expected.shape
        torch.testing.assert_close(stored.read(), expected, rtol=0, atol=0, equal_nan=True)
        assert stored.part is not None
        for n in range(2):  # one of the first dimension, an expert, by itself
            torch.testing.assert_close(stored.part(n).read(), expected[n], rtol=0, atol=0, equal_nan=True)


def test_a_part_of_a_plain_tensor_is_read_alone(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)
    stored = read_gguf(write(tmp_path / "a.gguf", {"w": weight}, {})).tensors["w"]
    assert stored.part is not None
    assert all(np.array_equal(stored.part(n).read().numpy(), weight[n]) for n in range(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_plain_tensors_are_the_same_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    weight = torch.randn(5, 3).to(dtype)
    kind = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    bytes_ = weight.view(torch.uint8).numpy() if dtype is torch.bfloat16 else weight.numpy()
    read = read_gguf(write(tmp_path / "a.gguf", {"w": bytes_}, {}, {"w": kind})).tensors["w"].read()
    assert read.dtype is dtype
    assert torch.equal(read, weight)


def test_a_plain_tensor_takes_no_memory_of_its_own_and_leaves_the_file_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", {"w": np.ones((2, 2), np.float32)}, {})
    before = file.read_bytes()
    stored = read_gguf(file).tensors["w"]
    assert stored.read().data_ptr() == stored.read().data_ptr()
    stored.read().zero_()
    assert file.read_bytes() == before


def test_metadata_of_every_type_is_read(tmp_path: Path) -> None:
    said = {"a.bool": True, "a.int": 7, "a.float": 0.5, "a.text": "é", "a.ints": [1, -2], "a.texts": ["x", "", "日本"]}
    read = read_gguf(write(tmp_path / "a.gguf", {}, said)).metadata
    assert {key: read[key] for key in said} == said
    assert read["general.architecture"] == "llama"


@pytest.mark.slow
def test_metadata_and_tensors_are_those_that_the_gguf_package_reads() -> None:
    path = KNOWN["smollm2"].path
    assert path is not None
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    fields = {key: field for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata.keys() == fields.keys()
    assert all(ours.metadata[key] == field.contents() for key, field in fields.items())
    assert {name: stored.shape for name, stored in ours.tensors.items()} == {
        tensor.name: tuple(map(int, tensor.shape[::-1])) for tensor in theirs.tensors
    }


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", {"blk.0.w": np.ones((2, 40), np.uint8)}, {}, {"blk.0.w": "Q8_1"})
    with pytest.raises(
        ClearheadError, match=r"The tensor blk\.0\.w of '.*' is of type Q8_1; expected F32, F16, BF16, Q4"
    ):
        read_gguf(file)


@pytest.mark.parametrize("data", [b"", b"PK\3\4 no such thing", b"GGUF", b"GGUF\1\0\0\0" + bytes(64)])
def test_what_is_no_gguf_file_is_named(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(data)
    with pytest.raises(ClearheadError, match=re.escape(str(file))):
        read_gguf(file)


def small(tmp_path: Path) -> bytes:
    said = {"a.texts": ["one", "two"], "a.ints": [1, 2, 3], "a.text": "three", "a.float": 1.0}
    tensors = {"w": blocks("Q4_1", 4), "v": np.ones((4, 32), np.float32)}
    return write(tmp_path / "small.gguf", tensors, said, {"w": "Q4_1"}).read_bytes()


def test_a_file_cut_anywhere_is_said_to_be_not_whole(tmp_path: Path) -> None:
    data, file = small(tmp_path), tmp_path / "cut.gguf"
    for length in range(0, len(data), 7):
        file.write_bytes(data[:length])
        with pytest.raises(ClearheadError, match=r"not\s+whole|no GGUF file"):
            read_gguf(file)


def test_a_file_broken_anywhere_in_its_header_is_read_or_is_a_sentence(tmp_path: Path) -> None:
    data, generator, raised = small(tmp_path), random.Random(0), 0
    for n in range(400):
        broken = bytearray(data)
        for _ in range(3):
            broken[generator.randrange(300)] = generator.randrange(256)
        file = tmp_path / f"{n}.gguf"
        file.write_bytes(broken)
        try:
            for stored in read_gguf(file).tensors.values():
                stored.read()
        except ClearheadError:
            raised += 1
    assert raised > 100


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"general.alignment": 0}, "says general.alignment = 0; expected greater than or equal to 1"),
        ({"split.count": 10**9}, "says split.count = 1000000000; expected less than or equal to 99999"),
        ({"general.alignment": "32"}, "says general.alignment = '32'; expected a valid integer"),
        ({"split.count": "2"}, "says split.count = '2'; expected a valid integer"),
        ({"tokenizer.chat_template": 3}, "says tokenizer.chat_template = 3; expected a valid string"),
    ],
)
def test_metadata_of_another_type_is_named(said: dict[str, object], why: str, tmp_path: Path) -> None:
    with pytest.raises(ClearheadError, match=why):
        read_gguf(write(tmp_path / "a.gguf", {}, said))


def header(tmp_path: Path, key: str, kind: int, value: bytes) -> Path:
    """A file that says one thing."""
    file = tmp_path / "a.gguf"
    begin = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key.encode() + struct.pack("<I", kind)
    file.write_bytes(begin + value + bytes(64))
    return file


def test_an_architecture_that_is_a_list_is_named(tmp_path: Path) -> None:
    file = header(tmp_path, "general.architecture", 9, struct.pack("<IQI", 4, 1, 7))
    with pytest.raises(ClearheadError, match=r"says general\.architecture = \[7\]; expected a valid string"):
        read_gguf(file)


def test_lists_within_lists_without_end_are_a_sentence(tmp_path: Path) -> None:
    file = header(tmp_path, "a", 9, struct.pack("<IQ", 9, 1) * 3000)
    with pytest.raises(ClearheadError, match="cannot be read as GGUF: its header is broken"):
        read_gguf(file)


def test_a_tensor_of_no_numbers_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", {"w": np.ones((0, 4), np.float32)}, {})
    with pytest.raises(ClearheadError, match=r"The tensor w of '.*' is of shape \(0, 4\): it holds no numbers"):
        read_gguf(file)
