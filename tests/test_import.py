"""`import clearhead` takes no time: what it offers is imported when it is first used, and is the same as ever."""

import ast
import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import clearhead as ch

STUBS = sorted(Path(ch.__file__).parent.rglob("*.pyi"))


def run(code: str) -> str:
    """What a program prints that a fresh interpreter runs."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_every_public_name_is_there_and_is_what_its_module_defines(stub: Path) -> None:
    package = importlib.import_module(".".join(stub.parent.parts[stub.parent.parts.index("clearhead") :]))
    tree = ast.parse(stub.read_text())
    named = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            path = ".".join(filter(None, (package.__name__, node.module)))
            named |= {alias.name: path for alias in node.names}
        elif isinstance(node, ast.Assign):
            (listed,) = (node.value for target in node.targets if ast.unparse(target) == "__all__")
    assert sorted(named) == sorted(ast.literal_eval(listed)) == sorted(package.__all__) == sorted(dir(package))
    for name, path in named.items():
        defined = getattr(importlib.import_module(path), name, None) or importlib.import_module(f"{path}.{name}")
        assert getattr(package, name) is defined
        assert package.__dict__[name] is defined  # kept, so that the next use costs nothing


def test_importing_clearhead_imports_neither_pytorch_nor_numpy() -> None:
    code = "import sys, clearhead, clearhead.models; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    assert run(code) == "set()\n"


def test_attention_and_models_do_not_import_dynamo_which_takes_seconds() -> None:
    names = "ch.attention, ch.nn, ch.watch, ch.models.load"
    code = f"import sys, clearhead as ch; {names}; print('torch._dynamo' in sys.modules)"
    assert run(code) == "False\n"


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="atention"):
        ch.atention  # noqa: B018
    with pytest.raises(ImportError, match="atention"):
        from clearhead import atention  # noqa: F401


def test_a_pattern_is_pickled_as_ever() -> None:
    pattern = ch.causal() & ch.window(3)
    again = pickle.loads(pickle.dumps(pattern))
    assert torch.equal(again.dense(5, 7), pattern.dense(5, 7))


@pytest.mark.parametrize("imports", ["import clearhead\nimport torch", "import torch\nimport clearhead"])
def test_an_exported_program_needs_no_more_than_clearhead_imported(imports: str, tmp_path: Path) -> None:
    class Causal(torch.nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return ch.attention(q, q, q, pattern=ch.causal())

    q = torch.randn(1, 1, 4, 8)
    exported = torch.export.export(Causal(), (q,))
    torch.export.save(exported, tmp_path / "causal.pt2")
    torch.save({"q": q, "out": Causal()(q)}, tmp_path / "tensors.pt")
    code = f"""{imports}
folder = {str(tmp_path)!r}
tensors = torch.load(folder + "/tensors.pt")
out = torch.export.load(folder + "/causal.pt2").module()(tensors["q"])
print(torch.equal(out, tensors["out"]))
"""
    assert run(code) == "True\n"


def test_a_graph_holds_the_attention_that_is_first_named_in_it() -> None:
    code = """
import clearhead as ch
import torch
q = torch.randn(1, 1, 4, 8)
compiled = torch.compile(lambda q: ch.attention(q, q, q, pattern=ch.causal()), backend="eager", fullgraph=True)
print(torch.equal(compiled(q), ch.attention(q, q, q, pattern=ch.causal())))
"""
    assert run(code) == "True\n"
