"""Loads damaged copies of a checkpoint's files, and prints as JSON what ended otherwise than in a ClearheadError.

It runs in a process of its own, whose memory is bounded: `python -m tests.models.damage --files 300 --seed 0`.
"""

import argparse
import base64
import copy
import json
import random
import resource
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save_file

import clearhead as ch
from tests.models.weights.writing import write

ROOM = 2**31
"""Bytes that loading may take beyond what the process has."""
TEXT = "the cat é\u0301 ½ <s> sat"
WRONG: tuple[Any, ...] = (
    *("x" * 500, "", "\ud800", -1, 0, 1, 2**31 - 1, 10**9, 10**30, 1.5, float("nan"), True, None),
    *([], [1], ["x"], [None], [[]], {}, {"a": 1}, {"a": {"a": []}}, [10**9] * 3, "../../etc/passwd"),
)
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 8,
    "max_position_embeddings": 8,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0},
    "eos_token_id": 2,
}
CHARSMAP = struct.pack("<I", 1024) + bytes(1024) + b"a\0"
"""Whose trie holds nothing."""
WORDS = ["<unk>", "<s>", "</s>", "▁", "the", "cat", "▁the", "▁cat"]
VOCABULARY = {word: n for n, word in enumerate([*WORDS, "t", "h", "e", "c", "a", "s", "th"])}


def main() -> None:
    """Damages, loads and counts."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--files", type=int, default=300)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--kinds", nargs="*", default=list(KINDS))
    given = asked.parse_args()
    draw, ended, faults = random.Random(given.seed), dict.fromkeys(given.kinds, (0, 0)), []
    with tempfile.TemporaryDirectory() as folder:
        for kind in given.kinds:
            load(KINDS[kind](Path(folder) / f"{kind} whole", None))
        bound_memory()
        for n in range(given.files):
            kind = given.kinds[n % len(given.kinds)]
            path, refused, loaded = Path(folder) / str(n), *ended[kind]
            try:
                load(KINDS[kind](path, draw))
                loaded += 1
            except ch.ClearheadError as error:
                refused += 1
                if len(str(error)) > 2000 or "\n" in str(error) or not str(error).isprintable():
                    faults.append(f"{kind}: a message of {len(str(error))} characters: {str(error)[:300]!r}")
            except BaseException as error:  # noqa: BLE001 - a panic of Rust code is no Exception
                faults.append(f"{kind}, file {n}: {type(error).__name__}: {str(error)[:300]}")
            ended[kind] = refused, loaded
            shutil.rmtree(path, ignore_errors=True)
    json.dump({"ended": ended, "faults": faults}, sys.stdout)


def bound_memory() -> None:
    """An allocation beyond `ROOM` fails, and ends the process where Rust makes it."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def load(path: Path) -> None:
    """What a user does: the model is loaded, and reads a text."""
    model = ch.models.load(path)
    if model.tokenizer is not None:  # a GGUF file may hold none
        model.tokenizer.decode(model.tokenizer.encode(TEXT))
    model(torch.tensor([[1, 2]]))


def damaged(whole: dict[str, Any], draw: random.Random | None) -> dict[str, Any]:
    """A copy in which one value, at any depth, is another, or one is missing."""
    said = copy.deepcopy(whole)
    if draw is None:
        return said
    places: list[tuple[Any, Any]] = []
    inner: list[Any] = [said]
    while inner:
        at = inner.pop()
        keys = list(at) if isinstance(at, dict) else range(len(at))
        places += [(at, key) for key in keys]
        inner += [at[key] for key in keys if isinstance(at[key], dict | list)]
    at, key = draw.choice(places)
    if draw.random() < 0.1:
        del at[key]
    else:
        at[key] = draw.choice(WRONG)
    return said


def flipped(data: bytes, draw: random.Random | None, reach: int) -> bytes:
    """A copy with a few bytes changed, or cut short; or with its first `reach` bytes alone changed."""
    if draw is None:
        return data
    if draw.random() < 0.1:
        return data[: draw.randrange(len(data))]
    broken = bytearray(data)
    for _ in range(draw.randrange(1, 4)):
        broken[draw.randrange(min(reach, len(data)))] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
    return bytes(broken)


def weights() -> dict[str, torch.Tensor]:
    """Those of a tiny Llama."""
    layer, hidden = "model.layers.0.", torch.ones(16, 16)
    named = ("self_attn.q_proj", "self_attn.o_proj", *(f"mlp.{x}_proj" for x in ("gate", "up", "down")))
    out = {f"{layer}{name}.weight": hidden.clone() for name in named}
    out |= {f"{layer}self_attn.{x}_proj.weight": torch.ones(8, 16) for x in "kv"}
    norms = (f"{layer}input_layernorm.weight", f"{layer}post_attention_layernorm.weight", "model.norm.weight")
    return out | {name: torch.ones(16) for name in norms} | {"model.embed_tokens.weight": torch.ones(8, 16)}


