"""Scalings of RoPE's frequencies: beside Transformers' own, beside what the papers print, and plain at scale 1."""

import math
from typing import Any

import pytest
import torch

from clearhead.errors import ClearheadError
from clearhead.nn.positions import Rotary, rotary_of
from clearhead.nn.positions.scaling import NTK, DynamicNTK, Linear, Llama3, LongRoPE, Proportional, Scaling, YaRN

llama = pytest.importorskip("transformers.models.llama.modeling_llama")
rope_utils = pytest.importorskip("transformers.modeling_rope_utils")

SHORT, LONG = [1.0 + n / 50 for n in range(16)], [1.0 + n**2 / 7 for n in range(16)]
KINDS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 2.5},
    {"rope_type": "yarn", "factor": 4.0},
    {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 16.0, "beta_slow": 2.0},
    {"rope_type": "yarn", "factor": 8.0, "attention_factor": 1.3, "truncate": False},
    {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 16, "truncate": False},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "factor": 4.0},
    {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "factor": 4.0, "attention_factor": 1.2},
]


def theirs(rope: dict[str, Any], theta: float = 10_000.0, trained: int = 64) -> Any:
    """Transformers' module, for heads of 32."""
    config = llama.LlamaConfig(
        hidden_size=128,
        num_attention_heads=4,
        max_position_embeddings=trained,
        rope_parameters={"rope_theta": theta, **rope},
    )
    return llama.LlamaRotaryEmbedding(config), config.to_dict()


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("rope", KINDS, ids=lambda rope: rope["rope_type"])
def test_frequencies_temperature_and_turns_are_those_of_transformers(rope: dict[str, Any], theta: float) -> None:
    module, config = theirs(rope, theta)
    ours = rotary_of(config, 32)
    # within the training length, beyond it, farther, and a short text again
    for T in (40, 64, 65, 150, 400, 20):
        positions = torch.arange(T)[None]
        q, k = torch.randn(1, 4, T, 32), torch.randn(1, 2, T, 32)
        cos, sin = module(q, positions)
        torch.testing.assert_close(ours.frequencies(positions), module.inv_freq, rtol=1e-6, atol=0)
        assert math.isclose(ours.temperature, module.attention_scaling, rel_tol=1e-12)
        expected = llama.apply_rotary_pos_emb(q, k, cos, sin)
        for one, other in zip(ours.turn(q, k, ours.angles(positions)), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)  # theirs rounds angles of up to 400
            torch.testing.assert_close(one[:, :, :40], other[:, :, :40], atol=1e-5, rtol=0)


