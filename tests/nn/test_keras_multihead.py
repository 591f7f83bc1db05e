"""KerasMultiHeadAttention beside its formula, and beside Keras's own layer where Keras is installed."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.nn.keras_multihead import KerasMultiHeadAttention

B, H, E, EK, EV, TQ, TK = 3, 2, 8, 6, 10, 5, 7
LAYERS: list[dict[str, Any]] = [
    {},
    {"use_bias": False, "value_dim": 3},
    {"output_shape": 9, "value_dim": 5},
    {"output_shape": (2, 3)},
    {"sliding_window": 2, "use_gate": True, "value_dim": 3},
    {"sliding_window": 2**31 - 1, "use_bias": False},
    {"use_gate": True, "use_bias": False},
]
CALLS: list[dict[str, Any]] = [
    {},
    {"attention_mask": (B, TQ, TK)},
    {"attention_mask": (TQ, TK)},
    {"attention_mask": (B, 1, TK)},
    {"attention_mask": (B, H, TQ, TK)},
    {"attention_mask": (B, TQ, TK), "use_causal_mask": True},
    {"use_causal_mask": True},
    {"value_mask": (B, TK)},
    {"key_mask": (B, TK), "value_mask": (B, TK), "use_causal_mask": True},
]


def inputs(with_key: bool = True) -> dict[str, Tensor]:
    """Float32, as Keras has it."""
    made = {"query": torch.randn(B, TQ, E), "value": torch.randn(B, TK, EV)}
    return made | ({"key": torch.randn(B, TK, EK)} if with_key else {})


def with_masks(call: dict[str, Any]) -> dict[str, Any]:
    """The call's shapes, made into masks that leave every other key to all, so that each query sees one."""
    made = {}
    for name, value in call.items():
        if isinstance(value, tuple):
            value = torch.rand(value) < 0.6
            value[..., ::2] = True
        made[name] = value
    return made


def randomised(layer: KerasMultiHeadAttention) -> KerasMultiHeadAttention:
    for p in layer.parameters():
        torch.nn.init.normal_(p, 0, 0.5)
    return layer


