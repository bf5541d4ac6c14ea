"""Files that are written whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from libradet.errors import UserError


def require(path: str | Path) -> None:
    """Raise UserError if nothing is there: checked before libraries are loaded that take seconds."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such file")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file to write to, which then becomes ``path``, at once or not at all; folders on the way to it are made.

    Raises:
        UserError: it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        usual = partial.stat().st_mode
        yield partial
        partial.chmod(usual)  # safetensors lets nobody but the owner read
        os.replace(partial, path)
    except (OSError, SafetensorError, RuntimeError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e).splitlines()[0]
        raise UserError(f"{path}: cannot be written ({reason})") from e
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any, indent: int | None = None) -> None:
    """Write ``content`` as :func:`replacing` does. Raises UserError if it cannot be written."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
