"""What a GGUF file holds, by Transformers' names: llama.cpp has its own for tensors and config, and reorders some."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.models.weights.gguf_experts import by_turns, one_by_one
from clearhead.models.weights.gguf_file import Gguf
from clearhead.models.weights.weights import Stored, Weights

Mend = Callable[[str, Stored, Mapping[str, Any]], Stored]
"""Undoes what llama.cpp did to a tensor, by its name there and by the config."""


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp calls the parts of one kind of model, and what it leaves unsaid of it."""

    names: Mapping[str, str]
    config: Mapping[str, str]
    """Transformers' name of each number that the metadata has."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """What all models of the kind have, and the file does not say."""
    mend: Mend = lambda name, stored, config: stored
    regroup: Callable[[Mapping[str, Stored]], dict[str, Stored]] = dict
    """Undoes what llama.cpp did to several tensors at once: its experts."""


def is_known(gguf: Gguf) -> bool:
    """Whether Clearhead knows the architecture of a GGUF file."""
    return gguf.metadata.get("general.architecture") in _known(gguf)


def weights_of(path: Path, gguf: Gguf) -> Weights:
    """A GGUF file's tensors and config, as Transformers has them. Names that are not known stay as they are.

    Raises ClearheadError if the file's architecture is not known.
    """
    kind: Any = gguf.metadata.get("general.architecture")
    known = _known(gguf)
    if kind not in known:
        experts = " with experts" if known is WITH_EXPERTS else ""
        raise ClearheadError(
            f"The file '{path}' holds a model of architecture {kind!r}{experts}; of GGUF "
            f"files Clearhead reads {', '.join(ARCHITECTURES)}, and with experts {', '.join(WITH_EXPERTS)}. "
            "Get the model as safetensors."
        )
    architecture = known[kind]
    gguf = _with_embedding(gguf)
    config = _config(path, kind, architecture, gguf)
    try:
        tensors = {
            _named(name, architecture): architecture.mend(name, stored, config)
            for name, stored in architecture.regroup(gguf.tensors).items()
            if name != "rope_freqs.weight"  # which the config has
        }
    except KeyError as missing:
        field = next(key for key, theirs in architecture.config.items() if theirs == missing.args[0])
        raise ClearheadError(f"The file '{path}' does not say {kind}.{field} of its model; get it again.") from missing
    return Weights(tensors, config)


def _with_embedding(gguf: Gguf) -> Gguf:
    """The file with its embedding as `token_embd.weight`, also where the tied weight is stored as the head alone."""
    if "token_embd.weight" in gguf.tensors or "output.weight" not in gguf.tensors:
        return gguf
    names = {"output.weight": "token_embd.weight"}
    return Gguf(gguf.metadata, {names.get(name, name): stored for name, stored in gguf.tensors.items()})


def _known(gguf: Gguf) -> Mapping[str, Architecture]:
    """The architectures that are read, of models with experts if the file has any."""
    experts = gguf.metadata.get(f"{gguf.metadata.get('general.architecture')}.expert_count")
    return WITH_EXPERTS if experts else ARCHITECTURES


def _named(name: str, architecture: Architecture) -> str:
    """A tensor's name in Transformers: known as it is, or without its ending."""
    numbers, pattern = re.findall(r"\.(\d+)", name), name
    for letter in ("{n}", "{e}"):
        pattern = re.sub(r"\.\d+", f".{letter}", pattern, count=1)
    stem, _, leaf = pattern.rpartition(".")
    known = architecture.names.get(pattern)
    if known is None and stem in architecture.names:
        known = f"{architecture.names[stem]}.{leaf}"
    if known is None:
        return name
    for letter, number in zip(("{n}", "{e}"), numbers, strict=False):
        known = known.replace(letter, number)
    return known


def _config(path: Path, kind: str, architecture: Architecture, gguf: Gguf) -> dict[str, Any]:
    """The config, as config.json would have it."""
    from clearhead.models.fields import check, check_layers  # with pydantic, which only reading a model needs
    from clearhead.models.gguf_fields import model_fields

    said = gguf.metadata
    names = {
        name if name.startswith("tokenizer.") else f"{kind}.{name}": theirs
        for name, theirs in architecture.config.items()
    }
    check(model_fields(names, kind), said, path)
    check_layers(said, len(gguf.tensors), path, (f"{kind}.block_count",))
    config: dict[str, Any] = {"model_type": kind, **architecture.fixed}
    config |= {theirs: said[key] for key, theirs in names.items() if key in said}
    try:
        config["vocab_size"] = gguf.tensors["token_embd.weight"].shape[0]
    except KeyError as error:
        raise ClearheadError(f"The file '{path}' has no tensor token_embd.weight; it holds no whole model.") from error
    # 1/√ of this scales Gemma 2's scores; the one of 46 layers has another, as llama.cpp knows.
    if kind == "gemma2":
        lacking = [key for key, theirs in names.items() if theirs in GEMMA2_NEEDS and theirs not in config]
        if lacking:
            raise ClearheadError(f"The file '{path}' does not say {', '.join(lacking)} of its model; get it again.")
        large = config["num_hidden_layers"] == 46
        width = config["hidden_size"] // config["num_attention_heads"]
        config["query_pre_attn_scalar"] = width if large else config["head_dim"]
    _check_rotated(path, kind, said, config)
    config["tie_word_embeddings"] = "output.weight" not in gguf.tensors
    if "blk.0.attn_q.bias" in gguf.tensors and kind != "qwen2":
        config["attention_bias"] = True
    scaling = _scaling(path, kind, gguf)
    if scaling is not None:
        config["rope_scaling"] = scaling
    return config