def written_out(layer: KerasMultiHeadAttention, x: dict[str, Tensor], call: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Keras's formula, in float64, with all weights."""
    p = {name: value.double() for name, value in layer.state_dict().items()}
    x = {name: value.double() for name, value in x.items()}
    zero = torch.zeros((), dtype=torch.float64)
    q, v, k = (
        torch.einsum("bte,ehd->bhtd", x.get(name, x["value"]), p[f"{name}.kernel"])
        + p.get(f"{name}.bias", zero[None, None])[:, None]
        for name in ("query", "value", "key")
    )
    s = q @ k.mT / layer.key_dim**0.5
    i, j = torch.arange(TQ)[:, None], torch.arange(TK)
    seen = torch.ones(B, H, TQ, TK, dtype=torch.bool)
    if call.get("use_causal_mask"):
        seen &= j <= i
    if layer.sliding_window is not None:
        seen &= (i - j).abs() < layer.sliding_window
    for name in ("value_mask", "key_mask"):
        if name in call:
            seen &= call[name][:, None, None]
    if "query_mask" in call:
        seen &= call["query_mask"][:, None, :, None]
    if (mask := call.get("attention_mask")) is not None:
        seen &= mask if mask.dim() != 3 else mask[:, None]
    w = s.masked_fill(~seen, -torch.inf).softmax(-1).masked_fill(~seen, 0)
    out = w @ v
    if layer.use_gate:
        gate = torch.einsum("bte,ehd->bhtd", x["query"], p["gate.kernel"])
        out = out * (gate + p.get("gate.bias", zero[None, None])[:, None]).sigmoid()
    made = torch.einsum("bhtd,hdo->bto", out, p["attention_output.kernel"].flatten(2)).unflatten(
        2, p["attention_output.kernel"].shape[2:]
    )
    return made + p.get("attention_output.bias", zero), w


@pytest.mark.parametrize("options", LAYERS)
@pytest.mark.parametrize("call", [*CALLS, {"query_mask": (B, TQ)}])
def test_it_is_keras_formula(options: dict[str, Any], call: dict[str, Any]) -> None:
    layer, x, call = KerasMultiHeadAttention(H, 4, **options), inputs(with_key=bool(call)), with_masks(call)
    layer.build(*(value.shape for value in x.values()))
    want, want_weights = written_out(randomised(layer), x, call)
    torch.testing.assert_close(layer(**x, **call).double(), want, rtol=1e-5, atol=1e-5)
    out, weights = layer(**x, **call, return_attention_scores=True)
    torch.testing.assert_close(out.double(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights.double(), want_weights, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        keras = pytest.importorskip("keras")
    from absl import logging  # which Keras brings: its handler would close pytest's own stderr with all handlers

    logging.get_absl_handler().python_handler.stream = sys.__stderr__
    return keras


@pytest.mark.parametrize("options", LAYERS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own, in get_weights
def test_it_is_keras_own_layer_with_its_weights(
    keras: ModuleType, options: dict[str, Any], call: dict[str, Any]
) -> None:
    theirs, ours = keras.layers.MultiHeadAttention(H, 4, **options), KerasMultiHeadAttention(H, 4, **options)
    x, call = inputs(with_key=bool(call)), with_masks(call)
    theirs.build(*(value.shape for value in x.values()))
    theirs.set_weights([torch.randn(w.shape).numpy() / 2 for w in theirs.get_weights()])
    ours.set_weights(theirs.get_weights())
    want, want_weights = theirs(**x, **call, return_attention_scores=True)
    out, weights = ours(**x, **call, return_attention_scores=True)
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights, want_weights, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(**x, **call), theirs(**x, **call), rtol=1e-5, atol=1e-5)
    theirs.set_weights(ours.get_weights())
    theirs_of, ours_of = theirs(**x, **call).square().sum(), ours(**x, **call).square().sum()
    ours_of.backward()
    theirs_of.backward()
    gradients = [
        (got.grad, want.value.grad) for got, want in zip(ours.parameters(), theirs.trainable_variables, strict=True)
    ]
    # A key's bias moves all scores of a row alike, so its gradient is 0 up to the rounding of the terms that cancel.
    rounding = 2e-6 * max(float(expected.abs().max()) for _, expected in gradients)
    for got, expected in gradients:
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=rounding)


@pytest.mark.parametrize("options", LAYERS)
def test_weights_go_out_and_in_again(options: dict[str, Any]) -> None:
    first, second = KerasMultiHeadAttention(H, 4, **options), KerasMultiHeadAttention(H, 4, **options)
    x = inputs()
    want = first(**x)
    second.set_weights(first.get_weights())
    assert torch.equal(second(**x), want)
    assert all(p.grad is None for p in second.parameters())


def test_a_query_that_may_see_nothing_gets_the_bias() -> None:
    layer = KerasMultiHeadAttention(H, 4)
    x = inputs(with_key=False)
    mask = torch.ones(B, TQ, TK, dtype=torch.bool)
    mask[:, 2] = False
    layer.build(*(value.shape for value in x.values()))
    randomised(layer)
    for asked in (True, False):
        out = layer(**x, attention_mask=mask, return_attention_scores=asked)
        out = out[0] if asked else out
        torch.testing.assert_close(out[:, 2], layer.attention_output.bias.expand(B, E))
        grads = torch.autograd.grad(out.sum(), list(layer.parameters()))
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("scores", [True, False])
def test_it_drops_while_training_only_and_gives_the_weights_before(scores: bool) -> None:
    layer = KerasMultiHeadAttention(H, 4, dropout=0.5)
    x = inputs()
    sure = layer.eval()(**x)
    assert torch.equal(layer(**x), sure)
    assert not torch.allclose(layer(**x, training=True), sure)
    assert not torch.allclose(layer.train()(**x), sure)
    torch.testing.assert_close(layer(**x, training=False), sure)
    weights = layer(**x, return_attention_scores=True)[1]
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, TQ))


