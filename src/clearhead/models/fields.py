"""Fields: what a model's files may say in each field that is read, checked once, before anything is built of it."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from clearhead.errors import ClearheadError

Layers = Annotated[int, Field(ge=1, le=10_000)]
Width = Annotated[int, Field(ge=1, le=2**24)]
Heads = Annotated[int, Field(ge=1, le=2**16)]
Count = Annotated[int, Field(ge=0, le=2**31)]
Size = Annotated[int, Field(ge=1, le=2**31)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Token = Annotated[int, Field(ge=0, lt=2**31)]

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
    **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "rope_theta", "rotary_emb_base"), Number),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"), Number),
    **dict.fromkeys(("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "dropout"), Share),
    **dict.fromkeys(("dropout_rate", "hidden_dropout", "hidden_dropout_prob", "resid_pdrop"), Share),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), Share),
    **dict.fromkeys(("attention_bias", "mlp_bias", "qkv_bias", "tie_word_embeddings", "is_encoder_decoder"), bool),
    **dict.fromkeys(("scale_attn_weights", "scale_decoder_outputs", "use_parallel_residual"), bool),
    **dict.fromkeys(("scale_embedding", "use_sliding_window"), bool),
    **dict.fromkeys(("activation_function", "feed_forward_proj", "hidden_act", "hidden_activation", "model_type"), str),
    **dict.fromkeys(("architectures", "layer_types"), list[str]),
    **dict.fromkeys(("rope_parameters", "rope_scaling", "attn_config"), dict[str, Any]),
}
"""Of config.json, and of the configs within it: what a family reads."""
NULL_MEANS_NONE = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "decoder_start_token_id")
"""Where null differs from a field that is not there, which stands for a default. Elsewhere it is the same."""

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "encoder_layers")


def check_config(config: Mapping[str, Any], file: str) -> None:
    """Raises ClearheadError that names the file, the field, its value and what is expected.

    >>> check_config({"hidden_size": "wide"}, "config.json")
    Traceback (most recent call last):
    clearhead.errors.ClearheadError: The file 'config.json' says hidden_size = 'wide'; expected a valid integer. Get it
    again.
    """
    check(config, CONFIG, file)
    for part in ("text_config", "vision_config"):
        inner = config.get(part)
        if inner is None:
            continue
        if not isinstance(inner, dict):
            raise _wrong(file, part, inner, "an object")
        check(inner, CONFIG, file, f"{part}.")


def without_nulls(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without fields that are null and might as well not be there."""
    dropped = CONFIG.keys() - NULL_MEANS_NONE
    return {name: value for name, value in config.items() if value is not None or name not in dropped}


def check_layers(config: Mapping[str, Any], tensors: int, file: str) -> None:
    """Raises ClearheadError if a config says more layers than there are tensors, as each layer has several."""
    for name in LAYERS:
        layers = config.get(name) or 0
        if layers > tensors:
            raise _wrong(file, name, layers, f"at most {tensors:,}, as there are no more tensors")


def check(said: Mapping[str, Any], fields: Mapping[str, Any], file: str, begin: str = "") -> None:
    """Raises ClearheadError for the first of the fields that is there and not as it should be."""
    for name, kind in fields.items():
        value = said.get(name)
        if value is None:
            continue
        try:
            _adapter(kind).validate_python(value, strict=True)
        except ValidationError as error:
            wanted = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise _wrong(file, begin + name, value, wanted) from None


@cache
def _adapter(kind: Any) -> Any:
    return TypeAdapter(kind)


def _wrong(file: str, field: str, value: Any, wanted: str) -> ClearheadError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return ClearheadError(f"The file '{file}' says {field} = {shown}; expected {wanted}. Get it again.")