def _check_rotated(path: Path, kind: str, said: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises ClearheadError if RoPE is to rotate a part of each head. llama.cpp refuses such files of Llama too."""
    key = f"{kind}.rope.dimension_count"
    rotated, width, heads = said.get(key), config.get("hidden_size"), config.get("num_attention_heads")
    head_width = config.get("head_dim") or (width // heads if width and heads else rotated)
    if rotated is not None and rotated != head_width:
        raise ClearheadError(
            f"The file '{path}' says {key} = {rotated}; expected {head_width}, the width of a head, as models of "
            f"architecture {kind} rotate whole heads. Get the file again, or the model as safetensors."
        )


def _scaling(path: Path, kind: str, gguf: Gguf) -> dict[str, Any] | None:
    """How RoPE is stretched: named in the metadata, or, for Llama 3, as a factor for each frequency."""
    begin = f"{kind}.rope.scaling."
    said = {key.removeprefix(begin): value for key, value in gguf.metadata.items() if key.startswith(begin)}
    if "rope_freqs.weight" in gguf.tensors:
        base = gguf.metadata.get(f"{kind}.rope.freq_base", 10_000.0)  # as llama.cpp has it
        return _llama3(path, gguf.tensors["rope_freqs.weight"].read(), base)
    if said.get("type", "none") == "none":
        return None
    unknown = [name for name in said if name not in SCALING and (name not in ONE or said[name] != 1)]
    if unknown:
        raise ClearheadError(
            f"The file '{path}' stretches RoPE by {', '.join(unknown)} besides; Clearhead reads {', '.join(SCALING)}. "
            "Get the model as safetensors."
        )
    scaling = {theirs: said[name] for name, theirs in SCALING.items() if theirs and name in said}
    # llama.cpp rounds YaRN's limits for all models, but GPT-OSS was trained without; no file says so.
    return scaling | ({"truncate": False} if kind == "gpt-oss" else {})


def _llama3(path: Path, factors: Tensor, base: float) -> dict[str, Any]:
    """The numbers that give these factors by Llama 3's formula; all of its models share all but the first."""
    factor, low, high, trained = factors.max().item(), 1.0, 4.0, 8192
    D = 2 * factors.numel()
    turns = trained / (2 * math.pi) * base ** -(torch.arange(0, D, 2) / D)  # within the length trained on
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    if not torch.allclose(factors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-4):
        raise ClearheadError(
            f"The tensor rope_freqs.weight of '{path}' does not follow Llama 3's formula, which is the one that "
            "Clearhead knows. Get the model as safetensors."
        )
    numbers = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    return {"rope_type": "llama3", **numbers, "original_max_position_embeddings": trained}


def _pairs_to_halves(name: str, stored: Stored, config: Mapping[str, Any]) -> Stored:
    """llama.cpp turns neighbours, 2r and 2r + 1, Transformers r and r + D/2: the rows of q and k are put back."""
    kind = name.split(".")[-2]
    if kind not in ("attn_q", "attn_k"):
        return stored
    heads = config["num_attention_heads"]
    if kind == "attn_k":
        heads = config.get("num_key_value_heads", heads)
    return Stored(stored.shape, lambda: stored.read().unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2))


def _less_one(name: str, stored: Stored, config: Mapping[str, Any]) -> Stored:
    """llama.cpp keeps 1 + weight of Gemma's norms."""
    return Stored(stored.shape, lambda: stored.read() - 1) if name.endswith("norm.weight") else stored


def _columns(name: str, stored: Stored, config: Mapping[str, Any]) -> Stored:
    """GPT-2's matrices, transposed back to (in, out)."""
    if not re.search(r"blk\.\d+\.(attn_qkv|attn_output|ffn_up|ffn_down)\.weight", name):
        return stored
    return Stored(stored.shape[::-1], lambda: stored.read().mT)


