"""Work that a thread does in the order of asking, while whoever asks prepares what follows."""

import contextlib
import queue
import threading
from collections.abc import Callable

Job = Callable[[], None]
_POLL = 0.05
"""Seconds after which whoever waits looks whether a job has failed."""


class Stopped(Exception):
    """What a job raises that is asked to end before it is done; nobody else hears of it."""


class Background:
    """One thread that carries out jobs, one after the other.

    A context: at a clean end all jobs are done, after an exception no further one is begun; either
    way the thread is gone when it is left. What a job raises is raised by the next call here, in
    the thread that asks, as it is.
    """

    def __init__(self, waiting: int = 1, meanwhile: Callable[[], None] | None = None) -> None:
        """Start nothing yet.

        Args:
            waiting: jobs that may wait beside the one that is carried out; 0 for any number.
            meanwhile: called by whoever waits for the thread, again and again.
        """
        self._jobs: queue.Queue[Job | None] = queue.Queue(waiting)
        self._meanwhile = meanwhile
        self._thread: threading.Thread | None = None
        # Not `is_alive`: a join that Ctrl-C cuts short takes a thread for dead (Python 3.11).
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._stopped = False

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None and self._thread is not None:
                self._hand_over(None)
                while not self._ended.wait(_POLL):
                    self._look()
                self._look()
        finally:
            self._end()

    def do(self, job: Job) -> None:
        """Have a job done; waits while too many do.

        Raises:
            BaseException: that of an earlier job.
        """
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="hcnr-background", daemon=True)
            thread.start()
            self._thread = thread
        self._hand_over(job)

    def check(self) -> None:
        """For a long job to call: whether it shall still go on.

        Raises:
            Stopped: it shall not.
        """
        if self._stopped:
            raise Stopped

    def _hand_over(self, job: Job | None) -> None:
        while True:
            self._look()
            with contextlib.suppress(queue.Full):
                self._jobs.put(job, timeout=_POLL)
                return

    def _look(self) -> None:
        if self._error is not None:
            raise self._error
        if self._meanwhile is not None:
            self._meanwhile()

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                if self._stopped:
                    break
                job()
                # What it holds, such as a tensor, goes before the next is waited for.
                del job
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()

    def _end(self) -> None:
        """Wait for the thread, whatever is pressed meanwhile: nobody may write after this."""
        self._stopped = True
        interrupted: BaseException | None = None
        while self._thread is not None and not self._ended.is_set():
            try:
                with contextlib.suppress(queue.Full):
                    self._jobs.put_nowait(None)
                self._ended.wait(_POLL)
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted
