"""Attention you can run fast and see through.

The public names are listed in `__init__.pyi`. Each is imported when it is first used, so that `import clearhead` takes
milliseconds and does not import PyTorch.
"""

import lazy_loader

from clearhead.registration import register

register()
__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
