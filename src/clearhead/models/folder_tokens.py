"""The tokenizer of a folder without tokenizer.json, made of the files that it was kept in before there was one."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clearhead.errors import ClearheadError, in_a_sentence
from clearhead.models.gguf_tokens import CONTROL, ONCE, add_ends, backend_of, byte_level, tokenizers_package
from clearhead.models.sentencepiece_file import read_sentencepiece

Said = Mapping[str, Any]
"""What tokenizer_config.json and special_tokens_map.json say."""


@dataclass(frozen=True)
class Kind:
    """What one of Transformers' classes of tokenizers does of itself."""

    make: Callable[[Path, Said], Any]
    """The `tokenizers.Tokenizer` of a folder."""
    special: Mapping[str, str]
    """Its special tokens, where the folder does not say."""
    before: tuple[str, ...] = ()
    """What stands before each text: a token, or one of the roles in `special`."""
    after: tuple[str, ...] = ()
    extra: int = 0
    """How many tokens that stand for what is masked follow the others, numbered downwards (T5)."""


def has_parts(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer of old."""
    return any(all((folder / file).exists() for file in files) for files in PARTS)


def backend_of_folder(folder: Path, model: str | None, said: Said) -> tuple[Any, dict[str, str]]:
    """The `tokenizers.Tokenizer` of a folder whose model is of type `model`, and its special tokens by their roles.

    Raises ClearheadError for a class of tokenizers that is not known, and for files that are broken.
    """
    name = said.get("tokenizer_class") or CLASSES.get(model or "") or (f"{model}'s" if model else UNSAID)
    kind = KINDS.get(name.removesuffix("Fast"))
    if kind is None:
        raise ClearheadError(
            f"The folder '{folder}' has no tokenizer.json, and its tokenizer is {name}; of other files Clearhead makes "
            f"{', '.join(KINDS)}. Let Transformers write that file: AutoTokenizer.from_pretrained('{folder}')"
            f".save_pretrained('{folder}'); or set the model's tokenizer to None, and give it tokens."
        )
    special = {**kind.special, **{role: token for role, token in roles_of(said).items() if token}}
    with in_a_sentence(f"The tokenizer in '{folder}' cannot be read"):
        backend = kind.make(folder, said)
        extra = [f"<extra_id_{n}>" for n in reversed(range(said.get("extra_ids", kind.extra)))]
        _add(backend, folder, said, [*special.values(), *extra])
    before, after = _ends(kind.before, "bos_token", said), _ends(kind.after, "eos_token", said)
    add_ends(backend, [special.get(end, end) for end in before], [special.get(end, end) for end in after])
    return backend, special


def _ends(ends: tuple[str, ...], role: str, said: Said) -> tuple[str, ...]:
    """What a kind has at one end of a text, unless the folder wants another."""
    wanted = said.get(f"add_{role}")
    return ends if wanted is None or wanted == (role in ends) else (role,) if wanted else ()


def roles_of(said: Said) -> dict[str, str]:
    """The special tokens that a folder names, by their roles: `bos_token`, `eos_token`, ..."""
    named = {
        role: token.get("content") if isinstance(token, dict) else token
        for role, token in said.items()
        if role.endswith("_token")
    }
    return {role: token for role, token in named.items() if isinstance(token, str)}


def _add(backend: Any, folder: Path, said: Said, special: list[str]) -> None:
    """The tokens that stand whole in a text: those that are not in the vocabulary get the numbers that follow."""
    from clearhead.models.fields import read_json
    from clearhead.models.tokenizer_fields import Vocabulary

    tokenizers = tokenizers_package()
    more = said.get("additional_special_tokens") or ()
    special = special + [token["content"] if isinstance(token, dict) else token for token in more]
    entries: dict[str, dict[str, Any]] = {}
    for token, number in read_json(folder / "added_tokens.json", Vocabulary).items():
        entries[token] = {"number": number, "special": token in special}
    for number, entry in said.get("added_tokens_decoder", {}).items():
        entries[entry["content"]] = {**entry, "number": int(number)}
    for token in special:
        entries.setdefault(token, {})
    for token, entry in sorted(entries.items(), key=lambda item: item[1].get("number", float("inf"))):
        flags = {flag: entry[flag] for flag in ("lstrip", "rstrip", "single_word") if flag in entry}
        one = tokenizers.AddedToken(token, normalized=entry.get("normalized", False), **flags)
        (backend.add_special_tokens if entry.get("special", True) else backend.add_tokens)([one])
        if entry.get("number") not in (None, backend.token_to_id(token)):
            raise ClearheadError(
                f"The token {token!r} in '{folder}' would be number {backend.token_to_id(token)}; expected "
                f"{entry['number']}. The files are not of the same tokenizer; get them again."
            )


def _byte_pairs(folder: Path, said: Said, *, cut: str) -> Any:
    from clearhead.models.fields import read_json
    from clearhead.models.tokenizer_fields import Vocabulary

    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")]
    vocabulary = read_json(folder / "vocab.json", Vocabulary)
    return byte_level(vocabulary, merges, cut, space=said.get("add_prefix_space", False))


def _word_pieces(folder: Path, said: Said) -> Any:
    """BERT's: words, and what words are made of, marked by ##."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    lines = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    vocabulary = {line: number for number, line in enumerate(lines)}
    unknown = roles_of(said).get("unk_token", "[UNK]")
    backend: Any = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=said.get("do_lower_case", True),
        handle_chinese_chars=said.get("tokenize_chinese_chars", True),
        strip_accents=said.get("strip_accents"),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _pieces(folder: Path, said: Said) -> Any:
    """SentencePiece's."""
    path = folder / ("spiece.model" if (folder / "spiece.model").exists() else "tokenizer.model")
    return backend_of(path, read_sentencepiece(path))


def _llama(folder: Path, said: Said) -> Any:
    """SentencePiece's, but the folder may say where a space is put before a text."""
    path, key = folder / "tokenizer.model", "tokenizer.ggml.add_space_prefix"
    read = read_sentencepiece(path)
    space = read[key] if said.get("add_prefix_space") is None else said["add_prefix_space"]
    return backend_of(path, read | {key: ONCE if space and said.get("legacy") is False else space})


def _translated(folder: Path, said: Said) -> Any:
    """Marian's: the source's pieces by the numbers of vocab.json, which has the target's too."""
    from clearhead.models.fields import read_json
    from clearhead.models.tokenizer_fields import Vocabulary

    path, vocabulary = folder / "source.spm", read_json(folder / "vocab.json", Vocabulary)
    source = read_sentencepiece(path)
    if source["tokenizer.ggml.model"] != "t5":
        raise ClearheadError(f"The pieces of '{path}' are of type 2 (BPE); of Marian's Clearhead reads 1 (unigram).")
    scores = dict(zip(source["tokenizer.ggml.tokens"], source["tokenizer.ggml.scores"], strict=True))
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    numbered = {
        "tokenizer.ggml.tokens": pieces,
        # The target's own are taken only where nothing else fits.
        "tokenizer.ggml.scores": [scores.get(piece, -1e9) for piece in pieces],
        # A text may begin with its target's language, ">>fr<<".
        "tokenizer.ggml.token_type": [CONTROL if re.fullmatch(r">>.+<<", piece) else 1 for piece in pieces],
        "tokenizer.ggml.unknown_token_id": vocabulary["<unk>"],
    }
    return backend_of(path, source | numbered)


UNSAID = "one that neither tokenizer_config.json nor config.json names"
PARTS = (
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("tokenizer.model",),
    ("spiece.model",),
    ("vocab.json", "source.spm"),
)
END = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
QWEN = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
WHISPER = ("<|startoftranscript|>", "<|notimestamps|>")
BERT = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
GEMMA = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
T5 = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
KINDS = {
    "GPT2Tokenizer": Kind(partial(_byte_pairs, cut="gpt-2"), END),
    "WhisperTokenizer": Kind(partial(_byte_pairs, cut="gpt-2"), END, WHISPER, ("eos_token",)),
    "Qwen2Tokenizer": Kind(partial(_byte_pairs, cut="qwen2"), QWEN),
    "BertTokenizer": Kind(_word_pieces, BERT, ("cls_token",), ("sep_token",)),
    "LlamaTokenizer": Kind(_llama, LLAMA, ("bos_token",)),
    "GemmaTokenizer": Kind(_pieces, GEMMA, ("bos_token",)),
    "MarianTokenizer": Kind(_translated, T5, (), ("eos_token",)),
    "T5Tokenizer": Kind(_pieces, T5, (), ("eos_token",), extra=100),
}
CLASSES = {
    "gpt2": "GPT2Tokenizer",
    "whisper": "WhisperTokenizer",
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    "bert": "BertTokenizer",
    **dict.fromkeys(("llama", "mistral", "mixtral"), "LlamaTokenizer"),
    "gemma2": "GemmaTokenizer",
    "t5": "T5Tokenizer",
    "marian": "MarianTokenizer",
}
"""Of a model's type, where the folder does not say."""
