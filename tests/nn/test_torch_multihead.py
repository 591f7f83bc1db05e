"""TorchMultiheadAttention beside the layer that it stands for, over all of its options."""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from clearhead.errors import ClearheadError
from clearhead.nn.torch_multihead import TorchMultiheadAttention

B, H, E, TQ, TK = 3, 2, 8, 5, 7


def pair(**options: object) -> tuple[nn.MultiheadAttention, TorchMultiheadAttention]:
    theirs, ours = (
        kind(E, H, dtype=torch.float64, **options) for kind in (nn.MultiheadAttention, TorchMultiheadAttention)
    )
    for p in theirs.parameters():
        nn.init.normal_(p, 0, 0.5)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(single: bool, batch_first: bool, kdim: int = E, vdim: int = E, tq: int = TQ) -> list[Tensor]:
    made = []
    for T, width in ((tq, E), (TK, kdim), (TK, vdim)):
        x = torch.randn((T, width) if single else (B, T, width), dtype=torch.float64)
        made.append((x if single or batch_first else x.transpose(0, 1)).requires_grad_())
    return made


def hidden(shape: tuple[int, ...]) -> Tensor:
    """A mask that leaves the first key to all, so that PyTorch's layer gives no NaN."""
    mask = torch.rand(shape) < 0.4
    mask[..., 0] = False
    return mask


def floats(mask: Tensor) -> Tensor:
    return torch.randn(mask.shape, dtype=torch.float64).masked_fill(mask, -torch.inf)