def tokenizer(kind: str) -> dict[str, Any]:
    """What tokenizer.json says."""
    backend: Any
    if kind == "unigram":
        backend = tokenizers.Tokenizer(tokenizers.models.Unigram([(word, -1.0) for word in WORDS], 0))
        steps = [tokenizers.normalizers.Precompiled(CHARSMAP), tokenizers.normalizers.Replace(" ", "▁")]
        backend.normalizer = tokenizers.normalizers.Sequence(steps)
        backend.decoder = tokenizers.decoders.Metaspace()
    else:
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(VOCABULARY, [("t", "h")], unk_token="<unk>"))
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
        backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<s>"])
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    said: dict[str, Any] = json.loads(backend.to_str())
    return said


def folder_of(path: Path, **files: Any) -> Path:
    """A whole checkpoint, but for the files that are given: objects as JSON, bytes as they are."""
    path.mkdir(parents=True)
    files = {"config.json": CONFIG, "tokenizer.json": tokenizer("bpe"), "model.safetensors": None} | files
    for name, said in files.items():
        if name == "model.safetensors" and said is None:
            save_file(weights(), path / name, {"format": "pt"})
        elif isinstance(said, bytes):
            (path / name).write_bytes(said)
        elif said != "left out":
            (path / name).write_text(json.dumps(said))
    return path


def in_json(name: str, whole: dict[str, Any], **others: Any) -> Callable[[Path, random.Random | None], Path]:
    """Checkpoints in which one JSON file is damaged."""
    return lambda path, draw: folder_of(path, **{**others, name: damaged(whole, draw)})


def of_charsmap(path: Path, draw: random.Random | None) -> Path:
    """A map of characters in tokenizer.json whose trie is damaged."""
    said = tokenizer("unigram")
    steps = said["normalizer"]["normalizers"]
    steps[0]["precompiled_charsmap"] = base64.b64encode(flipped(CHARSMAP, draw, 12)).decode()
    return folder_of(path, **{"tokenizer.json": said})


def varint(number: int) -> bytes:
    """Of two bytes."""
    return bytes([number & 127 | 128, number >> 7])


def piece(text: str, kind: int) -> bytes:
    """A SentencePiece file's piece."""
    data = text.encode()
    inner = b"\x0a" + bytes([len(data)]) + data + b"\x15" + struct.pack("<f", -1) + b"\x18" + bytes([kind])
    return b"\x0a" + bytes([len(inner)]) + inner


def of_sentencepiece(path: Path, draw: random.Random | None) -> Path:
    """spiece.model, a protocol buffer."""
    data = b"".join(piece(word, 2 if n == 0 else 3 if n < 3 else 1) for n, word in enumerate(WORDS))
    inner = b"\x12" + varint(len(CHARSMAP)) + CHARSMAP
    data += b"\x12\x02\x18\x01" + b"\x1a" + varint(len(inner)) + inner
    files = {"spiece.model": flipped(data, draw, len(data) - 1000), "tokenizer.json": "left out"}
    return folder_of(path, **files, **{"tokenizer_config.json": {"tokenizer_class": "T5Tokenizer"}})


