"""OpenTelemetry spans: one per answer, with its stages as child spans.

The span is made when the answer is there, with the times it had: a request that nobody
traces pays nothing, and one whose parent is not sampled next to nothing.
"""

from __future__ import annotations

import time

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue

from recsys import observe
from recsys.observe import STAGES, Answered
from recsys.types import Page

_NAMES = {"similar": "recsys.similar_items"}
_NS = 1_000_000  # per millisecond
_ATTRIBUTES = (
    "model", "channel", "version", "experiment", "arm", "k", "returned", "degraded",
    "request_id",
)  # fmt: skip
_IN_DATABASE = ("state", "candidates")


class Spans:
    """An observer that makes a span of every answer.

    It is a child of the span that is current where the answer was asked for. User ids
    are left out unless they are wanted: traces are often read by others.

    Args:
        provider: Default the global one.
        user_ids: Also set ``recsys.user_id``, and say all of an error; else its name.

    Example:
        >>> from recsys import observe, tracing
        >>> observe.add(tracing.Spans())
    """

    def __init__(
        self, provider: TracerProvider | None = None, *, user_ids: bool = False
    ) -> None:
        self._tracer: Tracer = trace.get_tracer("recsys", tracer_provider=provider)
        self._user_ids = user_ids

    def __call__(self, event: Answered) -> None:
        """Make the span of one answer and those of its stages."""
        end = time.time_ns()
        start = end - int(event.total_ms * _NS)
        span = self._tracer.start_span(
            _NAMES.get(event.channel, "recsys.recommend"),
            kind=SpanKind.CLIENT,
            start_time=start,
        )
        if span.is_recording():
            span.set_attributes(self._attributes(event))
            if event.error is not None:
                # What follows the name of the error may hold an id.
                said = event.error if self._user_ids else event.error.partition(":")[0]
                span.set_status(Status(StatusCode.ERROR, said))
            context = trace.set_span_in_context(span)
            for stage in STAGES:
                took = int(getattr(event, f"{stage}_ms") * _NS)
                if not took:
                    continue
                child = self._tracer.start_span(
                    f"recsys.{stage}", context=context, start_time=start
                )
                if stage in _IN_DATABASE:
                    child.set_attribute("db.system.name", "postgresql")
                start += took
                child.end(min(start, end))
        span.end(end)

    def hydrated(self, page: Page, ms: float, channel: str) -> None:
        """Make a span of fetching the objects of a page."""
        end = time.time_ns()
        span = self._tracer.start_span(
            "recsys.hydrate",
            start_time=end - int(ms * _NS),
            attributes={
                "recsys.model": page.model,
                "recsys.channel": channel,
                "recsys.request_id": str(page.request_id),
            },
        )
        span.end(end)

    def _attributes(self, event: Answered) -> dict[str, AttributeValue]:
        found: dict[str, AttributeValue] = {}
        for name in _ATTRIBUTES:
            value = getattr(event, name)
            if value is not None:
                plain = isinstance(value, str | int)
                found[f"recsys.{name}"] = value if plain else str(value)
        if self._user_ids and event.user_id is not None:
            found["recsys.user_id"] = str(event.user_id)
        return found


def install(provider: TracerProvider | None = None, *, user_ids: bool = False) -> Spans:
    """Make a span of every answer of this process; the same as ``observe.add``.

    Args:
        provider: Default the global one.
        user_ids: Also set ``recsys.user_id``, and say all of an error; else its name.

    Returns:
        The observer, for ``observe.remove``.
    """
    spans = Spans(provider, user_ids=user_ids)
    observe.add(spans)
    return spans