def agree(
    theirs: nn.MultiheadAttention, ours: TorchMultiheadAttention, x: list[Tensor], **options: object
) -> tuple[Tensor, Tensor | None]:
    """The same outputs, weights and gradients of everything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch's, of masks of two types
        want, want_weights = theirs(*x, **options)
    out, weights = ours(*x, **options)
    torch.testing.assert_close(out, want)
    assert (weights is None) == (want_weights is None)
    theirs_of, ours_of = want.square().sum(), out.square().sum()
    if weights is not None:
        torch.testing.assert_close(weights, want_weights)
        theirs_of, ours_of = theirs_of + want_weights.pow(3).sum(), ours_of + weights.pow(3).sum()
    given = list(dict.fromkeys(x))
    their_grads = torch.autograd.grad(theirs_of, given + list(theirs.parameters()))
    our_grads = torch.autograd.grad(ours_of, given + list(ours.parameters()))
    for got, expected in zip(our_grads, their_grads, strict=True):
        torch.testing.assert_close(got, expected)
    return out, weights


@given(
    layer=st.fixed_dictionaries(
        {
            "bias": st.booleans(),
            "add_bias_kv": st.booleans(),
            "add_zero_attn": st.booleans(),
            "kdim": st.sampled_from([None, 6]),
            "vdim": st.sampled_from([None, 10]),
            "batch_first": st.booleans(),
        }
    ),
    single=st.booleans(),
    attn_mask=st.sampled_from([None, "bool", "float", "bool a head", "float a head"]),
    key_padding_mask=st.sampled_from([None, "bool", "float"]),
    need_weights=st.booleans(),
    average=st.booleans(),
)
def test_it_is_pytorchs_over_all_options(
    layer: dict[str, object],
    single: bool,
    attn_mask: str | None,
    key_padding_mask: str | None,
    need_weights: bool,
    average: bool,
) -> None:
    theirs, ours = pair(**layer)
    x = inputs(single, bool(layer["batch_first"]), layer["kdim"] or E, layer["vdim"] or E)
    masks: dict[str, Tensor] = {}
    if attn_mask is not None:
        mask = hidden(((1 if single else B) * H, TQ, TK) if "a head" in attn_mask else (TQ, TK))
        masks["attn_mask"] = floats(mask) if "float" in attn_mask else mask
    if key_padding_mask is not None:
        mask = hidden((TK,) if single else (B, TK))
        masks["key_padding_mask"] = floats(mask) if "float" in key_padding_mask else mask
    agree(theirs, ours, x, need_weights=need_weights, average_attn_weights=average, **masks)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_it_is_pytorchs_where_the_mask_is_said_to_be_causal(
    batch_first: bool, need_weights: bool, padded: bool
) -> None:
    theirs, ours = pair(batch_first=batch_first)
    x = inputs(False, batch_first, tq=TK)[1]
    mask = torch.ones(TK, TK, dtype=torch.bool).triu(1)
    padding = torch.arange(TK) >= torch.tensor([[7], [3], [1]]) if padded else None
    how = {"key_padding_mask": padding, "need_weights": need_weights}
    want, _ = agree(theirs, ours, [x, x, x], attn_mask=mask, is_causal=True, **how)
    torch.testing.assert_close(ours(x, x, x, is_causal=True, **how)[0], want)  # without the mask too


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_causality_hides_no_key_that_was_added(options: dict[str, bool]) -> None:
    theirs, ours = pair(batch_first=True, **options)
    x = inputs(False, True, tq=TK)[1]
    mask = torch.ones(TK, TK, dtype=torch.bool).triu(1)
    want, _ = theirs(x, x, x, attn_mask=mask)
    torch.testing.assert_close(ours(x, x, x, is_causal=True, need_weights=False)[0], want)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"add_bias_kv": True}, {"kdim": 6, "vdim": 10}])
def test_state_dicts_go_both_ways(options: dict[str, object]) -> None:
    theirs, ours = nn.MultiheadAttention(E, H, **options), TorchMultiheadAttention(E, H, **options)
    assert isinstance(ours, nn.MultiheadAttention)
    shapes = [{name: p.shape for name, p in layer.state_dict().items()} for layer in (theirs, ours)]
    assert shapes[0] == shapes[1]
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_that_may_see_nothing_gets_the_bias_and_finite_gradients(need_weights: bool, kind: str) -> None:
    theirs, ours = pair(batch_first=True)
    x = inputs(False, True)
    mask = hidden((TQ, TK))
    mask[2] = True
    want, _ = theirs(*x, attn_mask=mask)
    assert want[:, 2].isnan().all()  # which is why
    out, weights = ours(*x, attn_mask=mask if kind == "bool" else floats(mask), need_weights=need_weights)
    torch.testing.assert_close(out[:, 2], ours.out_proj.bias.expand(B, E))
    assert weights is None or not weights[:, 2].any()
    for grad in torch.autograd.grad(out.sum(), [*x, *ours.parameters()]):
        assert grad.isfinite().all()


@pytest.mark.parametrize("need_weights", [True, False])
def test_what_a_hidden_key_holds_never_leaks(need_weights: bool) -> None:
    _, ours = pair(batch_first=True)
    q, k, v = (x.detach() for x in inputs(False, True))
    padding = torch.zeros(B, TK, dtype=torch.bool)
    padding[:, -2:] = True
    want = ours(q, k, v, key_padding_mask=padding, need_weights=need_weights)[0]
    k[:, -2:], v[:, -1:] = torch.nan, torch.inf
    torch.testing.assert_close(ours(q, k, v, key_padding_mask=padding, need_weights=need_weights)[0], want)


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_drops_while_training_only_and_keeps_the_mean(need_weights: bool) -> None:
    theirs, ours = pair(dropout=0.3, batch_first=True)
    q, k, v = (x.detach()[:1] for x in inputs(False, True))
    want = theirs.eval()(q, k, v)[0]
    torch.testing.assert_close(ours.eval()(q, k, v, need_weights=need_weights)[0], want)
    outs = ours.train()(*(x.expand(600, -1, -1) for x in (q, k, v)), need_weights=need_weights)[0]
    assert outs.std(0).min() > 0.01
    off = (outs.mean(0) - want[0]).abs() / (outs.std(0) / 600**0.5)
    assert off.max() < 5


def test_the_weights_are_those_that_dropout_left_as_in_pytorch() -> None:
    theirs, ours = pair(dropout=0.5, batch_first=True)
    x = inputs(False, True)
    for layer in (theirs, ours):
        weights = layer.train()(*x, average_attn_weights=False)[1]
        dropped = weights == 0
        assert 0.3 < dropped.double().mean() < 0.7
        exact = layer.eval()(*x, average_attn_weights=False)[1]
        torch.testing.assert_close(weights[~dropped], 2 * exact[~dropped])


def test_it_works_in_pytorchs_own_encoder() -> None:
    block = nn.TransformerEncoderLayer(E, H, 16, dropout=0.0, batch_first=True, dtype=torch.float64)
    x = torch.randn(B, TK, E, dtype=torch.float64)
    padding = torch.arange(TK) >= torch.tensor([[7], [3], [1]])
    want = block(x, src_key_padding_mask=padding)
    ours = TorchMultiheadAttention(E, H, batch_first=True, dtype=torch.float64)
    ours.load_state_dict(block.self_attn.state_dict())
    block.self_attn = ours
    torch.testing.assert_close(block(x, src_key_padding_mask=padding), want)


@pytest.mark.parametrize("need_weights", [True, False])
def test_it_works_under_autocast(need_weights: bool) -> None:
    ours = TorchMultiheadAttention(E, H, add_bias_kv=True, batch_first=True)
    x = torch.randn(B, TK, E)
    want = ours(x, x, x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        out = ours(x, x, x, attn_mask=torch.zeros(TK, TK), need_weights=need_weights)[0]
    torch.testing.assert_close(out.float(), want, rtol=0.05, atol=0.05)


x = torch.zeros(TQ, B, E)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"query": torch.zeros(E)}, r"^query has shape \(8,\); expected \(T, B, E\), or \(T, E\) of one sequence\.$"),
        ({"value": torch.zeros(4, B, E)}, r"^query, key and value are, with the batch first, .* \(3, 4, 8\); expected"),
        ({"query": torch.zeros(TQ, 2, E)}, r"expected one B, and one Tk for key and value\. Is batch_first as"),
        ({"query": torch.zeros(TQ, B, 4)}, r"^query, key and value are \(4, 8, 8\) wide; expected \(8, 8, 8\), which"),
        ({"attn_mask": torch.zeros(4, 4)}, r"^attn_mask has shape \(4, 4\); expected \(5, 5\) or \(6, 5, 5\)\.$"),
        ({"attn_mask": torch.zeros(5, 5, dtype=torch.uint8)}, r"^attn_mask is torch\.uint8; expected torch\.bool, of"),
        ({"key_padding_mask": torch.zeros(5, 3)}, r"^key_padding_mask has shape \(5, 3\); expected \(3, 5\)\.$"),
        ({"key_padding_mask": torch.zeros(3, 5, dtype=torch.int64)}, r"^key_padding_mask is torch\.int64; expected"),
        (
            {"query": x.numpy()},
            r"^query: got ndarray, expected a tensor of floats\. torch\.from_numpy\(query\) makes one\.$",
        ),
        ({"key": None}, r"^key: got NoneType, expected a tensor of floats\.$"),
        ({"query": x.long()}, r"^query is torch\.int64; expected floats\."),
        (
            {"value": x.double()},
            r"^value is torch\.float64 and the layer's weights are torch\.float32; bring them to one",
        ),
        ({"attn_mask": [[0.0]]}, r"^attn_mask: got list, expected a tensor \(5, 5\) or \(6, 5, 5\)\.$"),
    ],
)
def test_what_does_not_fit_is_said(args: dict[str, Any], said: str) -> None:
    with pytest.raises(ClearheadError, match=said):
        TorchMultiheadAttention(E, H)(**{"query": x, "key": x, "value": x, **args})


def test_nested_tensors_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, that their API is in flux
        nested = torch.nested.nested_tensor([torch.zeros(3, E), torch.zeros(5, E)])
    with pytest.raises(ClearheadError, match=r"^query is a nested tensor; pad it, and say what is padding by"):
        TorchMultiheadAttention(E, H, batch_first=True)(nested, nested, nested)


def test_a_width_that_does_not_divide_is_said() -> None:
    with pytest.raises(ClearheadError, match=r"got embed_dim = 8 and num_heads = 3; expected the first"):
        TorchMultiheadAttention(8, 3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["embed_dim", "num_heads", "kdim", "vdim"])
@pytest.mark.parametrize("wrong", [0, 8.0, True, "8", [8]], ids=str)
def test_what_is_no_count_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(ClearheadError, match=rf"^{name}: got .*, expected a whole number, 1 or more\.$"):
        TorchMultiheadAttention(**{"embed_dim": E, "num_heads": H} | {name: wrong})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["bias", "add_bias_kv", "add_zero_attn", "batch_first", "dropout"])
def test_what_is_no_flag_and_no_probability_is_refused(name: str) -> None:
    with pytest.raises(ClearheadError, match=rf"^{name}: got 'no', expected "):
        TorchMultiheadAttention(E, H, **{name: "no"})
