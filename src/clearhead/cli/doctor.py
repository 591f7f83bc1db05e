"""`clearhead doctor`: what this machine has, and whether Clearhead computes right and fast on it."""

import importlib.metadata
import json
import os
import platform
import subprocess
import warnings
from dataclasses import asdict
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clearhead.attend import library
from clearhead.cli import selftest
from clearhead.cli.selftest import Numbers, Speed
from clearhead.cli.standard import is_utf8
from clearhead.cli.steps import telling
from clearhead.errors import PerformanceWarning
from clearhead.models.converted import cache_folder, clear_cache, copies, size_of


def run(as_json: bool, clears: bool) -> None:
    """Prints the findings, or clears the cache; exit code 1 if a backend's numbers are wrong."""
    if clears:
        count, freed = len(copies()), clear_cache()
        click.echo(f"Removed {count} converted models from {cache_folder()}: {_megabytes(freed)}.")
        return
    machine = findings()
    with telling() as steps, warnings.catch_warnings():
        warnings.simplefilter("ignore", PerformanceWarning)  # a missing core is among the findings
        steps.begin("comparing every backend with float64")
        numbers = list(selftest.numbers())
        steps.begin("measuring the speed beside PyTorch's own")
        speeds = list(selftest.speeds())
    wrong = [one for one in numbers if one.wrong]
    if as_json:
        click.echo(json.dumps(_as_json(machine, numbers, speeds), indent=1, ensure_ascii=not is_utf8()))
    else:
        _draw(machine, numbers, speeds)
    if wrong:
        raise click.exceptions.Exit(1)


def findings() -> dict[str, str]:
    """What this machine has, by name."""
    return {
        "clearhead": importlib.metadata.version("clearhead"),
        "CPU": f"{_cpu()}, {_cores()} cores here",
        "threads": f"{library.threads()}, as PyTorch has them",
        "native core": _native(),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "Transformers": _version("transformers") or "not here; pip install 'clearhead[hf]'",
        "GPU": _gpu(),
        "cache": _cache(),
    }


def _cache() -> str:
    """Where converted models lie, and how much room they take."""
    sizes = [size_of(copy) for copy in copies()]
    return f"{cache_folder()}, {len(sizes)} converted models, {_megabytes(sum(sizes))}; --clear-cache removes them"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _native() -> str:
    """On which instruction set the native core runs, or why there is none."""
    missing = library.missing()
    if missing is not None:
        return missing
    others = [isa for isa in library.isas() if isa != library.isa()]
    return f"on {library.isa()}" + (f"; it could run on {', '.join(others)} too" if others else "")


def _cpu() -> str:
    """The processor's name, as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        name = next(named, "")
    elif platform.system() == "Darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    else:
        name = platform.processor()
    return f"{name or 'unnamed'} ({platform.machine()})"


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu() -> str:
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())) + " (cuda)"
    return "Apple's (mps)" if torch.backends.mps.is_available() else "none that PyTorch can use"


def _draw(machine: dict[str, str], numbers: list[Numbers], speeds: list[Speed]) -> None:
    """Tables without borders: on a terminal coloured and as wide as that, elsewhere plain and in full."""
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=240)
    facts = _table("", "")
    for name, value in machine.items():
        facts.add_row(Text(name, "bold"), Text(value))
    out.print(facts)
    out.print()

    compared = _table("against float64", "type", "forward", "backward", "statistics", "")
    for one in numbers:
        if one.refused is not None:
            compared.add_row(one.backend, one.type, "", "", "", Text(f"not here: {one.refused}", "dim"))
            continue
        errors = (f"{error:.0e}" for error in (one.forward, one.backward, one.statistics))
        verdict = Text(f"WRONG: at most {one.tolerance:.0e}", "bold red") if one.wrong else Text("right", "green")
        compared.add_row(one.backend, one.type, *errors, verdict)
    out.print(compared)
    out.print(Text("The largest error of each kind, relative to the largest value.", "dim"))
    out.print()

    measured = _table("beside PyTorch", "backend", "ours", "PyTorch", "")
    for case in speeds:
        faster = f"{case.ratio:.2f} × as fast"
        style = "green" if case.ratio >= 1 else "yellow"
        measured.add_row(case.case, case.backend, f"{case.ours:.2f} ms", f"{case.pytorch:.2f} ms", Text(faster, style))
    out.print(measured)
    out.print(Text("Medians, measured in turn; what else runs on this machine changes them.", "dim"))


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, show_header=any(columns), header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))


def _as_json(machine: dict[str, str], numbers: list[Numbers], speeds: list[Speed]) -> dict[str, object]:
    there = library.missing() is None
    return {
        "machine": machine,
        "native": {
            "missing": library.missing(),
            "isa": library.isa() if there else None,
            "isas": list(library.isas()) if there else [],
            "threads": library.threads(),
        },
        "right": not any(one.wrong for one in numbers),
        "numbers": [_without_nan(asdict(one)) | {"wrong": one.wrong} for one in numbers],
        "speed": [asdict(one) | {"ratio": one.ratio} for one in speeds],
    }


def _without_nan(values: dict[str, object]) -> dict[str, object]:
    """As JSON knows no NaN."""
    return {name: None if value != value else value for name, value in values.items()}
