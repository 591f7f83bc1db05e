"""The tokenizer that a GGUF file describes: its pieces, how they were merged, and how a text is cut before."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clearhead.errors import ClearheadError, in_a_sentence

CONTROL, USER_DEFINED, BYTE = 3, 4, 6
"""Types of tokens: two that stand whole in a text, special ones and others that a model's makers added; a byte."""

ONCE = "once"
"""Of SentencePiece's space: before a text that has none, but not again after each special token within."""

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {"llama-bpe": LLAMA3, "qwen2": LLAMA3.replace("{1,3}", ""), "gpt-4o": GPT4O}
"""How Llama 3, Qwen 2 and GPT-OSS cut a text into words: Qwen takes digits one by one, GPT-OSS heeds capitals."""


def backend_of(path: Path, said: Mapping[str, Any]) -> Any:
    """The `tokenizers.Tokenizer` that a file's metadata describes.

    Raises ClearheadError for a kind of tokenizer that is not known, and for one that is broken.
    """
    tokenizers = tokenizers_package()
    with in_a_sentence(f"The tokenizer of '{path}' cannot be read"):
        return _backend(tokenizers, path, said)


def _backend(tokenizers: Any, path: Path, said: Mapping[str, Any]) -> Any:
    kind, cut = said.get("tokenizer.ggml.model"), said.get("tokenizer.ggml.pre", "default")
    if kind == "gpt2" and cut in ("gpt-2", "default", "smollm", *SPLITS):
        vocabulary = {token: number for number, token in enumerate(_tokens(said))}
        backend = byte_level(vocabulary, said.get("tokenizer.ggml.merges", ()), cut)
    elif kind in ("llama", "t5"):
        backend = _sentencepiece(said, kind)
    else:
        raise ClearheadError(
            f"The tokenizer of '{path}' is of kind {kind!r}, cut as {cut!r}; expected 'llama', 't5', or 'gpt2' cut as "
            f"gpt-2, smollm, {', '.join(SPLITS)}. Get the model as a folder with tokenizer.json."
        )
    types = said.get("tokenizer.ggml.token_type", ())
    added = list(zip(_tokens(said), types, strict=False))
    backend.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False) for token, kind in added if kind == CONTROL]
    )
    backend.add_tokens(
        [tokenizers.AddedToken(token, normalized=False) for token, kind in added if kind == USER_DEFINED]
    )
    begin = said.get("tokenizer.ggml.add_bos_token", kind == "llama" or cut == "llama-bpe")
    end = said.get("tokenizer.ggml.add_eos_token", kind == "t5")
    add_ends(backend, _end(said, "bos", wanted=begin), _end(said, "eos", wanted=end))
    return backend


def tokenizers_package() -> Any:
    """The package `tokenizers`, or a sentence that says how to get it."""
    try:
        import tokenizers
    except ImportError as error:
        raise ClearheadError("A tokenizer needs tokenizers; get it with: pip install 'clearhead[hf]'.") from error
    return tokenizers


def _tokens(said: Mapping[str, Any]) -> list[str]:
    tokens: list[str] = said["tokenizer.ggml.tokens"]
    return tokens


def byte_level(vocabulary: dict[str, int], merges: Sequence[str], cut: str, *, space: bool = False) -> Any:
    """Byte-pair encoding of bytes (GPT-2), each byte written as one visible character.

    A merge is two pieces with a space between them; `cut` names the way in which a text is cut before, and `space` puts
    one before what was cut, unless it has one.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    # A word of Llama 3's that is a token stays whole, whatever the merges.
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    backend: Any = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=cut == "llama-bpe"))
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=cut not in SPLITS)]
    if cut in SPLITS:
        steps.insert(0, pre_tokenizers.Split(Regex(SPLITS[cut]), "isolated"))
    if cut == "smollm":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    if cut == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(said: Mapping[str, Any], kind: str) -> Any:
    """SentencePiece's ▁ for a space, and its characters, joined by merges (Llama 2) or the likeliest way (T5)."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens, unknown = _tokens(said), said.get("tokenizer.ggml.unknown_token_id", 0)
    model: Any
    if kind == "llama":  # bytes where no piece fits
        vocabulary = {token: number for number, token in enumerate(tokens)}
        model = models.BPE(
            vocabulary, _merges(vocabulary), unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True
        )
    else:
        scored = list(zip(tokens, said["tokenizer.ggml.scores"], strict=True))
        model = models.Unigram(scored, unknown, byte_fallback=BYTE in said.get("tokenizer.ggml.token_type", ()))
    backend: Any = Tokenizer(model)
    steps: list[Any] = [normalizers.Replace(" ", "▁")]
    text: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if space := said.get("tokenizer.ggml.add_space_prefix", True):
        text.append(decoders.Strip(" ", 1, 0))
        if space == ONCE:
            backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
        else:
            steps.insert(0, normalizers.Prepend("▁"))
    if said.get("tokenizer.ggml.remove_extra_whitespaces", kind == "t5"):
        steps = [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" +"), " "), *steps]
    if charsmap := bytes(said.get("tokenizer.ggml.precompiled_charsmap", b"")):
        steps.insert(0, normalizers.Precompiled(charsmap))
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = decoders.Sequence(text)
    return backend


def _merges(vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges that a vocabulary implies: pieces stand in the order in which they were made of two others."""
    return [
        (token[:cut], token[cut:])
        for token in vocabulary
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]


def _end(said: Mapping[str, Any], which: str, *, wanted: bool) -> list[str]:
    """The token before or after each text, "bos" or "eos", if the file wants and has one."""
    number = said.get(f"tokenizer.ggml.{which}_token_id")
    return [_tokens(said)[number]] if wanted and number is not None else []


def add_ends(backend: Any, before: Sequence[str], after: Sequence[str]) -> None:
    """Have these tokens stand before and after each text.

    Raises ClearheadError for one that is not in the vocabulary.
    """
    from tokenizers import processors

    ends = {token: backend.token_to_id(token) for token in (*before, *after)}
    if lacking := [token for token, number in ends.items() if number is None]:
        raise ClearheadError(
            f"Each text would stand between {', '.join((*before, *after))}, but {', '.join(lacking)} "
            "is in no vocabulary of this tokenizer; its files are not of the same one."
        )
    if ends:
        backend.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after], special_tokens=list(ends.items())
        )
