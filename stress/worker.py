"""Worker process for one attempt at a time, with limits: a hang or crash ends the worker, not the stress test."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from stress.common import status

SECONDS = 10.0
"""Limit of CPU time; the limit of wall time is six times that, since other processes share the machine."""
MEMORY = 4 << 30
"""Bytes."""


class Worker:
    """A fork of this process that runs attempts.

    Args:
        do: runs an attempt; returns its kind and fault. Any exception is a fault.
        name: returns the kind of an attempt that did not return.
        seconds: limit of CPU time per attempt.
        memory: limit of the process in bytes. It is not set as a resource limit: a reader that exceeds it would get a
            MemoryError, which could hide its memory use.
    """

    def __init__(
        self,
        do: Callable[[int], tuple[str, str | None]],
        name: Callable[[int], str],
        seconds: float = SECONDS,
        memory: int = MEMORY,
    ) -> None:
        self._do, self._name, self._seconds, self._memory = do, name, seconds, memory
        self._process: Any = None
        self._pipe: Any = None
        self.slowest = 0.0
        self.largest = 0.0
        """Peak memory of the process in MiB."""

    def attempt(self, number: int) -> tuple[str, str | None]:
        """Run an attempt; return its kind and what was wrong."""
        if self._process is None:
            self._start()
        self._pipe.send(number)
        try:
            # The worker's own alarm reports the line of code; this timeout is for code that does not react to signals.
            if (fault := self._wait()) is None:
                *answer, seconds = self._pipe.recv()
                self.slowest = max(self.slowest, seconds)
                self.largest = max(self.largest, status(self._process.pid, "VmHWM") / 1024)
                return answer[0], answer[1]
        except EOFError:
            self._process.join(5)
            fault = f"crashed the process ({self._process.exitcode})"
        self.end()
        return self._name(number), fault

    def _wait(self) -> str | None:
        """Wait for the answer; return a fault if a limit is exceeded."""
        deadline = time.monotonic() + 6 * self._seconds + 5
        while not self._pipe.poll(0.02):
            if status(self._process.pid, "VmRSS") * 1024 > self._memory:
                return f"uses more than {self._memory >> 30} GiB"
            if time.monotonic() > deadline:
                return f"hangs, more than {6 * self._seconds:g} s"
        return None

    def end(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=self._serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def _serve(self, pipe: Any) -> None:
        for signum in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(signum, _alarm)
        while True:
            number = pipe.recv()
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, self._seconds)
            signal.setitimer(signal.ITIMER_REAL, 6 * self._seconds)
            try:
                answer = self._do(number)
            except BaseException as error:
                answer = self._name(number), _describe(error)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send((*answer, time.process_time() - start))


class TimeLimitExceeded(BaseException):
    """Not an Exception, so that no reader reports it as a damaged file."""


def _alarm(*_: Any) -> None:
    raise TimeLimitExceeded("takes too long")


def _describe(error: BaseException) -> str:
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    own = [place for place in places if not place.startswith(("worker.py", "files.py"))]
    return f"{type(error).__name__}: {str(error)[:200]} ({' < '.join(own[::-1][:5])})"
