"""RoPE: turned by position, so that scores know only the distance; beside Transformers' Llama, GPT-NeoX and GPT-J."""

import copy
import pickle
from typing import Any

import pytest
import torch

from clearhead.errors import ClearheadError
from clearhead.nn.heads import MultiHeadAttention
from clearhead.nn.positions import Rotary, scaling
from clearhead.nn.positions.rotary import Layout, turn

LAYOUTS: tuple[Layout, ...] = ("halves", "pairs")


def at(*positions: int) -> torch.Tensor:
    return torch.tensor([positions])


def by_definition(x: torch.Tensor, positions: torch.Tensor, base: float, turned: int, layout: str) -> torch.Tensor:
    """Each pair turned by its angle as a complex number, in float64."""
    out = x.double().clone()
    for n in range(turned // 2):
        first, second = (n, n + turned // 2) if layout == "halves" else (2 * n, 2 * n + 1)
        angle = positions.double() * base ** (-2 * n / turned)
        pair = torch.complex(out[..., first], out[..., second]) * torch.polar(torch.ones_like(angle), angle)[:, None]
        out[..., first], out[..., second] = pair.real, pair.imag
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("turned", [8, 6, 2])
@pytest.mark.parametrize("learning", [True, False], ids=["learning", "not"])  # the native kernel takes what needs none
def test_each_pair_is_turned_by_its_position_times_its_frequency(layout: Layout, turned: int, learning: bool) -> None:
    rotary = Rotary(8, 100.0, turned=turned, layout=layout)
    positions = torch.tensor([[0, 1, 5], [3, 4, 90]])
    q, k = torch.randn(2, 3, 4, 8).transpose(1, 2), torch.randn(2, 2, 3, 8)
    with torch.set_grad_enabled(learning):
        turned_both = rotary.turn(q, k, rotary.angles(positions))
    for x, out in zip((q, k), turned_both, strict=True):
        expected = by_definition(x, positions, 100.0, turned, layout)
        torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_partial_rotary_leaves_the_other_dimensions_as_they_were(layout: Layout) -> None:
    rotary = Rotary(16, turned=4, layout=layout)
    q, k = torch.randn(1, 3, 7, 16), torch.randn(1, 1, 7, 16)
    new_q, new_k = rotary.turn(q, k, rotary.angles(torch.arange(7)[None]))
    assert torch.equal(new_q[..., 4:], q[..., 4:]) and torch.equal(new_k[..., 4:], k[..., 4:])
    assert not torch.isclose(new_q[:, :, 1:, :4], q[:, :, 1:, :4]).all()


def test_halves_and_pairs_are_the_same_up_to_a_permutation_of_the_dimensions() -> None:
    q, k = torch.randn(2, 4, 9, 12), torch.randn(2, 2, 9, 12)
    permutation = torch.arange(12).view(2, 6).T.flatten()  # 0, 6, 1, 7, …
    halves, pairs = (Rotary(12, layout=layout) for layout in LAYOUTS)
    positions = torch.arange(9)[None]
    ours = halves.turn(q, k, halves.angles(positions))
    others = pairs.turn(q[..., permutation], k[..., permutation], pairs.angles(positions))
    for one, other in zip(ours, others, strict=True):
        torch.testing.assert_close(one[..., permutation], other)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shift", [1, 1000, 1_000_000])
@pytest.mark.parametrize("bent", [None, scaling.YaRN(4.0, trained=64), scaling.Llama3(8.0, trained=64)])
def test_scores_know_only_the_distance(layout: Layout, shift: int, bent: scaling.Scaling | None) -> None:
    rotary = Rotary(32, layout=layout, scaling=bent)
    q, k = torch.randn(1, 2, 20, 32, dtype=torch.float64), torch.randn(1, 2, 20, 32, dtype=torch.float64)
    positions = torch.arange(20)[None]

    def scores(positions: torch.Tensor) -> torch.Tensor:
        new_q, new_k = rotary.turn(q, k, rotary.angles(positions))
        return new_q @ new_k.mT

    torch.testing.assert_close(scores(positions), scores(positions + shift), atol=1e-5, rtol=0)
    assert (scores(positions) - scores(positions * 2)).abs().max() > 0.1


def test_turning_keeps_the_length_of_a_vector() -> None:
    rotary = Rotary(64)
    q, k = torch.randn(1, 2, 50, 64), torch.randn(1, 2, 50, 64)
    new_q, _ = rotary.turn(q, k, rotary.angles(torch.arange(50)[None] * 1000))
    torch.testing.assert_close(new_q.norm(dim=-1), q.norm(dim=-1))


def test_far_positions_are_turned_as_exactly_as_near_ones() -> None:
    rotary = Rotary(64, 500_000.0)
    positions = at(0, 30_001, 1_000_003)
    angles = positions[..., None].double() * rotary.frequencies(positions).double()
    cos, sin = rotary.angles(positions)
    torch.testing.assert_close(cos[0, 0, :, :32].double(), angles[0].cos(), atol=6e-8, rtol=0)
    torch.testing.assert_close(sin[0, 0, :, 32:].double(), angles[0].sin(), atol=6e-8, rtol=0)


def test_frequencies_are_those_of_the_paper() -> None:
    """θ_i = 10000^(−2(i − 1)/d), from 1 to nearly 1/10000."""
    theta = Rotary(128).frequencies(at(0))
    assert theta[0] == 1
    torch.testing.assert_close(theta[32], torch.tensor(0.01))
    torch.testing.assert_close(theta.double(), 10_000.0 ** (-torch.arange(64, dtype=torch.float64) / 64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("learning", [True, False], ids=["learning", "not"])
def test_the_result_is_rounded_once_to_the_type_of_what_is_turned(
    dtype: torch.dtype, layout: Layout, learning: bool
) -> None:
    rotary = Rotary(32, layout=layout, turned=24)
    q, k = torch.randn(2, 4, 11, 32, dtype=dtype), torch.randn(2, 2, 11, 32, dtype=dtype)
    angles = rotary.angles(torch.arange(11)[None] + 300)
    with torch.set_grad_enabled(learning):
        turned_both = rotary.turn(q, k, angles)
    for x, out in zip((q, k), turned_both, strict=True):
        assert out.dtype == dtype
        exact = turn(x.double(), *angles, layout)
        torch.testing.assert_close(out.double(), exact, atol=1e-6, rtol=0.51 * torch.finfo(dtype).eps)


def test_a_layer_in_bfloat16_turns_by_the_same_angles() -> None:
    positions = torch.arange(1000)[None]
    for one, other in zip(Rotary(64).angles(positions), Rotary(64).bfloat16().angles(positions), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_those_of_the_definition(layout: Layout) -> None:
    rotary = Rotary(8, 100.0, turned=6, layout=layout)
    x = torch.randn(1, 2, 5, 8, requires_grad=True)
    positions, dout = torch.arange(5)[None] * 7, torch.randn(1, 2, 5, 8)
    (ours,) = torch.autograd.grad(turn(x, *rotary.angles(positions), layout), x, dout)
    turned_back = by_definition(dout, -positions, 100.0, 6, layout)  # a turn's transpose is the turn back
    torch.testing.assert_close(ours.double(), turned_back, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scaled", [None, scaling.DynamicNTK(4.0, trained=8)])
def test_it_compiles_in_one_piece(unchecked: None, scaled: scaling.Scaling | None) -> None:
    rotary = Rotary(16, scaling=scaled)

    def whole(q: torch.Tensor, k: torch.Tensor, at: torch.Tensor) -> Any:
        return rotary.turn(q, k, rotary.angles(at))

    q, k, positions = torch.randn(2, 4, 12, 16), torch.randn(2, 2, 12, 16), torch.arange(12)[None]
    compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
    for one, other in zip(whole(q, k, positions), compiled(q, k, positions), strict=True):
        torch.testing.assert_close(one, other)


def test_it_can_be_copied_pickled_and_made_where_weights_wait_to_be_loaded() -> None:
    with torch.device("meta"):
        bare = Rotary(16, scaling=scaling.YaRN(4.0, trained=8))
    positions = torch.arange(5)[None]
    expected = Rotary(16, scaling=scaling.YaRN(4.0, trained=8)).angles(positions)
    for rotary in (bare, copy.deepcopy(bare), pickle.loads(pickle.dumps(bare))):
        assert not rotary.state_dict()
        assert torch.equal(rotary.angles(positions)[0], expected[0])


def test_what_does_not_fit_is_said(unchecked: None) -> None:
    with pytest.raises(ClearheadError, match="got 7 dimensions to turn in a head of 7; expected an even number"):
        Rotary(7)
    with pytest.raises(ClearheadError, match="got 66 dimensions to turn in a head of 64"):
        Rotary(64, turned=66)
    with pytest.raises(ClearheadError, match="got layout 'neox'; expected 'halves'"):
        Rotary(64, layout="neox")  # type: ignore[arg-type]
    x = torch.randn(1, 1, 1, 4)
    with pytest.raises(ClearheadError, match=r"got no angles to turn by; expected what angles\(at\) gives"):
        Rotary(4).turn(x, x, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llama_turns_the_same_in_transformers(dtype: torch.dtype) -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = llama.LlamaConfig(hidden_size=128, num_attention_heads=4, rope_parameters={"rope_theta": 1e5})
    positions = torch.stack((torch.arange(80), torch.arange(80) + 20))
    q, k = torch.randn(2, 4, 80, 32, dtype=dtype), torch.randn(2, 2, 80, 32, dtype=dtype)
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, positions)
    rotary = Rotary(32, 1e5)
    # in bfloat16 Transformers rounds cosine and sine, and each product
    near = {"atol": 1e-5, "rtol": 0} if dtype == torch.float32 else {"atol": 0.04, "rtol": 0.02}
    theirs = llama.apply_rotary_pos_emb(q, k, cos, sin)
    for one, other in zip(rotary.turn(q, k, rotary.angles(positions)), theirs, strict=True):
        torch.testing.assert_close(one, other, **near)


def test_gpt_j_turns_the_same_in_transformers() -> None:
    gptj = pytest.importorskip("transformers.models.gptj.modeling_gptj")
    sin, cos = gptj.create_sinusoidal_positions(100, 16).chunk(2, -1)
    q, k = torch.randn(1, 4, 100, 32), torch.randn(1, 4, 100, 32)
    rotary = Rotary(32, turned=16, layout="pairs")
    ours, _ = rotary.turn(q, k, rotary.angles(torch.arange(100)[None]))
    theirs = gptj.apply_rotary_pos_emb(q[..., :16].transpose(1, 2), sin[None], cos[None]).transpose(1, 2)
    torch.testing.assert_close(ours[..., :16], theirs, atol=1e-5, rtol=0)
    assert torch.equal(ours[..., 16:], q[..., 16:])


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("width", [16, 64])
def test_heads_of_another_width_are_refused(width: int, gradient: bool) -> None:
    layer = MultiHeadAttention(128, 4, position=Rotary(width))
    with (
        torch.set_grad_enabled(gradient),
        pytest.raises(ClearheadError, match=rf"heads {width} wide, but .* D = {width}"),
    ):
        layer(torch.randn(2, 5, 128))
