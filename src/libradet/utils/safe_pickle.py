"""Restricted unpickling: builds tensors, arrays of numbers and plain containers, and executes nothing else.

A pickle refers to functions and classes by name. Each name is one of:

- allowed: the functions and types that tensors, arrays and containers are rebuilt with (``ALLOWED``). Functions are
  wrapped, so that a pickle can call but not change them, and arrays are rebuilt only after their shape, dtype and
  number of bytes have been compared (NumPy itself does not check: an object array with too short a list makes it read
  memory out of bounds);
- a class of a detection toolbox (``PLACEHOLDER_PACKAGES``), which trainers pickle along with the weights (log buffers,
  schedulers, settings): replaced by :class:`Placeholder`, without importing the package;
- anything else: refused by name with :class:`libradet.errors.UserError`.

The module can be passed to ``torch.load`` as ``pickle_module``.
"""

import collections
import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from libradet.errors import UserError

PLACEHOLDER_PACKAGES = (
    *("mmengine", "mmcv", "mmdet", "mmcls", "mmpretrain", "mmseg", "addict"),
    *("detectron2", "fvcore", "iopath", "yacs", "omegaconf", "lightning", "pytorch_lightning"),
    *("argparse", "pathlib", "datetime", "uuid"),
)
INSTANCE_DATA_PACKAGES = ("mmengine", "mmdet")

READ_ERRORS = (
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
"""Exceptions that reading a damaged file can raise."""

MAX_MEMO_GAP = 1000
"""How far a memo index may exceed the number of operations before it; real pickles count up from 0."""


def load(file: Any, **options: Any) -> Any:
    """Read an object from a binary file, as ``pickle.load`` does, with :class:`Unpickler`.

    Raises:
        UserError: the pickle refers to a name that is not allowed.
        Exception: one of ``READ_ERRORS`` if the file is damaged.
    """
    return Unpickler(file, **options).load()


class Unpickler(pickle.Unpickler):
    """Unpickler that resolves only the names described in the module's docstring."""

    def __init__(self, file: Any, **options: Any) -> None:
        check_memo_indices(file)
        super().__init__(file, **options)

    def find_class(self, module: str, name: str) -> Any:
        """Return the function or class that stands for a name. Raises UserError if the name is not allowed."""
        module = "builtins" if module == "__builtin__" else module
        if (allowed := ALLOWED.get(f"{module} {name}")) is not None:
            return allowed
        if module == "torch" and isinstance(value := vars(torch).get(name), torch.dtype):
            return value
        package = module.split(".")[0]
        if package in INSTANCE_DATA_PACKAGES and name == "InstanceData":
            return InstanceDataPlaceholder
        if package in PLACEHOLDER_PACKAGES:
            return Placeholder
        raise _refusal(f"{module}.{name}")


def check_memo_indices(file: Any) -> None:
    """Refuse memo indices far above the number of operations: Python allocates the memo up to the highest index.

    Raises:
        pickle.UnpicklingError: a few bytes of the file would allocate all memory.
    """
    start = file.tell()
    try:
        for count, (operation, index, _) in enumerate(pickletools.genops(file)):
            if "PUT" in operation.name and isinstance(index, int) and index > MAX_MEMO_GAP + count:
                raise pickle.UnpicklingError(f"memo index {index} after only {count} operations")
    except (ValueError, UnicodeError):
        pass  # the unpickler itself reports what is damaged
    finally:
        file.seek(start)


def _refusal(name: str) -> UserError:
    return UserError(f"the file refers to {name}, which is not plain data; it was not loaded")


# ---- Stand-ins for functions and objects


class _Immutable(type):
    def __setattr__(cls, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"{cls.__name__} cannot be changed")


class Placeholder(metaclass=_Immutable):
    """Stand-in for an object that is not needed: accepts any argument and state, keeps nothing, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Placeholder":
        """Ignore the arguments."""
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Ignore the item."""

    def extend(self, items: Any) -> None:
        """Ignore the items."""

    def add(self, item: Any) -> None:
        """Ignore the item."""


class InstanceDataPlaceholder(Placeholder):
    """Stand-in for mmengine's ``InstanceData`` that keeps its fields (``bboxes``, ``scores``) and does nothing."""

    fields: dict[str, Any] = {}  # noqa: RUF012 (the class is immutable, instances get their own)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.fields = state


class _Function:
    """Wrapper of a function that a pickle may call, but not change."""

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


# ---- Arrays of numbers


_NUMBERS = re.compile(r"b1|[iuf][1248]|f16|c8|c16|c32|[SU]\d{1,4}")


class DtypeStub:
    """Stand-in for ``numpy.dtype`` until an array is built with it.

    Raises:
        pickle.UnpicklingError: the dtype is not one of numbers or text.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of dtype {str(code)[:40]!r}; only arrays of numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Set the byte order, the only part of a plain dtype's state that matters."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a dtype whose state is not just a byte order")
        self.dtype = self.dtype.newbyteorder(order)


class ArrayStub(np.ndarray):
    """An empty array whose shape, dtype and content are set by the pickle later."""

    def __setstate__(self, state: Any) -> None:  # pyrefly: ignore
        """Set shape and content if they fit each other."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array whose state does not have five parts")
        _, shape, stub, fortran_order, content = state
        dtype, content = _dtype(stub), _bytes(content)
        shape = _checked_shape(shape, dtype, content)
        super().__setstate__((1, shape, dtype, bool(fortran_order), content))  # pyrefly: ignore


