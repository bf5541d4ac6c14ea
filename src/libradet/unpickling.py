"""A pickle reader that builds tensors, arrays and plain containers, and calls nothing that a file could choose.

Three kinds of names may stand in a pickle:

- the few that tensors, arrays and containers are made of, below: they are what they are;
- classes of detection toolboxes, which their trainers pickle beside the weights (log buffers, schedulers,
  settings): they become :class:`Inert`, which takes everything and does nothing. Their packages are not imported;
- anything else: refused, by name.
"""

import collections
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from libradet import pickled_arrays
from libradet.errors import UserError

INERT_PACKAGES = (
    *("mmengine", "mmcv", "mmdet", "mmcls", "mmpretrain", "mmseg", "addict"),
    *("detectron2", "fvcore", "iopath", "yacs", "omegaconf", "lightning", "pytorch_lightning"),
    *("argparse", "pathlib", "datetime", "uuid"),
)


DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    OverflowError,
    AssertionError,
    ImportError,
    MemoryError,
    RecursionError,
)
"""What reading a damaged file can end in."""


class _Sealed(type):
    def __setattr__(cls, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"{cls.__name__} cannot be changed")


class Inert(metaclass=_Sealed):
    """Stands for an object that we do not need: keeps nothing, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        """Ignore what it is made of."""
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Ignore it."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Ignore it."""

    def extend(self, items: Any) -> None:
        """Ignore them."""

    def add(self, item: Any) -> None:
        """Ignore it."""


class _Function:
    """A function that a pickle may call, but not alter."""

    __slots__ = ("_function",)
    _function: Callable

    def __init__(self, function: Callable) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("a function cannot be changed")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError("a function cannot be changed")


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    # Without gradient, hooks and metadata: what is wanted of a tensor is its numbers.
    return torch._utils._rebuild_tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # How protocol 2 writes bytes. Other codecs could unpack a small file into a huge one.
    if encoding not in ("latin1", "latin-1"):
        raise UserError(f"the file asks for the codec {encoding!r}, which is more than data; it was not loaded")
    return text.encode("latin1")


def _no_bytes(*args: Any) -> bytes:
    # How protocol 2 writes the content of an empty array.
    if args:
        raise UserError("the file asks for builtins.bytes(…), which is more than data; it was not loaded")
    return b""


def _getattr(owner: Any, name: str) -> Inert:
    # Methods of inert objects are pickled as getattr(class, name); of anything else, it is a way to a function.
    if isinstance(owner, Inert) or (isinstance(owner, type) and issubclass(owner, Inert)):
        return Inert()
    raise UserError(f"the file asks for getattr(…, {name!r}), which is more than data; it was not loaded")


_NUMPY = {
    "multiarray _reconstruct": _Function(pickled_arrays.reconstruct),
    "multiarray scalar": _Function(pickled_arrays.scalar),
    "numeric _frombuffer": _Function(pickled_arrays.frombuffer),
}
ALLOWED: dict[str, Any] = {
    "torch._utils _rebuild_tensor_v2": _Function(_rebuild_tensor),
    "torch._utils _rebuild_tensor": _Function(_rebuild_tensor),
    "torch._utils _rebuild_parameter": _Function(_rebuild_parameter),
    "torch Size": _Function(tuple),
    "torch device": _Function(lambda *_: None),
    # Named only as the first argument of _reconstruct.
    "numpy ndarray": Inert,
    "numpy dtype": pickled_arrays.Kind,
    "collections OrderedDict": collections.OrderedDict,
    "collections Counter": _Function(dict),
    "collections defaultdict": _Function(lambda *_: {}),
    "collections deque": _Function(lambda *_: []),
    "_codecs encode": _Function(_encode),
    "builtins bytes": _Function(_no_bytes),
    "builtins set": _Function(lambda items=(): list(items)),
    "builtins frozenset": _Function(lambda items=(): list(items)),
    "builtins dict": _Function(dict),
    "builtins list": _Function(list),
    "builtins tuple": _Function(tuple),
    "builtins slice": _Function(slice),
    "builtins complex": _Function(complex),
    "builtins getattr": _Function(_getattr),
    **{f"numpy.core.{name}": function for name, function in _NUMPY.items()},
    **{f"numpy._core.{name}": function for name, function in _NUMPY.items()},
}


def _check_places(file: Any) -> None:
    """Refuse what would be kept at a place far beyond all others: Python makes room for every place before it.

    Raises:
        pickle.UnpicklingError: ten bytes of a file would take all memory.
    """
    start = file.tell()
    try:
        for number, (operation, place, _) in enumerate(pickletools.genops(file)):
            if "PUT" in operation.name and isinstance(place, int) and place > 1000 + number:
                raise pickle.UnpicklingError(f"place {place} in a pickle of fewer parts")
    except (ValueError, UnicodeError):
        pass  # what is damaged is told by the reader itself
    finally:
        file.seek(start)


class Unpickler(pickle.Unpickler):
    """Reads a pickle by the rules above. Raises UserError that names what is refused."""

    def __init__(self, file: Any, **options: Any) -> None:
        _check_places(file)
        super().__init__(file, **options)

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for."""
        module = "builtins" if module == "__builtin__" else module
        if (known := ALLOWED.get(f"{module} {name}")) is not None:
            return known
        if module == "torch" and isinstance(value := vars(torch).get(name), torch.dtype):
            return value
        if module.split(".")[0] in INERT_PACKAGES:
            return Inert
        raise UserError(f"the file asks for {module}.{name}, which is more than data; it was not loaded")


def load(file: Any, **options: Any) -> Any:
    """``pickle.load`` by these rules: with :class:`Unpickler`, what ``torch.load`` wants of a pickle module."""
    return Unpickler(file, **options).load()
