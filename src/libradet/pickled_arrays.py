"""Arrays of numbers out of pickles, built after their parts were compared: NumPy's own ways trust what they are given.

An array of Python objects whose list is too short makes NumPy read memory that is not its own, for instance.
"""

import math
import pickle
import re
from typing import Any

import numpy as np

_NUMBERS = re.compile(r"b1|[iuf][1248]|f16|c8|c16|c32|[SU]\d{1,4}")


class Kind:
    """Stands for a dtype until an array is made of it.

    Raises:
        pickle.UnpicklingError: it is none of numbers or text.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of {str(code)[:40]!r}; only arrays of numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Take over the order of bytes, which is all that plain numbers have to say."""
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if not isinstance(order, str) or order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a dtype with a state of its own")
        self.dtype = self.dtype.newbyteorder(order)


class Array(np.ndarray):
    """An array whose content is still to come."""

    def __setstate__(self, state: Any) -> None:  # pyrefly: ignore
        """Take over shape and numbers, if they fit each other."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array without its five parts")
        _, shape, kind, columns_first, content = state
        dtype, content = _dtype(kind), _bytes(content)
        super().__setstate__((1, _fitting(shape, dtype, content), dtype, bool(columns_first), content))  # pyrefly: ignore


def reconstruct(*_: Any) -> Array:
    """How arrays start in a pickle, before their state is set; another shape would be memory for nothing."""
    return np.empty(0, dtype=np.int8).view(Array)


def scalar(kind: Any, content: Any = b"") -> Any:
    """A number."""
    dtype, content = _dtype(kind), _bytes(content)
    _fitting((), dtype, content)
    return np.frombuffer(content, dtype)[0] if dtype.itemsize else dtype.type()


def frombuffer(content: Any, kind: Any, shape: Any, order: Any = "C", axes: Any = None) -> np.ndarray:
    """How protocol 5 writes arrays."""
    dtype, content = _dtype(kind), _bytes(content)
    shape = _fitting(shape if isinstance(shape, tuple) else (shape,), dtype, content)
    found = np.frombuffer(content, dtype) if content else np.empty(0, dtype)
    found = found.reshape(shape, order="F" if order == "F" else "C")
    return found if axes is None else found.transpose(axes)


def _dtype(kind: Any) -> np.dtype:
    if not isinstance(kind, Kind):
        raise pickle.UnpicklingError("an array without a dtype")
    return kind.dtype


def _bytes(content: Any) -> bytes:
    if isinstance(content, str):  # Python 2's bytes, read as latin1
        return content.encode("latin1")
    if not isinstance(content, bytes | bytearray | pickle.PickleBuffer):
        raise pickle.UnpicklingError("an array whose content is no bytes")
    return bytes(content)


def _fitting(shape: Any, dtype: np.dtype, content: bytes) -> tuple[int, ...]:
    plain = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
    if not plain or math.prod(shape) * dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array of shape {str(shape)[:60]} and {len(content)} bytes")
    return shape