def _reconstruct_array(*_: Any) -> ArrayStub:
    # Arguments are ignored: a pickle starts with an empty array, and another shape would allocate memory for nothing.
    return np.empty(0, dtype=np.int8).view(ArrayStub)


def _rebuild_scalar(stub: Any, content: Any = b"") -> Any:
    dtype, content = _dtype(stub), _bytes(content)
    _checked_shape((), dtype, content)
    return np.frombuffer(content, dtype)[0] if dtype.itemsize else dtype.type()


def _array_from_buffer(content: Any, stub: Any, shape: Any, order: Any = "C", axes: Any = None) -> np.ndarray:
    # How protocol 5 writes arrays.
    dtype, content = _dtype(stub), _bytes(content)
    shape = _checked_shape(shape if isinstance(shape, tuple) else (shape,), dtype, content)
    array = np.frombuffer(content, dtype) if content else np.empty(0, dtype)
    array = array.reshape(shape, order="F" if order == "F" else "C")
    return array if axes is None else array.transpose(axes)


def _dtype(stub: Any) -> np.dtype:
    if not isinstance(stub, DtypeStub):
        raise pickle.UnpicklingError("an array without a dtype")
    return stub.dtype


def _bytes(content: Any) -> bytes:
    if isinstance(content, str):  # Python 2's bytes, read as latin1
        return content.encode("latin1")
    if not isinstance(content, bytes | bytearray | pickle.PickleBuffer):
        raise pickle.UnpicklingError("an array whose content is not bytes")
    return bytes(content)


def _checked_shape(shape: Any, dtype: np.dtype, content: bytes) -> tuple[int, ...]:
    plain = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
    if not plain or math.prod(shape) * dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array of shape {str(shape)[:60]} with {len(content)} bytes of content")
    return shape


# ---- Tensors and built-in functions


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    # Without gradient, hooks and metadata: only the values are used.
    return torch._utils._rebuild_tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # How protocol 2 writes bytes. Other codecs could decompress a small file into a huge one.
    if encoding not in ("latin1", "latin-1"):
        raise _refusal(f"the codec {encoding!r}")
    return text.encode("latin1")


def _empty_bytes(*args: Any) -> bytes:
    # How protocol 2 writes the content of an empty array.
    if args:
        raise _refusal("builtins.bytes(...)")
    return b""


def _getattr(owner: Any, name: str) -> Placeholder:
    # Methods of placeholders are pickled as getattr(class, name); of other objects, getattr leads to functions.
    if isinstance(owner, Placeholder) or (isinstance(owner, type) and issubclass(owner, Placeholder)):
        return Placeholder()
    raise _refusal(f"getattr(..., {name!r})")


_NUMPY = {
    "multiarray _reconstruct": _Function(_reconstruct_array),
    "multiarray scalar": _Function(_rebuild_scalar),
    "numeric _frombuffer": _Function(_array_from_buffer),
}
ALLOWED: dict[str, Any] = {
    "torch._utils _rebuild_tensor_v2": _Function(_rebuild_tensor),
    "torch._utils _rebuild_tensor": _Function(_rebuild_tensor),
    "torch._utils _rebuild_parameter": _Function(_rebuild_parameter),
    "torch Size": _Function(tuple),
    "torch device": _Function(lambda *_: None),
    # Named only as the first argument of _reconstruct.
    "numpy ndarray": Placeholder,
    "numpy dtype": DtypeStub,
    "collections OrderedDict": collections.OrderedDict,
    "collections Counter": _Function(dict),
    "collections defaultdict": _Function(lambda *_: {}),
    "collections deque": _Function(lambda *_: []),
    "_codecs encode": _Function(_encode),
    "builtins bytes": _Function(_empty_bytes),
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
"""Names (module, then qualified name) that a pickle may refer to, and what stands for them."""
