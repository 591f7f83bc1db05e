"""Converted: GGUF files in the form that Transformers opens, kept in a cache under the hash of what they hold."""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import platformdirs
import torch

from clearhead.errors import ClearheadError, first_line
from clearhead.models.weights.gguf_file import Gguf
from clearhead.models.weights.gguf_model import is_known, weights_of
from clearhead.models.weights.gguf_parts import parts_of
from clearhead.models.weights.weights import Weights

FORM = 1
"""The form of the copies. Whoever changes what a conversion writes counts it up, and older copies are removed."""
COPY = re.compile(r"gguf-(\d+)-[0-9a-f]{32}")
BEFORE = re.compile(r".+-[0-9a-f]{16}")
"""How copies were named before they were keyed by content."""
UNUSED = 30 * 24 * 3600.0
"""Seconds after which a copy that was not opened is removed, when another is written."""
SHARD = 2**32
"""Bytes of weights that are held at a time, and written to one file."""


def cache_folder() -> Path:
    """Where converted models are kept: what CLEARHEAD_CACHE names, else the user's cache folder."""
    return Path(os.environ.get("CLEARHEAD_CACHE") or platformdirs.user_cache_dir("clearhead")).expanduser()


def copies() -> list[Path]:
    """The converted models in the cache folder, of this form and of earlier ones."""
    if not cache_folder().is_dir():
        return []
    named = (path for path in sorted(cache_folder().iterdir()) if path.is_dir() and not path.is_symlink())
    return [
        path
        for path in named
        if COPY.fullmatch(path.name) or (BEFORE.fullmatch(path.name) and (path / "config.json").exists())
    ]


def size_of(folder: Path) -> int:
    """How many bytes the files of a folder take."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def clear_cache() -> int:
    """Removes all converted models, and nothing else that lies in the cache folder: how many bytes that frees.

    Raises ClearheadError if one cannot be removed.
    """
    freed = 0
    try:
        for copy in copies():
            size = size_of(copy)
            shutil.rmtree(copy)
            freed += size
    except OSError as error:
        raise ClearheadError(f"The cache folder {cache_folder()} cannot be emptied: {first_line(error)}.") from error
    return freed


def copy_of(file: Path, gguf: Gguf) -> Path:
    """Where the copy of a GGUF file is kept: the same place for the same bytes, whatever the file is called."""
    digest = hashlib.sha256()
    for part in parts_of(file, gguf):
        with part.open("rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    return cache_folder() / f"gguf-{FORM}-{digest.hexdigest()[:32]}"


def convert(file: Path, gguf: Gguf, folder: Path) -> None:
    """Writes a GGUF file's model as Transformers keeps one, with weights in float32; removes copies that have had it.

    What Clearhead reads itself it converts itself; other architectures are left to Transformers, with their tokenizers.

    Raises ClearheadError if the cache folder cannot be written.
    """
    with _beside(folder) as made:
        if is_known(gguf):
            _write(weights_of(file, gguf), made)
        else:
            _by_transformers(file, made)
    for copy in copies():
        form = COPY.fullmatch(copy.name)
        if form is None or form[1] != str(FORM) or copy.stat().st_mtime < time.time() - UNUSED:
            shutil.rmtree(copy, ignore_errors=True)


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` once it is filled, so that none is ever half there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".gguf-", dir=folder.parent, ignore_cleanup_errors=True) as beside:
            made = Path(beside) / "copy"
            made.mkdir()
            yield made
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was first, and its copy is as good
                    raise
    except OSError as error:
        raise ClearheadError(
            f"The cache folder {folder.parent} cannot be written ({first_line(error)}); "
            "set CLEARHEAD_CACHE to a folder that can."
        ) from error


def _write(weights: Weights, folder: Path) -> None:
    """Config and weights; several files with an index where one would be too large."""
    import transformers
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    config = transformers.AutoConfig.for_model(**weights.config)
    model: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config.architectures = [model.__name__]
    config.save_pretrained(folder)
    shards = _shards(weights)
    names = [f"model-{n + 1:05}-of-{len(shards):05}.safetensors" for n in range(len(shards))]
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        placed = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for file, shard in zip(names, shards, strict=True):
            read = pool.map(lambda name: weights[name].float().contiguous(), shard)
            try:
                save_file(dict(zip(shard, read, strict=True)), folder / file, {"format": "pt"})
            except SafetensorError as error:
                raise OSError(first_line(error)) from error


def _shards(weights: Weights) -> list[list[str]]:
    """The names of the weights, in lists that take at most `SHARD` bytes in float32, or hold one weight."""
    shards: list[list[str]] = [[]]
    held = 0
    for name in weights:
        size = 4 * math.prod(weights.shape(name))
        if shards[-1] and held + size > SHARD:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


def _by_transformers(file: Path, folder: Path) -> None:
    import transformers

    where: Any = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    with contextlib.redirect_stderr(io.StringIO()):  # this one bar of Transformers cannot be switched off
        config = transformers.AutoConfig.from_pretrained(**where)
        kind = "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM"
        model = getattr(transformers, kind).from_pretrained(
            **where,
            config=config,
            dtype=torch.float32,
            quantization_config=transformers.GgufConfig(dequantize=True),
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
