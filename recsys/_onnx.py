"""ONNX graphs at run time: one session per process and graph, and onnxruntime alone."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, cast

from numpy.typing import NDArray

from recsys.encoder.values import Feeds
from recsys.errors import ArtifactError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class Session:
    """An onnxruntime session that belongs to the process that uses it.

    onnxruntime does not support sessions across a fork, and their creation is not
    thread-safe. So a session is made lazily, under a lock, and forgotten in a child;
    the process id is compared as well, because uWSGI runs no fork hooks by default.
    """

    def __init__(self, model: bytes, inputs: set[str], outputs: dict[str, int]) -> None:
        self._model = model
        self._inputs = inputs
        self._outputs = outputs
        self._names = list(outputs)
        # Process id and session in one reference: no thread sees half of a change.
        self._held: tuple[int, InferenceSession] | None = None
        _SESSIONS.add(self)

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        """Return the outputs in their declared order."""
        held = self._held
        if held is None or held[0] != os.getpid():
            held = self._make()
        return cast("list[NDArray[Any]]", held[1].run(self._names, feeds))

    def _make(self) -> tuple[int, InferenceSession]:
        with _LOCKS[0]:
            held = self._held
            if held is None or held[0] != os.getpid():
                self.forget()
                session = _load(self._model, self._inputs, self._outputs)
                held = self._held = (os.getpid(), session)
            return held

    def forget(self) -> None:
        """Leave an inherited session alone: freeing it may crash the child."""
        if self._held is not None:
            _INHERITED.append(self._held)
            self._held = None


_SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()
_INHERITED: list[Any] = []
_LOCKS = [threading.Lock()]


def _after_fork() -> None:
    # Another thread of the parent may have held the lock at the fork.
    _LOCKS[0] = threading.Lock()
    for session in list(_SESSIONS):
        session.forget()


os.register_at_fork(after_in_child=_after_fork)


def load_onnxruntime() -> Any:
    """Import onnxruntime, without its telemetry; the module has no annotations.

    Since 1.29 it reports to its maker from a thread of its own, started by the import:
    nobody asked for that, and a forked child hangs at exit for it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def _load(model: bytes, inputs: set[str], outputs: dict[str, int]) -> InferenceSession:
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:  # onnxruntime's errors share no other base class
        raise ArtifactError(
            f"a tower cannot be loaded: {str(exc)[:200]}",
            hint="Run 'recsys doctor'; a damaged version has to be trained again.",
        ) from exc
    found = cast("list[Any]", session.get_outputs())
    widths: dict[str, Any] = {value.name: value.shape[-1] for value in found}
    taken = {value.name for value in cast("list[Any]", session.get_inputs())}
    if widths != outputs or taken != inputs:
        raise ArtifactError(
            f"a tower does not fit its model: it returns {widths}, expected {outputs}",
            hint="Run 'recsys doctor'; towers and tables must be of one version.",
        )
    return session
