"""Parts of a GGUF file: a large model is split into `NAME-00001-of-00003.gguf` and so on, the first says what it is."""

import re
from pathlib import Path

from clearhead.errors import ClearheadError, first_of
from clearhead.models.weights.gguf_file import Gguf, read_gguf


def read_parts(path: Path) -> Gguf:
    """The metadata and the tensors of a `.gguf` file, and of those beside it if it is the first of several parts.

    Raises ClearheadError as `read_gguf` does, if the file is a later part, and if parts are missing or do not belong
    together.
    """
    first = read_gguf(path)
    parts = parts_of(path, first)
    if len(parts) == 1:
        return first
    count = len(parts)
    lacking = [part.name for part in parts if not part.exists()]
    if lacking:
        raise ClearheadError(
            f"The model '{path}' lacks {len(lacking)} of its {count} parts: {first_of(lacking)}; get them too."
        )
    tensors = dict(first.tensors)
    for n, part in enumerate(parts[1:], 1):
        read = read_gguf(part)
        if (read.metadata.get("split.no"), read.metadata.get("split.count")) != (n, count):
            raise ClearheadError(f"The file '{part}' is not the part that its name says; get it again.")
        tensors |= read.tensors
    if len(tensors) != first.metadata.get("split.tensors.count", len(tensors)):
        raise ClearheadError(
            f"The parts of '{path}' hold {len(tensors)} tensors; expected {first.metadata['split.tensors.count']}. "
            "They are not of the same model; get them again."
        )
    return Gguf(first.metadata, tensors)


def parts_of(path: Path, first: Gguf) -> list[Path]:
    """The files of a model, the first of which is `first`: the one alone, or all of its parts.

    Raises ClearheadError if the file is a later part, or is not called as parts are.
    """
    count = first.metadata.get("split.count", 1)
    if count < 2:
        return [path]
    name = re.fullmatch(r"(.+)-\d{5}-of-\d{5}\.gguf", path.name)
    if name is None:
        raise ClearheadError(
            f"The file '{path}' is one of {count} parts; expected it to be called …-00001-of-{count:05}.gguf, as its "
            "other parts cannot be found beside it otherwise."
        )
    parts = [path.with_name(f"{name[1]}-{n + 1:05}-of-{count:05}.gguf") for n in range(count)]
    if path != parts[0]:
        raise ClearheadError(f"The file '{path}' is a later part of a model; name the first, '{parts[0]}'.")
    return parts
