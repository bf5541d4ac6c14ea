"""Malicious pickles: if executed, each would create a file, or use excessive memory or time."""

import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stress.mutation import Rng, pick


class Call:
    """Pickled as a call of ``function``, optionally with a state to set on its result."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self._parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> Any:
        return self._parts


def trap(rng: Rng, canary: Path) -> Any:
    """Return an object that creates ``canary`` when it is unpickled without restrictions."""
    touch, path = f"touch {canary}", str(canary)
    calls = [
        Call(os.system, touch),
        Call(os.popen, touch),
        Call(subprocess.Popen, ["touch", path]),
        Call(open, path, "w"),
        Call(exec, f"open({path!r}, 'w')"),
        Call(eval, f"open({path!r}, 'w')"),
        Call(os.mkdir, path),
        Call(Path.touch, canary),
        Call(getattr, torch.Size([1]), "__class__"),
        Call(__import__, "antigravity"),
        Call(np.save, path, [1]),
        Call(torch.save, 1, path),
        Call(torch.Size, (1,), state={"__call__": 1}),
        Call(bytes, 10**12),
        Call(bytearray, 10**12),
        Call(list, range(10**9)),
        Call(np.zeros, 10**12),
        Call(np.memmap, path, "u1", "w+", 0, (9,)),
        Call(compile, "1", "x", "exec"),
        Call(setattr, torch.Size, "x", 1),
    ]
    return pick(rng, calls)


def program(rng: Rng, canary: Path) -> bytes:
    """Return a pickle assembled from opcodes, valid or not."""
    forbidden = pick(rng, FORBIDDEN_GLOBALS)
    allowed = pick(rng, ALLOWED_GLOBALS)
    text = f"V{f'touch {canary}'}\n".encode()
    big = b"L" + str(2**40).encode() + b"L\n"
    array = b"cnumpy\nndarray\n(" + big + b"tV|u1\n"
    programs = [
        forbidden + b"(" + text + b"tR.",
        forbidden + text + b"\x85R.",
        b"(" + text + forbidden[1:] + b"o.",
        allowed + b"(" + big + b"tR.",
        allowed + b"(N(dVx\nI1\nstb.",
        allowed + b"(dV__new__\n" + forbidden + b"sb.",
        allowed + b"(" + array + b"tR.",
        b"\x80\x02" + allowed + b")\x81.",
        allowed + b"(Vx\nVzip\ntR.",
        allowed + b"(](tR.",
        b"i" + forbidden[1:] + b".",
        b"(" + text + b"i" + forbidden[1:] + b".",
        *MALFORMED_PROGRAMS,
        _tuples(int(rng.integers(20, 60))),
        rng.bytes(int(rng.integers(1, 60))) + b".",
    ]
    return pick(rng, programs)


FORBIDDEN_GLOBALS = [
    b"cposix\nsystem\n",
    b"cbuiltins\neval\n",
    b"cnt\nsystem\n",
    b"c__builtin__\nexec\n",
    b"cmmengine\nx\n",
]
ALLOWED_GLOBALS = [
    b"ctorch\nSize\n",
    b"cnumpy\ndtype\n",
    b"cnumpy\nndarray\n",
    b"ccollections\nOrderedDict\n",
    b"cbuiltins\ngetattr\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy.core.numeric\n_frombuffer\n",
    b"c_codecs\nencode\n",
    b"cbuiltins\nlist\n",
    b"cbuiltins\nset\n",
]
MALFORMED_PROGRAMS = [
    b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x",
    b"\x8b" + struct.pack("<i", 2**31 - 1) + b"1",
    b"\x80\x05\x96" + struct.pack("<Q", 2**40),
    b"." * 9,
    b"(" * 100_000 + b"t.",
    b"]" * 50_000 + b"a" * 49_999 + b".",
    b"\x80\x04" + b"\x94" * 1000 + b"N.",
    b"q\xff.",
    b"h\x00.",
    b"r\xff\xff\xff\x7f.",
    b"Nr\xff\xff\xff\x0f.",
    b"\x80\xff.",
    b"cx\n\xff\n.",
    b"Pabc\n.",
    b"NQ.",
]


def _tuples(levels: int) -> bytes:
    """Return nested tuples, each twice in the next: few bytes, exponential time to print or compare."""
    return b"N" + b"2\x86" * levels + b"."
