"""A checkpoint's weights become ours and go back bit for bit; whatever does not fit is named, all at once."""

import pytest
import torch
from torch import Tensor, nn

from clearhead import ClearheadError
from clearhead.models.names import Names, to_ours, to_theirs
from clearhead.models.parts import Each, Grouped, Interleaved, Joined, Part, Source, Transposed

H, K, D, E = 4, 2, 3, 5


class Attention(nn.Module):
    def __init__(self, rows: int, kv_heads: int = K) -> None:
        super().__init__()
        self.heads, self.kv_heads = H, kv_heads
        self.qkv = nn.Linear(E, rows)


class Model(nn.Module):
    """Two layers, whose only weights are those of a projection, and an embedding that is also the head."""

    def __init__(self, rows: int = (H + 2 * K) * D, kv_heads: int = K) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, E)
        self.blocks = nn.ModuleList(Attention(rows, kv_heads) for _ in range(2))
        self.head = nn.Linear(E, 7, bias=False)
        self.head.weight = self.tokens.weight


def one_weight(part: Source, ours: Tensor, heads: int = H, kv_heads: int = K) -> tuple[Names, nn.Module]:
    """A model that holds one weight, of an attention's, on the meta device."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.empty_like(ours, device="meta"))
    model.heads, model.kv_heads = heads, kv_heads
    return Names({"weight": part}), model


QKV = {
    f"blocks.{{n}}.qkv.{kind}": Grouped(*(f"model.layers.{{n}}.{part}_proj.{kind}" for part in "qkv"))
    for kind in ("weight", "bias")
}
LLAMA = Names({"tokens.weight": "model.embed.weight"} | QKV, ignored=("lm_head.weight", "*.inv_freq"), prefix="model.")


def llama() -> dict[str, Tensor]:
    weights = {"model.embed.weight": torch.randn(7, E)}
    for n in range(2):
        for part, heads in {"q": H, "k": K, "v": K}.items():
            weights[f"model.layers.{n}.{part}_proj.weight"] = torch.randn(heads * D, E)
            weights[f"model.layers.{n}.{part}_proj.bias"] = torch.randn(heads * D)
    return weights


def on_meta() -> Model:
    with torch.device("meta"):
        return Model()


def test_queries_keys_and_values_are_joined_in_this_order() -> None:
    theirs, model = llama(), on_meta()
    to_ours(LLAMA, theirs, model)
    joined = torch.cat([theirs[f"model.layers.1.{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(model.blocks[1].qkv.weight, joined)


def test_weights_go_there_and_back_bit_for_bit() -> None:
    theirs, model = llama(), on_meta()
    to_ours(LLAMA, theirs, model)
    back = to_theirs(LLAMA, model)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_a_model_that_is_on_no_meta_device_keeps_its_parameters() -> None:
    theirs, model = llama(), Model()
    before = dict(model.named_parameters())
    to_ours(LLAMA, theirs, model)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert torch.equal(model.tokens.weight, theirs["model.embed.weight"])


def test_a_shared_weight_stays_shared() -> None:
    model = on_meta()
    to_ours(LLAMA, llama(), model)
    assert model.head.weight is model.tokens.weight


def test_a_shared_weight_is_found_by_whichever_name_is_described() -> None:
    names = Names({"head.weight": "lm_head.weight"} | QKV)
    theirs, model = llama(), on_meta()
    theirs["lm_head.weight"] = theirs.pop("model.embed.weight")
    to_ours(names, theirs, model)
    assert torch.equal(model.tokens.weight, theirs["lm_head.weight"])


def test_names_without_the_prefix_are_read_too() -> None:
    theirs, model = llama(), on_meta()
    to_ours(LLAMA, {name.removeprefix("model."): weight for name, weight in theirs.items()}, model)
    assert torch.equal(model.tokens.weight, theirs["model.embed.weight"])


def test_weights_take_the_models_dtype_and_are_trained_if_they_were() -> None:
    model = on_meta().bfloat16()
    model.tokens.weight.requires_grad_(False)
    theirs = llama()
    to_ours(LLAMA, theirs, model)
    assert torch.equal(model.tokens.weight, theirs["model.embed.weight"].bfloat16())
    assert not model.tokens.weight.requires_grad
    assert model.blocks[0].qkv.bias.requires_grad


def test_what_is_ignored_may_be_there() -> None:
    theirs = llama() | {"lm_head.weight": torch.zeros(1), "model.layers.0.rope.inv_freq": torch.zeros(1)}
    to_ours(LLAMA, theirs, on_meta())


def test_a_copy_may_be_there_if_it_is_equal() -> None:
    names = Names(LLAMA.weights, copies={"lm_head.weight": "model.embed.weight"}, prefix="model.")
    theirs = llama()
    to_ours(names, theirs | {"lm_head.weight": theirs["model.embed.weight"].clone()}, on_meta())
    with pytest.raises(ClearheadError, match=r"lm_head\.weight is not model\.embed\.weight"):
        to_ours(names, theirs | {"lm_head.weight": theirs["model.embed.weight"] + 1}, on_meta())


def test_a_buffer_is_filled_as_a_parameter_is() -> None:
    model = nn.Module()
    model.register_buffer("mean", torch.empty(2, device="meta"))
    to_ours(Names({"mean": "running_mean"}), {"running_mean": torch.tensor([1.0, 2.0])}, model)
    assert model.mean.tolist() == [1, 2]
    assert dict(model.named_buffers()).keys() == {"mean"}


def test_progress_is_told_weight_by_weight() -> None:
    told: list[tuple[int, int]] = []
    to_ours(LLAMA, llama(), on_meta(), lambda done, of: told.append((done, of)))
    assert told == [(done, 5) for done in range(1, 6)]


def test_all_that_does_not_fit_is_named_at_once() -> None:
    theirs = llama() | {"model.extra": torch.zeros(1), "model.layers.0.rope.inv_freq": torch.zeros(1)}
    theirs["model.embed.weight"] = torch.zeros(6, E)
    del theirs["model.layers.0.k_proj.bias"], theirs["model.layers.1.k_proj.bias"], theirs["model.layers.1.v_proj.bias"]
    with pytest.raises(ClearheadError) as error:
        to_ours(LLAMA, theirs, on_meta())
    assert str(error.value) == (
        "The checkpoint's weights do not fit the model. "
        "3 missing: model.layers.{0…1}.k_proj.bias (6); model.layers.1.v_proj.bias (6). "
        "1 not expected: model.extra. "
        "1 of another shape: model.embed.weight (6, 5), expected (7, 5). "
        "See whether the weights and the config are of the same model."
    )


def test_no_more_than_a_dozen_are_named() -> None:
    extra = {f"odd{chr(97 + n)}": torch.zeros(1) for n in range(15)}
    with pytest.raises(ClearheadError, match=r"15 not expected: odda; .*; oddl; …\. See"):
        to_ours(LLAMA, llama() | extra, on_meta())


def test_a_weight_of_ours_that_no_name_stands_for_is_named() -> None:
    with pytest.raises(ClearheadError, match=r"2 of ours that the .* nothing of: blocks\.\{0…1\}\.qkv\.bias\."):
        to_ours(Names({"tokens.weight": "e", "blocks.{n}.qkv.weight": "{n}"}), {}, on_meta())


def test_nothing_is_filled_if_anything_does_not_fit() -> None:
    theirs, model = llama(), on_meta()
    del theirs["model.layers.1.v_proj.bias"]
    with pytest.raises(ClearheadError):
        to_ours(LLAMA, theirs, model)
    assert all(parameter.is_meta for parameter in model.parameters())


# Each part by what it means for the product with a token's vector, as the original model computes it.


def test_a_transposed_weight_computes_the_same_product() -> None:
    theirs, x = torch.randn(E, 6), torch.randn(E)
    names, model = one_weight(Transposed("w"), theirs.T)
    to_ours(names, {"w": theirs}, model)
    torch.testing.assert_close(model.weight @ x, x @ theirs)
    assert torch.equal(to_theirs(names, model)["w"], theirs)


def test_interleaved_heads_compute_the_same_queries_keys_and_values() -> None:
    theirs, x = torch.randn(H * 3 * D, E), torch.randn(E)
    names, model = one_weight(Interleaved("w"), theirs)
    to_ours(names, {"w": theirs}, model)
    q, k, v = (theirs @ x).view(H, 3, D).unbind(1)  # as GPT-NeoX and BLOOM split them
    ours = (model.weight @ x).view(3, H, D)
    torch.testing.assert_close(ours, torch.stack([q, k, v]))
    assert torch.equal(to_theirs(names, model)["w"], theirs)


def test_rows_that_take_turns_are_sorted() -> None:
    theirs = torch.randn(2, 8)  # two experts' biases: gate, up, gate, up, ...
    names, model = one_weight(Interleaved("b", count=2, each_row=True, dim=1), theirs)
    to_ours(names, {"b": theirs}, model)
    assert torch.equal(model.weight, torch.cat([theirs[:, ::2], theirs[:, 1::2]], 1))
    assert torch.equal(to_theirs(names, model)["b"], theirs)


def test_each_experts_weights_are_stacked() -> None:
    gates, ups = torch.randn(3, 4, E), torch.randn(3, 4, E)
    theirs = {f"experts.{e}.w1": gates[e] for e in range(3)} | {f"experts.{e}.w3": ups[e] for e in range(3)}
    names, model = one_weight(Each(Joined("experts.{e}.w1", "experts.{e}.w3")), torch.cat([gates, ups], 1))
    to_ours(names, theirs, model)
    assert torch.equal(model.weight, torch.cat([gates, ups], 1))
    back = to_theirs(names, model)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_a_copy_is_passed_over_if_it_is_one() -> None:
    names = Names({"tokens.weight": "embed"} | QKV, copies={"head": "embed"})
    theirs = llama()
    theirs["embed"] = theirs.pop("model.embed.weight")
    model = on_meta()
    to_ours(names, theirs | {"head": theirs["embed"].clone()}, model)
    assert torch.equal(model.head.weight, theirs["embed"])
    with pytest.raises(ClearheadError, match=r"1 tied by the config, but unlike: head is not embed\."):
        to_ours(names, theirs | {"head": theirs["embed"] + 1}, on_meta())


def test_a_missing_expert_is_named() -> None:
    names, model = one_weight(Each("experts.{e}.w"), torch.empty(3, 2))
    with pytest.raises(ClearheadError, match=r"1 missing: experts\.2\.w \(2\)\. 1 not expected: experts\.3\.w\."):
        to_ours(names, {f"experts.{e}.w": torch.zeros(2) for e in (0, 1, 3)}, model)


def test_a_bias_that_they_have_not_is_zero() -> None:
    q, v = torch.randn(H * D), torch.randn(K * D)
    names, model = one_weight(Grouped("q", None, "v"), torch.empty((H + 2 * K) * D))
    to_ours(names, {"q": q, "v": v}, model)
    assert torch.equal(model.weight, torch.cat([q, torch.zeros(K * D), v]))
    assert to_theirs(names, model).keys() == {"q", "v"}


def test_parts_of_parts_are_undone_in_the_opposite_order() -> None:
    part: Part = Interleaved(Transposed("w"), count=2, each_row=True, dim=1)
    theirs = torch.randn(2, E, 8)  # GPT-OSS: experts, in, gate and up in turns
    names, model = one_weight(part, torch.empty(2, 8, E))
    to_ours(names, {"w": theirs}, model)
    rows = theirs.mT
    assert torch.equal(model.weight, torch.cat([rows[:, ::2], rows[:, 1::2]], 1))
    assert torch.equal(to_theirs(names, model)["w"], theirs)


def test_shapes_that_only_add_up_are_named() -> None:
    names, model = one_weight(Grouped("q", "k", "v"), torch.empty(16, E))
    theirs = {"q": torch.zeros(4, E), "k": torch.zeros(8, E), "v": torch.zeros(4, E)}
    with pytest.raises(ClearheadError, match=r"2 of another shape: q \(4, 5\), expected \(8, 5\); k \(8, 5\), exp"):
        to_ours(names, theirs, model)