def test_it_works_in_float64_and_under_autocast() -> None:
    layer, x = KerasMultiHeadAttention(H, 4), inputs()
    assert layer(**{name: value.double() for name, value in x.items()}).dtype == torch.float64
    layer = KerasMultiHeadAttention(H, 4)
    want = layer(**x)
    with torch.autocast("cpu", torch.bfloat16):
        for asked in (True, False):
            out = layer(**x, return_attention_scores=asked)
            out = out[0] if asked else out
            torch.testing.assert_close(out.float(), want, rtol=0.05, atol=0.05)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ClearheadError, match=r"^attention_axes: got \(2, 3\); this layer attends over axis 1"):
        KerasMultiHeadAttention(H, 4, attention_axes=(2, 3))
    layer, x = KerasMultiHeadAttention(H, 4), inputs()
    said = r"^attention_mask has shape \(4, 4\); expected \(B, Tq, Tk\) = \(3, 5, 7\), or 1 in place of any of them\.$"
    with pytest.raises(ClearheadError, match=said.replace(r"\(4, 4\)", r"\(1, 4, 4\)")):
        layer(**x, attention_mask=torch.ones(4, 4))
    with pytest.raises(ClearheadError, match=r"^value_mask has shape \(3, 5\); expected \(B, Tk\) = \(3, 7\), or 1"):
        layer(**x, value_mask=torch.ones(3, 5))
    weights = layer.get_weights()
    with pytest.raises(ClearheadError, match=r"^set_weights: got 4 arrays, expected 8\. Are use_bias and use_gate"):
        layer.set_weights(weights[::2])
    said = r"^set_weights: query\.kernel is \(8, 1, 4\) here and \(8, 2, 4\) in what was given\. Are num_heads, key_dim"
    with pytest.raises(ClearheadError, match=said):
        KerasMultiHeadAttention(1, 4).set_weights(weights)


def test_what_inference_mode_builds_can_be_trained() -> None:
    layers = [KerasMultiHeadAttention(H, 4) for _ in range(3)]
    x = {name: value.double() for name, value in inputs().items()}
    with torch.inference_mode():
        layers[0](**x)
        layers[1].build((B, TQ, E), (B, TK, EV), (B, TK, EK))
        layers[2].set_weights(layers[0].get_weights())
    for layer in layers:
        layer.double()(**x).sum().backward()
        assert all(p.grad is not None for p in layer.parameters())


def test_tokens_of_another_width_than_the_weights_are_refused() -> None:
    layer, x = KerasMultiHeadAttention(H, 4), inputs()
    layer(**x)
    with pytest.raises(
        ClearheadError, match=r"^got tokens of shape \(3, 5, 9\) for a kernel \(8, 2, 4\); expected tokens 8"
    ):
        layer(**x | {"query": torch.randn(B, TQ, 9)})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["num_heads", "key_dim", "value_dim", "output_shape", "sliding_window"])
