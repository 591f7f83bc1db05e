"""What `import clearhead` adds to PyTorch and Transformers, without importing either.

Both take seconds to import, and Transformers is an extra. So `import clearhead` leaves a finder in `sys.meta_path` for
each, which acts once, when the module that it waits for has been imported:

- behind PyTorch it registers Clearhead's operators, which exported programs name;
- behind Transformers' models it registers `attn_implementation="clearhead"`.
"""

import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

REGISTERED_BY = {"torch": "clearhead.attend", "transformers.modeling_utils": "clearhead.transformers"}
"""For each module that is waited for, the module of Clearhead whose import registers."""


def register() -> None:
    """Registers now what can be, and the rest when PyTorch or Transformers' models are imported."""
    for module in REGISTERED_BY:
        if module in sys.modules:
            _register(module)
        else:
            sys.meta_path.insert(0, _Finder(module))


def _register(module: str) -> None:
    with suppress(ImportError):  # of a version that is too old: an error where Clearhead is used, not where that is
        import_module(REGISTERED_BY[module])


class _Finder:
    """Finds nothing itself, and registers when the module has run."""

    def __init__(self, module: str) -> None:
        self.module = module

    def find_spec(self, name: str, path: Iterable[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec that the other finders give; of the module that is waited for, one that registers afterwards."""
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        loader = None if spec is None else spec.loader
        if loader is not None:
            run = loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register(name)

            loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec
