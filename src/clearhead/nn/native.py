"""The layers' own kernels, on the CPU, where no gradient is wanted: each in one pass, and with few calls a token."""

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.parameter import Parameter

from clearhead.attend import library
from clearhead.attend.library import Strided
from clearhead.attend.operators import TYPES, strided
from clearhead.errors import ClearheadError

FEW, MANY = 8, 96
"""Up to so many rows ours is the faster product of 16-bit numbers, as it is bound by reading the weights; in float32
MKL's is. From so many on it is the faster product of matrices of float32, on AVX-512 and on AMX."""
HERE = library.missing() is None
AVX512 = ("amx", "avx512bf16", "avx512")
GATES = {"silu": 0, "gelu_tanh": 1, "quick_gelu": 2}
"""kernels/layer.h: Gate."""


class LayerCall(ctypes.Structure):
    """kernels/layer.h: Layer, field by field."""

    __slots__ = ()
    _fields_ = (
        *((name, c_int64) for name in ("rows", "in", "out")),
        *((name, c_int32) for name in ("type", "threads")),
        *((name, c_void_p) for name in ("x", "weight", "bias", "y")),
        *((name, c_int64) for name in ("x_row", "y_row")),
        *((name, c_float) for name in ("eps", "offset")),
        ("gate", c_int32),
    )


class TurnCall(ctypes.Structure):
    """kernels/layer.h: Turn, field by field."""

    __slots__ = ()
    _fields_ = (
        *((name, c_int64) for name in ("B", "heads", "T", "D", "R")),
        *((name, c_int32) for name in ("type", "threads")),
        ("x", Strided),
        ("y", Strided),
        *((name, c_void_p) for name in ("cos", "sin")),
        *((name, c_int64) for name in ("angles_batch", "angles_row")),
    )


def check_size(name: str, structure: type[ctypes.Structure]) -> None:
    """Raises ClearheadError if the library has a structure of this name in another shape."""
    if HERE and getattr(library.loaded(), f"clearhead_size_of_{name}")() != ctypes.sizeof(structure):
        raise ClearheadError("the native core is of another version of clearhead; install clearhead again.")


check_size("layer", LayerCall)
check_size("turn", TurnCall)


def takes(x: Tensor, weight: Tensor | None = None) -> bool:
    """Whether these kernels can be used: on the CPU, of a type that they know, without gradient.

    A weight is of x's width; one that is of another, PyTorch refuses in its words.
    """
    return (
        HERE
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not _is_looked_at()
        and _is_memory(x)
        and x.dtype in TYPES
        and (weight is None or (fits(weight, x) and weight.shape[-1] == x.shape[-1]))
    )


def fits(weight: Tensor, x: Tensor) -> bool:
    """Whether the kernels can read this weight beside x."""
    return _is_memory(weight) and weight.dtype == x.dtype and weight.is_contiguous()


def _is_memory(x: Tensor) -> bool:
    """Whether x is numbers in the CPU's memory, which mean what is written there."""
    plain = type(x) in (Tensor, Parameter) and x.is_cpu and x.layout is torch.strided
    return plain and not x.is_neg() and not x._is_zerotensor() and x.numel() > 0


def _is_looked_at() -> bool:
    """Whether a trace, a mode or a transform is to see PyTorch's own operations."""
    return (
        torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def takes_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether `linear` can be used, and is faster than PyTorch's on so many rows."""
    if not takes(x, weight) or (bias is not None and not fits(bias, x)):
        return False
    rows = x.numel() // x.shape[-1]
    return x.dtype != torch.float32 if rows <= FEW else _multiplies_best(x.dtype, rows)


def steps(x: Tensor) -> bool:
    """Whether a whole block of these kernels is faster than its parts: for few tokens, or where they multiply best."""
    rows = x.numel() // x.shape[-1]
    return rows <= FEW or _multiplies_best(x.dtype, rows)


def _multiplies_best(dtype: torch.dtype, rows: int) -> bool:
    """Whether so many rows of this type are multiplied faster by our kernels than by PyTorch's."""
    return dtype == torch.float32 and rows >= MANY and library.isa() in AVX512


def linear(
    x: Float[Tensor, "*tokens E"], weight: Float[Tensor, "out E"], bias: Float[Tensor, " out"] | None
) -> Float[Tensor, "*tokens out"]:
    """x Wᵀ + b, with sums in float32."""
    return _by_rows("clearhead_linear", x, weight.shape[0], weight, bias)


def rms_norm(
    x: Float[Tensor, "*tokens E"], weight: Float[Tensor, " E"], eps: float, offset: float
) -> Float[Tensor, "*tokens E"]:
    """x / √(mean(x²) + eps) · (offset + weight)."""
    return _by_rows("clearhead_rms_norm", x, x.shape[-1], weight, None, eps, offset)


def gate(x: Float[Tensor, "*tokens both"], activation: str) -> Float[Tensor, "*tokens hidden"]:
    """f(gate) ⊙ up, of rows that hold the gate's numbers, then up's."""
    return _by_rows("clearhead_gate", x, x.shape[-1] // 2, None, None, 0.0, 0.0, GATES[activation])


def _by_rows(kernel: str, x: Tensor, out: int, weight: Tensor | None, bias: Tensor | None, *numbers: float) -> Tensor:
    """One of the kernels on each row of x; `numbers` are the last fields of LayerCall."""
    x = x.contiguous()
    width = x.shape[-1]
    y = x.new_empty((*x.shape[:-1], out))
    call = LayerCall(
        x.numel() // width,
        width,
        out,
        TYPES[x.dtype],
        library.threads(),
        x.data_ptr(),
        None if weight is None else weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        y.data_ptr(),
        width,
        out,
        *numbers,
    )
    getattr(library.loaded(), kernel)(ctypes.byref(call))
    return y


def takes_angles(cos: Tensor, sin: Tensor) -> bool:
    """Whether the kernels can read these angles."""
    return cos.shape == sin.shape and all(_is_memory(x) and x.dtype == torch.float32 for x in (cos, sin))


def turn(
    x: Float[Tensor, "B N T D"], cos: Float[Tensor, "_ 1 T R"], sin: Float[Tensor, "_ 1 T R"]
) -> Float[Tensor, "B N T D"]:
    """x with dimensions d and d + R / 2 turned by the angle of d, for d < R / 2; laid out as `(B, T, N, D)`."""
    (B, N, T, D), R = x.shape, cos.shape[-1]
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = x.new_empty(B, T, N, D).transpose(1, 2)
    cos, sin = (each.expand(-1, -1, T, -1).contiguous() for each in (cos, sin))
    call = TurnCall(B, N, T, D, R // 2, TYPES[x.dtype], library.threads(), strided(x), strided(y), cos.data_ptr())
    call.sin, call.angles_batch, call.angles_row = sin[..., R // 2 :].data_ptr(), T * R if len(cos) > 1 else 0, R
    library.loaded().clearhead_turn(ctypes.byref(call))
    return y
