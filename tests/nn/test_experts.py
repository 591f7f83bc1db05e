"""Experts: their sum written out, the layers of Transformers that they stand for, what is chosen and what dropped."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import GptOssConfig, MixtralConfig, Qwen2MoeConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from clearhead.errors import ClearheadError
from clearhead.nn.experts import Experts, Routing, balance_loss, clamped_swiglu, routings
from clearhead.nn.feed_forward import ACTIVATIONS


def randomised(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        nn.init.normal_(p, 0, 0.3)
    return module


def written_out(layer: Experts, x: Tensor) -> Tensor:
    """Every expert on every token, in float64, times the weights, most of which are 0."""
    p = {name: value.double() for name, value in layer.state_dict().items()}
    x = x.double()
    logits = x @ p["router.weight"].T + p.get("router.bias", 0)
    kept = logits >= logits.topk(layer.router.top_k).values[..., -1:]
    over = kept if layer.router.normalise else torch.ones_like(kept)
    w = logits.masked_fill(~over, -torch.inf).softmax(-1) * kept
    h = torch.einsum("...e,xhe->...xh", x, p["up"]) + p.get("up_bias", 0)
    if layer.activation == "clamped_swiglu":
        h = clamped_swiglu(h)
    else:
        gate, up = h.chunk(2, -1)
        h = ACTIVATIONS[layer.activation](gate) * up
    y = torch.einsum("...xh,xeh->...xe", h, p["down"]) + p.get("down_bias", 0)
    out = (w[..., None] * y).sum(-2)
    if layer.shared is not None:
        gate, up = (x @ p["shared.up.weight"].T).chunk(2, -1)
        h = ACTIVATIONS[layer.activation](gate) * up
        out = out + (x @ p["shared_gate.weight"].T).sigmoid() * (h @ p["shared.down.weight"].T)
    return out


@pytest.mark.parametrize("shape", [(8,), (0, 8), (1, 1, 8), (2, 30, 8)])
@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalise": False, "shared": 12},
        {"bias": True, "activation": "clamped_swiglu"},
        {"activation": "gelu", "bias": True},
    ],
    ids=["mixtral", "qwen2", "gpt-oss", "gelu"],
)
@pytest.mark.parametrize("grad", [True, False])
def test_it_is_the_sum_over_the_chosen_experts(
    shape: tuple[int, ...], top_k: int, options: dict[str, object], grad: bool
) -> None:
    layer = randomised(Experts(8, 20, 5, top_k, **options))
    x = torch.randn(shape)
    with torch.set_grad_enabled(grad):
        out = layer(x)
    assert out.shape == shape
    torch.testing.assert_close(out.double(), written_out(layer, x), rtol=1e-5, atol=1e-5)


Pairs = list[tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]
"""A parameter of theirs, the one of ours that stands for it, and what brings theirs into our layout."""


def as_it_is(x: Tensor) -> Tensor:
    return x


def transposed(x: Tensor) -> Tensor:
    return x.mT


def apart(x: Tensor) -> Tensor:
    """GPT-OSS's gate and up, which take turns."""
    x = x.mT if x.dim() == 3 else x
    return torch.cat([x[:, ::2], x[:, 1::2]], 1)


def alike(ours: Experts, theirs: nn.Module, pairs: Pairs) -> None:
    """Outputs and gradients agree."""
    x = torch.randn(2, 40, 16, requires_grad=True)
    with torch.no_grad():
        for their, our, layout in pairs:
            our.copy_(layout(their))
    out, want = ours(x), theirs(x)
    want = want[0] if isinstance(want, tuple) else want
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    our_x, x.grad = x.grad, None
    (want * weight).sum().backward()
    torch.testing.assert_close(our_x, x.grad, rtol=1e-4, atol=1e-5)
    for their, our, layout in pairs:
        torch.testing.assert_close(our.grad, layout(their.grad), rtol=1e-4, atol=1e-4)


def test_it_is_mixtrals_with_gradients() -> None:
    config = MixtralConfig(hidden_size=16, intermediate_size=24, num_local_experts=6, num_experts_per_tok=2)
    theirs = randomised(MixtralSparseMoeBlock(config))
    ours = Experts(16, 24, experts=6, top_k=2)
    pairs: Pairs = [
        (theirs.gate.weight, ours.router.weight, as_it_is),
        (theirs.experts.gate_up_proj, ours.up, as_it_is),
        (theirs.experts.down_proj, ours.down, as_it_is),
    ]
    alike(ours, theirs, pairs)


