"""A checkpoint's weights are found in every form that they are kept in, and read only when they are asked for."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clearhead import ClearheadError
from clearhead.models.known import KNOWN
from clearhead.models.loading import load
from clearhead.models.weights import Weights, open_weights

TENSORS = {
    "embed.weight": torch.randn(5, 3),
    "layer.weight": torch.randn(3, 3).bfloat16(),
    "layer.bias": torch.randn(3).half(),
    "count": torch.tensor(7),
}


def sharded(folder: Path, ending: str, save: Any) -> None:
    """The tensors in two files, and the index of them."""
    files = {name: f"part-{n % 2}.{ending}" for n, name in enumerate(TENSORS)}
    for file in set(files.values()):
        save({name: TENSORS[name] for name in files if files[name] == file}, folder / file)
    base = "model" if ending == "safetensors" else "pytorch_model"
    (folder / f"{base}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def save_old(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


FORMS = {
    "safetensors": lambda folder: save_file(TENSORS, folder / "model.safetensors"),
    "several safetensors": lambda folder: sharded(folder, "safetensors", save_file),
    "bin": lambda folder: torch.save(TENSORS, folder / "pytorch_model.bin"),
    "several bin": lambda folder: sharded(folder, "bin", torch.save),
    "bin of old": lambda folder: save_old(TENSORS, folder / "pytorch_model.bin"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "tiny"}')
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_read_bit_for_bit_from_every_form(form: str, folder: Path) -> None:
    FORMS[form](folder)
    weights = open_weights(folder)
    assert set(weights) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert weights.shape(name) == tuple(tensor.shape)
        assert weights[name].dtype is tensor.dtype
        assert torch.equal(weights[name], tensor)
    assert weights.config == {"model_type": "tiny"}


@pytest.mark.parametrize("form", [form for form in FORMS if form != "bin of old"])
def test_a_tensor_lies_in_the_files_own_memory_and_leaves_the_file_alone(form: str, folder: Path) -> None:
    FORMS[form](folder)
    files = {file: file.read_bytes() for file in folder.iterdir()}
    weights = open_weights(folder)
    assert weights["embed.weight"].data_ptr() == weights["embed.weight"].data_ptr()
    weights["embed.weight"].zero_()
    assert all(file.read_bytes() == data for file, data in files.items())


@pytest.mark.parametrize(("file", "save"), [("model.safetensors", save_file), ("pytorch_model.bin", torch.save)])
def test_opening_a_file_takes_no_memory_for_its_tensors(file: str, save: Any, folder: Path) -> None:
    def held() -> int:
        """Memory of its own that this process holds, in kB."""
        text = Path("/proc/self/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", text).group(1))  # type: ignore[union-attr]

    if not os.path.exists("/proc/self/status"):
        pytest.skip("there is no /proc to ask for the memory held")
    save({"large": torch.ones(64, 1024, 256)}, folder / file)  # 64 MiB
    before = held()
    weights = open_weights(folder)
    total = weights["large"].sum()
    assert total == 64 * 1024 * 256
    assert held() - before < 16 * 1024


def test_safetensors_are_read_rather_than_a_pickle(folder: Path) -> None:
    torch.save({"other": torch.ones(1)}, folder / "pytorch_model.bin")
    save_file(TENSORS, folder / "model.safetensors")
    assert set(open_weights(folder)) == set(TENSORS)


def test_minilm_is_read_where_it_lies() -> None:
    path = KNOWN["minilm"].path
    assert path is not None
    weights = open_weights(path)
    assert isinstance(weights, Weights)
    assert len(weights) == 104
    assert "nothing" not in weights
    assert weights["embeddings.word_embeddings.weight"].dtype is torch.float32


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


def test_a_pickle_that_could_run_code_is_not_opened(folder: Path) -> None:
    torch.save({"w": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ClearheadError, match=r"pytorch_model.bin' holds more than weights, which could run any code"):
        open_weights(folder)


def test_a_pickle_of_something_else_is_named(folder: Path) -> None:
    torch.save([torch.ones(1)], folder / "pytorch_model.bin")
    with pytest.raises(ClearheadError, match=r"holds list but not of tensors alone; expected a model's state_dict"):
        open_weights(folder)


@pytest.mark.parametrize("form", ["safetensors", "bin", "bin of old"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_is_not_whole_is_named(form: str, share: float, folder: Path) -> None:
    FORMS[form](folder)
    (file,) = (file for file in folder.iterdir() if file.name != "config.json")
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ClearheadError, match=rf"The file '{re.escape(str(file))}' .*get (it again|the model as)"):
        open_weights(folder)


def test_files_that_are_missing_are_all_named(folder: Path) -> None:
    sharded(folder, "safetensors", save_file)
    for file in folder.glob("part-*"):
        file.unlink()
    with pytest.raises(ClearheadError, match=r"lacks 2 of the 2 files that .*: part-0\.safetensors, part-1\.safet"):
        open_weights(folder)


def test_an_index_that_is_wrong_is_named(folder: Path) -> None:
    sharded(folder, "safetensors", save_file)
    index = folder / "model.safetensors.index.json"
    placed = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": placed | {"odd": "part-0.safetensors"}}))
    with pytest.raises(ClearheadError, match=r"1 of the tensors .* the first odd in part-0\.safetensors"):
        open_weights(folder)
    for wrong in ("../part-0.safetensors", "/part-0.safetensors", "a\\b.bin", "..", "a" * 300, "\0.bin", "\ud800"):
        index.write_text(json.dumps({"weight_map": {"w": wrong}}))
        with pytest.raises(ClearheadError, match=r"says weight_map\.w = .*; expected the name of a file in the same"):
            open_weights(folder)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors"])
def test_a_quantisation_that_is_not_read_is_named(method: str, folder: Path) -> None:
    save_file(TENSORS, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": method, "bits": 4}}))
    with pytest.raises(ClearheadError, match=rf"are quantised by {method}, as .*Clearhead reads mxfp4 alone\. Get"):
        open_weights(folder)
    with pytest.raises(ClearheadError, match=rf"are quantised by {method}"):
        load(folder)
    (folder / "config.json").write_text('{"quantization_config": {"load_in_8bit": true}}')  # bitsandbytes of old
    with pytest.raises(ClearheadError, match="are quantised by load_in_8bit, as"):
        open_weights(folder)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClearheadError, match=r"is no checkpoint; expected a folder with config.json, or a .gguf file"):
        open_weights(tmp_path / "nothing")
    with pytest.raises(ClearheadError, match=r"holds no weights; expected one of model\.safetensors, model\.safet"):
        open_weights(tmp_path)
    save_file(TENSORS, tmp_path / "model.safetensors")
    with pytest.raises(ClearheadError, match=r"There is no file '.*config\.json', which says what the model is made"):
        open_weights(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ClearheadError, match=r"The file '.*config\.json' cannot be read as JSON"):
        open_weights(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ClearheadError, match=r"The file '.*config\.json' holds \[\]; expected an object"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    ("placed", "why"),
    [
        ({"embed.weight": "a.pt"}, r"names a\.pt; expected files that end in \.safetensors or \.bin"),
        (["a.bin"], r"index\.json' says weight_map = \['a\.bin'\]; expected a valid dictionary"),
        ({"embed.weight": 3}, r"says weight_map\.embed\.weight = 3; expected the name of a file in the same folder"),
        ({}, r"says weight_map = \{\}; expected at least 1 item"),
        (None, r"says weight_map = None; expected a valid dictionary"),
    ],
)
def test_an_index_of_what_is_not_read_is_named(placed: Any, why: str, folder: Path) -> None:
    (folder / "a.pt").touch()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(ClearheadError, match=why):
        open_weights(folder)


def test_a_quantisation_that_is_a_text_is_named(folder: Path) -> None:
    FORMS["safetensors"](folder)
    (folder / "config.json").write_text('{"quantization_config": "gptq"}')
    with pytest.raises(ClearheadError, match=r"says quantization_config = 'gptq'; expected a valid dictionary"):
        open_weights(folder)
