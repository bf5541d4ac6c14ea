"""Files that are written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from safetensors import SafetensorError

from libradet.errors import UserError


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


@contextmanager
def replacing_folder(path: str | Path, own: Sequence[str]) -> Iterator[Path]:
    """A folder to write to, which then becomes ``path``, at once or not at all; folders on the way to it are made.

    Args:
        own: names of what an earlier folder may hold and be replaced for.

    Raises:
        UserError: there is a folder that holds something else, or it cannot be written.
    """
    path = Path(path)
    partial: Path | None = None
    try:
        if path.exists() and (not path.is_dir() or any(entry.name not in own for entry in path.iterdir())):
            raise UserError(f"{path}: there is something else already; name a new folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        partial.chmod(0o777 & ~_umask())
        yield partial
        if path.exists():
            before = Path(mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            os.replace(path, before)
            os.replace(partial, path)
            shutil.rmtree(before, ignore_errors=True)
        else:
            os.replace(partial, path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror or e})") from e
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, content: Any, indent: int | None = None) -> None:
    """Write ``content`` as :func:`replacing` does. Raises UserError if it cannot be written."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
