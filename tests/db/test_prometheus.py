"""Prometheus metrics: of the answers of real requests, and of the database."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import world
from prometheus_client import CollectorRegistry, generate_latest
from world import Shop

from recsys import Recommender, _db, observe, prometheus, rollout
from recsys.errors import UnknownItem
from recsys.observe import Answered

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = ROOT / "docker" / "grafana-dashboard.json"


@pytest.fixture(scope="module")
def still(server: str, shop_template: Shop) -> Iterator[Shop]:
    with world.database(server, world.name_of(shop_template.dsn)) as dsn:
        yield Shop(dsn, shop_template.learned)


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    """A registry with the metrics of this process."""
    registry = CollectorRegistry()
    metrics = prometheus.install(registry)
    yield registry
    observe.remove(metrics)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {"model": "shop", **labels})


# answers ----------------------------------------------------------------------------


def test_answers_are_counted_by_version_and_channel(
    shop: Shop, registry: CollectorRegistry
) -> None:
    with Recommender("shop", dsn=shop.dsn) as model:
        for user in range(1, 4):
            model.recommend(user, k=5)
        with _db.connect(shop.dsn) as conn:
            rollout.promote(conn, "shop", 2, reason="test", force=True)
        model.recommend(1, k=5)
        model.similar_items(42, k=5)

    name, channel = "recsys_answers_total", "two-tower"
    assert value(registry, name, channel=channel, version="1") == 3
    assert value(registry, name, channel=channel, version="2") == 1
    assert value(registry, name, channel="similar", version="2") == 1
    count = value(registry, "recsys_answer_seconds_count", channel=channel)
    assert count == 4


def test_every_stage_is_timed_within_the_answer(
    still: Shop, registry: CollectorRegistry
) -> None:
    with Recommender("shop", dsn=still.dsn) as model:
        started = time.perf_counter()
        page = model.recommend(7)
        took = time.perf_counter() - started
    observe.hydrated(page, 2.5)

    stages = {
        stage: value(
            registry, "recsys_stage_seconds_sum", channel="two-tower", stage=stage
        )
        for stage in (*observe.STAGES, "hydrate")
    }
    assert stages.pop("hydrate") == pytest.approx(0.0025)
    total = value(registry, "recsys_answer_seconds_sum", channel="two-tower")
    assert total is not None
    assert all(stages.values())
    assert 0.5 * total < sum(filter(None, stages.values())) <= total <= took


def test_short_pages_fallbacks_and_errors_are_counted(
    still: Shop, registry: CollectorRegistry
) -> None:
    with Recommender("shop", dsn=still.dsn) as model:
        model.recommend(7, k=5, among="select id from product where id in (5, 6)")
        with pytest.raises(UnknownItem):
            model.similar_items(999_999)
    observe.notify(Answered("shop", "similar", 2, 1, returned=2, degraded="timeout"))

    short = "recsys_short_pages_total"
    assert value(registry, short, channel="two-tower") == 1
    assert value(registry, short, channel="similar") is None
    failed = {"channel": "similar", "error": "UnknownItem"}
    assert value(registry, "recsys_errors_total", **failed) == 1
    degraded = {"channel": "similar", "reason": "timeout"}
    assert value(registry, "recsys_fallbacks_total", **degraded) == 1


def test_an_observer_that_raises_never_reaches_the_caller(
    still: Shop, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Answered) -> None:
        raise ZeroDivisionError

    observe.add(broken)
    try:
        with Recommender("shop", dsn=still.dsn) as model:
            assert len(model.recommend(7)) == 20
    finally:
        observe.remove(broken)

    assert "an observer of recsys failed" in caplog.text


def test_the_workers_of_a_server_add_up(still: Shop, tmp_path: Path) -> None:
    """Two children forked after the metrics were made, as gunicorn's preload does."""
    code = f"""
        import os
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector
        from recsys import Recommender, prometheus
        prometheus.install()
        shop = Recommender("shop", dsn={still.dsn!r})
        for _ in range(2):
            if os.fork() == 0:
                for user in (1, 2, 3):
                    shop.recommend(user, k=5)
                os._exit(0)
        for _ in range(2):
            assert os.wait()[1] == 0
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        registry.register(prometheus.Status({still.dsn!r}))
        print(generate_latest(registry).decode())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    labels = 'channel="two-tower",model="shop"'
    assert f'recsys_answers_total{{{labels},version="1"}} 6.0' in done.stdout
    assert f"recsys_answer_seconds_count{{{labels}}} 6.0" in done.stdout
    assert "recsys_up 1.0" in done.stdout


# the database -----------------------------------------------------------------------


def test_the_status_is_what_the_views_say(shop: Shop) -> None:
    registry = CollectorRegistry()
    registry.register(prometheus.Status(shop.dsn))
    with _db.connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", 2, percent=25, reason="test", force=True)
        conn.execute("select recsys._queue_items('shop', array['1', '2', '3'])")

    assert registry.get_sample_value("recsys_up") == 1
    assert value(registry, "recsys_backlog") == 3
    assert value(registry, "recsys_workers") == 0
    assert value(registry, "recsys_version_share_ratio", version="2") == 0.25
    assert value(registry, "recsys_version_share_ratio", version="1") == 0.75
    assert value(registry, "recsys_version_items", version="1") == 200
    assert value(registry, "recsys_version_coverage_ratio", version="1") == 1
    serving = {"version": "2", "state": "serving"}
    assert value(registry, "recsys_version_info", **serving) == 1
    waited = value(registry, "recsys_backlog_age_seconds")
    assert waited is not None
    assert 0 < waited < 60


@pytest.mark.parametrize("role", ["recsys_analyst", "recsys_trainer"])
def test_a_role_that_reads_the_views_is_enough(still: Shop, role: str) -> None:
    registry = CollectorRegistry()
    registry.register(prometheus.Status(world.as_role(still.dsn, role)))

    assert registry.get_sample_value("recsys_up") == 1


def test_the_database_is_asked_once_in_a_while(shop: Shop) -> None:
    registry = CollectorRegistry()
    registry.register(prometheus.Status(shop.dsn, every_s=0.3))
    assert value(registry, "recsys_backlog") == 0
    with _db.connect(shop.dsn, autocommit=True) as conn:
        conn.execute("select recsys._queue_items('shop', array['1'])")

    assert value(registry, "recsys_backlog") == 0
    time.sleep(0.3)
    assert value(registry, "recsys_backlog") == 1


@pytest.mark.parametrize("kind", ["gone", "no schema", "not allowed"])
def test_what_cannot_be_read_is_down_and_nothing_else(
    still: Shop, empty_dsn: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = {
        "gone": "host=/nowhere",
        "no schema": empty_dsn,
        "not allowed": world.as_role(still.dsn, "recsys_app"),
    }[kind]
    registry = CollectorRegistry()
    registry.register(prometheus.Status(dsn))

    names = [family.name for family in registry.collect()]

    assert names == ["recsys_up"]
    assert registry.get_sample_value("recsys_up") == 0
    assert "no status for Prometheus" in caplog.text


def test_what_was_read_before_is_not_shown_as_new(shop: Shop) -> None:
    registry = CollectorRegistry()
    registry.register(prometheus.Status(shop.dsn, every_s=0.0))
    assert value(registry, "recsys_backlog") == 0
    with _db.connect(shop.dsn, autocommit=True) as conn:
        conn.execute("alter view recsys.change_status rename to elsewhere")

    assert value(registry, "recsys_backlog") is None
    assert registry.get_sample_value("recsys_up") == 0


@pytest.mark.alone
def test_a_database_that_hangs_holds_up_a_scrape_no_longer_than_allowed(
    still: Shop,
) -> None:
    registry = CollectorRegistry()
    registry.register(prometheus.Status(still.dsn, timeout_s=0.3))
    with _db.connect(still.dsn) as conn:
        conn.execute("lock table recsys.item_change")
        started = time.perf_counter()

        assert registry.get_sample_value("recsys_up") == 0
        assert time.perf_counter() - started < 1.5
        conn.rollback()


@pytest.mark.alone
def test_a_server_that_never_answers_holds_up_a_scrape_no_longer_than_allowed() -> None:
    registry = CollectorRegistry()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"host=127.0.0.1 port={silent.getsockname()[1]} dbname=x user=x"
        registry.register(prometheus.Status(dsn, timeout_s=0.3))
        started = time.perf_counter()

        assert registry.get_sample_value("recsys_up") == 0
        assert time.perf_counter() - started < 1.5


def test_registering_connects_to_nothing() -> None:
    CollectorRegistry(auto_describe=True).register(prometheus.Status("host=/nowhere"))


def test_recsys_metrics_serves_them(still: Shop) -> None:
    code = "from recsys.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--dsn", still.dsn, "metrics", "--port", "0"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = re.search(r"Serving (\S+);", process.stderr.readline())
        assert said
        with urllib.request.urlopen(said[1]) as answer:
            assert 'recsys_backlog{model="shop"} 0.0' in answer.read().decode()
    finally:
        process.terminate()
        process.communicate(timeout=10)


# the dashboard ----------------------------------------------------------------------


def test_the_dashboard_shows_every_metric_and_no_other(
    still: Shop, registry: CollectorRegistry
) -> None:
    registry.register(prometheus.Status(still.dsn))
    with Recommender("shop", dsn=still.dsn) as model:
        model.recommend(7)
    observe.notify(Answered("shop", "similar", 5, 1, degraded="timeout"))
    observe.notify(Answered("shop", "similar", 5, error="UnknownItem: 7"))
    with _db.connect(still.dsn, autocommit=True) as conn:
        row = {"model": "shop", "channel": "x", "k": 1, "returned": 1, "total_ms": 1}
        conn.execute("select recsys._keep_slow_request(%s::json)", (json.dumps(row),))
    exported = generate_latest(registry).decode()
    samples = set(re.findall(r"^(recsys_\w+)", exported, re.M))
    families = set(re.findall(r"^# TYPE (recsys_\w+?)(?:_total)? ", exported, re.M))

    shown = set(re.findall(r"\brecsys_\w+", " ".join(_expressions())))
    assert shown <= samples, "the dashboard asks for what nobody exports"
    missing = {name for name in families if not any(s.startswith(name) for s in shown)}
    assert {name for name in missing if not name.endswith("_created")} == set()
    text = (ROOT / "docs" / "observability.md").read_text()
    names = {name for name in families if not name.endswith("_created")}
    assert {name for name in names if f"`{name}" not in text} == set()


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]

    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["description"].endswith(".")
    taken = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(taken)) == len(taken)
    for expression in _expressions():
        assert expression.count("(") == expression.count(")")
        assert expression.count("{") == expression.count("}")
    names = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard)))
    variables = {one["name"] for one in dashboard["templating"]["list"]}
    assert {name for name in names if not name.startswith("__")} <= variables


def _expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    targets: list[dict[str, Any]] = [
        target for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    return [target["expr"] for target in targets]
