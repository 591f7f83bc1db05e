"""A watch says what it did not see, refuses what it cannot see, and leaves all else as it was."""

import re
import threading
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint

from clearhead import ClearheadError, WatchWarning
from clearhead.scope.seams import CHECKPOINT
from clearhead.view.seen import watch
from tests.scope.small import Attention, X

# What was not seen


def test_a_layer_that_ran_unseen_is_named_in_the_warning(see):
    model = nn.Sequential(Attention(), Attention(hidden=True), Attention(hidden=True))
    said = "Some attentions of Sequential ran unseen: 1, 2. What can be seen is scaled_dot_product_attention"
    with pytest.warns(WatchWarning, match=said), see(model) as seen:
        model(X)
    assert [s.name for s in seen] == ["0"]
    assert seen.unseen == ["1", "2"]


def test_a_layer_that_did_not_run_is_not_missed(see):
    model = nn.Sequential(Attention(), Attention(hidden=True))
    with see(model) as seen:
        model[0](X)
    assert seen.unseen == []


def test_a_model_with_longformers_band_is_not_shown_as_if_all_were_seen(see):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            config = transformers.LongformerConfig(
                hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, vocab_size=60,
                attention_window=4,
            )  # fmt: skip
            self.long = transformers.LongformerModel(config)
            self.last = nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, input_ids):
            globally = (torch.arange(input_ids.shape[1]) == 0).int()[None]
            x = self.long(input_ids, global_attention_mask=globally)[0]
            return self.last(x, x, x)

    model = Two().eval()
    unseen = "long.encoder.layer.0.attention.self"
    with pytest.warns(WatchWarning, match=f"ran unseen: {unseen}."), see(model) as seen:
        model(torch.randint(3, 60, (1, 8)))
    assert [s.name for s in seen] == ["last"]


def test_a_watch_in_which_the_model_did_not_run_says_so(see):
    said = "Attention was not run inside the watch, so nothing was seen. Run it in the with block."
    with pytest.raises(ClearheadError, match=said), see(Attention()):
        pass


def test_a_watch_that_saw_nothing_names_what_ran(see):
    model = nn.Sequential(*(Attention(hidden=True) for _ in range(8)))
    said = "Sequential ran, but no attention was seen. Unseen ran 0, 1, 2, 3, 4, 5 and 2 more. What can be seen"
    with pytest.raises(ClearheadError, match=said), see(model):
        model(X)


@pytest.mark.parametrize("model", [nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8))])
def test_a_watch_of_a_model_without_attention_says_so(model, see):
    said = "ran, but no attention was seen. None of the modules that ran is named an attention."
    with pytest.raises(ClearheadError, match=said), see(model):
        model(X)


class MHSA(nn.Module):
    """An attention whose class does not say so: by softmax, or by hand, which nobody can see."""

    def __init__(self, hidden=False):
        super().__init__()
        self.qkv, self.hidden = nn.Linear(8, 24), hidden

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / 2
        w = scores.exp() / scores.exp().sum(-1, keepdim=True) if self.hidden else F.dropout(scores.softmax(-1), 0.0)
        return (w @ v).transpose(1, 2).flatten(2)