def of_pickle(path: Path, draw: random.Random | None) -> Path:
    """pytorch_model.bin: bytes of its pickle are changed, or a tensor is something else."""
    folder = folder_of(path, **{"model.safetensors": "left out"})
    state: Any = weights()
    if draw and draw.random() < 0.5:
        name = draw.choice(list(state))
        state[draw.choice((name, 3, None, ("a",)))] = draw.choice(
            (*WRONG, torch.ones(1).expand(10**9), torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta"))
        )
        torch.save(draw.choice((state, [state], {"model": state}, None)), folder / "pytorch_model.bin")
    else:
        torch.save(state, folder / "pytorch_model.bin", pickle_protocol=2)
        data = (folder / "pytorch_model.bin").read_bytes()
        (folder / "pytorch_model.bin").write_bytes(flipped(data, draw, 2000))
    return folder


def of_safetensors(path: Path, draw: random.Random | None) -> Path:
    """model.safetensors: a header in JSON, whose length comes first."""
    folder = folder_of(path)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if draw and draw.random() < 0.3:
        file.write_bytes(flipped(data, draw, 8 + size))
    else:
        header = json.dumps(damaged(json.loads(data[8 : 8 + size]), draw)).encode()
        file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    return folder


def of_index(path: Path, draw: random.Random | None) -> Path:
    """model.safetensors.index.json."""
    placed = dict.fromkeys(weights(), "part.safetensors")
    folder = folder_of(path, **{"model.safetensors.index.json": damaged({"weight_map": placed}, draw)})
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    return folder


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    **{f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
GGUF: dict[str, Any] = {
    "general.alignment": 32,
    "llama.block_count": 1,
    "llama.context_length": 8,
    "llama.embedding_length": 16,
    "llama.feed_forward_length": 16,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.key_length": 8,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 100.0,
    "llama.rope.dimension_count": 8,
    "llama.rope.scaling.type": "linear",
    "llama.rope.scaling.factor": 2.0,
    "split.no": 0,
    "split.count": 1,
    "split.tensors.count": 11,
    "tokenizer.ggml.model": "t5",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": WORDS,
    "tokenizer.ggml.scores": [-1.0] * len(WORDS),
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1],
    "tokenizer.ggml.merges": ["t h"],
    "tokenizer.ggml.precompiled_charsmap": list(CHARSMAP),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.add_space_prefix": True,
    "tokenizer.chat_template": "{{ messages }}",
}
WRONG_IN_GGUF = ("x" * 500, "", 0, 1, 2**31 - 1, 2**32 - 1, 1.5, float("nan"), float("inf"), True)
LISTS_IN_GGUF: tuple[Any, ...] = ([1], ["x"], ["x"] * 8, [1.5] * 8, [True], [float("nan")] * 8, [2**31 - 1] * 8)


def of_gguf(path: Path, draw: random.Random | None) -> Path:
    """A GGUF file: a field of its metadata is another, or bytes of its header are changed."""
    path.mkdir(parents=True)
    said = dict(GGUF)
    fields = draw is not None and draw.random() < 0.6
    if draw and fields:
        for key in draw.sample(list(said), draw.choice((1, 1, 2))):
            said[key] = draw.choice((*WRONG_IN_GGUF, *LISTS_IN_GGUF))
            if draw.random() < 0.1:
                del said[key]
        if draw.random() < 0.2:
            said["tokenizer.ggml.model"] = draw.choice(("llama", "gpt2"))
    tensors = {}
    for name, weight in weights().items():
        stem = name.removesuffix(".weight").removeprefix("model.layers.0.")
        tensors[("blk.0." if ".layers." in name else "") + NAMES[stem] + ".weight"] = weight.numpy()
    file = write(path / "tiny.gguf", tensors, said)
    if draw and not fields:
        data = file.read_bytes()
        file.write_bytes(flipped(data, draw, len(data) - 4 * sum(weight.numel() for weight in weights().values())))
    return file


ADDED = {"6": {"content": "▁the", "special": False, "normalized": False, "lstrip": True}}
TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "GPT2Tokenizer",
    "add_bos_token": False,
    "add_prefix_space": True,
    "bos_token": "<s>",
    "eos_token": {"content": "</s>", "lstrip": False},
    "unk_token": "<unk>",
    "pad_token": None,
    "additional_special_tokens": ["<x>"],
    "added_tokens_decoder": ADDED,
    "chat_template": [{"name": "default", "template": "{{ messages }}"}],
    "extra_ids": 2,
    "legacy": True,
    "do_lower_case": True,
    "strip_accents": None,
}
PAIRS = {"vocab.json": VOCABULARY, "merges.txt": b"t h\n"}
PAIRS |= {"tokenizer.json": "left out", "tokenizer_config.json": TOKENIZER_CONFIG}
KINDS: dict[str, Callable[[Path, random.Random | None], Path]] = {
    "config.json": in_json("config.json", CONFIG),
    "generation_config.json": in_json("generation_config.json", {"eos_token_id": [2]}),
    "tokenizer.json of byte pairs": in_json("tokenizer.json", tokenizer("bpe")),
    "tokenizer.json of unigrams": in_json("tokenizer.json", tokenizer("unigram")),
    "precompiled_charsmap": of_charsmap,
    "tokenizer_config.json": in_json("tokenizer_config.json", TOKENIZER_CONFIG),
    "tokenizer_config.json of old": in_json("tokenizer_config.json", TOKENIZER_CONFIG, **PAIRS),
    "special_tokens_map.json": in_json("special_tokens_map.json", {"bos_token": "<s>", "unk_token": "<unk>"}, **PAIRS),
    "added_tokens.json": in_json("added_tokens.json", {"<x>": 15, "<y>": 16}, **PAIRS),
    "vocab.json": in_json("vocab.json", PAIRS["vocab.json"], **PAIRS),
    "spiece.model": of_sentencepiece,
    "model.safetensors": of_safetensors,
    "model.safetensors.index.json": of_index,
    "pytorch_model.bin": of_pickle,
    "GGUF": of_gguf,
}


if __name__ == "__main__":
    main()
