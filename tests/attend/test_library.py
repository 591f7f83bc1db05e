"""The native library: found, chosen by instruction set, or missing, and what is said then."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import clearhead as ch
from clearhead.attend import library
from clearhead.nn import native
from clearhead.nn.step import StepCall

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """The instruction set in use before is in use afterwards."""
    before = library.isa()
    yield
    library.choose_isa(before)


def load_again() -> object:
    """What `load` does in a new process."""
    return library._load()


def python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, with these variables."""
    command = [sys.executable, "-W", "ignore", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_the_instruction_set_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert library.isas()[-1] == "baseline"
    for isa in library.isas():
        monkeypatch.setenv("CLEARHEAD_ISA", isa)
        load_again()
        assert library.isa() == isa


def test_without_a_word_it_is_the_best_one() -> None:
    script = "from clearhead.attend import library; print(library.isa() == library.isas()[0])"
    assert python(script, CLEARHEAD_ISA="").stdout == "True\n"


@pytest.mark.parametrize("name", ["avx1024", "AVX2", "avx2 "])
def test_one_that_is_not_there_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    says = rf"got '{name}'; this machine and this build have {', '.join(library.isas())}\."
    with pytest.raises(ch.ClearheadError, match=f"isa: {says}"):
        library.choose_isa(name)
    monkeypatch.setenv("CLEARHEAD_ISA", name)
    with pytest.raises(ch.ClearheadError, match=f"CLEARHEAD_ISA: {says}"):
        load_again()


def test_without_the_core_attention_works_and_says_why_in_one_line() -> None:
    script = """
import torch
import clearhead as ch
q = torch.randn(1, 2, 6, 8, requires_grad=True)
out = ch.attention(q, q, q, pattern=ch.causal())
out.sum().backward()
theirs = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
torch.testing.assert_close(out, theirs)
told = ch.explain(q, q, q)
assert told.backend == "tiled", told.backend
print([line for line in repr(told).splitlines() if "native" in line][0])
try:
    ch.attention(q, q, q, backend="native")
except ch.ClearheadError as error:
    print(error)
"""
    done = python(script, CLEARHEAD_NATIVE="/nonexistent")
    assert done.returncode == 0, done.stderr[-3000:]
    said, refused = done.stdout.splitlines()
    assert said.startswith("passed over  native: the native core can't be loaded: /nonexistent")
    assert refused.startswith("backend 'native' can't do this call: the native core can't be loaded: /nonexistent")


def test_without_the_core_the_first_attention_that_would_take_it_warns_once() -> None:
    script = """
import warnings
import torch
import clearhead as ch
q = torch.randn(1, 2, 6, 8)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    ch.attention(q.double(), q.double(), q.double())  # which the core does not take in any case
    ch.attention(q, q, q, backend="tiled")
    before = len(caught)
    ch.attention(q, q, q)
    ch.attention(q, q, q)
    ch.decode(q, q, q)
print(before, *(f"{w.category.__name__}: {w.message}" for w in caught))
"""
    done = python(script, CLEARHEAD_NATIVE="/nonexistent")
    assert done.stdout.startswith(
        "0 PerformanceWarning: Attention runs on PyTorch's operations, which is slower: the native core can't be loaded"
    ), done.stderr[-3000:]
    assert done.stdout.count("PerformanceWarning") == 1


@pytest.mark.parametrize(
    ("source", "advised"),
    [
        ("", "'clearhead'"),
        ('{"url": "file:///home/me/clearhead", "dir_info": {}}', "'file:///home/me/clearhead'"),
        (
            '{"url": "https://a.org/c.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}}',
            "'git+https://a.org/c.git@12ab'",
        ),
    ],
)
def test_a_library_that_is_not_built_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, advised: str
) -> None:
    """In a checkout by `make native`; elsewhere by pip, from where pip had it."""
    installed = tmp_path / "site-packages" / "clearhead" / "kernels"
    installed.mkdir(parents=True)
    monkeypatch.delenv("CLEARHEAD_NATIVE", raising=False)
    monkeypatch.setattr(library, "FOLDER", installed)
    monkeypatch.setattr(library, "distribution", lambda name: SimpleNamespace(read_text=lambda file: source))
    assert str(load_again()).startswith(f"the native core is not built: {installed} holds no libclearhead_kernels. ")
    assert str(load_again()).endswith(f"run `pip install --force-reinstall --no-deps --no-cache-dir {advised}`")

    (tmp_path / "CMakeLists.txt").touch()
    assert str(load_again()).endswith(f"run `make native` in {tmp_path}")


REFUSED = [
    ({}, torch.float64, {}, r"its kernels compute in float32, and q is torch\.float64"),
    ({"D": 520}, torch.float32, {}, r"its kernels take heads up to 512 wide, and D = 520, Dv = 8"),
    ({"Dv": 513}, torch.float32, {}, r"its kernels take heads up to 512 wide, and D = 8, Dv = 513"),
    (
        {},
        torch.float32,
        {"score": ch.Multiplicative(torch.eye(8))},
        r"by dot products, and the score is Multiplicative",
    ),
]


@pytest.mark.parametrize(("sizes", "dtype", "options", "says"), REFUSED, ids=["type", "D", "Dv", "score"])
def test_what_native_can_t_do_it_refuses_by_name_and_auto_passes_it_over(
    sizes: dict[str, int], dtype: torch.dtype, options: dict[str, object], says: str
) -> None:
    D, Dv = sizes.get("D", 8), sizes.get("Dv", 8)
    q, k, v = (torch.randn(1, 1, 4, width, dtype=dtype) for width in (D, D, Dv))
    with pytest.raises(ch.ClearheadError, match=rf"backend 'native' can't do this call: .*{says}"):
        ch.attention(q, k, v, backend="native", **options)
    told = ch.explain(q, k, v, **options)
    assert told.backend == "tiled"
    assert "native" in told.passed_over


def test_explain_counts_the_pairs_that_the_kernels_visit() -> None:
    """Tiles of 64 keys at most are cut: so a window of 64 at 2,048 costs a few tiles for each block of queries."""
    q = torch.randn(1, 4, 2048, 16)
    pattern = ch.causal() & ch.window(64)
    for isa in library.isas():
        library.choose_isa(isa)
        told = ch.explain(q, q, q, pattern=pattern, backend="native")
        assert told.backend == "native"
        assert told.visible <= told.visited <= 3 * told.visible
        assert told.workspace_bytes < 10**6
        assert told.error < 1e-5
        whole = ch.explain(q, q, q, backend="native")
        assert whole.visited == whole.pairs == whole.visible


def test_a_field_that_the_kernels_do_not_have_is_an_error() -> None:
    for structure in (library.NativeCall, native.LayerCall, native.TurnCall, StepCall):
        with pytest.raises(AttributeError):
            structure().no_such_field = 1
