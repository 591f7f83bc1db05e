"""What a GGUF file's metadata may say in each field that is read; its tokenizer's fields stand with the others'."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from clearhead.models.fields import CONFIG, Count, Fields, Heads, Number, Positive, Size, Text, Token, Word, optional

GgufMetadata = optional(
    "GgufMetadata",
    {
        "general.architecture": Word,
        "general.alignment": Annotated[int, Field(ge=1, le=2**20)],
        "split.no": Annotated[int, Field(ge=0, le=99_999)],
        "split.count": Annotated[int, Field(ge=0, le=99_999)],
        "split.tensors.count": Count,
        "tokenizer.ggml.tokens": list[Text],
        "tokenizer.chat_template": Text,
    },
)
"""Of any file. The names of its parts have five digits for their number."""

ROPE = {
    "rope.dimension_count": Heads,
    "rope.freq_base": Positive,
    "rope.scaling.type": Word,
    "rope.scaling.original_context_length": Size,
    "rope.scaling.finetuned": bool,
    **{f"rope.scaling.{name}": Number for name in ("factor", "attn_factor", "yarn_attn_factor", "yarn_ext_factor")},
    **{f"rope.scaling.{name}": Number for name in ("yarn_beta_fast", "yarn_beta_slow")},
}


def model_fields(names: Mapping[str, str], architecture: str) -> type[Fields]:
    """The schema of what a file says of its model; `names` has Transformers' name of each of its fields."""
    fields = {key: CONFIG.get(name, Token) for key, name in names.items()}
    return optional("GgufModel", {f"{architecture}.{key}": kind for key, kind in ROPE.items()} | fields)
