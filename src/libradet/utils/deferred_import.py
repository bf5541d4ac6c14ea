"""Libraries that other libraries import and that detectors do not use: imported when they are called."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any


@contextmanager
def deferred_import(name: str) -> Iterator[None]:
    """Within the context, whoever imports the module gets functions that import it at their first call.

    ``timm.utils`` imports wandb and supervision imports ``scipy.interpolate``, each for one function, which can last a
    tenth of the time of importing torch. A module that is imported already, or is not installed, is left as it is.
    """
    if name in sys.modules or find_spec(name) is None:
        yield
        return
    sys.modules[name] = placeholder = _Deferred(name)
    try:
        yield
    finally:
        if sys.modules.get(name) is placeholder:
            del sys.modules[name]


class _Deferred(ModuleType):
    def __getattr__(self, function: str) -> Callable[..., Any]:
        if function.startswith("__"):
            raise AttributeError(function)

        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(import_module(self.__name__), function)(*args, **kwargs)

        return call
