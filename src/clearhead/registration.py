"""Registers `attn_implementation="clearhead"` as soon as Transformers' models are imported, and imports nothing before.

Transformers takes seconds to import and is an extra. So `import clearhead` leaves a finder in `sys.meta_path` that acts
once: behind the import of the module in which Transformers keeps its attention functions.
"""

import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

MODELS = "transformers.modeling_utils"


def register_with_transformers() -> None:
    """Registers now, if Transformers' models are imported already, or else when they are."""
    if MODELS in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Finder())


def _register() -> None:
    with suppress(ImportError):  # Transformers is too old; `import clearhead.transformers` says so
        import_module("clearhead.transformers")


class _Finder(MetaPathFinder):
    """Finds nothing itself, and registers when the module of Transformers' models has run."""

    def find_spec(self, name: str, path: Iterable[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec that the other finders give; of Transformers' models, one that registers afterwards."""
        if name != MODELS:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        loader = None if spec is None else spec.loader
        if loader is not None:
            run = loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register()

            loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec
