"""Downloads that resume where they were cut off, and files whose hash is compared before anything reads them."""

import hashlib
import sys
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from libradet.errors import UserError

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut off."""

MAX_RESUMES = 5
CHUNK_BYTES = 1 << 20


class CutOffError(Exception):
    """A connection that ended before the file did."""


def download(url: str, path: Path, sha256: str = "") -> None:
    """Download a file, resuming what an earlier attempt has left in ``path`` with the suffix ``.part``.

    A connection that is cut off is resumed up to ``MAX_RESUMES`` times. ``path`` exists only with the right hash.

    Args:
        sha256: SHA-256 of the file, or its first digits. Without any, only the length is compared, and nothing is
            resumed: parts of two versions of a file could not be distinguished.

    Raises:
        UserError: the address does not answer, or its file has another hash; in one line.
    """
    partial = path.with_name(f"{path.name}.part")
    try:
        if not sha256:
            partial.unlink(missing_ok=True)
        _download_all(url, partial)
        check_hash(partial, sha256, url)
        if not sha256:
            print(f"{path}: its SHA-256 is not known; only its length was compared", file=sys.stderr)
    except UserError:
        partial.unlink(missing_ok=True)
        raise
    except HTTPError as error:
        raise _unreachable(url, path, f"HTTP {error.code} {error.reason}") from error
    except CutOffError as error:
        kept = "; what has arrived is kept, and the next attempt resumes it" if sha256 else ""
        raise _unreachable(url, path, f"cut off {MAX_RESUMES + 1} times, {error}{kept}") from error
    except URLError as error:
        raise _unreachable(url, path, str(error.reason)) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    partial.replace(path)


def check_hash(path: Path, sha256: str, source: str = "") -> None:
    """Raise UserError if the SHA-256 of a file does not begin with these digits.

    Args:
        source: address that the file comes from, for the message; the file itself if empty.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(sha256):
        actual = digest[: len(sha256)]
        fix = "it was not kept; use another mirror" if source else "delete it, so that it is downloaded"
        raise UserError(f"{source or path}: not the published file: its SHA-256 is {actual}, not {sha256}; {fix}")


def _download_all(url: str, partial: Path) -> None:
    """Download to ``partial``, with new connections while each brings the file forward."""
    print(f"downloading {url} to {partial.parent}", file=sys.stderr)
    for resumes in range(MAX_RESUMES + 1):
        try:
            return _download_rest(url, partial)
        except (TimeoutError, ConnectionError, HTTPException, CutOffError) as error:
            size = partial.stat().st_size if partial.exists() else 0
            if resumes == MAX_RESUMES:
                raise CutOffError(f"after {size / 1e6:.1f} MB ({error or type(error).__name__})") from error


def _download_rest(url: str, partial: Path) -> None:
    """Append to ``partial`` what is missing, or start again where the server cannot resume."""
    start = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "libradet"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not start:
            raise
        # Nothing is left to send: the part is complete, or longer than the file, which its hash decides.
        return
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (start if resumed else 0)
        _copy(response, partial, start if resumed else 0, total)
    size = partial.stat().st_size
    if total is not None and size < total:
        raise CutOffError(f"{size} of {total} bytes")


def _copy(response: HTTPResponse, partial: Path, start: int, total: int | None) -> None:
    """Write what a connection sends behind the first ``start`` bytes of ``partial``, with a progress bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    with bar, partial.open("ab" if start else "wb") as file:
        task = bar.add_task(partial.name.removesuffix(".part"), total=total, completed=start)
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            bar.update(task, advance=len(chunk))


def _unreachable(url: str, path: Path, reason: str) -> UserError:
    return UserError(
        f"{url} cannot be downloaded ({reason}); put the file at {path} by hand, or set LIBRADET_WEIGHTS_URL to a "
        "mirror"
    )
