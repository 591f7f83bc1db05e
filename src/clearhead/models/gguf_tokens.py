"""The tokenizer that a GGUF file describes: its pieces, how they were merged, and how a text is cut before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clearhead.errors import ClearheadError

CONTROL, USER_DEFINED = 3, 4
"""Types of tokens that stand whole in a text: special ones, and others that a model's makers added."""

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 cuts a text into words; Qwen 2 takes digits one by one."""
SPLITS = {"llama-bpe": LLAMA3, "qwen2": LLAMA3.replace("{1,3}", "")}


def backend_of(path: Path, said: Mapping[str, Any]) -> Any:
    """The `tokenizers.Tokenizer` that a file's metadata describes.

    Raises ClearheadError for a kind of tokenizer that is not known.
    """
    tokenizers = tokenizers_package()
    kind, cut = said.get("tokenizer.ggml.model"), said.get("tokenizer.ggml.pre", "default")
    if kind == "gpt2" and cut in ("gpt-2", "default", "smollm", *SPLITS):
        backend = _byte_level(said, cut)
    elif kind == "llama":
        backend = _sentencepiece(said)
    else:
        raise ClearheadError(
            f"The tokenizer of '{path}' is of kind {kind!r}, cut as {cut!r}; expected 'llama', or 'gpt2' cut as "
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
    _add_ends(backend, said, bos=kind == "llama" or cut == "llama-bpe")
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


def _byte_level(said: Mapping[str, Any], cut: str) -> Any:
    """Byte-pair encoding of bytes (GPT-2), each byte written as one visible character."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = {token: number for number, token in enumerate(_tokens(said))}
    merges = [tuple(merge.split(" ")) for merge in said.get("tokenizer.ggml.merges", ())]
    # A word of Llama 3's that is a token stays whole, whatever the merges.
    backend: Any = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=cut == "llama-bpe"))
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut not in SPLITS)]
    if cut in SPLITS:
        steps.insert(0, pre_tokenizers.Split(Regex(SPLITS[cut]), "isolated"))
    if cut == "smollm":
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    if cut == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(said: Mapping[str, Any]) -> Any:
    """Byte-pair encoding as SentencePiece has it (Llama 2): of characters, ▁ for a space, bytes where none fits."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens = _tokens(said)
    unknown = tokens[said.get("tokenizer.ggml.unknown_token_id", 0)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    model = models.BPE(vocabulary, _merges(vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend: Any = Tokenizer(model)
    spaces: list[Any] = [normalizers.Replace(" ", "▁")]
    text: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if said.get("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend("▁"))
        text.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(spaces)
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


def _add_ends(backend: Any, said: Mapping[str, Any], *, bos: bool) -> None:
    """A token before each text, and one after it, where the file wants them; `bos` is what it is silent about."""
    from tokenizers import processors

    begin = said.get("tokenizer.ggml.bos_token_id") if said.get("tokenizer.ggml.add_bos_token", bos) else None
    end = said.get("tokenizer.ggml.eos_token_id") if said.get("tokenizer.ggml.add_eos_token", False) else None
    tokens = _tokens(said)
    ends = [(tokens[number], number) for number in (begin, end) if number is not None]
    if not ends:
        return
    single = [*([tokens[begin]] if begin is not None else []), "$A", *([tokens[end]] if end is not None else [])]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
