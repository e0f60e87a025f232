"""One thread for the products of numpy, as long as any update runs in the process."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock

from threadpoolctl import threadpool_limits


class _OneThread:
    """Counts who is inside: the first one sets the limit, the last one takes it back.

    The limit is one of the whole process. Set and taken back by each, it would stay:
    who comes second finds one thread, and leaves one.

    OpenBLAS (0.3.31) may not listen to a thread other than the one that set its threads
    first: where that one leaves before another, one thread may stay. Nothing but speed
    depends on it, and workers update in one thread.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._limits: threadpool_limits | None = None

    @contextmanager
    def __call__(self) -> Generator[None]:
        with self._lock:
            if not self._inside:
                self._limits = threadpool_limits(limits=1, user_api="blas")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside and self._limits is not None:
                    self._limits.restore_original_limits()
                    self._limits = None


one_thread = _OneThread()
"""A context; it may be entered by several threads at once, and more than once."""