def test_proportional_rope_is_that_of_transformers() -> None:
    _, config = theirs({"rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 2.0})
    compute = rope_utils.ROPE_INIT_FUNCTIONS["proportional"]
    expected, _ = compute(llama.LlamaConfig(**config))
    ours = rotary_of(config, 32)
    torch.testing.assert_close(ours.frequencies(torch.arange(3)[None]), expected, rtol=1e-6, atol=0)
    x = torch.randn(1, 1, 3, 32)
    still = torch.cat((torch.arange(4, 16), torch.arange(20, 32)))
    turned, _ = ours.turn(x, x, ours.angles(torch.arange(3)[None]))
    assert torch.equal(turned[..., still], x[..., still])


def test_every_type_that_transformers_knows_is_compared_here() -> None:
    compared = {rope["rope_type"] for rope in KINDS} | {"proportional"}
    assert compared == {*rope_utils.ROPE_INIT_FUNCTIONS, "default"}


@pytest.mark.parametrize(
    "scaling",
    [
        Linear(1.0),
        NTK(1.0),
        DynamicNTK(1.0, trained=128),
        YaRN(1.0, trained=2048),
        Llama3(1.0),
        LongRoPE((1.0,) * 32, (1.0,) * 32, trained=8, factor=1.0),
        Proportional(1.0),
    ],
    ids=lambda scaling: type(scaling).__name__,
)
def test_at_scale_1_it_is_plain_rope(scaling: Scaling) -> None:
    positions = torch.arange(100)[None]
    plain, scaled = Rotary(64), Rotary(64, scaling=scaling)
    torch.testing.assert_close(scaled.frequencies(positions), plain.frequencies(positions), rtol=2e-7, atol=0)
    assert scaled.temperature == 1


def test_dynamic_ntk_is_plain_up_to_the_training_length_and_then_ntk() -> None:
    scaled = Rotary(64, scaling=DynamicNTK(1.0, trained=128))
    for T in (1, 128):
        assert torch.equal(scaled.frequencies(torch.arange(T)[None]), Rotary(64).frequencies(torch.arange(T)[None]))
    # with factor 1 the scale is length / trained, as its author proposed
    torch.testing.assert_close(
        scaled.frequencies(torch.arange(512)[None]), Rotary(64, scaling=NTK(4.0)).frequencies(torch.arange(512)[None])
    )


def test_ntk_keeps_the_fastest_frequency_and_divides_the_slowest_by_the_factor() -> None:
    plain, scaled = Rotary(128).fixed, Rotary(128, scaling=NTK(8.0)).fixed
    assert scaled[0] == plain[0] == 1
    torch.testing.assert_close(scaled[-1], plain[-1] / 8)


def test_yarn_s_temperature_is_as_the_paper_prints_it() -> None:
    """√(1/t) = 0.1 · ln(s) + 1 (Peng et al. 2024, § 3.4)."""
    for factor, expected in ((1, 1.0), (16, 1.27726), (32, 1.34657)):
        assert YaRN(factor, trained=4096).temperature == pytest.approx(expected, abs=1e-5)


def test_yarn_leaves_what_turns_32_times_and_divides_what_turns_once() -> None:
    """α = 1 and β = 32 for Llama (Peng et al. 2024, § 3.2)."""
    trained = 4096
    plain, scaled = Rotary(128).fixed, Rotary(128, scaling=YaRN(16, trained=trained)).fixed
    turns = trained * plain / (2 * math.pi)
    fast, slow = turns > 32, turns < 1
    assert fast.sum() > 10 and slow.sum() > 10
    # the ramp begins and ends up to one pair outside, as its ends are rounded to whole pairs
    assert torch.equal(scaled[fast][:-1], plain[fast][:-1])
    torch.testing.assert_close(scaled[slow][1:], plain[slow][1:] / 16)


def test_llama_3_leaves_short_waves_and_divides_long_ones_by_8() -> None:
    """Of Llama 3.1: trained on 8,192 tokens, factor 8, low 1, high 4."""
    plain, scaled = Rotary(128, 500_000.0).fixed, Rotary(128, 500_000.0, scaling=Llama3()).fixed
    wave = 2 * math.pi / plain
    assert torch.equal(scaled[wave < 2048], plain[wave < 2048])
    torch.testing.assert_close(scaled[wave > 8192], plain[wave > 8192] / 8)
    between = (wave > 2048) & (wave < 8192)
    assert between.any() and ((scaled < plain) & (scaled > plain / 8))[between].all()


def test_longrope_changes_its_list_with_the_length() -> None:
    scaled = Rotary(4, scaling=LongRoPE((1.0, 2.0), (3.0, 4.0), trained=8, factor=4.0))
    plain = Rotary(4).fixed
    torch.testing.assert_close(scaled.frequencies(torch.arange(8)[None]), plain / torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(scaled.frequencies(torch.arange(9)[None]), plain / torch.tensor([3.0, 4.0]))
    assert scaled.temperature == pytest.approx(math.sqrt(1 + math.log(4) / math.log(8)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Linear(0.5), "Linear: got factor 0.5; expected at least 1, how many times longer"),
        (lambda: NTK(0.0), "NTK: got factor 0.0; expected at least 1"),
        (lambda: DynamicNTK(2.0, trained=0), "DynamicNTK: got trained 0; expected the length in tokens"),
        (lambda: YaRN(2.0, 64, beta_fast=1.0, beta_slow=4.0), "YaRN: got beta_fast 1.0 and beta_slow 4.0; expected"),
        (lambda: Llama3(low=4.0, high=1.0), "Llama3: got low 4.0 and high 1.0; expected 0 < low < high"),
        (lambda: LongRoPE((1.0,), (1.0,), 8), "got neither factor nor attention_factor; expected one"),
        (
            lambda: Rotary(8, scaling=LongRoPE((1.0,), (1.0,) * 4, 8, factor=2.0)),
            "got 1 short and 4 long factors for 8 dimensions that turn; expected 4 of each",
        ),
        (lambda: Proportional(2.0), "Proportional: got share 2.0; expected 0 to 1"),
        (lambda: Rotary(2, scaling=NTK(2.0)), "NTK: got 2 dimensions that turn; expected at least 4"),
        (lambda: Rotary(2, scaling=DynamicNTK(2.0, 8)), "NTK: got 2 dimensions that turn; expected at least 4"),
    ],
)
def test_what_makes_no_sense_is_said(make: Any, said: str) -> None:
    with pytest.raises(ClearheadError, match=said):
        make()
