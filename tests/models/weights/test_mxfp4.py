"""Weights packed as MXFP4 are unpacked to what Transformers makes of them, bit for bit, and when they are asked for."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from clearhead import ClearheadError
from clearhead.models.weights import Weights, open_weights
from clearhead.models.weights.mxfp4 import VALUES, unpack, unpacked
from clearhead.models.weights.weights import Stored


def packed(experts: int = 3, rows: int = 5, count: int = 4) -> tuple[Tensor, Tensor]:
    """Blocks and scales of random bytes."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (experts, rows, count, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(256, (experts, rows, count), dtype=torch.uint8, generator=generator)
    return blocks, scales


def folder(path: Path, tensors: dict[str, Tensor]) -> Weights:
    (path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "mxfp4"}}))
    save_file(tensors, path / "model.safetensors")
    return open_weights(path)


def test_any_bytes_become_what_transformers_makes_of_them() -> None:
    blocks, scales = packed(8, 32, 8)
    ours, theirs = unpack(blocks, scales), convert_moe_packed_tensors(blocks, scales)
    assert ours.dtype is theirs.dtype is torch.bfloat16
    assert torch.equal(ours.contiguous().view(torch.int16), theirs.view(torch.int16))


def test_each_weight_is_what_the_specification_says() -> None:
    blocks, scales = packed()
    scales.clamp_(max=254)  # 255 is no number
    ours = unpack(blocks, scales)
    assert ours.shape == (3, 128, 5)
    for e, i, row in [(0, 0, 0), (0, 1, 0), (2, 31, 1), (1, 32, 4), (2, 127, 3), (0, 77, 2)]:
        byte = int(blocks[e, row, i // 32, i % 32 // 2])
        value = VALUES[byte >> 4 if i % 2 else byte & 15] * 2.0 ** (int(scales[e, row, i // 32]) - 127)
        assert float(ours[e, i, row]) == value


def test_every_weight_that_float32_can_hold_is_exact() -> None:
    blocks = torch.arange(256, dtype=torch.uint8).view(1, 16, 1, 16).expand(253, 16, 1, 16)
    scales = torch.arange(253, dtype=torch.uint8).view(253, 1, 1).expand(253, 16, 1)
    exact = torch.tensor(VALUES, dtype=torch.float64)[torch.stack([blocks & 15, blocks >> 4], -1).int()]
    exact = exact.flatten(-3) * 2.0 ** (scales.double() - 127)
    assert torch.equal(unpack(blocks, scales).mT.double(), exact)


def test_a_folders_pairs_become_weights_and_the_rest_stays(tmp_path: Path) -> None:
    blocks, scales = packed()
    norm = torch.randn(7)
    weights = folder(tmp_path, {"a.up_blocks": blocks, "a.up_scales": scales, "norm": norm, "a.odd_scales": norm + 1})
    assert set(weights) == {"a.up", "norm", "a.odd_scales"}
    assert weights.shape("a.up") == (3, 128, 5)
    assert torch.equal(weights["a.up"].nan_to_num(), unpack(blocks, scales).nan_to_num())
    assert torch.equal(weights["norm"], norm)
    assert "quantization_config" not in weights.config


def test_nothing_is_read_before_it_is_asked_for() -> None:
    def read() -> Tensor:
        raise AssertionError("it was read")

    stored = unpacked({"w_blocks": Stored((2, 3, 4, 16), read), "w_scales": Stored((2, 3, 4), read)})
    assert stored["w"].shape == (2, 128, 3)
    with pytest.raises(AssertionError, match="it was read"):
        stored["w"].read()


def test_a_pair_that_does_not_belong_together_is_named(tmp_path: Path) -> None:
    blocks, scales = packed()
    said = r"weight a\.up is packed as blocks \(3, 5, 4, 16\) and scales \(3, 5, 3\); expected \(experts, rows, blocks"
    with pytest.raises(ClearheadError, match=said):
        folder(tmp_path, {"a.up_blocks": blocks, "a.up_scales": scales[..., :3].contiguous()})
