"""Opening a checkpoint: which of its files hold the weights, and in which format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clearhead.errors import ClearheadError
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
    path = Path(path)
    if path.is_file() and path.suffix == ".gguf":
        return _checked(weights_of(path, read_parts(path)), path)
    if not path.is_dir():
        raise ClearheadError(f"'{path}' is no checkpoint; expected a folder with config.json, or a .gguf file.")
    file = next((path / name for name in FILES if (path / name).exists()), None)
    if file is None:
        raise ClearheadError(f"The folder '{path}' holds no weights; expected one of {', '.join(FILES)}.")
    stored = _sharded(file) if file.suffix == ".json" else READERS[file.suffix](file)
    config = _json(path / "config.json")
    quantisation = config.pop("quantization_config", None)
    return _checked(Weights(_plain(path, stored, quantisation), config), path / "config.json")


def _checked(weights: Weights, file: Path) -> Weights:
    """The weights, if their config is one that a model can be built of."""
    from clearhead.models.fields import check_config, check_layers  # with pydantic, which only reading a model needs

    check_config(weights.config, str(file))
    check_layers(weights.config, len(weights), str(file))
    return weights


def _plain(path: Path, stored: dict[str, Stored], quantisation: Any) -> dict[str, Stored]:
    """The tensors as weights, whatever they are packed as."""
    if not quantisation:
        return stored
    if not isinstance(quantisation, dict):
        raise ClearheadError(
            f"config.json in '{path}' says quantization_config = {quantisation!r}; expected an object. Get it again."
        )
    method = quantisation.get("quant_method") or ", ".join(quantisation)
    if method != "mxfp4":
        raise ClearheadError(
            f"The weights in '{path}' are quantised by {method}, as quantization_config in config.json says; of "
            "quantised folders Clearhead reads mxfp4 alone. Get the model in full precision, or as a .gguf file."
        )
    return unpacked(stored)


def _sharded(index: Path) -> dict[str, Stored]:
    """The tensors of all the files that an index names."""
    placed: Any = _json(index).get("weight_map")
    named = list(placed.values()) if isinstance(placed, dict) else []
    if not named or not all(isinstance(file, str) and Path(file).name == file for file in named):
        raise ClearheadError(f"The index '{index}' has no weight_map that names files beside it; get it again.")
    files = sorted(set(named))
    if unknown := [file for file in files if Path(file).suffix not in READERS]:
        raise ClearheadError(
            f"The index '{index}' names {', '.join(unknown)}; expected files that end in {' or '.join(READERS)}."
        )
    lacking = [file for file in files if not (index.parent / file).exists()]
    if lacking:
        raise ClearheadError(
            f"The folder '{index.parent}' lacks {len(lacking)} of the {len(files)} files that {index.name} names: "
            f"{', '.join(lacking)}; get them too."
        )
    shards = {file: READERS[Path(file).suffix](index.parent / file) for file in files}
    wrong = [name for name, file in placed.items() if name not in shards[file]]
    if wrong:
        raise ClearheadError(
            f"{len(wrong)} of the tensors that '{index}' names are not where it says, the first {wrong[0]} in "
            f"{placed[wrong[0]]}; the files are not of the same checkpoint."
        )
    return {name: stored for shard in shards.values() for name, stored in shard.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ClearheadError(f"There is no file '{path}', which says what the model is made of; get it too.") from error
    except (ValueError, OSError) as error:
        raise ClearheadError(f"The file '{path}' cannot be read as JSON ({error}); get it again.") from error
    if not isinstance(read, dict):
        raise ClearheadError(f"The file '{path}' holds {type(read).__name__}; expected an object.")
    return read
