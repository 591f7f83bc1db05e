"""Fields: what a model's files may say in each field that is read, checked once, before anything is built of it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from clearhead.errors import ClearheadError, shortened

try:
    from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
    from pydantic_core import PydanticCustomError
except ImportError as error:
    raise ClearheadError("Reading a model needs pydantic; get it with: pip install 'clearhead[hf]'.") from error


class Fields(BaseModel):
    """One kind of file. A field that is there is of its type and within its bounds; others are not looked at."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())


Layers = Annotated[int, Field(ge=1, le=10_000)]
Width = Annotated[int, Field(ge=1, le=2**24)]
Heads = Annotated[int, Field(ge=1, le=2**16)]
Count = Annotated[int, Field(ge=0, le=2**31)]
Size = Annotated[int, Field(ge=1, le=2**31)]
Number = Annotated[float, Field(ge=-1e18, le=1e18, allow_inf_nan=False)]
"""Within what 64 bits hold, as a file may have a whole number of any length."""
Positive = Annotated[float, Field(gt=0, le=1e18, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]
"""One token, or a list of them."""
Word = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=2**24)]
"""With a bound, pydantic refuses half a character (a lone surrogate) too."""


def optional(name: str, fields: Mapping[str, Any]) -> type[Fields]:
    """The schema of a file in which each of these fields may be left out, or be null."""
    declared: dict[str, Any] = {field: (kind | None, None) for field, kind in fields.items()}
    schema: type[Fields] = create_model(name, __base__=Fields, **declared)
    return schema


ROPE: dict[str, Any] = {
    **dict.fromkeys(("rope_type", "type"), Word),
    **dict.fromkeys(("rope_theta", "factor", "low_freq_factor", "high_freq_factor"), Positive),
    **dict.fromkeys(("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"), Number),
    **dict.fromkeys(("short_factor", "long_factor"), list[Positive]),
    "original_max_position_embeddings": Size,
    "partial_rotary_factor": Share,
    "truncate": bool,
}
Rope = optional("Rope", ROPE)
RopeOfEach = optional("RopeOfEach", ROPE | dict.fromkeys(("full_attention", "sliding_attention"), Rope))
"""Of all layers, or of each kind of them."""
MPT: dict[str, Any] = {
    **dict.fromkeys(("alibi", "qk_ln", "prefix_lm"), bool),
    **dict.fromkeys(("clip_qkv", "softmax_scale"), Number),
    "alibi_bias_max": Heads,
    "attn_type": Word,
    "attn_pdrop": Share,
}

CONFIG: dict[str, Any] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), Layers),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), Layers),
    **dict.fromkeys(("hidden_size", "n_embd", "n_embed", "d_model", "d_ff", "n_inner", "intermediate_size"), Width),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "projection_dim", "num_mel_bins", "num_channels"), Width),
    **dict.fromkeys(("head_dim", "d_kv", "expansion_ratio"), Heads),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), Heads),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), Heads),
    **dict.fromkeys(("num_local_experts", "num_experts_per_tok", "type_vocab_size"), Heads),
    **dict.fromkeys(("relative_attention_num_buckets", "relative_attention_max_distance"), Size),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "n_positions"), Size),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), Size),
    **dict.fromkeys(("sliding_window", "max_window_layers"), Count),
    **dict.fromkeys(("decoder_start_token_id",), Token),
    **dict.fromkeys(("eos_token_id",), Tokens),
    **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps"), Number),
    **dict.fromkeys(("rope_theta", "rotary_emb_base"), Positive),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"), Number),
    **dict.fromkeys(("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "dropout"), Share),
    **dict.fromkeys(("dropout_rate", "hidden_dropout", "hidden_dropout_prob", "resid_pdrop"), Share),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), Share),
    **dict.fromkeys(("attention_bias", "mlp_bias", "qkv_bias", "tie_word_embeddings", "is_encoder_decoder"), bool),
    **dict.fromkeys(("scale_attn_weights", "scale_decoder_outputs", "use_parallel_residual"), bool),
    **dict.fromkeys(("scale_embedding", "use_sliding_window"), bool),
    **dict.fromkeys(
        ("activation_function", "feed_forward_proj", "hidden_act", "hidden_activation", "model_type"), Word
    ),
    **dict.fromkeys(("architectures", "layer_types"), list[Word]),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), RopeOfEach),
    "original_max_position_embeddings": Size,
    "attn_config": optional("AttentionConfig", MPT),
    "quantization_config": dict[str, Any],
}
"""Of config.json, and of the configs within it: what a family reads."""
NULL_MEANS_NONE = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "decoder_start_token_id")
"""Where null differs from a field that is not there, which stands for a default. Elsewhere it is the same."""

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "encoder_layers")


