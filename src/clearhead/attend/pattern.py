"""A pattern: which keys each query may see, and how patterns compose."""

import sys
from dataclasses import MISSING, dataclass, fields
from typing import TextIO

import torch
from jaxtyping import Bool

from clearhead.attend.runs import Runs
from clearhead.errors import ClearheadError


class Pattern:
    """Which keys each query may see. Compose with `&`, `|` and `~` (Python's `&` binds before `|`).

    Queries are the last Tq of the Tk positions: query row r sits at position i = Tk − Tq + r.

    >>> import clearhead as ch
    >>> pattern = ch.causal() & ch.window(3) | ch.first(1)
    >>> pattern.runs(4, 4).count()[0, 0].tolist()
    [1, 2, 3, 4]
    >>> pattern.pairs(4, 4)
    10
    >>> pattern.draw(6)
    ■ · · · · ·
    ■ ■ · · · ·
    ■ ■ ■ · · ·
    ■ ■ ■ ■ · ·
    ■ · ■ ■ ■ ·
    ■ · · ■ ■ ■
    """

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        raise NotImplementedError

    def runs(self, Tq: int, Tk: int, device: torch.device | str = "cpu") -> Runs:
        """For each of Tq queries, the sorted half-open intervals of the Tk keys that it may see."""
        runs = self._runs(Tq, Tk, torch.device(device))
        if runs.queries != Tq:
            shape = (*runs.start.shape[:2], Tq, runs.start.shape[-1])
            runs = Runs(runs.start.expand(shape), runs.stop.expand(shape), Tk)
        return runs

    def dense(self, Tq: int, Tk: int) -> Bool[torch.Tensor, "B H Tq Tk"]:
        """The boolean mask, `(B or 1, H or 1, Tq, Tk)`: T × T, for small T."""
        return self.runs(Tq, Tk).dense()

    def pairs(self, Tq: int, Tk: int) -> int:
        """How many (query, key) pairs are visible, counted once over the batches and heads that differ."""
        return int(self.runs(Tq, Tk).count().sum(dtype=torch.int64))

    def draw(self, Tq: int = 24, Tk: int | None = None, *, file: TextIO | None = None) -> None:
        """Prints the first batch's and head's mask: ■ sees, · does not; more than 64 tokens are pooled."""
        Tk = Tq if Tk is None else Tk
        if Tq < 1 or Tk < 1:
            raise ClearheadError(f"draw: Tq = {Tq} and Tk = {Tk} leave nothing to draw; expected at least 1 of each.")
        mask = self.dense(Tq, Tk)[:1, :1].float()
        size = (min(64, mask.shape[-2]), min(64, mask.shape[-1]))
        pooled = torch.nn.functional.adaptive_avg_pool2d(mask, size)[0, 0]
        shades = "·░▒▓■"
        for row in pooled.tolist():
            cells = (shades[0 if x == 0 else 4 if x == 1 else 1 + int(x * 3)] for x in row)
            print(" ".join(cells), file=file or sys.stdout)

    def __repr__(self) -> str:
        """The call that makes the pattern, defaults left out."""
        said = []
        for f in fields(self):  # type: ignore[arg-type]  # every pattern is a dataclass
            value = getattr(self, f.name)
            shown = f"{tuple(value.shape)} tensor" if isinstance(value, torch.Tensor) else repr(value)
            if f.default is MISSING:
                said.append(shown)
            elif value is not f.default:
                said.append(f"{f.name}={shown}")
        return f"{type(self).__name__}({', '.join(said)})"

    def __and__(self, other: "Pattern") -> "Pattern":
        return _Both(self, _operand("&", other))

    def __or__(self, other: "Pattern") -> "Pattern":
        return _Either(self, _operand("|", other))

    def __invert__(self) -> "Pattern":
        return _Not(self)

    def __bool__(self) -> bool:
        raise ClearheadError(f"{self!r} is neither true nor false; compose patterns with & | ~, not with and, or, not.")


def _operand(sign: str, other: object) -> Pattern:
    if not isinstance(other, Pattern):
        raise ClearheadError(
            f"pattern {sign} {type(other).__name__}: expected another Pattern; "
            "a boolean mask becomes one by where(mask)."
        )
    return other


@dataclass(frozen=True, eq=False)
class _Both(Pattern):
    left: Pattern
    right: Pattern

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        return self.left.runs(Tq, Tk, device) & self.right.runs(Tq, Tk, device)

    def __repr__(self) -> str:
        sides = (f"({p!r})" if isinstance(p, _Either) else repr(p) for p in (self.left, self.right))
        return " & ".join(sides)


@dataclass(frozen=True, eq=False)
class _Either(Pattern):
    left: Pattern
    right: Pattern

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        return self.left.runs(Tq, Tk, device) | self.right.runs(Tq, Tk, device)

    def __repr__(self) -> str:
        return f"{self.left!r} | {self.right!r}"


@dataclass(frozen=True, eq=False)
class _Not(Pattern):
    inner: Pattern

    def _runs(self, Tq: int, Tk: int, device: torch.device) -> Runs:
        return self.inner.runs(Tq, Tk, device).__invert__()  # torch.compile can't trace ~ on an object

    def __repr__(self) -> str:
        return f"~({self.inner!r})" if isinstance(self.inner, _Both | _Either) else f"~{self.inner!r}"