LAYER = "model.layers.{n}"
DECODER = {
    "token_embd": "model.embed_tokens",
    "blk.{n}.attn_norm": f"{LAYER}.input_layernorm",
    "blk.{n}.attn_q": f"{LAYER}.self_attn.q_proj",
    "blk.{n}.attn_k": f"{LAYER}.self_attn.k_proj",
    "blk.{n}.attn_v": f"{LAYER}.self_attn.v_proj",
    "blk.{n}.attn_output": f"{LAYER}.self_attn.o_proj",
    "blk.{n}.attn_q_norm": f"{LAYER}.self_attn.q_norm",
    "blk.{n}.attn_k_norm": f"{LAYER}.self_attn.k_norm",
    "blk.{n}.ffn_norm": f"{LAYER}.post_attention_layernorm",
    "blk.{n}.ffn_gate": f"{LAYER}.mlp.gate_proj",
    "blk.{n}.ffn_up": f"{LAYER}.mlp.up_proj",
    "blk.{n}.ffn_down": f"{LAYER}.mlp.down_proj",
    "output_norm": "model.norm",
    "output": "lm_head",
}
NORMED_AFTER = DECODER | {
    "blk.{n}.post_attention_norm": f"{LAYER}.post_attention_layernorm",
    "blk.{n}.ffn_norm": f"{LAYER}.pre_feedforward_layernorm",
    "blk.{n}.post_ffw_norm": f"{LAYER}.post_feedforward_layernorm",
}
GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "blk.{n}.attn_norm": "transformer.h.{n}.ln_1",
    "blk.{n}.attn_qkv": "transformer.h.{n}.attn.c_attn",
    "blk.{n}.attn_output": "transformer.h.{n}.attn.c_proj",
    "blk.{n}.ffn_norm": "transformer.h.{n}.ln_2",
    "blk.{n}.ffn_up": "transformer.h.{n}.mlp.c_fc",
    "blk.{n}.ffn_down": "transformer.h.{n}.mlp.c_proj",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}

MIXTRAL = DECODER | {
    "blk.{n}.ffn_gate_inp": f"{LAYER}.block_sparse_moe.gate",
    "blk.{n}.ffn_gate.{e}": f"{LAYER}.block_sparse_moe.experts.{{e}}.w1",
    "blk.{n}.ffn_down.{e}": f"{LAYER}.block_sparse_moe.experts.{{e}}.w2",
    "blk.{n}.ffn_up.{e}": f"{LAYER}.block_sparse_moe.experts.{{e}}.w3",
}
GPT_OSS = DECODER | {
    "blk.{n}.attn_sinks.weight": f"{LAYER}.self_attn.sinks",
    "blk.{n}.post_attention_norm": f"{LAYER}.post_attention_layernorm",
    "blk.{n}.ffn_gate_inp": f"{LAYER}.mlp.router",
}

ENDS = {f"tokenizer.ggml.{kind}_token_id": f"{kind[:3]}_token_id" for kind in ("bos", "eos", "padding")}
NUMBERS = ENDS | {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
GEMMA2_NUMBERS = NUMBERS | {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
GEMMA2_NEEDS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim")
MIXTRAL_NUMBERS = NUMBERS | {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
GPT_OSS_NUMBERS = MIXTRAL_NUMBERS | {
    "expert_feed_forward_length": "intermediate_size",
    "attention.sliding_window": "sliding_window",
}
GPT2_NUMBERS = ENDS | {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}

SCALING = {
    "type": "rope_type",
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
    "finetuned": None,
}
ONE = ("attn_factor", "yarn_attn_factor", "yarn_ext_factor")
"""Of RoPE's stretching, what changes nothing where it is 1."""

SILU, GELU = {"hidden_act": "silu"}, {"activation_function": "gelu_new"}
ARCHITECTURES = {
    "llama": Architecture(DECODER, NUMBERS, SILU, _pairs_to_halves),
    "qwen2": Architecture(DECODER, NUMBERS, SILU),
    "qwen3": Architecture(DECODER, NUMBERS, SILU),
    "gemma2": Architecture(NORMED_AFTER, GEMMA2_NUMBERS, {"hidden_activation": "gelu_pytorch_tanh"}, _less_one),
    "gpt2": Architecture(GPT2, GPT2_NUMBERS, GELU, _columns),
}
WITH_EXPERTS = {
    "llama": Architecture(MIXTRAL, MIXTRAL_NUMBERS, SILU | {"model_type": "mixtral"}, _pairs_to_halves, one_by_one),
    "gpt-oss": Architecture(GPT_OSS, GPT_OSS_NUMBERS, SILU | {"model_type": "gpt_oss"}, regroup=by_turns),
}
