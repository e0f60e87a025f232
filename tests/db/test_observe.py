"""Observers: told of every answer, whatever became of it, at next to no cost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import world
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode
from world import Shop

from benchmarks import observers
from recsys import Recommender, _db, observe, rollout, tracing
from recsys.errors import SourceError, UnknownItem, UnknownModel
from recsys.observe import Answered, LogAnswers


@pytest.fixture(scope="module")
def still(server: str, shop_template: Shop) -> Iterator[Shop]:
    with world.database(server, world.name_of(shop_template.dsn)) as dsn:
        yield Shop(dsn, shop_template.learned)


@pytest.fixture
def model(still: Shop) -> Iterator[Recommender]:
    with Recommender("shop", dsn=still.dsn) as model:
        yield model


@pytest.fixture
def told() -> Iterator[list[Answered]]:
    """What an observer is told of."""
    events: list[Answered] = []
    observer = events.append
    observe.add(observer)
    yield events
    observe.remove(observer)


# what is told -----------------------------------------------------------------------


def test_an_answer_is_told_with_its_times(
    model: Recommender, told: list[Answered]
) -> None:
    page = model.recommend(7, k=5)

    (event,) = told
    assert (event.model, event.channel, event.version) == ("shop", "two-tower", 1)
    assert (event.k, event.returned, event.short) == (5, 5, False)
    assert (event.user_id, event.unit, event.request_id) == (7, "7", page.request_id)
    assert event.error is event.degraded is event.experiment is None
    stages = [getattr(event, f"{stage}_ms") for stage in observe.STAGES]
    assert all(ms > 0 for ms in stages)
    assert sum(stages) <= event.total_ms
    assert event.asked is not None
    assert event.asked.version.number == 1


def test_similar_items_are_told_as_theirs(
    model: Recommender, told: list[Answered]
) -> None:
    model.similar_items(42, k=3, among="select id from product where id < 3")

    (event,) = told
    assert (event.channel, event.returned, event.short) == ("similar", 2, True)
    assert event.tower_ms == 0
    assert event.state_ms > 0


def test_failures_are_told_with_their_class(
    still: Shop, model: Recommender, told: list[Answered]
) -> None:
    with pytest.raises(UnknownItem):
        model.similar_items(999_999)
    with pytest.raises(SourceError):
        model.recommend(7, among="select nothing from nowhere")
    with pytest.raises(UnknownModel), Recommender("films", dsn=still.dsn) as films:
        films.recommend(7)

    names = [event.error and event.error.partition(":")[0] for event in told]
    assert names == ["UnknownItem", "SourceError", "UnknownModel"]
    assert [event.version for event in told] == [1, 1, None]
    assert [event.request_id for event in told] == [None] * 3
    assert told[2].asked is None


def test_a_fallback_is_told_with_its_reason(told: list[Answered]) -> None:
    with Recommender("shop", dsn="host=/nowhere") as model:
        page = model.recommend(7, k=5)

    (event,) = told
    assert page.degraded is not None
    assert (event.degraded, event.error) == (page.degraded, None)
    assert (event.version, event.returned, event.short) == (page.version, 0, True)
    assert event.asked is None


def test_experiments_and_switches_are_told(shop: Shop, told: list[Answered]) -> None:
    with Recommender("shop", dsn=shop.dsn) as model:
        model.recommend(7)
        with _db.connect(shop.dsn) as conn:
            rollout.promote(conn, "shop", 2, reason="test", force=True)
        model.recommend(7)

    assert [event.version for event in told] == [1, 2]


def test_who_was_removed_is_told_no_more(model: Recommender) -> None:
    events: list[Answered] = []
    observer = events.append
    observe.add(observer)
    model.recommend(7)
    observe.remove(observer)
    observe.remove(observer)
    model.recommend(7)

    assert len(events) == 1
    assert not observe.active()


def test_only_who_wants_to_is_told_of_hydration(
    model: Recommender, told: list[Answered], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __call__(self, event: Answered) -> None: ...

        def hydrated(self, *_: object) -> None:
            raise ZeroDivisionError

    broken = Broken()
    observe.add(broken)
    try:
        observe.hydrated(model.recommend(7), 1.0)
    finally:
        observe.remove(broken)

    assert "an observer of recsys failed" in caplog.text
    assert len(told) == 1


def test_a_request_that_nobody_observes_pays_next_to_nothing() -> None:
    """Of what ``python -m benchmarks.observers`` measures, in docs/observability.md."""
    took = observers.microseconds(observers.unobserved)

    assert took < 5


def test_the_cost_of_every_observer_is_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    observers.main()

    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    for line in lines:
        name, took, unit = line.rsplit(maxsplit=2)
        assert (float(took) < 2000, unit) == (True, "us")
        assert f"\n{name.strip()} " in page


# logging ----------------------------------------------------------------------------


def test_answers_are_logged_with_their_fields(
    model: Recommender, caplog: pytest.LogCaptureFixture
) -> None:
    log = LogAnswers(slow_ms=60_000)
    observe.add(log)
    try:
        with caplog.at_level(logging.DEBUG, "recsys"):
            page = model.recommend(7, k=5)
    finally:
        observe.remove(log)

    (record,) = [r for r in caplog.records if hasattr(r, "recsys_model")]
    assert record.levelno == logging.DEBUG
    assert vars(record)["recsys_request_id"] == page.request_id
    assert vars(record)["recsys_version"] == 1
    assert vars(record)["recsys_candidates_ms"] > 0
    assert record.getMessage().startswith("shop two-tower version 1: 5/5 items in ")
    assert "recsys_asked" not in vars(record)


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (Answered("shop", "x", 2, 1, returned=2, total_ms=9.0), logging.DEBUG),
        (Answered("shop", "x", 2, 1, returned=2, total_ms=10.0), logging.INFO),
        (Answered("shop", "x", 2, 1, returned=1), logging.INFO),
        (Answered("shop", "x", 2, 1, returned=2, degraded="timeout"), logging.WARNING),
        (Answered("shop", "x", 2, error="UnknownItem: 7"), logging.DEBUG),
    ],
)
def test_the_level_says_how_it_went(
    event: Answered, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "recsys"):
        LogAnswers(slow_ms=10.0)(event)

    (record,) = caplog.records
    assert record.levelno == level
    assert (event.degraded or event.error or "items in") in record.getMessage()


def test_a_level_that_is_off_costs_no_record(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "recsys"):
        LogAnswers()(Answered("shop", "x", 2, 1, degraded="timeout"))

    assert not caplog.records


# spans ------------------------------------------------------------------------------


@pytest.fixture
def exported() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = tracing.install(provider)
    yield provider, exporter
    observe.remove(spans)
    provider.shutdown()


Exported = tuple[TracerProvider, InMemorySpanExporter]


def test_an_answer_is_a_span_with_its_stages_inside_the_requests(
    model: Recommender, exported: Exported
) -> None:
    provider, exporter = exported
    with provider.get_tracer("app").start_as_current_span("GET /") as request:
        page = model.recommend(7, k=5)
        observe.hydrated(page, 2.0)

    spans = {span.name: span for span in exporter.get_finished_spans()}
    answer = spans["recsys.recommend"]
    assert _parent(answer) == _parent(spans["recsys.hydrate"])
    assert _parent(answer) == request.get_span_context().span_id
    stages = [spans[f"recsys.{stage}"] for stage in observe.STAGES]
    assert {_parent(stage) for stage in stages} == {answer.context.span_id}
    edges = [answer.start_time]
    for stage in stages:
        assert stage.start_time == edges[-1], "one after the other"
        assert (stage.end_time or 0) > (stage.start_time or 0)
        edges.append(stage.end_time)
    assert edges == sorted(edges, key=lambda edge: edge or 0)
    assert (edges[-1] or 0) <= (answer.end_time or 0)
    attributes = dict(answer.attributes or {})
    assert attributes == {
        "recsys.model": "shop",
        "recsys.channel": "two-tower",
        "recsys.version": 1,
        "recsys.k": 5,
        "recsys.returned": 5,
        "recsys.request_id": str(page.request_id),
    }


def _parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def test_a_failure_is_a_span_in_error(model: Recommender, exported: Exported) -> None:
    with pytest.raises(UnknownItem):
        model.similar_items(999_999)

    spans = exported[1].get_finished_spans()
    (failed,) = [span for span in spans if span.name == "recsys.similar_items"]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "UnknownItem"  # the rest names the item


def test_user_ids_are_in_spans_when_wanted() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    error = "ConfigError: user 7 is no uuid"
    event = Answered("shop", "x", 2, user_id=7, error=error)
    tracing.Spans(provider, user_ids=True)(event)
    tracing.Spans(provider)(event)

    wanted, hidden = exporter.get_finished_spans()
    assert dict(wanted.attributes or {})["recsys.user_id"] == "7"
    assert wanted.status.description == error
    assert "7" not in f"{dict(hidden.attributes or {})}{hidden.status.description}"
    provider.shutdown()


def test_a_request_that_is_not_sampled_makes_no_child_spans() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    tracing.Spans(provider)(Answered("shop", "x", 2, state_ms=1.0, total_ms=2.0))

    assert not exporter.get_finished_spans()
    provider.shutdown()