Config = optional("Config", CONFIG)
ModelConfig = optional("ModelConfig", CONFIG | {"text_config": Config, "vision_config": Config})
"""config.json."""
GenerationConfig = optional("GenerationConfig", {"eos_token_id": Tokens})
"""generation_config.json."""


def _file_name(name: Any) -> Any:
    if (
        not isinstance(name, str)
        or not re.fullmatch(r"[^/\\\x00-\x1f\ud800-\udfff]{1,200}", name)
        or name in (".", "..")
    ):
        raise PydanticCustomError("file_name", "the name of a file in the same folder")
    return name


class Index(Fields):
    """model.safetensors.index.json: the file in which each tensor is."""

    weight_map: Annotated[dict[str, Annotated[Any, AfterValidator(_file_name)]], Field(min_length=1)]


def check(schema: type[BaseModel], said: Mapping[str, Any], file: str | Path) -> None:
    """Raises ClearheadError for the first field that is not as its schema has it.

    It names the file, the field, its value and what is expected.

    >>> check(ModelConfig, {"hidden_size": "wide"}, "config.json")
    Traceback (most recent call last):
    clearhead.errors.ClearheadError: The file 'config.json' says hidden_size = 'wide'; expected a valid integer. Get it
    again.
    """
    try:
        schema.model_validate(dict(said))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        steps = (str(step).encode("utf-8", "backslashreplace").decode() for step in first["loc"] if step != "[key]")
        field = ".".join(shortened(step) for step in steps)
        if first["type"] == "missing":
            raise ClearheadError(f"The file '{file}' does not say {field}; expected it there. Get it again.") from None
        wanted = first["msg"].removeprefix("Input should be ").removeprefix("Dictionary should have ")
        raise wrong(file, field, first["input"], wanted.partition(" or instance of")[0]) from None


def check_layers(said: Mapping[str, Any], tensors: int, file: str | Path, names: Sequence[str] = LAYERS) -> None:
    """Raises ClearheadError if a file says more layers than it has tensors, as each layer has several."""
    for name in names:
        layers = said.get(name) or 0
        if layers > tensors:
            raise wrong(file, name, layers, f"at most {tensors:,}, as there are no more tensors")


def without_nulls(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without fields that are null and might as well not be there."""
    dropped = CONFIG.keys() - NULL_MEANS_NONE
    return {name: value for name, value in config.items() if value is not None or name not in dropped}


def read_json(path: Path, schema: type[BaseModel], *, needed: bool = False) -> dict[str, Any]:
    """The object in a JSON file, checked; empty if there is no such file, unless it is needed.

    Raises ClearheadError if the file is broken, holds anything else, or says what its schema does not have.
    """
    if not needed and not path.exists():
        return {}
    try:
        read: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ClearheadError(f"There is no file '{path}', which says what the model is made of; get it too.") from error
    except (ValueError, OSError, RecursionError) as error:
        raise ClearheadError(f"The file '{path}' cannot be read as JSON ({error}); get it again.") from error
    if not isinstance(read, dict):
        raise ClearheadError(
            f"The file '{path}' holds {shortened(json.dumps(read))}; expected an object. Get it again."
        )
    check(schema, read, path)
    return read


def wrong(file: str | Path, field: str, value: Any, wanted: str) -> ClearheadError:
    """The sentence for a field that is not as it should be."""
    return ClearheadError(
        f"The file '{file}' says {field} = {shortened(repr(value))}; expected {wanted}. Get it again."
    )
