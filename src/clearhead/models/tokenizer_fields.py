"""What a tokenizer's files may say in each field that is read: tokenizer.json and those beside it, GGUF metadata."""

import base64
import binascii
import re
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, RootModel, field_validator
from pydantic_core import PydanticCustomError

from clearhead.models.fields import Fields, Number, Text, Token, Word


def _charsmap(data: bytes) -> bytes:
    """`tokenizers` takes as much memory as the header says that the trie needs, before it reads it."""
    if data and not 4 <= int.from_bytes(data[:4], "little") <= len(data) - 4:
        raise PydanticCustomError("charsmap", "the size of a trie, and a trie of that size")
    return data


def _charsmap_in_base64(text: str) -> bytes:
    try:
        return _charsmap(base64.b64decode(text, validate=True))
    except binascii.Error:
        raise PydanticCustomError("base64", "bytes in base64") from None


def _special(token: Any) -> Any:
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str) or re.search("[\ud800-\udfff]", text):
        raise PydanticCustomError("special", "a text, or an object with its 'content'")
    return token


def _template(template: Any) -> Any:
    named = template if isinstance(template, list) else [{"name": "default", "template": template}]
    texts = [entry.get(part) for entry in named if isinstance(entry, dict) for part in ("name", "template")]
    if len(texts) < 2 * len(named) or not all(isinstance(text, str) for text in texts):
        raise PydanticCustomError("template", "a text, or a list of objects with a name and a template")
    return template


def _decimal(number: str) -> str:
    if not re.fullmatch("[0-9]{1,10}", number):
        raise PydanticCustomError("decimal", "the number of a token")
    return number


Special = Annotated[Any, AfterValidator(_special)]
Template = Annotated[Any, AfterValidator(_template)]
Decimal = Annotated[str, AfterValidator(_decimal)]


class Normalizer(Fields):
    """A step of `normalizer` in tokenizer.json, or several in turn."""

    precompiled_charsmap: Annotated[str, AfterValidator(_charsmap_in_base64)] | None = None
    normalizers: "list[Normalizer] | None" = None


class TokenizerFile(Fields):
    """tokenizer.json, beyond what `tokenizers` checks itself."""

    normalizer: Normalizer | None = None


class AddedToken(Fields):
    """A token that stands whole in a text."""

    content: Text
    special: bool = False
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class TokenizerConfig(Fields):
    """tokenizer_config.json and special_tokens_map.json."""

    tokenizer_class: Word | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    add_prefix_space: bool | None = None
    legacy: bool | None = None
    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool | None = None
    bos_token: Special | None = None
    eos_token: Special | None = None
    unk_token: Special | None = None
    sep_token: Special | None = None
    pad_token: Special | None = None
    cls_token: Special | None = None
    mask_token: Special | None = None
    additional_special_tokens: list[Special] | None = None
    added_tokens_decoder: dict[Decimal, AddedToken] | None = None
    extra_ids: Annotated[int, Field(ge=0, le=10_000)] | None = None
    chat_template: Template | None = None


class Vocabulary(RootModel[dict[Text, Token]]):
    """vocab.json and added_tokens.json: the number of each token."""

    model_config = ConfigDict(strict=True)


class GgufTokenizer(Fields):
    """`tokenizer.ggml.*` of a GGUF file, by whose names a SentencePiece file is described too."""

    model_config = ConfigDict(alias_generator=lambda name: f"tokenizer.ggml.{name}")

    tokens: list[Text]
    model: Word | None = None
    pre: Word | None = None
    scores: list[Number] | None = None
    token_type: list[int] | None = None
    merges: list[Text] | None = None
    precompiled_charsmap: Annotated[bytes, AfterValidator(_charsmap)] | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    add_space_prefix: bool | None = None
    remove_extra_whitespaces: bool | None = None
    bos_token_id: Token | None = None
    eos_token_id: Token | None = None
    eot_token_id: Token | None = None
    eom_token_id: Token | None = None
    unknown_token_id: Token | None = None
    padding_token_id: Token | None = None

    @field_validator("precompiled_charsmap", mode="before")
    @classmethod
    def _bytes(cls, said: Any) -> Any:
        """A GGUF file has a list of bytes, with or without sign."""
        numbers = isinstance(said, list) and all(type(number) is int and -128 <= number < 256 for number in said)
        return bytes(number & 255 for number in said) if numbers else said

    @field_validator("scores", "token_type")
    @classmethod
    def _one_each(cls, said: list[Any] | None, info: Any) -> list[Any] | None:
        tokens = len(info.data.get("tokens", ()))
        if said is not None and len(said) != tokens:
            raise PydanticCustomError("one_each", f"one for each of the {tokens:,} tokens")
        return said

    @field_validator(*(f"{role}_token_id" for role in ("bos", "eos", "eot", "eom", "unknown", "padding")))
    @classmethod
    def _in_range(cls, said: int | None, info: Any) -> int | None:
        tokens = len(info.data.get("tokens", ()))
        if said is not None and said >= tokens:
            raise PydanticCustomError("in_range", f"less than {tokens:,}, the number of tokens")
        return said
