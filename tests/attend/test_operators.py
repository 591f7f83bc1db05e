"""The native kernels as PyTorch operators: what PyTorch's own checks say, and one node each in a compiled graph."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import clearhead as ch
from clearhead.attend import library, native, operators
from clearhead.attend.api import checked

pytestmark = [
    pytest.mark.skipif(library.missing() is not None, reason=str(library.missing())),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),  # of PyTorch's own checks
]

SAMPLES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 4, 2, 5, 7, 8, 3), {}),
    "causal, long": ((1, 2, 1, 60, 70, 16, 16), {"pattern": ch.causal() & ch.window(9) | ch.first(2)}),
    "by batch": ((2, 2, 2, 5, 7, 8, 8), {"pattern": ch.padding(torch.tensor([3, 7])), "softcap": 2.0, "scale": 0.3}),
    "alibi": ((1, 4, 2, 5, 7, 8, 8), {"bias": ch.alibi(4)}),
    "learned by distance": ((1, 2, 2, 5, 7, 8, 8), {"bias": ch.relative(torch.randn(2, 5, requires_grad=True))}),
    "learned by pair": ((2, 2, 2, 5, 7, 8, 8), {"bias": torch.randn(2, 1, 5, 7, requires_grad=True)}),
    "sinks": ((1, 4, 2, 5, 7, 8, 8), {"sinks": torch.randn(4, requires_grad=True)}),
    "empty rows": ((1, 2, 2, 5, 7, 8, 8), {"pattern": ch.causal(align="start") & ~ch.first(2)}),
    "dropout": ((1, 2, 2, 5, 7, 8, 8), {"dropout": 0.5}),
}


def sample(name: str, dtype: torch.dtype) -> list[Any]:
    """What the operator of the forward begins with; q, k, v and what is learned want gradients."""
    (B, H, K, Tq, Tk, D, Dv), options = SAMPLES[name]
    shapes = ((B, H, Tq, D), (B, K, Tk, D), (B, K, Tk, Dv))
    tensors = (torch.randn(shape).to(dtype).requires_grad_() for shape in shapes)
    arguments = native.arguments(checked(*tensors, **options))
    return [x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in arguments]


TYPED = [*((name, torch.float32) for name in SAMPLES), ("plain", torch.bfloat16), ("learned by pair", torch.float16)]


@pytest.mark.parametrize(("name", "dtype"), TYPED)
@pytest.mark.parametrize("probe", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_forward_passes_pytorch_s_checks_of_an_operator(name: str, dtype: torch.dtype, probe: bool) -> None:
    """Its schema, its fake kernel, its registration for autograd, and forward and backward as compiled graphs."""
    torch.library.opcheck(operators.attend, (*sample(name, dtype), probe))


@pytest.mark.parametrize(("name", "dtype"), TYPED)
def test_so_does_the_backward(name: str, dtype: torch.dtype) -> None:
    arguments = [x.detach() if isinstance(x, Tensor) else x for x in sample(name, dtype)]
    out, rows, *_ = operators.attend(*arguments, False)
    all_of_them = [x is not None for x in arguments[:6]]
    for wanted in (all_of_them, [True, *(False,) * 5]):
        torch.library.opcheck(
            operators.attend_backward, (torch.randn_like(out), torch.randn_like(rows), out, rows, *arguments, wanted)
        )


def test_a_second_derivative_is_refused_in_a_sentence() -> None:
    q, k, v = (torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3))
    out = ch.attention(q, k, v, backend="native")
    (dq,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(ch.ClearheadError, match=r"'native' has no second derivative; use backend='tiled' or"):
        torch.autograd.grad(dq.square().sum(), q)
    loss = torch.func.grad(lambda q: torch.func.grad(lambda q: ch.attention(q, k, v, backend="native").sum())(q).sum())
    with pytest.raises(ch.ClearheadError, match=r"'native' can't do this call: it has no second derivative\."):
        loss(q.detach())


def test_forward_mode_is_refused_in_a_sentence() -> None:
    q, k, v = (torch.randn(1, 2, 5, 4) for _ in range(3))
    with pytest.raises(ch.ClearheadError, match=r"'native' can't do this call: it has no forward-mode derivative\."):
        torch.func.jvp(lambda q: ch.attention(q, k, v, backend="native"), (q,), (q,))


def test_what_vmap_can_t_map_is_said_in_a_sentence() -> None:
    q, k, v = (torch.randn(2, 4, 5, 3) for _ in range(3))
    says = r"'native' maps q, k and v by vmap, but not sinks, .* backend='reference'"
    with pytest.raises(ch.ClearheadError, match=says):
        torch.func.vmap(lambda s: ch.attention(q, k, v, sinks=s, backend="native"))(torch.zeros(3, 4))
    bias = torch.zeros(2, 1, 5, 5)
    with pytest.raises(ch.ClearheadError, match=says):
        torch.func.vmap(lambda q: ch.attention(q, k, v, bias=bias, backend="native"))(q[None])


def test_dropout_under_vmap_is_shared_or_refused_in_a_sentence() -> None:
    q, k, v = (torch.randn(3, 2, 4, 5, 3) for _ in range(3))

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ch.attention(q, k, v, dropout=0.5, backend="native")

    assert torch.func.vmap(call, randomness="same")(q, k, v).shape == (3, 2, 4, 5, 3)
    with pytest.raises(ch.ClearheadError, match=r"'native' draws one seed for the dropout .* randomness='same'"):
        torch.func.vmap(call, randomness="different")(q, k, v)


def test_who_looks_at_operators_sees_one_where_else_only_its_function_runs() -> None:
    q = torch.randn(1, 2, 60, 8)

    def run(q: Tensor) -> Tensor:
        return ch.attention(q, q, q, pattern=ch.causal(), backend="native")

    with FlopCounterMode(display=False) as counted:
        run(q)
    assert counted.get_total_flops() > 0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        run(q)
    assert "clearhead::attend" in {event.name for event in profiled.events()}
    traced = make_fx(run)(q)
    assert torch.ops.clearhead.attend.default in {node.target for node in traced.graph.nodes}
    learned = q.clone().requires_grad_()
    assert torch.equal(run(learned), run(q)) and run(learned).grad_fn is not None


COMPILED = """
import torch
import clearhead as ch
from torch._dynamo.backends.common import aot_autograd

seen = {"captured": [], "forward": [], "backward": []}

def record(name):
    def compiler(graph, inputs):
        seen[name] += [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        return graph
    return compiler

def engine(graph, inputs):
    record("captured")(graph, inputs)
    from functorch.compile import make_boxed_func
    compilers = {at + "_compiler": lambda g, i, n=n: make_boxed_func(record(n)(g, i).forward)
                 for at, n in (("fw", "forward"), ("bw", "backward"))}
    return aot_autograd(**compilers)(graph, inputs)

torch.manual_seed(0)
leaves = [torch.randn(2, H, 30, 8, requires_grad=True) for H in (4, 2, 2)]
leaves += [torch.rand(4, requires_grad=True), torch.randn(4, requires_grad=True)]
for pattern in (None, ch.causal() & ch.window(5) | ch.first(2), ch.padding(torch.tensor([5, 30])) & ~ch.chunks(3)):
    def call(q, k, v, slopes, sinks):
        return ch.attention(q, k, v, pattern=pattern, bias=ch.alibi(slopes), sinks=sinks, softcap=5.0,
                            return_lse=True, backend="native")

    torch._dynamo.reset()
    for made in seen.values():
        made.clear()
    ours, expected = torch.compile(call, fullgraph=True, backend=engine)(*leaves), call(*leaves)
    grads = [torch.autograd.grad(out.square().sum() + lse.sin().sum(), leaves) for out, lse in (ours, expected)]
    for x, y in zip((*ours, *grads[0]), (*expected, *grads[1])):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
    print(sum("attend" in name for name in seen["captured"]),
          [name for name in seen["forward"] + seen["backward"] if "clearhead" in name])

dynamic = torch.compile(lambda q: ch.attention(q, q, q, pattern=ch.causal(), backend="native"), fullgraph=True,
                        dynamic=True, backend="aot_eager")
for T in (5, 60, 200):
    q = torch.randn(1, 2, T, 8)
    torch.testing.assert_close(dynamic(q), ch.attention(q, q, q, pattern=ch.causal(), backend="native"))

dropped = torch.compile(lambda q: ch.attention(q, q, q, dropout=0.5, backend="native"), fullgraph=True,
                        backend="aot_eager")
q = torch.zeros(1, 2, 50, 8)
assert not torch.equal(dropped(q + 1), dropped(q + 1))
"""


def test_compile_keeps_forward_and_backward_as_one_node_each() -> None:
    """In a process of its own, where no types are checked: the checks would break the graph."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    nodes = "['clearhead.attend.default', 'clearhead.attend_backward.default']"
    assert done.stdout.splitlines() == [f"1 {nodes}"] * 3
