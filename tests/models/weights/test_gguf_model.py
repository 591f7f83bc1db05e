"""A GGUF file's tensors and config come out as Transformers has them."""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from clearhead import ClearheadError
from clearhead.models.checkpoints import open_model
from clearhead.models.known import KNOWN
from clearhead.models.loading import load
from clearhead.models.weights import open_weights
from tests.models.families.parity import assert_near
from tests.models.weights.writing import write

DECODER = {
    "vocab_size": 7,
    "hidden_size": 24,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 0.25,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
CAPS = {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0}
GPT2 = {
    "vocab_size": 7,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 24,
    "n_positions": 64,
    "layer_norm_epsilon": 0.25,
}
EXPERTS = {"num_local_experts": 5, "num_experts_per_tok": 2}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "beta_fast": 2.0, "beta_slow": 0.5}
YARN |= {"truncate": False, "original_max_position_embeddings": 16}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", DECODER | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
    "llama-biased": ("LlamaForCausalLM", DECODER | {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", DECODER),
    "qwen3": ("Qwen3ForCausalLM", DECODER | {"head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", DECODER | {"head_dim": 8, "sliding_window": 32, "query_pre_attn_scalar": 8} | CAPS),
    "gpt2": ("GPT2LMHeadModel", GPT2 | {"bos_token_id": 1, "eos_token_id": 2}),
    "mixtral": ("MixtralForCausalLM", DECODER | EXPERTS),
    "gpt-oss": (
        "GptOssForCausalLM",
        DECODER | EXPERTS | {"head_dim": 8, "sliding_window": 32, "rope_parameters": YARN},
    ),
    # Transformers reads a GGUF file of GPT-2 only if it has the usual sizes.
    "gpt2-usual": (
        "GPT2LMHeadModel",
        GPT2 | {"bos_token_id": 1, "eos_token_id": 2, "n_inner": 64, "n_positions": 1024},
    ),
}


def tiny(name: str) -> Any:
    """A random model whose biases and norms are random too."""
    kind, config = getattr(transformers, MODELS[name][0]), MODELS[name][1]
    torch.manual_seed(0)
    model = kind(kind.config_class(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.eval()


def kind_of(name: str) -> str:
    """What llama.cpp calls the architecture."""
    return {"mixtral": "llama", "gpt-oss": "gpt-oss"}.get(name, name.split("-")[0])


def saved(model: Any) -> dict[str, Tensor]:
    """What save_pretrained writes: a tied head is left out, and Mixtral's experts are one by one."""
    tied = model.config.tie_word_embeddings
    weights = {name: weight for name, weight in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    if model.config.model_type != "mixtral":
        return weights
    out = {}
    for name, weight in weights.items():
        experts, _, which = name.replace("mlp", "block_sparse_moe").rpartition(".")
        if which == "gate_up_proj":
            for e, (gate, up) in enumerate(weight.unflatten(1, (2, -1)).unbind()):
                out |= {f"{experts}.{e}.w1.weight": gate, f"{experts}.{e}.w3.weight": up}
        elif which == "down_proj":
            out |= {f"{experts}.{e}.w2.weight": down for e, down in enumerate(weight)}
        else:
            out[f"{experts}.{which}"] = weight
    return out


def converted(model: Any, kind: str) -> dict[str, NDArray[Any]]:
    """What convert_hf_to_gguf.py makes of a model's weights."""
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(arch, 2)
    config, out = model.config, {}
    for name, weight in apart(saved(model)).items():
        data = weight.detach().numpy()
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            data = data.reshape(heads, 2, -1, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
        if kind == "gemma2" and name.endswith("norm.weight"):
            data = data + 1
        if kind == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            data = data.T
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        out[theirs] = data
    return out


def apart(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """All experts of a layer in one tensor, gate and up apart, by the names that convert_hf_to_gguf.py gives them."""
    out: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if one := re.fullmatch(r"(.*\.experts)\.\d+\.(w[123]\.weight)", name):
            all_ = [weights[f"{one[1]}.{e}.{one[2]}"] for e in range(EXPERTS["num_local_experts"])]
            out[f"{one[1]}.{one[2]}"] = torch.stack(all_)
        elif found := re.fullmatch(r"(.*\.experts\.)(gate_up|down)_proj(_bias)?", name):
            ending, rows = (".bias", weight) if found[3] else (".weight", weight.mT)
            parts = {"down": rows} if found[2] == "down" else {"gate": rows[:, ::2], "up": rows[:, 1::2]}
            out |= {f"{found[1]}{part}_proj{ending}": rows for part, rows in parts.items()}
        else:
            out[f"{name}.weight" if name.endswith("sinks") else name] = weight
    return out


def metadata(model: Any, kind: str) -> dict[str, Any]:
    """What convert_hf_to_gguf.py says of a model."""
    config = model.config
    said: dict[str, Any] = {
        "general.architecture": kind,
        f"{kind}.block_count": 2,
        f"{kind}.context_length": config.max_position_embeddings,
    }
    said |= {
        f"{kind}.embedding_length": config.hidden_size,
        f"{kind}.feed_forward_length": config.n_inner if kind == "gpt2" else 24,
        f"{kind}.vocab_size": 7,
    }
    said |= {f"{kind}.attention.head_count": 4}
    said |= {
        "tokenizer.ggml.tokens": list("abcdefg"),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    if kind == "gpt2":
        return said | {f"{kind}.attention.layer_norm_epsilon": config.layer_norm_epsilon}
    said |= {f"{kind}.attention.head_count_kv": 2, f"{kind}.attention.layer_norm_rms_epsilon": config.rms_norm_eps}
    said |= {f"{kind}.rope.freq_base": config.rope_parameters["rope_theta"]}
    if kind in ("qwen3", "gemma2"):
        said |= {f"{kind}.attention.key_length": config.head_dim}
    if kind == "gemma2":
        said |= {f"{kind}.attention.sliding_window": 32}
        said |= {f"{kind}.attn_logit_softcapping": config.attn_logit_softcapping}
        said |= {f"{kind}.final_logit_softcapping": config.final_logit_softcapping}
    if config.model_type in ("mixtral", "gpt_oss"):
        said |= {f"{kind}.expert_count": 5, f"{kind}.expert_used_count": 2}
    if kind == "gpt-oss":
        said |= {f"{kind}.attention.key_length": config.head_dim, f"{kind}.attention.sliding_window": 32}
        said |= {f"{kind}.expert_feed_forward_length": 24}
        stretching = {"type": "yarn", "factor": 4.0, "original_context_length": 16}
        stretching |= {"yarn_beta_fast": 2.0, "yarn_beta_slow": 0.5}
        said |= {f"{kind}.rope.scaling.{name}": value for name, value in stretching.items()}
    return said


def write_model(folder: Path, name: str) -> tuple[Any, Path]:
    model, kind = tiny(name), kind_of(name)
    return model, write(folder / "tiny.gguf", converted(model, kind), metadata(model, kind))


@pytest.mark.parametrize("name", MODELS)
def test_tensors_are_those_of_the_model_that_was_converted(name: str, tmp_path: Path) -> None:
    model, file = write_model(tmp_path, name)
    weights, expected = open_weights(file), saved(model)
    assert weights.keys() == expected.keys()
    exact = {"rtol": 0.0, "atol": 1e-6 if name == "gemma2" else 0.0}  # 1 + w rounds
    for key, weight in expected.items():
        assert weights.shape(key) == tuple(weight.shape)
        torch.testing.assert_close(weights[key], weight, **exact)


@pytest.mark.parametrize("name", MODELS)
def test_the_config_makes_the_same_model(name: str, tmp_path: Path) -> None:
    model, file = write_model(tmp_path, name)
    config = dict(open_weights(file).config)
    assert config["model_type"] == model.config.model_type
    again = type(model)(type(model.config)(**config, pad_token_id=None)).eval()
    again.load_state_dict(model.state_dict())
    tokens = torch.arange(7)[None].repeat(1, 9)[:, :60]
    torch.testing.assert_close(again(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)
    assert again.config.eos_token_id == 2
    assert again.config.max_position_embeddings == model.config.max_position_embeddings


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_whole_model_says_what_the_converted_one_says(name: str, tmp_path: Path) -> None:
    model, file = write_model(tmp_path, name)
    tokens, ours = torch.arange(7)[None].repeat(1, 9)[:, :60], load(file)
    assert_near(ours(tokens), model(tokens).logits)
    with pytest.raises(ClearheadError, match="is of kind None, cut as 'default'"):  # when it is wanted
        ours.tokenizer.encode("a")


def test_an_expert_is_read_alone(tmp_path: Path) -> None:
    _, file = write_model(tmp_path, "mixtral")
    weights = open_weights(file)
    name = "model.layers.1.block_sparse_moe.experts.{}.w2.weight"
    first, last = (weights[name.format(e)] for e in (0, 4))
    assert last.data_ptr() - first.data_ptr() == 4 * first.numel() * first.element_size()


def test_experts_are_found_by_the_names_of_old_too(tmp_path: Path) -> None:
    model, tensors = tiny("mixtral"), {}
    for name, data in converted(tiny("mixtral"), "llama").items():
        experts = enumerate(data) if "_exps" in name else ()
        tensors |= {name.replace("_exps", f".{e}"): one for e, one in experts} or {name: data}
    assert "blk.1.ffn_gate.4.weight" in tensors
    weights = open_weights(write(tmp_path / "a.gguf", tensors, metadata(model, "llama")))
    assert weights.keys() == saved(model).keys()
    assert all(torch.equal(weights[name], weight) for name, weight in saved(model).items())


def test_experts_that_do_not_belong_together_keep_their_names(tmp_path: Path) -> None:
    tensors = converted(tiny("gpt-oss"), "gpt-oss")
    tensors["blk.0.ffn_up_exps.weight"] = tensors["blk.0.ffn_up_exps.weight"][:, :3]
    del tensors["blk.1.ffn_down_exps.weight"]
    file = write(tmp_path / "a.gguf", tensors, metadata(tiny("gpt-oss"), "gpt-oss"))
    odd = [f"blk.0.ffn_{part}_exps.weight" for part in ("gate", "up", "down")] + ["blk.1.ffn_up_exps.weight"]
    assert set(odd) <= open_weights(file).keys()
    with pytest.raises(ClearheadError, match=r"missing: .*down_proj.* not expected: blk\.\{0…1\}\.ffn_"):
        load(file)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma2", "gpt2-usual"])
def test_tensors_are_those_that_transformers_reads(name: str, tmp_path: Path) -> None:
    model, file = write_model(tmp_path, name)
    theirs = type(model).from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).state_dict()
    weights = open_weights(file)
    assert all(torch.equal(weights[key], theirs[key]) for key in weights)


@pytest.mark.slow
def test_every_tensor_of_smollm2_is_the_one_that_transformers_reads() -> None:
    path = KNOWN["smollm2"].path
    assert path is not None
    weights, theirs = open_weights(path), open_model("smollm2").model
    assert weights.keys() == saved(theirs).keys()
    assert all(torch.equal(weights[key], weight) for key, weight in saved(theirs).items())
    config = theirs.config.to_dict() | {"rope_theta": theirs.config.rope_parameters["rope_theta"]}
    assert weights.config == {key: config[key] for key in weights.config}


def test_llama_3_stretches_its_positions_by_the_numbers_that_make_its_factors(tmp_path: Path) -> None:
    model = tiny("llama")
    rope = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 8192}
    config = transformers.LlamaConfig(
        head_dim=64, max_position_embeddings=131072, rope_parameters=rope | {"rope_theta": 5e5}
    )
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    factors = 5e5 ** -(torch.arange(0, 64, 2) / 64) / frequencies
    said = metadata(model, "llama") | {"llama.rope.freq_base": 5e5, "llama.rope.dimension_count": 64}
    said |= {"llama.attention.key_length": 64}
    tensors = converted(model, "llama")
    file = write(tmp_path / "a.gguf", tensors | {"rope_freqs.weight": factors.numpy()}, said)
    weights = open_weights(file)
    scaling = weights.config["rope_scaling"]
    assert scaling == rope | {"factor": pytest.approx(32)}
    assert "rope_freqs.weight" not in weights
    factors[3] += 0.1
    file = write(tmp_path / "b.gguf", tensors | {"rope_freqs.weight": factors.numpy()}, said)
    with pytest.raises(ClearheadError, match=r"rope_freqs\.weight of '.*' does not follow Llama 3's formula"):
        open_weights(file)


def test_other_stretching_is_named_in_the_metadata(tmp_path: Path) -> None:
    model = tiny("llama")
    scaling = {"type": "yarn", "factor": 4.0, "original_context_length": 16}
    said = metadata(model, "llama") | {f"llama.rope.scaling.{name}": value for name, value in scaling.items()}
    config = open_weights(write(tmp_path / "a.gguf", converted(model, "llama"), said)).config
    assert config["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize("name", ["llama-biased", "gpt2"])
@torch.no_grad()
def test_a_tied_weight_may_be_stored_as_the_head_alone(name: str, tmp_path: Path) -> None:
    model, kind = tiny(name), kind_of(name)
    tensors = converted(model, kind)
    tensors["output.weight"] = tensors.pop("token_embd.weight")
    file = write(tmp_path / "a.gguf", tensors, metadata(model, kind))
    assert open_weights(file).config["tie_word_embeddings"]
    tokens = torch.arange(7)[None]
    assert_near(load(file)(tokens), model(tokens).logits)


def test_a_file_with_neither_embedding_nor_head_is_refused(tmp_path: Path) -> None:
    tensors = converted(tiny("llama-biased"), "llama")
    del tensors["token_embd.weight"]
    file = write(tmp_path / "a.gguf", tensors, metadata(tiny("llama-biased"), "llama"))
    with pytest.raises(ClearheadError, match=r"has no tensor token_embd\.weight"):
        open_weights(file)


@pytest.mark.parametrize(("name", "width"), [("llama", 6), ("qwen2", 6), ("qwen3", 8), ("gemma2", 8), ("gpt-oss", 8)])
def test_rope_rotates_whole_heads_or_the_file_is_refused(name: str, width: int, tmp_path: Path) -> None:
    model, kind = tiny(name), kind_of(name)
    tensors, said, key = converted(model, kind), metadata(model, kind), f"{kind_of(name)}.rope.dimension_count"
    assert open_weights(write(tmp_path / "whole.gguf", tensors, said | {key: width})).config["hidden_size"] == 24
    file = write(tmp_path / "part.gguf", tensors, said | {key: width - 2})
    with pytest.raises(ClearheadError, match=rf"says {key} = {width - 2}; expected {width}, the width of a head"):
        load(file)


def test_stretching_that_is_not_known_is_named(tmp_path: Path) -> None:
    said = metadata(tiny("llama"), "llama") | {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    said |= {"llama.rope.scaling.attn_factor": 1.0}
    assert open_weights(write(tmp_path / "a.gguf", converted(tiny("llama"), "llama"), said)).config["rope_scaling"]
    said |= {"llama.rope.scaling.attn_factor": 2.0}
    with pytest.raises(ClearheadError, match=r"stretches RoPE by attn_factor besides; Clearhead reads type, factor, "):
        open_weights(write(tmp_path / "b.gguf", converted(tiny("llama"), "llama"), said))


def test_an_architecture_that_is_not_known_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", {}, {"general.architecture": "mamba"})
    with pytest.raises(ClearheadError, match="architecture 'mamba'; of GGUF files Clearhead reads llama, qwen2, qwen3"):
        open_weights(file)
    file = write(tmp_path / "b.gguf", {}, {"general.architecture": "qwen2", "qwen2.expert_count": 8})
    with pytest.raises(ClearheadError, match=r"architecture 'qwen2' with experts; .* and with experts llama, gpt-oss"):
        open_weights(file)


def test_a_tensor_that_is_not_known_keeps_its_name(tmp_path: Path) -> None:
    tensors = converted(tiny("qwen2"), "qwen2") | {"blk.0.odd.weight": np.ones(3, np.float32)}
    said = metadata(tiny("qwen2"), "qwen2")
    assert open_weights(write(tmp_path / "a.gguf", tensors, said)).shape("blk.0.odd.weight") == (3,)


def test_a_file_without_an_embedding_holds_no_whole_model(tmp_path: Path) -> None:
    with pytest.raises(ClearheadError, match=r"has no tensor token_embd\.weight; it holds no whole model"):
        open_weights(write(tmp_path / "a.gguf", {}, {}))


def test_what_gemma_2_lacks_is_named(tmp_path: Path) -> None:
    model = tiny("gemma2")
    said = {key: value for key, value in metadata(model, "gemma2").items() if not key.endswith(".block_count")}
    file = write(tmp_path / "tiny.gguf", converted(model, "gemma2"), said)
    with pytest.raises(ClearheadError, match=r"does not say gemma2\.block_count of its model; get it again"):
        open_weights(file)


def test_rope_that_is_stretched_turns_from_ten_thousand_where_the_file_does_not_say(tmp_path: Path) -> None:
    turns = 8192 / (2 * np.pi) * 10_000.0 ** -(np.arange(0, 16, 2) / 16)
    smooth = np.clip((turns - 1) / 3, 0, 1)
    factors = (1 / ((1 - smooth) / 8 + smooth)).astype(np.float32)
    tensors = {"token_embd.weight": np.ones((4, 4), np.float32), "rope_freqs.weight": factors}
    assert open_weights(write(tmp_path / "a.gguf", tensors, {})).config["rope_scaling"]["factor"] == 8
    with pytest.raises(ClearheadError, match="does not follow Llama 3's formula"):
        open_weights(write(tmp_path / "a.gguf", tensors, {"llama.rope.freq_base": 500.0}))