class OneHead(nn.Module):
    """Attention of one head, over three axes."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return torch.einsum("bij,bjd->bid", torch.softmax(self.a(x) @ self.b(x).mT, -1), x)


@pytest.mark.parametrize("kind", [MHSA, OneHead])
def test_an_attention_is_known_by_its_softmax_and_the_product_after_it(kind, see, weights_of):
    model = nn.Sequential(kind(), kind())
    with see(model) as seen:
        model(X)
        x = model[0](X)
    assert [(s.name, s.layer, s.step) for s in seen] == [("0", 0, 0), ("1", 1, 0), ("0", 0, 1)]
    if kind is OneHead:
        torch.testing.assert_close(weights_of(seen[2])[:, 0].float() @ X, x)


def test_a_softmax_without_a_product_is_none_of_an_attention(see):
    class Gate(nn.Module):
        def forward(self, x):
            return x * x[..., :5].softmax(-1).mean()

    model = nn.Sequential(Gate(), Attention())
    with see(model) as seen:
        model(X)
    assert [s.name for s in seen] == ["1"]


@pytest.mark.parametrize("place", ["projections", "name", "sibling"])
def test_an_attention_that_is_named_otherwise_does_not_run_unseen_in_silence(place, see):
    class A(nn.Module):
        def __init__(self, hidden):
            super().__init__()
            self.one, self.two, self.hidden = nn.Linear(8, 8), nn.Linear(8, 8), hidden

        def forward(self, x):
            if self.hidden:
                return (self.one(x) @ self.two(x).mT).exp() @ x
            return F.scaled_dot_product_attention(self.one(x), self.two(x), x)

    class Layer(nn.Module):
        def __init__(self, hidden):
            super().__init__()
            if place == "name":
                self.attn_b = A(hidden)
            else:
                self.mix = MHSA(hidden) if place == "projections" else A(hidden)

        def forward(self, x):
            return next(self.children())(x)

    hidden = (False, True) if place == "sibling" else (True,)
    model = nn.Sequential(Attention(), *map(Layer, hidden))
    unseen = {"name": "1.attn_b", "projections": "1.mix", "sibling": "2.mix"}[place]
    with pytest.warns(WatchWarning, match=f"Some attentions of Sequential ran unseen: {unseen}. "), see(model) as seen:
        model(X)
    assert seen.unseen == [unseen]


class Layers(nn.Module):
    """Attentions in a row, one of which is passed over."""

    def __init__(self, skipped=None):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"attention": Attention()}) for _ in range(3))
        self.other, self.skipped = Attention(), skipped

    def forward(self, x):
        for n, layer in enumerate(self.layers):
            x = x if n == self.skipped else layer["attention"](x)
        return x


def test_a_layer_that_was_bypassed_is_named_in_a_warning(see):
    model = Layers(skipped=1)
    said = "Some layers of Layers did not run, though others like them did, .* called: layers.1.attention. expect="
    with pytest.warns(WatchWarning, match=said), see(model) as seen:
        model(X)
    assert seen.unseen == [] and len(seen) == 2


def test_what_is_not_as_many_attentions_as_were_expected_is_an_error(see):
    model = Layers()
    with see(model, expect=3) as seen:
        model(X)
        model(X)
    assert len(seen) == 6
    with pytest.raises(ClearheadError, match=r"3 attentions were seen, but expect=4. Seen: layers.0.attention, "):
        run(see(model, expect=4), model)
    for wrong in (0, True):
        with pytest.raises(ClearheadError, match=r"expect: got .*, expected the number of attentions"):
            see(model, expect=wrong)


def run(watch, model):
    with watch:
        model(X)


# Which layers


def test_layers_are_chosen_by_number_or_by_name(see):
    model = nn.ModuleDict({"a": nn.Sequential(Attention(), Attention()), "b": nn.Sequential(Attention())})
    for layers, expected in [
        (None, {"a.0": 0, "a.1": 1, "b.0": 2}),
        (1, {"a.1": 1}),
        (-1, {"b.0": 2}),
        (torch.tensor(-1), {"b.0": 2}),
        (np.array([1, 2]), {"a.1": 1, "b.0": 2}),
        ("a", {"a.0": 0, "a.1": 1}),
        (["a.1", 2], {"a.1": 1, "b.0": 2}),
        (["ModuleDict"], {"a.0": 0, "a.1": 1, "b.0": 2}),
    ]:
        with see(model, layers=layers) as seen:
            model["b"](model["a"](X))
        assert {s.name: s.layer for s in seen} == expected


@pytest.mark.parametrize("layer", [2, -3, "layers", "", True])
def test_a_layer_that_is_not_there_is_refused_before_anything_runs(layer, see):
    model = nn.Sequential(Attention(), Attention())
    said = f"Sequential has no layer {layer!r}. It has 2 attentions, from 0: 0, 1. A layer is such a number, or the"
    with pytest.raises(ClearheadError, match=re.escape(said)):
        see(model, layers=[0, layer])


def test_chosen_layers_that_did_not_run_are_told_of(see):
    model = nn.Sequential(Attention(), Attention())
    said = "no attention was seen. None of the chosen layers ran an attention: leave out layers= to see all that run"
    with pytest.raises(ClearheadError, match=said), see(model, layers=1):
        model[0](X)


def test_of_layers_that_were_not_chosen_none_is_missed(see):
    model = nn.Sequential(Attention(), Attention(hidden=True))
    with see(model, layers=0) as seen:
        model(X)
    assert seen.unseen == []


# What is handed on


def test_the_recorder_is_given_what_was_asked_for(see):
    model, tokenizer = Attention(), object()
    with see(model, tokenizer, keep="statistics", values=True) as seen:
        model(X)
    assert seen.tokenizer is tokenizer
    assert seen.options == {"keep": "statistics", "values": True}
    assert seen.unseen == []


def test_an_error_in_the_block_comes_out_as_it_was_and_all_is_restored(see):
    model = nn.Sequential(Attention(hidden=True))
    error = ZeroDivisionError("as it was")
    kept = []

    def block():
        with see(model) as seen:
            kept.append(seen)
            model(X)
            raise error

    with pytest.raises(ZeroDivisionError) as caught:
        block()
    (seen,) = kept
    assert caught.value is error
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert seen.unseen == ["0"]
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.overrides._get_current_function_mode_stack() == []


def test_an_error_of_the_recorder_comes_out_too_and_all_is_restored(see):
    model = Attention()

    class Full(list):
        def expect(self, asked, attentions):
            pass

        def add(self, sighting):
            raise MemoryError

        def close(self, unseen):
            pass

    with pytest.raises(MemoryError), see(model, record=lambda *_, **__: Full()):
        model(X)
    assert not model._forward_pre_hooks
    assert torch.overrides._get_current_function_mode_stack() == []


def test_what_the_recorder_computes_is_not_watched(zoo, see):
    specimen = zoo["gpt_oss"]()

    class Computing(list):
        def expect(self, asked, attentions):
            F.scaled_dot_product_attention(asked.q, asked.q, asked.q)

        def add(self, sighting):
            F.softmax(torch.zeros(2, 4, 9, 9), -1)
            F.scaled_dot_product_attention(sighting.q, sighting.q, sighting.q)
            self.append(sighting)

        def close(self, unseen):
            pass

    with see(specimen.model, record=lambda *_, **__: Computing()) as seen:
        specimen.run()
    assert len(seen) == 2


# Watches of one model


def test_a_watch_serves_one_block(see):
    model = Attention()
    watch = see(model)
    with watch:
        model(X)
        with pytest.raises(ClearheadError, match="This watch was entered before"):
            watch.__enter__()
    with pytest.raises(ClearheadError, match="This watch was entered before"), watch:
        pass


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "bloom", "transformer_encoder"])
def test_a_watch_inside_a_watch_sees_the_same(name, zoo, see):
    specimen = zoo[name]()
    with see(specimen.model) as outer:
        with see(specimen.model) as inner:
            specimen.run()
        specimen.run()
    assert [(s.name, s.step) for s in outer] == [(n, step) for step in (0, 1) for n, _ in specimen.attentions]
    assert [(s.name, s.step) for s in inner] == [(n, 0) for n, _ in specimen.attentions]


# Threads


def in_thread(function):
    """Runs it in a thread named "other", and raises here what was raised there."""
    raised = []

    def run():
        try:
            function()
        except ClearheadError as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="other")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_a_model_that_runs_in_another_thread_does_not_go_unseen_silently(see):
    model = Attention()
    said = (
        "Attention ran in the thread 'other', but the watch was entered in 'MainThread', and a watch sees its own "
        "thread only. Enter the watch in the thread that runs the model."
    )
    with pytest.raises(ClearheadError, match=said), see(model):
        in_thread(lambda: model(X))


def test_nor_does_a_model_that_runs_here_and_there(see):
    model = nn.Sequential(Attention(), Attention())

    def both():
        model[0](X)
        in_thread(lambda: model[1](X))

    with pytest.raises(ClearheadError, match="Sequential ran in the thread 'other', but"), see(model):
        both()


def test_a_watch_in_the_thread_that_runs_the_model_sees_it(see):
    model, names = Attention(), []

    def run():
        with see(model) as seen:
            model(X)
        names.extend(s.name for s in seen)

    in_thread(run)
    assert names == ["Attention"]


def test_a_model_that_another_thread_is_watching_is_refused(see):
    model = nn.Sequential(Attention())
    said = "0 is being watched in another thread. Wait until that watch has ended, or watch a copy of the model."

    def enter():
        with see(nn.ModuleList(model)):
            raise AssertionError

    with see(model) as seen:
        with pytest.raises(ClearheadError, match=said):
            in_thread(enter)
        model(X)
    assert len(seen) == 1


# TorchScript


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")
def test_a_scripted_model_is_refused(see):
    scripted = torch.jit.script(nn.Sequential(nn.Linear(8, 8)))
    model = nn.Sequential(Attention(), scripted)
    said = "1 is scripted, and inside TorchScript no attention can be seen. Watch the model as it was before"
    with pytest.raises(ClearheadError, match=said):
        see(model)


# Checkpoints


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant):
        super().__init__()
        self.layers = nn.ModuleList([Attention(), nn.MultiheadAttention(8, 2, batch_first=True)])
        self.use_reentrant = use_reentrant

    def forward(self, x):
        first, second = self.layers
        x = checkpoint(first, x, use_reentrant=self.use_reentrant)
        return checkpoint(lambda x: second(x, x, x)[0], x, use_reentrant=self.use_reentrant)


def gradients(model, x):
    model.zero_grad()
    x = x.clone().requires_grad_()
    model(x).square().sum().backward()
    return [x.grad, *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("kernels", ["clearhead", "model"])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_with_checkpoints_gradients_are_the_same_and_each_attention_is_seen_once(use_reentrant, kernels, see):
    model = Checkpointed(use_reentrant)
    expected = gradients(model, X)
    with see(model, kernels=kernels) as seen:
        watched = gradients(model, X)
        again = gradients(model, X)
    assert [(s.name, s.step) for s in seen] == [("layers.0", 0), ("layers.1", 0), ("layers.0", 1), ("layers.1", 1)]
    for a, b, c in zip(expected, watched, again, strict=True):
        rounding = 1e-5 if kernels == "clearhead" and use_reentrant else 0
        torch.testing.assert_close(b, a, rtol=rounding, atol=rounding)
        assert torch.equal(b, c)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_may_compute_again_when_the_watch_is_over(use_reentrant, see):
    model = Checkpointed(use_reentrant)
    expected = gradients(model, X)
    model.zero_grad()
    x = X.clone().requires_grad_()
    with see(model) as seen:
        y = model(x)
    y.square().sum().backward()
    for a, b in zip(expected, [x.grad, *(p.grad for p in model.parameters())], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
    whose = {s.passed for s in seen}
    assert (CHECKPOINT in whose) == (not use_reentrant)


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "bloom"])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_so_it_is_with_the_checkpoints_of_transformers(name, use_reentrant, zoo, see):
    specimen = zoo[name]()
    model, ids = specimen.model.train(), specimen.inputs["input_ids"]
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # a new name, unknown to older ones
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()

    def gradients():
        model.zero_grad()
        torch.manual_seed(0)
        model(ids, labels=ids, use_cache=False).loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    expected = gradients()
    with see(model) as seen:
        watched = gradients()
    assert [s.name for s in seen] == [name for name, _ in specimen.attentions]
    for a, b in zip(expected, watched, strict=True):
        assert (a - b).norm() <= (1e-4 * a.norm() if use_reentrant else 0)


@pytest.mark.parametrize("kernels", ["clearhead", "model"])
@pytest.mark.parametrize("name", ["llama", "bert", "mha"])
def test_a_model_on_the_meta_device_gives_shapes_and_the_watch_says_that_there_are_no_values(name, kernels, zoo):
    if name == "mha":
        layer = nn.TransformerEncoderLayer(16, 2, batch_first=True, device="meta")
        model, given = layer.eval(), (torch.empty(2, 5, 16, device="meta"),)
    else:
        model = zoo[name]().model.to("meta")
        given = (torch.zeros(2, 5, dtype=torch.long, device="meta"),)

    def shapes():
        out = model(*given)
        return out.shape if isinstance(out, torch.Tensor) else out[0].shape

    expected = shapes()
    with (
        pytest.warns(WatchWarning, match=r"ran on the meta device, .* nothing to see"),
        watch(model, kernels=kernels) as seen,
    ):
        assert shapes() == expected
    assert len(seen) == 0
