"""A server on 127.0.0.1 that hands out files from memory, as badly as a test wants."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """Settings and record of a running server.

    Attributes:
        url: address, without a path.
        files: content by path, such as ``/folder/file.pth``.
        requests: path and Range header of every request so far.
        cut_after: for each of the next answers, the number of bytes after which the connection is cut.
        resumes: whether Range headers are heeded.
        pause: seconds before each quarter of an answer.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    resumes: bool = True
    pause: float = 0.0


@contextmanager
def file_server() -> Iterator[FileServer]:
    """Run a server until the end of the block."""
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            content = state.files.get(self.path)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.resumes else 0
            if content is None or (start and start >= len(content)):
                self.send_error(404 if content is None else 416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            rest = content[start:]
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.send(rest[: state.cut_after.pop(0)] if state.cut_after else rest)

        def send(self, content: bytes) -> None:
            quarter = -(-len(content) // 4) or 1
            for i in range(0, len(content), quarter):
                time.sleep(state.pause)
                try:
                    self.wfile.write(content[i : i + quarter])
                except ConnectionError:  # the client did not want to wait
                    return

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
