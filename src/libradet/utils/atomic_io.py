"""Atomic writing of files and folders."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from libradet.errors import UnwritableError, UserError


def require_exists(path: str | Path) -> None:
    """Raise UserError if ``path`` does not exist; called before slow imports."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such file")


def require_writable(path: str | Path) -> None:
    """Raise UserError unless a file can be written at the end of long work; nothing is created.

    Raises:
        UserError: its folder cannot be created or written, or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    present = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not present.is_dir():
        raise UserError(f"{path.parent}: the folder cannot be created ({present} is a file); choose another path")
    if not os.access(present, os.W_OK | os.X_OK):
        raise UserError(f"{path.parent}: the folder cannot be written; choose another path")


@contextmanager
def created_folder_of(path: Path) -> Iterator[None]:
    """Create the folder of a file and its parents; those that are still empty after an error are removed.

    Raises:
        UnwritableError: it cannot be created.
    """
    created = [folder for folder in path.parents if not os.path.lexists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UnwritableError(f"{path}: cannot be written ({e.strerror})") from e
    try:
        yield
    except BaseException:
        for folder in created:
            with suppress(OSError):  # it has files
                folder.rmdir()
        raise


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a file, without a byte order mark, which some Windows editors write.

    Raises:
        UserError: it cannot be read, or is not UTF-8 under ``errors="strict"``.
    """
    if path.exists() and not path.is_file():  # a device or a pipe may have no end
        raise UserError(f"{path}: is not a file.")
    try:
        return path.read_text(encoding="utf-8-sig", errors=errors)
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}).") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: is not text in UTF-8 ({e.reason} at byte {e.start}).") from None


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file that replaces ``path`` atomically; parent folders are created.

    Raises:
        UnwritableError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with created_folder_of(path):
        try:
            partial.touch()
            default_mode = partial.stat().st_mode
            yield partial
            partial.chmod(default_mode)  # safetensors creates files that only the owner can read
            os.replace(partial, path)
        except (OSError, SafetensorError, RuntimeError) as e:
            raise UnwritableError(f"{path}: cannot be written ({_reason(e, partial)})") from e
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _reason(error: Exception, partial: Path) -> str:
    """Return the system's reason; torch's archive writer hides it, so a further write is tried."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    try:
        with partial.open("ab") as file:
            file.write(bytes(1 << 20))
    except OSError as e:
        return e.strerror or str(e)
    return str(error).splitlines()[0]


@contextmanager
def atomic_folder(path: str | Path, own: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``path`` atomically; parent folders are created.

    Args:
        own: file names that an existing folder may contain and still be replaced.

    Raises:
        UserError: ``path`` exists and contains other files, or it cannot be written.
    """
    path = Path(path)
    require_replaceable(path, own)
    partial = path.with_name(path.name + ".partial")
    with created_folder_of(path):
        try:
            partial.mkdir()
        except FileExistsError:
            raise UserError(
                f"{partial}: is being written by another process; if that process was killed, remove this folder."
            ) from None
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


def require_replaceable(path: Path, own: Sequence[str] = ()) -> None:
    """Raise UserError unless ``path`` is absent or a folder with no files but ``own``, and not the working folder."""
    if path.is_dir() and all(entry.name in own for entry in path.iterdir()) and path.resolve() != Path.cwd():
        return
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: already exists; name a new or empty folder.")


def write_json(path: str | Path, content: Any, indent: int | None = None) -> None:
    """Write ``content`` as JSON, atomically. Raises UserError if the file cannot be written."""
    with atomic_write(path) as partial:
        # File names need not be valid UTF-8: invalid bytes are written as JSON escapes.
        text = json.dumps(content, indent=indent, ensure_ascii=False)
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def atomic_json_list(path: str | Path) -> Iterator[Callable[[Any], None]]:
    """Yield a function that appends entries to a JSON list; after an interrupt the file has the entries so far.

    Raises:
        UserError: it cannot be written.
    """
    interrupt: BaseException | None = None
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
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
