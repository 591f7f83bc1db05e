"""Opening a checkpoint: which of its files hold the weights, and in which format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clearhead.errors import ClearheadError, first_of, shortened
from clearhead.models.weights.gguf_model import weights_of
from clearhead.models.weights.gguf_parts import read_parts
from clearhead.models.weights.mxfp4 import unpacked
from clearhead.models.weights.pickled import read_pickled
from clearhead.models.weights.safe import read_safetensors
from clearhead.models.weights.weights import Stored, Weights

READERS: dict[str, Callable[[Path], dict[str, Stored]]] = {".safetensors": read_safetensors, ".bin": read_pickled}
FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""The first that a folder has is read."""


def open_weights(path: str | Path) -> Weights:
    """The weights and the config of a checkpoint; the weights are read as they are asked for.

    `path` is a folder with `config.json` and safetensors files or PyTorch's `.bin` files (one, or several with an
    index), or a `.gguf` file, the first where it is split into several.

    Weights that are packed as MXFP4 are unpacked. Raises ClearheadError if there is no such checkpoint, if it is
    quantised in another way, or if one of its files is broken or not whole.

    >>> from clearhead.models.known import KNOWN
    >>> weights = open_weights(KNOWN["minilm"].path)
    >>> weights.shape("embeddings.word_embeddings.weight")
    (30522, 384)
    >>> weights.config["model_type"]
    'bert'
    """
    from clearhead.models.fields import ModelConfig, check_layers, read_json  # with pydantic, which only this needs

    path = Path(path)
    if path.is_file() and path.suffix == ".gguf":
        return weights_of(path, read_parts(path))
    if not path.is_dir():
        raise ClearheadError(f"'{path}' is no checkpoint; expected a folder with config.json, or a .gguf file.")
    file = next((path / name for name in FILES if (path / name).exists()), None)
    if file is None:
        raise ClearheadError(f"The folder '{path}' holds no weights; expected one of {', '.join(FILES)}.")
    stored = _sharded(file) if file.suffix == ".json" else READERS[file.suffix](file)
    config = read_json(path / "config.json", ModelConfig, needed=True)
    check_layers(config, len(stored), path / "config.json")
    return Weights(_plain(path, stored, config.pop("quantization_config", None)), config)


def _plain(path: Path, stored: dict[str, Stored], quantisation: dict[str, Any] | None) -> dict[str, Stored]:
    """The tensors as weights, whatever they are packed as."""
    if not quantisation:
        return stored
    method = shortened(str(quantisation.get("quant_method") or first_of(list(quantisation))))
    if method != "mxfp4":
        raise ClearheadError(
            f"The weights in '{path}' are quantised by {method}, as quantization_config in config.json says; of "
            "quantised folders Clearhead reads mxfp4 alone. Get the model in full precision, or as a .gguf file."
        )
    return unpacked(stored)


def _sharded(index: Path) -> dict[str, Stored]:
    """The tensors of all the files that an index names."""
    from clearhead.models.fields import Index, read_json  # with pydantic, which only this needs

    placed = read_json(index, Index)["weight_map"]
    files = sorted(set(placed.values()))
    if unknown := [file for file in files if Path(file).suffix not in READERS]:
        raise ClearheadError(
            f"The index '{index}' names {first_of(unknown)}; expected files that end in {' or '.join(READERS)}."
        )
    lacking = [file for file in files if not (index.parent / file).exists()]
    if lacking:
        raise ClearheadError(
            f"The folder '{index.parent}' lacks {len(lacking)} of the {len(files)} files that {index.name} names: "
            f"{first_of(lacking)}; get them too."
        )
    shards = {file: READERS[Path(file).suffix](index.parent / file) for file in files}
    wrong = [name for name, file in placed.items() if name not in shards[file]]
    if wrong:
        raise ClearheadError(
            f"{len(wrong)} of the tensors that '{index}' names are not where it says, the first "
            f"{shortened(wrong[0])} in {placed[wrong[0]]}; the files are not of the same checkpoint."
        )
    return {name: stored for shard in shards.values() for name, stored in shard.items()}
