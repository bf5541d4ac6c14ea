"""A process that does one attempt at a time, with limits: what hangs or crashes ends it, not the campaign."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from stress.common import status

SECONDS = 10.0
"""Of the processor, and six times that by the clock: others work on the machine, too."""
MEMORY = 4 << 30
"""Bytes."""


class Worker:
    """A fork of this process that answers ``do(number)`` with a pair of kind and fault.

    Args:
        do: the attempt. Anything that it raises is a fault.
        name: of an attempt's kind, should it not come back.
        seconds, memory: that one attempt may take; bytes that the process may hold. The system is not asked to limit
            them: a reader would be told that there is no more memory, and pass for one that needs little.
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
        """MiB that the process held at most."""

    def attempt(self, number: int) -> tuple[str, str | None]:
        """How it ended: its kind, and what was wrong."""
        if self._process is None:
            self._start()
        self._pipe.send(number)
        try:
            # The worker raises an alarm itself, which names the place; this is for what does not hear it.
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
        """Until there is an answer, or what is wrong."""
        late = time.monotonic() + 6 * self._seconds + 5
        while not self._pipe.poll(0.02):
            if status(self._process.pid, "VmRSS") * 1024 > self._memory:
                return f"takes more than {self._memory >> 30} GiB"
            if time.monotonic() > late:
                return f"hangs, more than {6 * self._seconds:g} s"
        return None

    def end(self) -> None:
        """Stop the process."""
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
            began = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, self._seconds)
            signal.setitimer(signal.ITIMER_REAL, 6 * self._seconds)
            try:
                answer = self._do(number)
            except BaseException as error:
                answer = self._name(number), _in_words(error)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send((*answer, time.process_time() - began))


class Late(BaseException):
    """Too much time was taken; no reader may take it for damage."""


def _alarm(*_: Any) -> None:
    raise Late("takes too long")


def _in_words(error: BaseException) -> str:
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    own = [place for place in places if not place.startswith(("worker.py", "files.py"))]
    return f"{type(error).__name__}: {str(error)[:200]} ({' < '.join(own[::-1][:5])})"
