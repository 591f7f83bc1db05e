"""Models of Transformers on attn_implementation="clearhead" compute what they compute on eager attention."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers

import clearhead as ch
import clearhead.transformers
from clearhead import WatchWarning
from clearhead.attend import library, tiled
from clearhead.attend.backends import BACKENDS

IDS = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60, "intermediate_size": 32}
LLAMA = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": None}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 60, "eos_token_id": None}

CONFIGS = {
    "bert": lambda: transformers.BertConfig(**SMALL),
    "llama": lambda: transformers.LlamaConfig(**LLAMA),
    "mistral": lambda: transformers.MistralConfig(**LLAMA, sliding_window=4),
    "gemma2": lambda: transformers.Gemma2Config(
        **LLAMA, query_pre_attn_scalar=8, sliding_window=4, attn_logit_softcapping=0.5
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **LLAMA, **EXPERTS, sliding_window=4, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}
    ),
    "t5": lambda: transformers.T5Config(
        **T5, relative_attention_num_buckets=8, relative_attention_max_distance=6, decoder_start_token_id=0
    ),
}
DECODERS = ["llama", "mistral", "gemma2", "gpt_oss"]

NATIVE = pytest.param("native", marks=pytest.mark.skipif(library.missing() is not None, reason=str(library.missing())))


@pytest.fixture(params=["tiled", NATIVE])
def backend(request, monkeypatch):
    """Whose kernels are taken."""
    monkeypatch.setattr(clearhead.transformers, "BACKEND", request.param)
    return request.param


def pair(name):
    """A model on eager attention, and the same on clearhead."""
    torch.manual_seed(0)
    auto = {"bert": transformers.AutoModelForMaskedLM, "t5": transformers.AutoModelForSeq2SeqLM}
    eager = auto.get(name, transformers.AutoModelForCausalLM).from_config(CONFIGS[name](), attn_implementation="eager")
    with torch.no_grad():
        for parameter_name, parameter in eager.named_parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)  # as models begin, their attention is all but uniform
            if parameter_name.endswith("sinks"):
                parameter.normal_()
    ours = copy.deepcopy(eager.eval())
    ours.set_attn_implementation("clearhead")
    return eager, ours


def inputs(name, padded):
    mask = torch.ones_like(IDS)
    if padded:
        mask[1, -3:] = 0
        mask = mask if name in ("bert", "t5") else mask.flip(-1)
    given = {"input_ids": IDS.masked_fill(mask == 0, 1), "attention_mask": mask}
    return given | ({"decoder_input_ids": IDS[:, :5]} if name == "t5" else {})


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_eager_attention(name, padded, backend):
    eager, ours = pair(name)
    given = inputs(name, padded)
    at = given["attention_mask"].bool() if name != "t5" else ...
    with torch.no_grad():
        expected, got = eager(**given).logits, ours(**given).logits
    torch.testing.assert_close(got[at], expected[at], rtol=1e-4, atol=1e-4)
    if backend == "native":
        with torch.no_grad(), ch.watch(ours) as seen:
            ours(**given)
        assert seen.check < 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_those_of_eager_attention(name, backend):
    def gradient(model):
        given = inputs(name, padded=False)
        model(**given).logits.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    eager, ours = pair(name)
    expected = gradient(eager)
    assert (gradient(ours) - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_generation_is_that_of_eager_attention(name, cache, backend):
    eager, ours = pair(name)
    given = inputs(name, padded=True)
    options = {"max_new_tokens": 5, "do_sample": False, "cache_implementation": cache, "return_dict_in_generate": True}
    expected, got = (model.generate(**given, **options, output_scores=True) for model in (eager, ours))
    assert torch.equal(got.sequences, expected.sequences)
    for a, b in zip(got.scores, expected.scores, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_heads_that_share_keys_are_not_repeated(monkeypatch):
    calls = []

    def forward(call, probe):
        calls.append(call)
        return tiled.forward(call, probe)

    monkeypatch.setitem(BACKENDS, "tiled", SimpleNamespace(forward=forward, refuses=tiled.refuses))
    monkeypatch.setattr(clearhead.transformers, "BACKEND", "tiled")
    _, ours = pair("llama")
    ours(IDS)
    assert [(call.q.shape[1], call.k.shape[1]) for call in calls] == [(4, 2), (4, 2)]


@pytest.mark.parametrize("name", ["llama", "t5", "gemma2", "gpt_oss"])
def test_what_the_kernels_cannot_take_is_computed_all_the_same_and_told_of(name, monkeypatch):
    refusing = SimpleNamespace(refuses=lambda call: "its kernels take nothing today")
    monkeypatch.setitem(BACKENDS, "refusing", refusing)
    monkeypatch.setattr(clearhead.transformers, "BACKEND", "refusing")
    eager, ours = pair(name)
    given = inputs(name, padded=False)
    with torch.no_grad():
        said = "attn_implementation='clearhead' has passed on an attention: its kernels take nothing today."
        with pytest.warns(WatchWarning, match=said):
            got = ours(**given).logits
        torch.testing.assert_close(got, eager(**given).logits, rtol=1e-4, atol=1e-4)


def test_accelerate_counts_what_runs_on_it(monkeypatch):
    monkeypatch.setattr(clearhead.transformers, "BACKEND", "tiled")
    from clearhead.scope.accelerate import accelerate

    _, ours = pair("llama")
    with accelerate(backend="tiled") as run:
        ours(IDS)
    assert run.taken == 2


def test_importing_clearhead_registers_it_when_transformers_is_imported_and_imports_nothing_itself():
    code = """
import sys, clearhead
assert "transformers" not in sys.modules
from transformers import BertConfig, BertModel
model = BertModel._from_config(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9,
    intermediate_size=8), attn_implementation="clearhead")
hooks = [finder for finder in sys.meta_path if type(finder).__module__.startswith("clearhead")]
print(model.config._attn_implementation, len(hooks))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["clearhead", "0"]


UNREACHED = {
    "gptj": lambda: transformers.GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, vocab_size=60),
    "bloom": lambda: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=60),
    "mpnet": lambda: transformers.MPNetConfig(**SMALL),
}
"""Models that do not dispatch their attention."""


@pytest.mark.parametrize("name", UNREACHED)
def test_a_model_that_does_not_dispatch_keeps_its_own_attention_and_one_warning_says_so(name, monkeypatch):
    monkeypatch.setattr(clearhead.transformers, "_warned", set())
    auto = transformers.AutoModelForMaskedLM if name == "mpnet" else transformers.AutoModelForCausalLM
    with pytest.warns(
        WatchWarning, match=r"does not reach \w+, .*AttentionInterface.*clearhead.accelerate.*clearhead.watch"
    ) as warned:
        ours, _ = (auto.from_config(UNREACHED[name](), attn_implementation="clearhead").eval() for _ in range(2))
    assert len(warned) == 1
    eager = auto.from_config(UNREACHED[name](), attn_implementation="eager").eval()
    eager.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(IDS).logits, eager(IDS).logits)


def test_importing_it_leaves_the_name_of_transformers_alone():
    assert clearhead.transformers is not transformers
    code = "import clearhead.transformers, transformers; print(transformers.AutoModel.__module__)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "transformers.models.auto.modeling_auto"


def test_without_transformers_the_import_says_what_to_install():
    code = "import sys; sys.modules['transformers'] = None; import clearhead; import clearhead.transformers"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    said = "clearhead.transformers needs Transformers, which is not here, or too old: pip install 'clearhead[hf]'."
    assert ran.stderr.splitlines()[-1].endswith(said)
