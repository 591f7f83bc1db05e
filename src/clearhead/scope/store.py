"""A store: the queries and keys that a watch keeps, in a folder of safetensors files, read as memory maps."""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearhead.errors import ClearheadError
from clearhead.scope.tokens import marks

TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""What safetensors calls them."""


@dataclass(frozen=True)
class OnDisk:
    """One file: the q of a call, the keys that are new in it, and v if that is kept."""

    path: Path
    has_values: bool = False
    keys: int | None = None
    """How many of its keys count; None is all."""

    def read(self, name: str) -> Tensor:
        """A tensor of it, as a map of the file: what isn't looked at isn't read, what is no longer held is let go."""
        from safetensors import safe_open

        if not self.path.exists():
            raise ClearheadError(f"{self.path}, in which the watch stored q and k, is gone.")
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor if name != "k" or self.keys is None else tensor[:, :, : self.keys]


@dataclass(eq=False)
class KeysOnDisk:
    """The keys of a growing sequence: each lies in the file of the call that was the first to see it."""

    files: list[OnDisk] = field(default_factory=list)
    known: Int[Tensor, "B Tk"] | None = None
    """A number for each key, by which it is known again."""

    @property
    def whole(self) -> Float[Tensor, "B K Tk D"]:
        """All of them."""
        parts = [file.read("k") for file in self.files]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def crop(self, n: int) -> None:
        """Forgets all but the first n, which end among those of the last file."""
        if self.known is None:
            return
        *earlier, last = self.files
        dropped = self.known.shape[1] - n
        self.files = [*earlier, replace(last, keys=last.read("k").shape[2] - dropped)]
        self.known = self.known[:, :n]

    def new(self, k: Float[Tensor, "B K Tk D"]) -> Float[Tensor, "B K n D"] | None:
        """What a longer version of itself has more; None if k is something else. It is then known."""
        now = marks(k.transpose(1, 2).flatten(2))
        old = 0 if self.known is None else self.known.shape[1]
        if self.known is not None and not torch.equal(now[:, :old], self.known):
            return None
        self.known = now
        return k[:, :, old:]


class Store:
    """A folder that a watch fills with files, one a call of an attention. They stay when the record is gone.

    A file is `<layer>.<call>.safetensors` and holds `q (B, H, Tq, D)`, `k (B, K, n, D)`, the keys that no earlier
    call of the same text had, and `v (B, K, Tk, Dv)` if values are kept. It is written beside and renamed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import safetensors  # noqa: F401
        except ImportError as error:
            raise ClearheadError("store= writes safetensors files: pip install safetensors.") from error
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            there = next(self.path.glob("*.safetensors"), None)
        except OSError as error:
            raise ClearheadError(f"store: {self.path} can't be a folder for q and k: {error.strerror}.") from error
        if there is not None:
            raise ClearheadError(f"store: {self.path} holds files already, as {there.name}; name an empty folder.")
        self._files = 0

    def write(self, layer: str, **tensors: Tensor | None) -> OnDisk:
        """One more file."""
        name = f"{layer.replace('/', '_')}.{self._files}.safetensors"
        path, beside = self.path / name, self.path / f".{name}.{os.getpid()}"
        try:
            _save({key: x for key, x in tensors.items() if x is not None}, beside)
            beside.replace(path)
        except OSError as error:
            raise ClearheadError(f"store: {path} cannot be written: {error.strerror or error}.") from error
        finally:
            beside.unlink(missing_ok=True)
        self._files += 1
        return OnDisk(path, tensors.get("v") is not None)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """As `safetensors.torch.save_file`, which would make a second copy of all before it writes."""
    header, end = {}, 0
    for name, x in tensors.items():
        start, end = end, end + x.numel() * x.element_size()
        header[name] = {"dtype": TYPES[x.dtype], "shape": list(x.shape), "data_offsets": [start, end]}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    with path.open("wb") as file:
        file.write(len(said).to_bytes(8, "little") + said)
        for x in tensors.values():
            for head in (head for text in x for head in text if x.numel()):
                file.write(head.contiguous().view(torch.uint8).cpu().numpy().data)
