"""nn.MultiheadAttention is read as it attends, with every option it has."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

B, T, S, E, H = 2, 5, 7, 8, 2

OPTIONS = [
    {},
    {"bias": False},
    {"batch_first": True},
    {"kdim": 6, "vdim": 10},
    {"kdim": 6, "vdim": 10, "batch_first": True, "bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
]
CASES = [("cross", options) for options in OPTIONS]
CASES += [("self", options) for options in OPTIONS if "kdim" not in options]  # keys as wide as the queries


def masks(Tq, Tk):
    """Of each kind, True = may not attend, as PyTorch has it."""
    later = torch.ones(Tq, Tk, dtype=torch.bool).triu(1)
    each = torch.rand(B * H, Tq, Tk) < 0.3
    each[..., 0] = False
    padding = torch.zeros(B, Tk, dtype=torch.bool)
    padding[1, -2:] = True
    floats = torch.zeros(B, Tk).masked_fill(padding, -torch.inf)
    return [
        {},
        {"attn_mask": later},
        {"attn_mask": each},
        {"attn_mask": torch.randn(Tq, Tk)},
        {"attn_mask": torch.randn(B * H, Tq, Tk)},
        {"key_padding_mask": padding},
        {"key_padding_mask": padding, "attn_mask": later},
        {"key_padding_mask": floats, "attn_mask": torch.randn(Tq, Tk)},
        {"attn_mask": later, "is_causal": True},
        {"attn_mask": later, "is_causal": True, "key_padding_mask": padding},
    ]


def given(kind, options):
    """Query, key and value as the module takes them."""
    q, k, v = (
        torch.randn(B, T, E),
        torch.randn(B, S, options.get("kdim", E)),
        torch.randn(B, S, options.get("vdim", E)),
    )
    if not options.get("batch_first"):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return (q, q, q) if kind == "self" else (q, k, v)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_what_is_seen_is_what_the_module_computes(kind, options, need_weights, see, weights_of):
    attention = nn.MultiheadAttention(E, H, **options).eval()
    added = ["[bias_k]"] * options.get("add_bias_kv", False) + ["[zero_attn]"] * options.get("add_zero_attn", False)
    for mask in masks(T, T if kind == "self" else S):
        qkv = given(kind, options)
        expected = attention(*qkv, need_weights=need_weights, **mask)[0]
        with see(attention) as seen:
            out = attention(*qkv, need_weights=need_weights, **mask)[0]
        torch.testing.assert_close(out, expected)

        (only,) = seen
        assert (only.name, only.kind, list(only.added)) == ("MultiheadAttention", kind, added)
        ours = weights_of(only)
        weighed = (ours @ only.v.double()).float()
        if only.taken is None:
            torch.testing.assert_close(only.project(weighed), only.out)
            computed = only.out[:, 0]
        else:
            torch.testing.assert_close(weighed, only.out)
            computed = attention.out_proj(only.out.transpose(1, 2).flatten(2))
        torch.testing.assert_close(computed, out if options.get("batch_first") else out.transpose(0, 1))
        # Where PyTorch trusts `is_causal`, the learned and the zero key come after all tokens: none sees them.
        if not (added and "is_causal" in mask and "key_padding_mask" not in mask and not need_weights):
            theirs = attention(*qkv, average_attn_weights=False, **mask)[1]
            torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-6)


def test_averaged_weights_do_not_matter(see, weights_of):
    attention = nn.MultiheadAttention(E, H)
    x = torch.randn(T, B, E)
    with see(attention) as seen:
        averaged = attention(x, x, x)[1]
    torch.testing.assert_close(weights_of(seen[0]).mean(1), averaged.double())


def test_a_sequence_without_a_batch_is_a_batch_of_one(see, weights_of):
    attention = nn.MultiheadAttention(E, H).eval()
    q, k = torch.randn(T, E), torch.randn(S, E)
    ignored = torch.arange(S) > 4
    with see(attention) as seen:
        out, weights = attention(q, k, k, key_padding_mask=ignored, average_attn_weights=False)
    (only,) = seen
    torch.testing.assert_close(weights_of(only)[0], weights.double())
    assert torch.equal(only.out[0, 0], out)


def test_keys_and_values_may_be_given_ready_made(see, weights_of):
    k, v = torch.randn(B * H, S, E // H), torch.randn(B * H, S, E // H)

    class Ready(nn.MultiheadAttention):
        def forward(self, x):
            return F.multi_head_attention_forward(
                x, x, x, E, H, self.in_proj_weight, self.in_proj_bias, None, None, False, 0.0,
                self.out_proj.weight, self.out_proj.bias, static_k=k, static_v=v, average_attn_weights=False,
            )  # fmt: skip

    model = Ready(E, H)
    with see(model) as seen:
        _, weights = model(torch.randn(T, B, E))
    (only,) = seen
    assert torch.equal(only.k.flatten(0, 1), k)
    torch.testing.assert_close(weights_of(only), weights.double())


def test_padding_says_which_queries_are_real(see):
    padding = torch.arange(T) >= torch.tensor([[5], [3]])
    x, attention = torch.randn(B, T, E), nn.MultiheadAttention(E, H, batch_first=True)
    for said in (padding, torch.zeros(B, T).masked_fill(padding, -torch.inf)):
        with see(attention) as seen:
            attention(x, x, x, key_padding_mask=said)
            attention(x, x + 1, x, key_padding_mask=said)
        assert [s.kind for s in seen] == ["self", "cross"]
        assert torch.equal(seen[0].valid, ~padding)
        assert seen[1].valid is None


def test_dropout_is_said_while_training(see):
    attention = nn.MultiheadAttention(E, H, dropout=0.5)
    x = torch.randn(T, B, E)
    with see(attention) as seen:
        attention(x, x, x)
        attention.eval()(x, x, x)
    assert [s.dropout for s in seen] == [0.5, 0.0]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("padded", [False, True])
def test_the_fast_path_of_an_encoder_in_eval_mode_is_left_and_little_changes(padded, see):
    layer = nn.TransformerEncoderLayer(E, H, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(B, T, E), torch.arange(T) >= torch.tensor([[5], [3]])
    said = {"src_key_padding_mask": padding} if padded else {}
    with torch.no_grad():
        expected = model(x, **said)
        with see(model) as seen:
            watched = model(x, **said)
    assert [s.name for s in seen] == ["layers.0.self_attn", "layers.1.self_attn"]
    real = ~padding if padded else slice(None)
    torch.testing.assert_close(watched[real], expected[real])
    if padded:
        assert expected[padding].eq(0).all()  # the fast path writes zeros, which no other path does


def test_a_decoder_attends_to_itself_and_to_its_memory(see):
    model = nn.Transformer(E, H, 1, 1, 16, batch_first=True).eval()
    with see(model) as seen:
        model(torch.randn(B, S, E), torch.randn(B, T, E))
    assert [(s.name, s.kind) for s in seen] == [
        ("encoder.layers.0.self_attn", "self"),
        ("decoder.layers.0.self_attn", "self"),
        ("decoder.layers.0.multihead_attn", "cross"),
    ]
