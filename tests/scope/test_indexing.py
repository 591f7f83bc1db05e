"""An index of a layer, head, query or text is any whole number of Python, NumPy or PyTorch, and no bool."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import clearhead as ch
from clearhead import ClearheadError
from clearhead.scope.alike import Alike
from clearhead.scope.copying import Copying
from clearhead.scope.flow import Flow
from clearhead.scope.head import Head
from clearhead.scope.layer import Layer
from clearhead.scope.weights import Weights
from clearhead.view.seen import Seen

Ask = Callable[[Seen, Any, Path], Any]
PAIRS = torch.tensor([3, 4])
SCORES = Copying({"attn": torch.tensor([0.5, -0.5])})

ASKED: dict[tuple[type, str, str], Ask] = {
    (Seen, "__getitem__", "layer"): lambda seen, n, _: seen[n].name,
    (Seen, "map", "layer"): lambda seen, n, _: seen.map(n, 0),
    (Seen, "map", "head"): lambda seen, n, _: seen.map(0, n),
    (Seen, "map", "sequence"): lambda seen, n, _: seen.map(0, 0, sequence=n),
    (Seen, "map", "batch"): lambda seen, n, _: seen.map(0, 0, batch=n),
    (Seen, "flow", "tokens"): lambda seen, n, _: (seen.flow(n), seen.flow([0, n])),
    (Seen, "flow", "layers"): lambda seen, n, _: seen.flow(layers=[n]),
    (Seen, "flow", "heads"): lambda seen, n, _: (seen.flow(heads=[(n, 0)]), seen.flow(heads=[(0, n)])),
    (Seen, "flow", "sequence"): lambda seen, n, _: seen.flow(sequence=n),
    (Seen, "flow", "batch"): lambda seen, n, _: seen.flow(batch=n),
    (Seen, "alike", "layers"): lambda seen, n, _: seen.alike(layers=[n]),
    (Seen, "alike", "sequence"): lambda seen, n, _: seen.alike(sequence=n),
    (Seen, "alike", "batch"): lambda seen, n, _: seen.alike(batch=n),
    (Seen, "figure", "layer"): lambda seen, n, _: bool(seen.figure("map", n, 0)),
    (Seen, "figure", "head"): lambda seen, n, _: bool(seen.figure("map", 0, n)),
    (Seen, "page", "sequence"): lambda seen, n, folder: seen.page(folder / "p.html", sequence=n).read_bytes(),
    (Seen, "page", "batch"): lambda seen, n, folder: seen.page(folder / "p.html", batch=n).read_bytes(),
    (Seen, "show", "sequence"): lambda seen, n, _: bool(seen.show(sequence=n)),
    (Seen, "show", "batch"): lambda seen, n, _: bool(seen.show(batch=n)),
    (Seen, "scene", "sequence"): lambda seen, n, _: seen.scene(sequence=n).contents,
    (Seen, "scene", "batch"): lambda seen, n, _: seen.scene(batch=n).contents,
    (Layer, "sequence", "n"): lambda seen, n, _: seen[0].sequence(n).sequences[0][0].newest,
    (Layer, "rows", "i"): lambda seen, n, _: (text(seen).rows(n), text(seen).rows([0, n])),
    (Layer, "rows", "head"): lambda seen, n, _: text(seen).rows(4, n),
    (Layer, "rows", "batch"): lambda seen, n, _: text(seen).rows(4, batch=n),
    (Layer, "queries", "batch"): lambda seen, n, _: text(seen).queries(n),
    (Layer, "keys", "batch"): lambda seen, n, _: text(seen).keys(n),
    (Head, "rows", "i"): lambda seen, n, _: head(seen).rows(n),
    (Head, "rows", "batch"): lambda seen, n, _: head(seen).rows(4, n),
    (Weights, "rows", "i"): lambda seen, n, _: text(seen).weights.rows(n),
    (Weights, "rows", "head"): lambda seen, n, _: text(seen).weights.rows(4, n),
    (Weights, "rows", "batch"): lambda seen, n, _: text(seen).weights.rows(4, batch=n),
    (Weights, "weights", "head"): lambda seen, n, _: text(seen).weights.weights(n),
    (Weights, "weights", "batch"): lambda seen, n, _: text(seen).weights.weights(batch=n),
    (Weights, "at", "batch"): lambda seen, n, _: text(seen).weights.at(PAIRS, PAIRS, n),
    (Copying, "of", "head"): lambda seen, n, _: SCORES.of("attn", n),
}
"""By class, method and parameter, what the method gives for an index. There are two layers, heads, texts and rows."""
ELSEWHERE = {(Layer, "words", "i"), (Layer, "words", "head"), (Layer, "words", "batch")}
"""These need a tokenizer, and pass the indices on to `indices`, `index` and `rows`."""
NAMES = {"layer", "layers", "head", "heads", "query", "tokens", "sequence", "batch"}


def text(seen: Seen) -> Layer:
    return seen[0].sequence(-1)


def head(seen: Seen) -> Head:
    return Head(text(seen), 1)


@pytest.fixture(scope="module")
def seen() -> Seen:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(block, 2, enable_nested_tensor=False).eval()
    with ch.watch(model) as seen, torch.no_grad():
        for _ in range(2):
            model(torch.randn(2, 5, 8))
    return seen


def plain(x: Any) -> Any:
    """x, with its tensors as lists and no number left that is not of Python."""
    if isinstance(x, Tensor) and x.dim():
        return x.tolist()
    if is_dataclass(x):
        return {field.name: plain(getattr(x, field.name)) for field in fields(x)}
    if isinstance(x, tuple | list):
        return [plain(one) for one in x]
    assert not isinstance(x, Tensor | np.generic)
    return x


of_every_method = pytest.mark.parametrize("ask", ASKED.values(), ids=[".".join(name) for _, *name in ASKED])


@of_every_method
def test_an_index_may_be_of_python_numpy_or_pytorch(ask: Ask, seen: Seen, tmp_path: Path) -> None:
    for n, number in ((1, np.int64(1)), (-1, torch.tensor(-1))):
        assert plain(ask(seen, number, tmp_path)) == plain(ask(seen, n, tmp_path))


@of_every_method
@pytest.mark.usefixtures("unchecked")
def test_a_bool_is_no_index(ask: Ask, seen: Seen, tmp_path: Path) -> None:
    for wrong in (True, np.True_, torch.tensor(True)):
        with pytest.raises(ClearheadError, match=r"True|bool"):
            ask(seen, wrong, tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_how_many_queries_are_compared_is_a_whole_number(seen: Seen) -> None:
    for number in (np.int64(2), torch.tensor(2)):
        assert plain(seen.alike(number)) == plain(seen.alike(2))
    for wrong in (True, 2.5, 0):
        with pytest.raises(ClearheadError, match=r"alike: queries: got .*, expected a whole number, 1 or more"):
            seen.alike(wrong)  # type: ignore[arg-type]


def test_every_public_method_that_takes_an_index_is_tested_above() -> None:
    found = {
        (cls, name, parameter)
        for cls in (Seen, Layer, Head, Weights, Copying, Alike, Flow)
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if isinstance(method, FunctionType) and (not name.startswith("_") or name == "__getitem__")
        for parameter in inspect.signature(method).parameters
        if parameter in NAMES or (parameter in ("i", "n") and (cls, name) != (Weights, "at"))
    }
    assert found == ASKED.keys() | ELSEWHERE


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("pair", [(True, 0), (0, True), (2, 0), (0, 2), ([0, 1], 0), (0, [0, 1])])
def test_flow_refuses_a_pair_that_is_no_layer_and_head(pair: Any, seen: Seen) -> None:
    with pytest.raises(ClearheadError, match=r"flow: (layer|head) in heads: got "):
        seen.flow(heads=[pair])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("several", [slice(0, 2), [0, 1], (0, 1)])
def test_several_layers_are_refused_where_one_is_expected(several: Any, seen: Seen) -> None:
    for ask in (
        lambda: seen.map(several, 0),
        lambda: seen.flow(layers=[several]),
        lambda: seen.figure("map", several, 0),
    ):
        with pytest.raises(
            ClearheadError, match=r"got layer .*, expected one layer, by its number or its module's name"
        ):
            ask()
