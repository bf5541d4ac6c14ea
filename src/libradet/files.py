"""Files and folders that are written whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from libradet.errors import UserError


def require(path: str | Path) -> None:
    """Raise UserError if nothing is there: checked before libraries are loaded that take seconds."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such file")


def read_text(path: Path, errors: str = "strict") -> str:
    """The text in a file. Raises UserError if it cannot be read, or is not UTF-8 and ``errors`` does not replace it."""
    if path.exists() and not path.is_file():  # a device or a pipe may have no end
        raise UserError(f"{path}: is not a file.")
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}).") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: is not text in UTF-8 ({e.reason} at byte {e.start}).") from None


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
        raise UserError(f"{path}: cannot be written ({_why(e, partial)})") from e
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _why(error: Exception, partial: Path) -> str:
    """What the system has against a file: torch's archives do not say, so that some bytes more are tried."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    try:
        with partial.open("ab") as file:
            file.write(bytes(1 << 20))
    except OSError as e:
        return e.strerror or str(e)
    return str(error).splitlines()[0]


@contextmanager
def replacing_folder(path: str | Path, own: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to fill, which then becomes ``path``, at once or not at all; folders on the way to it are made.

    Args:
        own: names of what an earlier folder may hold and be replaced for.

    Raises:
        UserError: ``path`` is there already and holds anything else, or something cannot be written.
    """
    path = Path(path)
    require_free(path, own)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{partial}: is being written, or was left when that was killed: then remove it.") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror})") from e
    try:
        yield partial
        if path.is_dir():
            shutil.rmtree(path)
        partial.rename(path)
    except OSError as e:
        named = f", {e.filename}" if e.filename else ""
        raise UserError(f"{path}: cannot be written ({e.strerror or e}{named})") from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_free(path: Path, own: Sequence[str] = ()) -> None:
    """Raises UserError if ``path`` is anything but a folder with at most ``own`` in it, or is where we are."""
    if path.is_dir() and all(entry.name in own for entry in path.iterdir()) and path.resolve() != Path.cwd():
        return
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: is there already: name a new or empty folder.")


def write_json(path: str | Path, content: Any, indent: int | None = None) -> None:
    """Write ``content`` as :func:`replacing` does. Raises UserError if it cannot be written."""
    with replacing(path) as partial:
        # Names of files need not be text: what is no UTF-8 in them is written in JSON's own escapes.
        text = json.dumps(content, indent=indent, ensure_ascii=False)
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def growing_list(path: str | Path) -> Iterator[Callable[[Any], None]]:
    """A JSON list that is written entry by entry; after an interrupt it holds what came until then.

    Raises:
        UserError: it cannot be written.
    """
    interrupt: BaseException | None = None
    with replacing(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
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
