"""A model's attentions are found, and each that is seen goes by the name of the module that attends."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clearhead.scope.modules import attentions


def test_the_attentions_of_every_model_are_found_in_their_order(specimen):
    assert attentions(specimen.model) == [name for name, _ in specimen.attentions]


class InnerAttention(nn.Module):
    """Has no parameters: it computes for another."""

    num_heads = 2

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.0)

    def forward(self, q, k):
        return self.dropout(F.scaled_dot_product_attention(q, k, k))


class Attn(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(8, 8)
        self.inner = InnerAttention()

    def forward(self, x, context):
        q, k = (self.proj(y).unflatten(-1, (2, 4)).transpose(1, 2) for y in (x, context))
        return self.inner(q, k).transpose(1, 2).flatten(2)


class CrossAttention(Attn):
    pass


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attn()
        self.other = CrossAttention()

    def forward(self, x):
        x = self.attn(x, x)
        if x.isnan().any():
            raise ZeroDivisionError
        return self.other(x, x.flip(1))


def test_an_attention_that_leaves_the_computing_to_another_module_is_seen_under_its_own_name(see):
    model = nn.Sequential(Block(), Block())
    assert attentions(model) == ["0.attn", "0.other", "1.attn", "1.other"]
    with see(model) as seen:
        model(torch.randn(2, 5, 8))
    assert [(s.name, s.layer, s.kind) for s in seen] == [
        ("0.attn", 0, "self"),
        ("0.other", 1, "cross"),
        ("1.attn", 2, "self"),
        ("1.other", 3, "cross"),
    ]


def test_an_attention_in_a_module_of_another_name_is_seen_under_that_name(see):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(8, 8)

        def forward(self, x):
            q = self.proj(x)[:, None]
            return F.scaled_dot_product_attention(q, q, q)[:, 0]

    model = nn.ModuleDict({"first": Mixer(), "second": Mixer()})
    with see(model) as seen:
        x = torch.randn(2, 5, 8)
        model["second"](x)
        model["first"](x)
    assert [(s.name, s.layer, s.step) for s in seen] == [("second", 0, 0), ("first", 1, 1)]


def test_the_model_itself_goes_by_its_class(see):
    model = Attn()
    with see(model) as seen:
        model(torch.randn(2, 5, 8), torch.randn(2, 5, 8))
    assert [s.name for s in seen] == ["Attn"]


@pytest.mark.parametrize("says", [True, False])
def test_a_module_that_says_whether_it_is_cross_attention_is_believed(says, see):
    model = CrossAttention()
    model.is_cross_attention = says
    with see(model) as seen:
        model(torch.randn(2, 5, 8), torch.randn(2, 5, 8))
    assert [s.kind for s in seen] == ["cross" if says else "self"]


def test_after_an_error_in_the_model_names_are_right_again(see):
    model = nn.Sequential(Block(), Block())
    with see(model) as seen:
        with pytest.raises(ZeroDivisionError):
            model(torch.full((2, 5, 8), torch.nan))
        model(torch.randn(2, 5, 8))
    assert [(s.name, s.step) for s in seen] == [
        ("0.attn", 0),
        *((name, 1) for name in ("0.attn", "0.other", "1.attn", "1.other")),
    ]


def test_no_hook_is_left_behind(see):
    model = nn.Sequential(Block(), Block())
    with see(model):
        model(torch.randn(2, 5, 8))
        assert any(module._forward_pre_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
