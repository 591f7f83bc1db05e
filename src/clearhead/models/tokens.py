"""Tokens: a checkpoint's tokenizer, text to numbers and back, piece by piece if it is streamed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clearhead.errors import ClearheadError, in_a_sentence
from clearhead.models.folder_tokens import backend_of_folder, has_parts, roles_of
from clearhead.models.gguf_tokens import backend_of, tokenizers_package
from clearhead.models.weights.gguf_file import read_gguf
from clearhead.text import check_text

BROKEN = "; the model's tokenizer is broken, get it again."


@dataclass(frozen=True)
class Tokenizer:
    """What makes tokens of text for one model, and text of its tokens.

    >>> from clearhead.models.known import KNOWN
    >>> tokenizer = tokenizer_of(KNOWN["smollm2"].path)
    >>> tokenizer.encode("Hello there")
    [19556, 665]
    >>> tokenizer.decode([19556, 665])
    'Hello there'
    """

    backend: Any
    """The `tokenizers.Tokenizer` that does the work."""
    ends: tuple[int, ...] = ()
    """The tokens with which the model ends a text, or its turn in a talk."""
    template: str | None = None
    """How a talk is written as a text, in Jinja; None for a model that was not taught to talk."""
    special: Mapping[str, str] = field(default_factory=dict)
    """The special tokens that a template may name: `bos_token`, `eos_token`, ..."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The text's tokens, between those that the model wants at both ends, unless `special` is False.

        Raises ClearheadError if the text is no string, or holds half a character (`check_text`), and where the
        tokenizer's file turns out to be broken.
        """
        check_text(text)
        with in_a_sentence("The tokenizer cannot encode this text", BROKEN):
            return list(self.backend.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The tokens' text, without the special ones."""
        with in_a_sentence("The tokenizer cannot decode these tokens", BROKEN):
            return str(self.backend.decode([int(token) for token in ids], skip_special_tokens=True))

    def stream(self) -> "Detokenizer":
        """Turns tokens into text as they come."""
        return Detokenizer(self)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The tokens of a talk, up to where the model is to answer; each message has a "role" and "content".

        Raises ClearheadError if the model was not taught to talk, or its template refuses them or fails.
        """
        if self.template is None:
            raise ClearheadError("chat: this model has no chat template: it goes on with texts, it doesn't answer.")
        from clearhead.models.chat_template import written  # with Jinja, which only a talk needs

        return self.encode(written(self.template, messages, self.special), special=False)

    # What a watch asks of a tokenizer, by the names that Transformers' have.

    @property
    def all_special_ids(self) -> list[int]:
        """The tokens that are no text."""
        return [number for number, token in self.backend.get_added_tokens_decoder().items() if token.special]

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text."""
        return self._special("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text."""
        return self._special("eos_token")

    @property
    def cls_token_id(self) -> int | None:
        """The token that begins a text and stands for it whole (BERT)."""
        return self._special("cls_token")

    @property
    def sep_token_id(self) -> int | None:
        """The token between two texts and after them (BERT)."""
        return self._special("sep_token")

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary's entries."""
        return [str(self.backend.id_to_token(int(token))) for token in ids]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that entries stand for."""
        return str(self.backend.decoder.decode(tokens))

    def _special(self, name: str) -> int | None:
        number: int | None = self.backend.token_to_id(self.special[name]) if name in self.special else None
        return number


@dataclass(frozen=True)
class Unread:
    """Stands for a tokenizer that is there but cannot be read, and says so as soon as it is wanted."""

    why: str

    def __getattr__(self, name: str) -> Any:
        """Raises ClearheadError, whatever is asked for; but Python's own questions are answered."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise ClearheadError(self.why)


class Detokenizer:
    """Text, as its tokens come: whole characters only, as one may take several tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.start = self.said = 0
        """What is said ends before token `said`; to have its spaces right, decoding begins at token `start`."""

    def add(self, token: int) -> str:
        """What this token adds to the text; nothing, as long as a character is not whole."""
        self.ids.append(int(token))
        return "" if self._now().endswith("\N{REPLACEMENT CHARACTER}") else self.rest()

    def rest(self) -> str:
        """What was held back, though it be no whole character."""
        before = self.tokenizer.decode(self.ids[self.start : self.said])
        piece = self._now()[len(before) :]
        if piece:
            self.start = self.said
        self.said = len(self.ids)
        return piece

    def _now(self) -> str:
        return self.tokenizer.decode(self.ids[self.start :])


def tokenizer_of(path: str | Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint: a folder's `tokenizer.json`, or what a `.gguf` file says; None if it has none.

    A folder without that file may have what tokenizers were kept in before there was one: vocab.json and merges.txt,
    vocab.txt, or SentencePiece's tokenizer.model.

    Raises ClearheadError if it is broken, or of a kind that is not known.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path) if (path / "tokenizer.json").exists() or has_parts(path) else None
    return tokenizer_of_gguf(path, read_gguf(path).metadata)


ROLES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "eot": "eot", "eom": "eom"}
"""The tokens with a role: llama.cpp's names, and those that Transformers and chat templates have."""


def tokenizer_of_gguf(path: Path, said: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer that the metadata of the file `path` describes; None if it has none.

    Raises ClearheadError if it is broken, or of a kind that is not known.
    """
    from clearhead.models.fields import check  # with pydantic, which only reading a model needs
    from clearhead.models.tokenizer_fields import GgufTokenizer

    tokens: list[str] | None = said.get("tokenizer.ggml.tokens")
    if tokens is None:
        return None
    check(GgufTokenizer, said, path)
    numbers = {role: said.get(f"tokenizer.ggml.{kind}_token_id") for kind, role in ROLES.items()}
    known = {kind: number for kind, number in numbers.items() if number is not None}
    ends = tuple(dict.fromkeys(known[kind] for kind in ("eos", "eot", "eom") if kind in known))
    special = {f"{kind}_token": tokens[number] for kind, number in known.items()}
    return Tokenizer(backend_of(path, said), ends, said.get("tokenizer.chat_template"), special)


def _of_folder(folder: Path) -> Tokenizer:
    from clearhead.models.fields import ModelConfig, read_json  # with pydantic, which only reading a model needs
    from clearhead.models.tokenizer_fields import TokenizerConfig, TokenizerFile

    tokenizers = tokenizers_package()
    file, said = folder / "tokenizer.json", read_json(folder / "tokenizer_config.json", TokenizerConfig)
    if file.exists():
        read_json(file, TokenizerFile)
        with in_a_sentence(f"The tokenizer '{file}' cannot be read"):
            backend = tokenizers.Tokenizer.from_file(str(file))
        special = roles_of(said)
    else:
        kind = read_json(folder / "config.json", ModelConfig).get("model_type")
        said = read_json(folder / "special_tokens_map.json", TokenizerConfig) | said
        said = {name: value for name, value in said.items() if value is not None}
        backend, special = backend_of_folder(folder, kind, said)
    backend.no_truncation()
    backend.no_padding()
    ends = _ends(folder)
    if ends is None:
        end = backend.token_to_id(special.get("eos_token", ""))
        ends = () if end is None else (end,)
    return Tokenizer(backend, ends, _template(folder, said), special)


def _ends(folder: Path) -> tuple[int, ...] | None:
    """The tokens that end a text, if a config says so."""
    from clearhead.models.fields import GenerationConfig, read_json  # with pydantic, which only reading a model needs

    for file in ("generation_config.json", "config.json"):
        ends = read_json(folder / file, GenerationConfig).get("eos_token_id")
        if ends is not None:
            return tuple(ends) if isinstance(ends, list) else (ends,)
    return None


def _template(folder: Path, said: Mapping[str, Any]) -> str | None:
    """The chat template: in a file of its own, or in the config, the one called "default" if there are several."""
    file = folder / "chat_template.jinja"
    if file.exists():
        with in_a_sentence(f"The chat template '{file}' cannot be read"):
            return file.read_text(encoding="utf-8")
    template: str | list[dict[str, str]] | None = said.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template