def test_it_is_gpt_oss_with_gradients() -> None:
    config = GptOssConfig(hidden_size=16, intermediate_size=24, num_local_experts=6, num_experts_per_tok=3)
    theirs = randomised(GptOssMLP(config))
    with torch.no_grad():
        theirs.experts.gate_up_proj *= 8  # so that some are clamped
    ours = Experts(16, 24, experts=6, top_k=3, bias=True, activation="clamped_swiglu")
    pairs: Pairs = [
        (theirs.router.weight, ours.router.weight, as_it_is),
        (theirs.router.bias, ours.router.bias, as_it_is),
        (theirs.experts.gate_up_proj, ours.up, apart),
        (theirs.experts.gate_up_proj_bias, ours.up_bias, apart),
        (theirs.experts.down_proj, ours.down, transposed),
        (theirs.experts.down_proj_bias, ours.down_bias, as_it_is),
    ]
    alike(ours, theirs, pairs)


def test_it_is_qwens_with_gradients() -> None:
    config = Qwen2MoeConfig(
        hidden_size=16,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
        num_experts=6,
        num_experts_per_tok=2,
        norm_topk_prob=False,
    )
    theirs = randomised(Qwen2MoeSparseMoeBlock(config))
    ours = Experts(16, 24, experts=6, top_k=2, normalise=False, shared=40)
    gate, up = ours.shared.up.weight.chunk(2)
    pairs: Pairs = [
        (theirs.gate.weight, ours.router.weight, as_it_is),
        (theirs.experts.gate_up_proj, ours.up, as_it_is),
        (theirs.experts.down_proj, ours.down, as_it_is),
        (theirs.shared_expert_gate.weight, ours.shared_gate.weight, as_it_is),
        (theirs.shared_expert.down_proj.weight, ours.shared.down.weight, as_it_is),
    ]
    with torch.no_grad():
        gate.copy_(theirs.shared_expert.gate_proj.weight)
        up.copy_(theirs.shared_expert.up_proj.weight)
    alike(ours, theirs, pairs)
    gates = [theirs.shared_expert.gate_proj.weight.grad, theirs.shared_expert.up_proj.weight.grad]
    torch.testing.assert_close(ours.shared.up.weight.grad, torch.cat(gates), rtol=1e-4, atol=1e-4)


def test_its_gradients_are_right_in_float64() -> None:
    layer = randomised(Experts(4, 6, 3, 2, bias=True, activation="clamped_swiglu")).double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


def test_an_expert_that_no_token_chose_computes_nothing_and_changes_nothing() -> None:
    layer = randomised(Experts(8, 20, 4, 1))
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[2] = 1
        layer.up[[0, 1, 3]] = torch.nan
    x = torch.rand(10, 8)
    out = layer(x)
    assert out.isfinite().all()
    out.sum().backward()
    assert layer.up.grad[2].abs().sum() > 0
    assert not layer.up.grad[[0, 1, 3]].any()


@pytest.mark.parametrize("padded", [False, True])
def test_the_balance_loss_is_mixtrals_over_all_layers_together(padded: bool) -> None:
    model = nn.Sequential(*(randomised(Experts(8, 12, 5, 2)) for _ in range(3)))
    x = torch.randn(2, 30, 8)
    real = torch.arange(30) < torch.tensor([[30], [11]]) if padded else None
    logits: list[Tensor] = []
    for layer in model:
        layer.register_forward_pre_hook(
            lambda layer, args: logits.append(args[0].flatten(0, 1) @ layer.router.weight.T)
        )
    with routings(model) as seen:
        model(x)
    want = load_balancing_loss_func(tuple(logits), 5, 2, None if real is None else real.long())
    got = balance_loss(seen, real)
    torch.testing.assert_close(got, want)
    weights = [layer.router.weight for layer in model]
    for g, w in zip(
        torch.autograd.grad(got, weights, retain_graph=True), torch.autograd.grad(want, weights), strict=True
    ):
        torch.testing.assert_close(g, w)


def test_the_balance_loss_is_top_k_when_all_are_chosen_alike() -> None:
    chosen = torch.stack([torch.arange(8) % 4, (torch.arange(8) + 1) % 4], 1)
    even = Routing(torch.full((8, 4), 0.25), chosen, torch.full((8, 2), 0.5), None)
    torch.testing.assert_close(balance_loss([even]), torch.tensor(2.0))
    first = torch.tensor([[0, 1]]).expand(8, 2)
    uneven = Routing(torch.tensor([[0.5, 0.5, 0, 0]]).expand(8, 4), first, torch.full((8, 2), 0.5), None)
    torch.testing.assert_close(balance_loss([uneven]), torch.tensor(4.0))


