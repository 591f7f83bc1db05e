"""A GGUF file that was split is read whole, given its first part; what lacks or does not belong there is named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from clearhead import ClearheadError
from clearhead.models.loading import load
from clearhead.models.weights.gguf_parts import read_parts
from tests.models.weights.test_gguf_model import converted, metadata, tiny
from tests.models.weights.writing import write


def split(folder: Path, count: int = 3) -> list[Path]:
    """A tiny Llama in several files, as llama-gguf-split writes them: the metadata in the first alone."""
    model = tiny("llama")
    tensors, said = converted(model, "llama"), metadata(model, "llama")
    files = []
    for n in range(count):
        mine = {name: data for i, (name, data) in enumerate(tensors.items()) if i % count == n}
        # In a real file the numbers are of 16 and 32 bits; the reader takes any.
        parts = {"split.no": n, "split.count": count, "split.tensors.count": len(tensors)}
        file = folder / f"tiny-{n + 1:05}-of-{count:05}.gguf"
        files.append(write(file, mine, (said if n == 0 else {}) | parts))
    return files


@torch.no_grad()
def test_all_parts_are_read_given_the_first(tmp_path: Path) -> None:
    files = split(tmp_path)
    tokens = torch.arange(7)[None]
    torch.testing.assert_close(load(files[0])(tokens), tiny("llama")(tokens).logits, rtol=1e-4, atol=1e-4)


def test_a_file_that_is_whole_is_read_as_it_is(tmp_path: Path) -> None:
    file = write(tmp_path / "a.gguf", {"w": np.ones((2, 2), np.float32)}, {"split.count": 1})
    assert read_parts(file).tensors.keys() == {"w"}


def test_the_first_is_asked_for_where_another_is_given(tmp_path: Path) -> None:
    files = split(tmp_path)
    with pytest.raises(ClearheadError, match=r"is a later part of a model; name the first, '.*-00001-of-00003\.gguf'"):
        load(files[1])


def test_every_part_that_lacks_is_named(tmp_path: Path) -> None:
    files = split(tmp_path)
    files[1].unlink()
    with pytest.raises(ClearheadError, match=r"lacks 1 of its 3 parts: tiny-00002-of-00003\.gguf; get them too"):
        load(files[0])
    files[2].unlink()
    with pytest.raises(ClearheadError, match=r"lacks 2 of its 3 parts: tiny-00002-of-00003\.gguf, tiny-00003-of"):
        load(files[0])


def test_a_part_whose_name_says_nothing_is_complained_of(tmp_path: Path) -> None:
    file = split(tmp_path)[0].rename(tmp_path / "tiny.gguf")
    with pytest.raises(ClearheadError, match=r"is one of 3 parts; expected it to be called …-00001-of-00003\.gguf"):
        load(file)


def test_parts_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    files = split(tmp_path)
    third = files[2].read_bytes()
    files[2].write_bytes(files[1].read_bytes())
    with pytest.raises(ClearheadError, match=r"00003-of-00003\.gguf' is not the part that its name says"):
        load(files[0])
    files[2].write_bytes(third)
    write(files[1], {}, {"split.no": 1, "split.count": 3})
    with pytest.raises(ClearheadError, match=r"The parts of '.*' hold 14 tensors; expected 21\. They are not of the"):
        load(files[0])