@pytest.mark.parametrize("wrong", [0, -1, 8.0, True, "8", [2, 8.0]], ids=str)
def test_what_is_no_count_is_refused_when_the_layer_is_made(name: str, wrong: Any) -> None:
    with pytest.raises(ClearheadError, match=rf"^{name}: got .*, expected a whole number, 1 or more\.$"):
        KerasMultiHeadAttention(**{"num_heads": H, "key_dim": 4} | {name: wrong})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"attention_axes": 1.0}, r"^attention_axes: got 1\.0; this layer attends over axis 1"),
        ({"attention_axes": np.array([1, 2])}, r"^attention_axes: got array\(\[1, 2\]\); this layer attends"),
        ({"output_shape": ()}, r"^output_shape: got \(\), expected a number, several, or None\.$"),
        ({"dropout": 1.5}, r"^dropout: got 1\.5, expected a probability, at least 0 and below 1\.$"),
        ({"dropout": None}, r"^dropout: got None, expected a probability"),
        ({"use_bias": "no"}, r"^use_bias: got 'no', expected True or False\.$"),
        ({"use_gate": 1}, r"^use_gate: got 1, expected True or False\.$"),
    ],
    ids=str,
)
def test_other_arguments_are_checked_when_the_layer_is_made(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ClearheadError, match=said):
        KerasMultiHeadAttention(H, 4, **wrong)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"query": [[1.0]]}, r"^query: got list, expected a tensor of floats\.$"),
        ({"value": None}, r"^value: got NoneType, expected a tensor of floats\.$"),
        ({"query": torch.ones(B, TQ, E).long()}, r"^query is torch\.int64; expected floats\."),
        ({"query": np.ones((B, TQ, E), np.int32)}, r"^query is torch\.int32; expected floats\."),
        (
            {"key": torch.ones(B, TK, EK).double()},
            r"^key is torch\.float64 and the layer's weights are torch\.float32;",
        ),
        ({"query": torch.ones(1, 2, TQ, E)}, r"^query has shape \(1, 2, 5, 8\); expected \(B, Tq, width\), axis 1 the"),
        ({"value": torch.ones(TK, EV)}, r"^value has shape \(7, 10\); expected \(B, Tk, width\), axis 1 the tokens\.$"),
        ({"value": torch.ones(1, TK, EV)}, r"^query, value and key are \(3, 5, 8\), \(1, 7, 10\) and \(3, 7, 6\); exp"),
        ({"key": torch.ones(B, 6, EK)}, r"^query, value and key are \(3, 5, 8\), \(3, 7, 10\) and \(3, 6, 6\); exp"),
        ({"value_mask": [True] * TK}, r"^value_mask: got list, expected a tensor or an array\.$"),
        ({"query_mask": np.ones((B, TK))}, r"^query_mask has shape \(3, 7\); expected \(B, Tq\) = \(3, 5\), or 1"),
        ({"key_mask": np.array(["a"])}, r"^key_mask: got an array of <U1, expected numbers\.$"),
    ],
    ids=lambda x: x if isinstance(x, str) else next(iter(x)),
)
@pytest.mark.parametrize("built", [False, True])
def test_inputs_that_do_not_fit_are_refused_by_their_own_name_and_shape(
    wrong: dict[str, Any], said: str, built: bool
) -> None:
    layer = KerasMultiHeadAttention(H, 4)
    if built:
        layer(**inputs())
    with pytest.raises(ClearheadError, match=said):
        layer(**inputs() | wrong)


def test_numpy_inputs_and_masks_are_taken_as_keras_takes_them() -> None:
    layer, x = KerasMultiHeadAttention(H, 4), inputs()
    masks = with_masks({"attention_mask": (B, TQ, TK), "value_mask": (B, TK)})
    out = layer(**{name: value.double().numpy() for name, value in (x | masks).items()})
    assert out.dtype == torch.float32
    assert torch.equal(out, layer(**x, **masks))
    out.sum().backward()
    arrays = {name: value.numpy() for name, value in x.items()}
    assert layer.double()(**arrays).dtype == torch.float64


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (None, r"^set_weights: got NoneType, expected a list of arrays\.$"),
        (["a"] * 8, r"^set_weights, weights\[0\]: got an array of <U1, expected numbers\.$"),
    ],
)
def test_weights_that_are_no_arrays_are_refused(weights: Any, said: str) -> None:
    with pytest.raises(ClearheadError, match=said):
        KerasMultiHeadAttention(H, 4).set_weights(weights)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [8, (), (B, TQ, 8.0)])
def test_shapes_without_a_width_are_refused(shape: Any) -> None:
    with pytest.raises(ClearheadError, match=r"^value_shape(\[-1\])?: got .*, expected a "):
        KerasMultiHeadAttention(H, 4).build((B, TQ, E), shape)
