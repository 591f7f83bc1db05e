"""The native library: found, loaded and asked, through a plain C interface."""

import ctypes
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch

from clearhead.errors import ClearheadError

FOLDER = Path(__file__).parent.parent / "kernels"


class Strided(ctypes.Structure):
    """kernels/call.h: Tensor."""

    __slots__ = ()  # setting a field that C does not have is an error
    _fields_ = (("data", c_void_p), ("batch", c_int64), ("head", c_int64), ("row", c_int64))


class RunsOf(ctypes.Structure):
    """kernels/call.h: Runs."""

    __slots__ = ()
    _fields_ = (("start", c_void_p), ("stop", c_void_p), ("batch", c_int64), ("head", c_int64), ("R", c_int64))


class BiasOf(ctypes.Structure):
    """kernels/call.h: Bias."""

    __slots__ = ()
    _fields_ = (
        ("table", c_void_p),
        ("table_batch", c_int64),
        ("head", c_int64),
        ("dense", c_void_p),
        ("batch", c_int64),
        ("dense_head", c_int64),
        ("row", c_int64),
        ("column", c_int64),
        ("type", c_int32),
    )


class ProbeOf(ctypes.Structure):
    """kernels/call.h: Probe."""

    __slots__ = ()
    _fields_ = (
        ("entropy", c_void_p),
        ("peak", c_void_p),
        ("distance", c_void_p),
        ("max_score", c_void_p),
        ("peak_at", c_void_p),
    )


class NativeCall(ctypes.Structure):
    """kernels/call.h: Call, field by field."""

    __slots__ = ()
    _fields_ = (
        *((name, c_int64) for name in ("B", "H", "K", "Tq", "Tk", "D", "Dv")),
        ("type", c_int32),
        ("threads", c_int32),
        *((name, Strided) for name in ("q", "k", "v", "out")),
        ("runs", RunsOf),
        ("bias", BiasOf),
        ("queries", c_void_p),
        ("past", c_int64),
        ("scale", c_float),
        ("softcap", c_float),
        ("dropout", c_float),
        ("seed", c_uint64),
        *((name, c_void_p) for name in ("sinks", "lse", "top", "sum")),
        ("probe", ProbeOf),
        ("lengths", c_void_p),
        ("blocks", c_void_p),
        ("block", c_int64),
        ("blocks_row", c_int64),
        ("dout", Strided),
        ("dlse", c_void_p),
        *((name, Strided) for name in ("dq", "dk", "dv")),
        *((name, c_void_p) for name in ("dsinks", "dtable", "ddense", "received", "map")),
        *((name, c_int64) for name in ("column_start", "column_stop")),
        *((name, c_int64) for name in ("map_rows", "map_columns")),
        ("top_weights", c_void_p),
        ("top_keys", c_void_p),
        ("top_k", c_int64),
        ("roles", c_int64),
        *((name, c_void_p) for name in ("targets", "toward", "order", "named", "held", "marks", "on")),
        ("marked", c_int64),
        ("fewest", c_void_p),
        ("share", c_float),
    )


KERNELS = ("forward", "backward", "decode", "received", "map", "top", "toward", "held", "fewest")
"""Each takes a pointer to a NativeCall."""


def _load() -> ctypes.CDLL | str:
    """The library; or a sentence that says why there is none."""
    path = os.environ.get("CLEARHEAD_NATIVE") or next(map(str, FOLDER.glob("libclearhead_kernels.*")), "")
    if not path:
        return f"the native core is not built: {FOLDER} holds no libclearhead_kernels. {build_again()}"
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        return f"the native core can't be loaded: {error}"
    library.clearhead_size_of_call.restype = c_size_t
    if library.clearhead_size_of_call() != ctypes.sizeof(NativeCall):
        return f"the native core {path} is of another version of clearhead. {build_again()}"
    for kernel in KERNELS:
        function = getattr(library, f"clearhead_{kernel}")
        function.argtypes, function.restype = (POINTER(NativeCall),), None
    library.clearhead_work.argtypes, library.clearhead_work.restype = (POINTER(NativeCall),), c_int64
    library.clearhead_tile.argtypes, library.clearhead_tile.restype = (), c_int64
    library.clearhead_isa.restype = c_char_p
    library.clearhead_isa_here.argtypes, library.clearhead_isa_here.restype = (c_int,), c_char_p
    library.clearhead_choose_isa.argtypes, library.clearhead_choose_isa.restype = (c_char_p,), c_int
    if library.clearhead_isa() is None:
        return f"the native core {path} was built for another machine's processor. {build_again()}"
    wanted = os.environ.get("CLEARHEAD_ISA")
    if wanted and not library.clearhead_choose_isa(wanted.encode()):
        here = ", ".join(_isas(library))
        raise ClearheadError(f"CLEARHEAD_ISA: got {wanted!r}; this machine and this build have {here}.")
    return library


def build_again() -> str:
    """How to get the core: in a checkout by `make native`, elsewhere by the address that pip installed from."""
    checkout = FOLDER.parents[2]
    if (checkout / "CMakeLists.txt").exists():
        return f"With GCC or Clang on this machine, run `make native` in {checkout}"
    url = "clearhead"
    with suppress(PackageNotFoundError):
        source = json.loads(distribution("clearhead").read_text("direct_url.json") or "{}")
        vcs = source.get("vcs_info")
        url = f"{vcs['vcs']}+{source['url']}@{vcs['commit_id']}" if vcs else source.get("url", url)
    command = f"pip install --force-reinstall --no-deps --no-cache-dir '{url}'"
    return f"With GCC or Clang on this machine, run `{command}`"


def loaded() -> ctypes.CDLL:
    """The library, which is known to be there: `missing()` was asked."""
    if isinstance(_LIBRARY, str):
        raise ClearheadError(f"{_LIBRARY}.")
    return _LIBRARY


def missing() -> str | None:
    """Why there is no native core, in a sentence; None where there is one."""
    return _LIBRARY if isinstance(_LIBRARY, str) else None


def isa() -> str:
    """The instruction set in use."""
    return str(loaded().clearhead_isa().decode())


def isas() -> tuple[str, ...]:
    """The instruction sets that this machine and this build have, the best first."""
    return _isas(loaded())


def choose_isa(name: str) -> None:
    """Takes another instruction set from here on: for tests, and for measuring."""
    if not loaded().clearhead_choose_isa(name.encode()):
        raise ClearheadError(f"isa: got {name!r}; this machine and this build have {', '.join(isas())}.")


@contextmanager
def using(name: str) -> Iterator[None]:
    """Takes another instruction set for a while."""
    before = isa()
    choose_isa(name)
    try:
        yield
    finally:
        choose_isa(before)


def threads() -> int:
    """How many threads the kernels use: as many as PyTorch."""
    return torch.get_num_threads()


def _isas(library: ctypes.CDLL) -> tuple[str, ...]:
    names: list[str] = []
    while name := library.clearhead_isa_here(len(names)):
        names.append(name.decode())
    return tuple(names)


_LIBRARY = _load()  # at once, as torch.compile could not trace it later
