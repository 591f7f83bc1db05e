"""llama.cpp as a peer: SmolLM2-135M with its weights in float32 or bfloat16, on llama.cpp's own kernels.

Needs `llama-cpp-python`, whose build takes minutes: `CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-deps
llama-cpp-python diskcache`. Keys and values are kept in float16, as llama.cpp does where nobody says otherwise.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.peer import Cannot
from clearhead.models.converted import cache_folder
from clearhead.models.known import KNOWN

LLAMA = "llama.cpp"
THERE = importlib.util.find_spec("llama_cpp") is not None
KINDS = {torch.float32: "F32", torch.bfloat16: "BF16"}


def opened(dtype: torch.dtype, context: int) -> Any:
    """The model, with room for so many tokens, on as many threads as PyTorch has."""
    if not THERE:
        raise Cannot("not installed; get it with: CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-deps llama-cpp-python")
    import llama_cpp

    threads = torch.get_num_threads()
    return llama_cpp.Llama(
        str(converted(KINDS[dtype])), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False
    )


def logits(model: Any) -> torch.Tensor:
    """Of the last token that it was given, `(V,)`."""
    return torch.tensor(model._ctx.get_logits_ith(-1)[: model.n_vocab()])


def converted(kind: str) -> Path:
    """SmolLM2's weights as a GGUF file of type F32 or BF16, made from the packaged one once and kept."""
    source = KNOWN["smollm2"].path
    if source is None:
        raise Cannot(f"SmolLM2 is not installed; get it with: {KNOWN['smollm2'].install}")
    target = cache_folder() / f"SmolLM2-135M-Instruct.{kind}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        convert(source, beside, kind)
        beside.replace(target)
    return target


def convert(source: Path, target: Path, kind: str) -> None:
    """Write a GGUF file again with its matrices as F32 or BF16; vectors stay F32, as in llama.cpp's own converter."""
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    wanted = gguf.GGMLQuantizationType[kind]
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if kind == "F32" else gguf.LlamaFileType.MOSTLY_BF16)
    for tensor in reader.tensors:
        weights = gguf.dequantize(tensor.data, tensor.tensor_type).astype("float32")
        dtype = wanted if weights.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quantize(weights, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
