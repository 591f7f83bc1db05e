"""Writes GGUF files for the tests, by the gguf package."""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray


def write(path: Path, tensors: dict[str, NDArray], metadata: dict[str, object], kinds: dict[str, str] = {}) -> Path:  # noqa: B006
    """A GGUF file; a tensor of bytes is of the type that `kinds` says, any other is as it is."""
    said = dict(metadata)
    writer = gguf.GGUFWriter(path, said.pop("general.architecture", "llama"))
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in said.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            add[type(value)](key, value)
    for name, data in tensors.items():
        kind = gguf.GGMLQuantizationType[kinds[name]] if name in kinds else None
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
