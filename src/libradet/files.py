"""Files that are written whole or not at all."""

import json
import os
from collections.abc import Callable, Iterator
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


@contextmanager
def growing_list(path: str | Path) -> Iterator[Callable[[Any], None]]:
    """A JSON list that is written entry by entry; after an interrupt it holds what came until then.

    Raises:
        UserError: it cannot be written.
    """
    interrupt: BaseException | None = None
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        between = "["

        def add(entry: Any) -> None:
            nonlocal between
            file.write(between + json.dumps(entry, ensure_ascii=False))
            between = ",\n"

        try:
            yield add
        except BaseException as error:
            interrupt = error
        file.write("[]" if between == "[" else "]")
    if interrupt is not None:
        raise interrupt
