"""What an answer pays for its observers: ``python -m benchmarks.observers``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry

from recsys import observe, prometheus, slow, tracing
from recsys.observe import Answered, LogAnswers, Stopwatch

EVENT = Answered(
    "shop", "two-tower", 20, 1, returned=20, user_id=7, unit="7", connection_ms=0.01,
    state_ms=0.3, tower_ms=0.1, candidates_ms=0.8, total_ms=1.3,
)  # fmt: skip
_ROUNDS = 15
_CALLS = 500


def main() -> None:
    """Print a line per observer."""
    logging.getLogger("recsys").setLevel(logging.WARNING)
    off = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    on = TracerProvider(shutdown_on_exit=False)
    observers: dict[str, Callable[[], None]] = {
        "nobody observes": unobserved,
        "LogAnswers, off": _observed(LogAnswers()),
        "SlowRequests, fast": _observed(slow.SlowRequests()),
        "Metrics": _observed(prometheus.Metrics(CollectorRegistry())),
        "Spans, not sampled": _observed(tracing.Spans(off)),
        "Spans": _observed(tracing.Spans(on)),
    }
    for name, call in observers.items():
        print(f"{name:<20} {microseconds(call):6.1f} us")


def microseconds(call: Callable[[], None]) -> float:
    """Return the time of one call: of the fastest of several rounds."""
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        for _ in range(_CALLS):
            call()
        best = min(best, time.perf_counter() - started)
    return best / _CALLS * 1e6


def unobserved() -> None:
    """Do what every request does, whether or not anybody observes it."""
    watch = Stopwatch()
    watch.dsn = str
    watch.asking(None, None, None)  # type: ignore[arg-type]
    watch.state_ms = watch.lap()
    watch.tower_ms = watch.lap()
    watch.candidates_ms = watch.lap()
    observe.active()


def _observed(observer: Callable[[Answered], None]) -> Callable[[], None]:
    return lambda: observer(EVENT)


if __name__ == "__main__":
    main()