def test_minimising_the_balance_loss_evens_out_the_load() -> None:
    layer = Experts(8, 12, 4, 1)
    with torch.no_grad():
        layer.router.weight[0] += 1
    x = torch.rand(200, 8)
    optimizer = torch.optim.Adam(layer.router.parameters(), 0.02)
    loads = []
    for _ in range(200):
        with routings(layer) as seen:
            layer(x)
        loads.append(seen[0].load.max().item())
        optimizer.zero_grad()
        balance_loss(seen).backward()
        optimizer.step()
    assert loads[0] > 150
    assert loads[-1] < 100


def test_what_routers_chose_is_gathered_only_within_the_block() -> None:
    layer = Experts(8, 12, 4, 2)
    layer(torch.randn(5, 8))
    with routings(layer) as seen:
        layer(torch.randn(7, 8))
    layer(torch.randn(9, 8))
    assert [r.chosen.shape for r in seen] == [(7, 2)]
    assert seen[0].load.sum() == 14
    copy.deepcopy(layer)  # which a tensor of the graph, kept in the layer, would forbid


def test_a_full_expert_drops_the_later_visits_and_counts_them() -> None:
    layer = randomised(Experts(8, 20, 4, 2, capacity=1.0)).train()
    x = torch.randn(40, 8)
    with routings(layer) as seen:
        out = layer(x)
    (routing,) = seen
    assert routing.capacity == 20  # 40 tokens · 2 / 4 experts
    assert routing.dropped == sum(max(0, n - 20) for n in routing.load.tolist()) > 0

    taken, dropped = [0] * 4, torch.zeros(40, 2, dtype=torch.bool)
    for choice in range(2):
        for token in range(40):
            e = int(routing.chosen[token, choice])
            dropped[token, choice] = taken[e] >= 20
            taken[e] += 1
    assert dropped.sum() == routing.dropped
    kept = routing.weights * ~dropped
    want = torch.zeros(40, 8)
    for e in range(4):
        gate, up = (x @ layer.up[e].T).chunk(2, -1)
        y = (torch.nn.functional.silu(gate) * up) @ layer.down[e].T
        want += (kept * (routing.chosen == e)).sum(-1, keepdim=True) * y
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)


def test_nothing_is_dropped_outside_of_training() -> None:
    layer = randomised(Experts(8, 20, 4, 2, capacity=0.5)).eval()
    x = torch.randn(40, 8)
    with routings(layer) as seen:
        out = layer(x)
    assert seen[0].dropped == 0
    torch.testing.assert_close(out.double(), written_out(layer, x), rtol=1e-5, atol=1e-5)


def test_it_works_in_bfloat16_and_under_autocast() -> None:
    layer = randomised(Experts(8, 20, 4, 2))
    x = torch.randn(30, 8)
    want = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert (layer(x) - want).abs().mean() < 0.05 * want.abs().mean()
    out = layer.bfloat16()(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert (out - want).abs().mean() < 0.1 * want.abs().mean()  # a token near a tie may choose another expert


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 9}, r"^Experts: got top_k = 9 of 4 experts; expected 1 to 4\.$"),
        ({"top_k": 0}, r"^Experts: got top_k = 0 of 4"),
        ({"activation": "swish"}, r"^activation: got 'swish', expected one of 'gelu', .*, 'clamped_swiglu'\.$"),
        ({"capacity": 0.0}, r"^capacity: got 0.0, expected a factor above 0, such as 1\.25"),
    ],
)
def test_what_makes_no_sense_is_said(options: dict[str, object], said: str) -> None:
    with pytest.raises(ClearheadError, match=said):
        Experts(8, 16, 4, **{"top_k": 2, **options})


def test_routings_that_can_not_be_are_said() -> None:
    said = r"^routings: Linear has no Experts layer; expected a model with one\.$"
    with pytest.raises(ClearheadError, match=said), routings(nn.Linear(2, 2)):
        pass
    with pytest.raises(ClearheadError, match=r"^balance_loss: got no routing; run the model within"):
        balance_loss([])
    layer = Experts(8, 12, 4, 2)
    with routings(layer) as seen:
        layer(torch.randn(2, 5, 8))
    with pytest.raises(ClearheadError, match=r"^real: got shape \(2, 4\), expected \(B, T\) of .* with 10 tokens\.$"):
        balance_loss(seen, torch.ones(2, 4, dtype=torch.bool))
