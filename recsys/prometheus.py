"""Prometheus metrics: of this process' answers, and of what the database knows.

``Metrics`` is an observer; ``Status`` a collector that reads the views of the schema at
a scrape. The names stand in docs/observability.md and docker/grafana-dashboard.json.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg.rows import dict_row

from recsys import _db, _deadline, observe
from recsys.errors import RecsysError
from recsys.observe import STAGES, Answered
from recsys.settings import Settings
from recsys.types import Page

logger = logging.getLogger(__name__)

BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
"""Seconds; answers take a few milliseconds."""


class Metrics:
    """An observer that counts and times answers.

    With ``PROMETHEUS_MULTIPROC_DIR`` set before prometheus_client is imported, the
    workers of a server add up, also those forked after this was made.

    Args:
        registry: Where the metrics are registered; one ``Metrics`` per registry.
        buckets: Upper bounds of the histograms in seconds.

    Example:
        >>> from recsys import observe, prometheus
        >>> observe.add(prometheus.Metrics())
    """

    def __init__(
        self,
        registry: CollectorRegistry = REGISTRY,
        buckets: Sequence[float] = BUCKETS,
    ) -> None:
        by = ("model", "channel")
        self._answers = Counter(
            "recsys_answers",
            "Pages returned, by version; also those that are less than full.",
            (*by, "version"),
            registry=registry,
        )
        self._fallbacks = Counter(
            "recsys_fallbacks",
            "Pages that are an earlier answer, a popular one or none, by reason.",
            (*by, "reason"),
            registry=registry,
        )
        self._errors = Counter(
            "recsys_errors",
            "Requests that raised, by the class of the error.",
            (*by, "error"),
            registry=registry,
        )
        self._short = Counter(
            "recsys_short_pages",
            "Pages with fewer items than asked for.",
            by,
            registry=registry,
        )
        self._seconds = Histogram(
            "recsys_answer_seconds",
            "Time from the call to the answer or the error.",
            by,
            registry=registry,
            buckets=buckets,
        )
        self._stages = Histogram(
            "recsys_stage_seconds",
            "Time of a stage: connection, state, tower, candidates, hydrate.",
            (*by, "stage"),
            registry=registry,
            buckets=buckets,
        )
        # Looking a child up by its labels costs more than counting. Single operations
        # of a dict: no lock of ours that a fork could inherit locked.
        self._known: dict[tuple[str, ...], Callable[[float], None]] = {}

    def __call__(self, event: Answered) -> None:
        """Count and time one answer."""
        model, channel = event.model, event.channel
        self._observe("seconds", model, channel)(event.total_ms / 1e3)
        for stage in STAGES:
            took = getattr(event, f"{stage}_ms")
            if took:
                self._observe("stages", model, channel, stage)(took / 1e3)
        if event.error is not None:
            self._add("errors", model, channel, event.error.partition(":")[0])(1)
            return
        version = "none" if event.version is None else str(event.version)
        self._add("answers", model, channel, version)(1)
        if event.degraded is not None:
            self._add("fallbacks", model, channel, event.degraded)(1)
        if event.short:
            self._add("short", model, channel)(1)

    def hydrated(self, page: Page, ms: float, channel: str) -> None:
        """Time how long it took to fetch the objects of a page."""
        self._observe("stages", page.model, channel, "hydrate")(ms / 1e3)

    def _add(self, name: str, *labels: str) -> Callable[[float], None]:
        key = (name, *labels)
        found = self._known.get(key)
        if found is None:
            counter: Counter = getattr(self, f"_{name}")
            found = self._known[key] = counter.labels(*labels).inc
        return found

    def _observe(self, name: str, *labels: str) -> Callable[[float], None]:
        key = (name, *labels)
        found = self._known.get(key)
        if found is None:
            histogram: Histogram = getattr(self, f"_{name}")
            found = self._known[key] = histogram.labels(*labels).observe
        return found


Value = Callable[[dict[str, Any]], Any]

_MODELS: dict[str, tuple[str, Value]] = {
    "recsys_backlog": (
        "Changes that wait for a worker, counted up to 10,000.",
        lambda row: row["backlog"],
    ),
    "recsys_backlog_age_seconds": (
        "How long the oldest change has waited.",
        lambda row: row["lag"].total_seconds() if row["lag"] else 0,
    ),
    "recsys_workers": (
        "Workers seen within the last minute.",
        lambda row: row["workers"],
    ),
    "recsys_retrying_items": (
        "Items whose vector failed and is tried again.",
        lambda row: row["retrying"],
    ),
    "recsys_dead_letters": (
        "Items whose vector failed for good.",
        lambda row: row["dead_letters"],
    ),
    "recsys_capture_on": (
        "Whether changes are captured: 0 when the triggers are off.",
        lambda row: row["capture"] != "off",
    ),
}
_VERSIONS: dict[str, tuple[str, Value]] = {
    "recsys_version_share_ratio": (
        "Share of the users that the version answers.",
        lambda row: float(row["percent"]) / 100,
    ),
    "recsys_version_items": (
        "Items of the version when it was last counted.",
        lambda row: row["item_count"],
    ),
    "recsys_version_coverage_ratio": (
        "Items with a vector over items of the source, when last counted.",
        lambda row: None if row["coverage"] is None else float(row["coverage"]) / 100,
    ),
    "recsys_version_recall_ratio": (
        "Recall of the index against an exact search, as calibrated.",
        lambda row: row["ann_recall"],
    ),
    "recsys_version_failed_items": (
        "Items of the version that wait or failed for good.",
        lambda row: row["failed_items"],
    ),
    "recsys_version_table_bytes": (
        "Size of the table of item vectors.",
        lambda row: row["table_bytes"],
    ),
    "recsys_version_index_bytes": (
        "Size of its indexes.",
        lambda row: row["index_bytes"],
    ),
}
_QUERIES = {
    "models": "select * from recsys.change_status",
    "versions": (
        "select v.*, v.coverage_percent as coverage from recsys.version_status as v"
        " where v.state in ('building', 'ready', 'serving')"
    ),
    "slow": (
        "select model, count(*) as n from recsys.slow_log"
        " where occurred_at > now() - interval '1 hour' group by 1"
    ),
}


class Status(Collector):
    """A collector of backlog, coverage, workers and shares, from the schema's views.

    Registering it connects to nothing. A scrape asks the database at most once in
    ``every_s``, for ``timeout_s`` at most, on a connection of its own that it closes.
    When that fails, only ``recsys_up`` is exported, as 0: nothing stale looks fresh.

    Register it in one process per database, such as an exporter of its own, or in the
    view that answers the scrape.

    Args:
        dsn: Connection string of a member of recsys_analyst or recsys_trainer; default
            ``RECSYS_DSN`` or the ``PG*`` variables.
        every_s: Seconds for which an answer is kept.
        timeout_s: Seconds the database has.

    Example:
        >>> prometheus_client.REGISTRY.register(prometheus.Status())
    """

    def __init__(
        self, dsn: str | None = None, *, every_s: float = 15.0, timeout_s: float = 3.0
    ) -> None:
        self._dsn = Settings.from_env().dsn if dsn is None else dsn
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._read_at = float("-inf")
        self._rows: dict[str, list[dict[str, Any]]] | None = None

    def describe(self) -> Iterable[Metric]:
        """Return nothing: to name the metrics would be to ask the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of one scrape."""
        now = time.monotonic()
        if now - self._read_at >= self._every_s:
            # Two scrapes at once may both ask: that costs one more connection.
            self._rows = self._read()
            self._read_at = now
        rows = self._rows
        yield GaugeMetricFamily(
            "recsys_up", "Whether the database answered.", float(rows is not None)
        )
        if rows is None:
            return
        yield from _gauges(_MODELS, rows["models"], {"model": "model"})
        versions = {"model": "model", "version": "number"}
        yield from _gauges(_VERSIONS, rows["versions"], versions)
        yield from _gauges(_STATES, rows["versions"], {**versions, "state": "state"})
        yield from _gauges(_SLOW, rows["slow"], {"model": "model"})

    def _read(self) -> dict[str, list[dict[str, Any]]] | None:
        try:
            with (
                _deadline.until(_deadline.Deadline(self._timeout_s * 1e3)),
                _db.connect(self._dsn) as conn,
                _deadline.on(conn, borrowed=False),
                psycopg.Cursor(conn, row_factory=dict_row) as cur,
            ):
                return {
                    name: cur.execute(query.encode()).fetchall()
                    for name, query in _QUERIES.items()
                }
        except (RecsysError, psycopg.Error) as exc:
            said = str(exc).strip().split("\n")[0]
            logger.warning("no status for Prometheus: %s", said)
            return None


_STATES: dict[str, tuple[str, Value]] = {
    "recsys_version_info": ("The live versions and their states.", lambda row: 1)
}
_SLOW: dict[str, tuple[str, Value]] = {
    "recsys_slow_requests_kept": (
        "Slow requests kept within the last hour.",
        lambda row: row["n"],
    )
}


def _gauges(
    named: dict[str, tuple[str, Value]],
    rows: Sequence[dict[str, Any]],
    labels: dict[str, str],
) -> Iterable[Metric]:
    """Yield a gauge per name, with a sample per row; null is no sample."""
    for name, (text, value) in named.items():
        gauge = GaugeMetricFamily(name, text, labels=tuple(labels))
        for row in rows:
            found = value(row)
            if found is not None:
                gauge.add_metric(
                    [str(row[column]) for column in labels.values()], float(found)
                )
        yield gauge


def install(registry: CollectorRegistry = REGISTRY, *, status: bool = False) -> Metrics:
    """Count and time the answers of this process; the same as ``observe.add``.

    Args:
        registry: Where the metrics are registered.
        status: Also register a ``Status`` of the default database.

    Returns:
        The observer, for ``observe.remove``.
    """
    metrics = Metrics(registry)
    observe.add(metrics)
    if status:
        registry.register(Status())
    return metrics
