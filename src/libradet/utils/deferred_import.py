"""Libraries that other libraries import and that detectors do not use: imported when they are called."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

_COMPILER = "torch._dynamo"


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
        placeholder.remove()


@contextmanager
def deferred_compiler() -> Iterator[None]:
    """Within the context, importing torchvision and timm does not import torch's compiler, unless it is already.

    This is half of the time of ``import torch, torchvision``. torchvision imports it for the test whether a device can
    compile, and both for the decorator ``torch.compiler.disable``, which is here applied once there is a compiler.
    Whatever else they may use of it is imported as ever.
    """
    if _COMPILER in sys.modules:
        yield
        return
    import torch

    disable = torch.compiler.disable
    name = f"{_COMPILER}.utils"
    sys.modules[name] = placeholder = _Deferred(name, only="is_compile_supported")

    def remove_for_compiler(imported: str, *_: Any) -> None:
        """Remove the placeholder as soon as anything imports the compiler, which uses that module itself."""
        if imported == _COMPILER:
            placeholder.remove()

    finder: Any = SimpleNamespace(find_spec=remove_for_compiler)
    sys.meta_path.insert(0, finder)
    torch.compiler.disable = partial(_disable_later, disable)
    try:
        yield
    finally:
        torch.compiler.disable = disable
        sys.meta_path.remove(finder)
        placeholder.remove()


def _disable_later(
    disable: Callable[..., Any], function: Callable[..., Any] | None = None, *args: Any, **kwargs: Any
) -> Callable[..., Any]:
    if function is None:
        return partial(_disable_later, disable, *args, **kwargs)
    disabled: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*inputs: Any, **options: Any) -> Any:
        if _COMPILER not in sys.modules:
            return function(*inputs, **options)
        if not disabled:
            disabled.append(disable(function, *args, **kwargs))
        return disabled[0](*inputs, **options)

    return call


class _Deferred(ModuleType):
    """Has a function for every name, or the function ``only`` and else the attributes of the imported module."""

    def __init__(self, name: str, only: str | None = None) -> None:
        super().__init__(name)
        self._only = only

    def __getattr__(self, function: str) -> Any:
        if function.startswith("__"):
            raise AttributeError(function)
        if self._only not in (None, function):
            self.remove()
            return getattr(import_module(self.__name__), function)

        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(import_module(self.__name__), function)(*args, **kwargs)

        return call

    def remove(self) -> None:
        """Let the module be imported from now on."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
