"""`clearhead doctor` says what is here, measures by itself, and fails where the numbers are wrong."""

import json
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

from clearhead.attend import library, reference, tiled
from clearhead.attend.backends import BACKENDS
from clearhead.cli import doctor, main, selftest


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, little in (("SECONDS", 0.0), ("LENGTH", 50), ("TOKENS", 64), ("KEYS", 128)):
        monkeypatch.setattr(selftest, name, little)


@pytest.fixture
def backends(monkeypatch):
    """Puts others in the place of the backends that are there."""

    def put(**others):
        for name in list(BACKENDS):
            monkeypatch.delitem(BACKENDS, name)
        for name, backend in others.items():
            monkeypatch.setitem(BACKENDS, name, backend)

    return put


def ask(*args):
    result = CliRunner().invoke(main, ["doctor", *args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def found(*args):
    return json.loads(ask("--json", *args).stdout)


def test_it_says_what_this_machine_has(backends):
    backends(reference=reference)
    result = ask()
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[:8] if " " in line.strip())
    assert lines["PyTorch"].strip() == torch.__version__
    assert lines["threads"].startswith(str(torch.get_num_threads()))
    for said in ("clearhead", "CPU", "native core", "Python", "Transformers", "GPU"):
        assert said in result.stdout


def test_the_numbers_of_every_backend_that_is_finished_are_right():
    for one in selftest.numbers():
        assert one.refused is not None or not one.wrong, one
        if one.refused is None and one.backend != "reference":
            assert 0 < one.forward and 0 < one.backward and 0 < one.statistics  # it did compare with another


def module(forward, refuses):
    made = ModuleType("made")
    made.forward, made.refuses = forward, refuses
    return made


def scaled(**factors):
    """`tiled` with something in it a thousandth too large."""

    def forward(call, probe):
        out, lse, statistics = tiled.forward(call, probe)
        if "entropy" in factors and statistics is not None:
            statistics.entropy.mul_(1.001)
        return out * factors.get("out", 1), lse, statistics

    return module(forward, tiled.refuses)


def nan():
    def forward(call, probe):
        out, lse, statistics = tiled.forward(call, probe)
        statistics.peak[0, 0, 3] = torch.nan
        return out, lse, statistics

    return module(forward, tiled.refuses)


@pytest.mark.parametrize(
    ("broken", "where"),
    [(scaled(out=1.001), ("forward", "backward")), (scaled(entropy=True), ("statistics",)), (nan(), ("statistics",))],
)
def test_a_backend_whose_numbers_are_wrong_is_named_and_fails(broken, where, backends):
    backends(tiled=tiled, broken=broken, reference=reference)
    result = ask()
    assert result.exit_code == 1
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("broken") and "float32" in line)
    assert line.rstrip().endswith("WRONG: at most 1e-05")
    answer = found()
    assert answer["right"] is False
    wrong = [(one["backend"], one["type"]) for one in answer["numbers"] if one["wrong"]]
    assert wrong[0] == ("broken", "float32") and {name for name, _ in wrong} == {"broken"}
    numbers = next(one for one in answer["numbers"] if one["wrong"])
    for kind in ("forward", "backward", "statistics"):
        assert (numbers[kind] is None or numbers[kind] > numbers["tolerance"]) is (kind in where)


def test_a_backend_that_refuses_is_not_wrong_but_said_to_be_missing(backends):
    refusing = module(tiled.forward, lambda call: "it is not built")
    backends(tiled=tiled, absent=refusing, reference=reference)
    result = ask()
    assert result.exit_code == 0
    assert sum(line.rstrip().endswith("not here: it is not built") for line in result.stdout.splitlines()) == 2


def test_without_the_native_core_it_says_why_in_one_line(backends, monkeypatch):
    monkeypatch.setattr(library, "missing", lambda: "the native core is not built: there was no compiler")
    backends(reference=reference)
    result = ask()
    assert result.exit_code == 0
    assert "native core   the native core is not built: there was no compiler" in result.stdout.splitlines()[3]
    assert found()["native"] == {
        "missing": "the native core is not built: there was no compiler",
        "isa": None,
        "isas": [],
        "threads": torch.get_num_threads(),
    }


@pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))
def test_the_native_core_is_tested_on_every_instruction_set_and_left_on_its_own():
    before = library.isa()
    tested = {one.backend for one in selftest.numbers()}
    assert {f"native on {isa}" for isa in library.isas()} <= tested
    assert library.isa() == before
    assert doctor.findings()["native core"].startswith(f"on {before}")


def test_speeds_are_ratios_of_what_was_measured(backends):
    backends(reference=reference)
    speeds = found()["speed"]
    assert len(speeds) == 4
    for one in speeds:
        assert one["backend"] == "reference" and one["ours"] > 0 and one["pytorch"] > 0
        assert one["ratio"] == pytest.approx(one["pytorch"] / one["ours"])


def test_two_runs_are_measured_in_turn():
    order = []
    selftest._medians(lambda: order.append("ours"), lambda: order.append("PyTorch's"))
    assert order[:4] == ["ours", "PyTorch's", "ours", "PyTorch's"] and len(order) >= 6


def test_elsewhere_than_on_a_terminal_it_is_plain(backends):
    backends(reference=reference)
    stdout = ask().stdout
    assert "\x1b" not in stdout and "│" not in stdout


def test_it_says_where_converted_models_are_and_removes_them_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEARHEAD_CACHE", str(tmp_path))
    copy = tmp_path / f"gguf-1-{0:032}"
    copy.mkdir()
    (copy / "model.safetensors").write_bytes(bytes(2_500_000))
    (tmp_path / "mine.gguf").touch()
    assert doctor.findings()["cache"].startswith(f"{tmp_path}, 1 converted models, 2.5 MB")
    assert ask("--clear-cache").output == f"Removed 1 converted models from {tmp_path}: 2.5 MB.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.gguf"]
    assert doctor.findings()["cache"].startswith(f"{tmp_path}, 0 converted models, 0.0 MB")
