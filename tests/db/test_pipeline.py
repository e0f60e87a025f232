"""Training as operators run it: tiny data, real torch, and what interruptions leave."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import world
from psycopg import sql
from safetensors.numpy import load

from recsys import Recommender, _db, artifacts, pipeline, rollout, schema, versions
from recsys._guard import exclusive
from recsys.backfill import backfill
from recsys.config import IdType, ProjectConfig, from_mapping
from recsys.errors import ConfigError, SchemaError, SourceError, TrainingError

TRAIN = {"epochs": 2, "budget_s": 3.0, "batch": 64, "negatives": 32}


def project(folder: Path, id_type: IdType = "bigint", **options: Any) -> ProjectConfig:
    data = world.toml(id_type, train=TRAIN, **options)
    return from_mapping({**data, "versions": str(folder / "recsys_versions")})


def left(dsn: str) -> tuple[int, int, int]:
    """Numbers given out, versions registered, artifacts stored."""
    with _db.connect(dsn) as conn:
        row = conn.execute(
            "select coalesce((select max(last_number) from recsys.model), 0),"
            " (select count(*) from recsys.model_version),"
            " (select count(*) from recsys.artifact)"
        ).fetchone()
    assert row
    return row[0], row[1], row[2]


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that fails at once, where what surrounds it is tested."""
    from recsys.training import trainer

    def train(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", train)


def test_a_version_is_trained_declared_filled_and_serves(
    dsn: str, tmp_path: Path
) -> None:
    world.fill_shop(dsn)
    config = project(tmp_path, features=True)

    trained = pipeline.train_version(dsn, config, "shop", seed=7)

    assert left(dsn)[:2] == (1, 0)
    assert trained.revision
    assert trained.revision.parent == config.versions
    schema.upgrade(dsn, config.versions)
    report = backfill(dsn, "shop")
    with _db.connect(dsn) as conn:
        rollout.promote(conn, "shop", 1, reason="test", force=True)
        version = versions.get(conn, "shop", 1)
        stored = json.loads(artifacts.get(conn, version.artifacts["report"]))
        weights = load(artifacts.get(conn, version.artifacts["weights"]))
    assert version.spec["trend"]["cold"] == float(weights["cold_bias"])
    assert report.item_count == 200
    assert version.spec["train"]["seed"] == 7
    assert set(version.metrics["validation"]) >= {"model", "most_popular"}
    assert stored["curves"]
    with _db.connect(dsn) as conn:
        late = conn.execute(
            "select v.trained_until - e.last from recsys.model_version as v,"
            " (select max(created_at) as last from event) as e"
        ).fetchone()
    assert late == (timedelta(microseconds=1),)
    with Recommender("shop", dsn=dsn) as model:
        assert len(model.recommend(7)) == 20


@pytest.mark.parametrize("id_type", ["uuid", "text"])
def test_without_a_revision_the_version_is_made_directly(
    dsn: str, tmp_path: Path, id_type: IdType
) -> None:
    world.fill_shop(dsn, id_type, items=40, users=10, events=6)
    config = project(tmp_path, id_type)

    until = world.NOW - timedelta(days=30)
    trained = pipeline.train_version(dsn, config, "shop", until=until, revision=False)

    assert trained.revision is None
    assert trained.plan.spec["trained_until"] == until.isoformat()
    assert not config.versions.exists()
    assert left(dsn)[:2] == (1, 1)
    assert backfill(dsn, "shop").item_count == 40


def test_an_interrupted_training_leaves_nothing_but_a_burnt_number(
    dsn: str, tmp_path: Path, instant: None
) -> None:
    world.fill_shop(dsn)
    config = project(tmp_path)

    for number in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            pipeline.train_version(dsn, config, "shop", revision=number == 1)
        assert left(dsn) == (number, 0, 0)

    assert not config.versions.exists()


@pytest.fixture
def training(dsn: str, tmp_path: Path) -> subprocess.Popen[str]:
    """A process in the middle of a training that would take a minute."""
    world.fill_shop(dsn)
    code = """
        import json, sys, time
        from pathlib import Path
        from recsys import config, pipeline
        from recsys.training import trainer
        def train(*args, **options):
            print("training", flush=True)
            time.sleep(60)
        trainer.train = train
        data = json.loads(sys.argv[2])
        pipeline.train_version(sys.argv[1], config.from_mapping(data), "shop")
    """
    data = {**world.toml(), "versions": str(tmp_path / "recsys_versions")}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), dsn, json.dumps(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "training\n", process.communicate()
    return process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_leaves_nothing_and_blocks_nobody(
    dsn: str,
    tmp_path: Path,
    training: subprocess.Popen[str],
    instant: None,
    how: signal.Signals,
) -> None:
    config = project(tmp_path)
    with pytest.raises(TrainingError, match="another training") as caught:
        pipeline.train_version(dsn, config, "shop")
    assert "Wait for it" in caught.value.hint

    training.send_signal(how)
    training.communicate(timeout=30)

    assert training.returncode != 0
    assert left(dsn) == (1, 0, 0)
    assert not config.versions.exists()
    with pytest.raises(KeyboardInterrupt):  # it may train again
        pipeline.train_version(dsn, config, "shop")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("delete from event", TrainingError, "no interactions"),
        ("update event set product_id = 999999", TrainingError, "no interactions"),
        ("delete from product", (SourceError, TrainingError), "no interactions"),
        ("drop table event", SourceError, "event"),
        ("alter table event rename kind to sort", SourceError, "kind"),
        ("alter table event rename customer_id to c", SourceError, "customer_id"),
        ("alter table product rename to gone", SourceError, "product"),
        (
            "alter table product drop constraint product_pkey;"
            " insert into product select * from product where id = 7",
            SourceError,
            "7",
        ),
        (
            "alter table product drop constraint product_pkey;"
            " alter table product alter id drop not null;"
            " insert into product (id, shelf) values (null, 1)",
            SourceError,
            "null",
        ),
        ("alter table product alter id type text", SourceError, "item_id"),
        ("alter table event alter customer_id type text", SourceError, "user_id"),
    ],
)
def test_sources_that_cannot_be_learned_from_are_named(
    dsn: str, tmp_path: Path, change: str, error: Any, message: str
) -> None:
    world.fill_shop(dsn, items=40, users=10, events=6)
    with _db.connect(dsn) as conn:
        conn.execute(change.encode())

    with pytest.raises(error, match=message) as caught:
        pipeline.train_version(dsn, project(tmp_path), "shop")

    assert caught.value.hint
    assert left(dsn)[1:] == (0, 0)


@pytest.mark.parametrize("table", ["event", "product", "customer"])
def test_empty_sources_with_features_are_named(
    dsn: str, tmp_path: Path, table: str
) -> None:
    world.fill_shop(dsn, items=40, users=10, events=6)
    with _db.connect(dsn) as conn:
        conn.execute(f"truncate {table}".encode())
    config = project(tmp_path, features=True)

    if table == "customer":
        pipeline.train_version(dsn, config, "shop")
        return
    with pytest.raises((TrainingError, SourceError)):
        pipeline.train_version(dsn, config, "shop")


@pytest.mark.parametrize(
    "sizes",
    [
        {"items": 1, "users": 5, "events": 1},
        {"items": 20, "users": 1, "events": 5},
        {"items": 5, "users": 8, "events": 5},
        {"items": 1, "users": 1, "events": 1},
    ],
    ids=["one item", "one user", "all seen", "one of each"],
)
def test_the_smallest_shops_train_or_say_why_not(
    dsn: str, tmp_path: Path, sizes: dict[str, int]
) -> None:
    world.fill_shop(dsn, **sizes)

    try:
        pipeline.train_version(dsn, project(tmp_path), "shop", revision=False)
    except TrainingError:
        assert left(dsn)[1:] == (0, 0)
        return
    backfill(dsn, "shop")
    with _db.connect(dsn) as conn:
        rollout.promote(conn, "shop", 1, reason="test", force=True)
    with Recommender("shop", dsn=dsn) as model:
        seen = min(sizes["events"], sizes["items"])
        assert len(model.recommend(1)) == sizes["items"] - seen
        assert len(model.recommend(999)) == min(20, sizes["items"])


def test_a_missing_schema_or_model_is_named(empty_dsn: str, tmp_path: Path) -> None:
    with pytest.raises(SchemaError):
        pipeline.train_version(empty_dsn, project(tmp_path), "shop")
    with pytest.raises(ConfigError, match="shpo"):
        pipeline.train_version(empty_dsn, project(tmp_path), "shpo")


def test_a_model_of_other_id_types_is_refused(
    dsn: str, tmp_path: Path, instant: None
) -> None:
    world.fill_shop(dsn)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train_version(dsn, project(tmp_path), "shop")

    with pytest.raises(SourceError, match=r"recsys\.toml says text"):
        pipeline.train_version(dsn, project(tmp_path, "text"), "shop")

    assert left(dsn) == (1, 0, 0)  # a mistake that is seen at once burns no number


@pytest.fixture
def small(dsn: str, tmp_path: Path) -> ProjectConfig:
    """A shop that trains in a second."""
    world.fill_shop(dsn, items=40, users=10, events=6)
    return project(tmp_path)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_fresh_database_never_overwrites_a_committed_revision(
    dsn: str, small: ProjectConfig, renamed: bool
) -> None:
    committed = pipeline.train_version(dsn, small, "shop").revision
    assert committed
    if renamed:
        committed = committed.rename(committed.with_name("first.py"))
    before = committed.read_bytes()
    with _db.connect(dsn) as conn:  # a colleague's database gave out no number yet
        conn.execute("delete from recsys.model")

    trained = pipeline.train_version(dsn, small, "shop")

    assert committed.read_bytes() == before
    assert trained.plan.number == 2
    assert trained.revision
    assert trained.revision.name == "shop_0002.py"
    assert "down_revision = 'shop_1'" in trained.revision.read_text()
    assert left(dsn)[0] == 2
    schema.upgrade(dsn, small.versions)
    with _db.connect(dsn) as conn:
        assert [v.number for v in versions.list_versions(conn, "shop")] == [2, 1]


def test_the_folder_counts_also_without_a_revision(
    dsn: str, small: ProjectConfig, instant: None
) -> None:
    small.versions.mkdir()
    (small.versions / "shop_0004.py").write_text("not read")
    (small.versions / "shop_2_0009.py").write_text("of another model")

    with pytest.raises(KeyboardInterrupt):
        pipeline.train_version(dsn, small, "shop", revision=False)

    assert left(dsn) == (5, 0, 0)


def test_a_revision_that_came_during_the_fit_is_kept(
    dsn: str, small: ProjectConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys.training import trainer

    fit = trainer.train
    pulled = small.versions / "shop_0001.py"

    def train(*args: Any, **options: Any) -> Any:
        small.versions.mkdir()
        pulled.write_text("revision = 'shop_1'\ndown_revision = None\n")
        return fit(*args, **options)

    monkeypatch.setattr(trainer, "train", train)

    trained = pipeline.train_version(dsn, small, "shop")

    assert trained.plan.number == 2
    assert trained.revision == small.versions / "shop_0002.py"
    assert "shop_1" in pulled.read_text()


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("syntax.py", "def ("),
        ("raises.py", "import no_such_package_anywhere"),
        ("other.py", "x = 1"),
        ("gap.py", "revision = 'b'\ndown_revision = 'nowhere'"),
    ],
)
def test_a_broken_neighbour_is_found_before_the_training(
    dsn: str, small: ProjectConfig, instant: None, broken: str, text: str
) -> None:
    small.versions.mkdir()
    (small.versions / broken).write_text(text)

    wanted = "nowhere" if broken == "gap.py" else broken
    with pytest.raises(ConfigError, match=wanted) as caught:
        pipeline.train_version(dsn, small, "shop")

    assert caught.value.hint
    assert left(dsn) == (0, 0, 0)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_versions_folder_that_is_a_file_is_found_before_the_training(
    dsn: str, tmp_path: Path, instant: None, below: str
) -> None:
    world.fill_shop(dsn, items=40, users=10, events=6)
    (tmp_path / "taken").write_text("")
    data = {**world.toml(), "versions": str(tmp_path / "taken" / below)}

    with pytest.raises(ConfigError, match="taken is a file"):
        pipeline.train_version(dsn, from_mapping(data), "shop")

    assert left(dsn) == (0, 0, 0)


def test_a_training_survives_servers_that_end_idle_sessions(
    dsn: str,
    small: ProjectConfig,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from recsys.training import trainer

    fit = trainer.train

    def train(*args: Any, **options: Any) -> Any:
        with _db.connect(dsn, autocommit=True) as conn:
            ended = conn.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where"
                " datname = current_database() and pid <> pg_backend_pid()"
                " and application_name = 'recsys'"
            ).fetchall()
        assert ended == [(True,)]  # the guard's alone: nothing else waits for the fit
        return fit(*args, **options)

    monkeypatch.setattr(trainer, "train", train)

    trained = pipeline.train_version(dsn, small, "shop")

    assert trained.revision
    assert "recsys.train.shop was lost" in caplog.text


def test_the_guard_outlives_the_timeouts_of_the_database(dsn: str) -> None:
    with _db.connect(dsn, autocommit=True) as conn:
        known = conn.info.server_version >= 170_000
        names = ["idle_in_transaction_session_timeout", "idle_session_timeout"]
        for name in [*names, "transaction_timeout"] if known else names:
            conn.execute(
                sql.SQL("alter database {} set {} = '300ms'").format(
                    sql.Identifier(world.name_of(dsn)), sql.Identifier(name)
                )
            )
    busy = TrainingError("busy")

    with exclusive(dsn, "key", busy):
        time.sleep(0.8)
        with pytest.raises(TrainingError, match="busy"), exclusive(dsn, "key", busy):
            pass
    with exclusive(dsn, "key", busy):
        pass


def test_a_lost_guard_does_not_hide_the_error_of_the_work(dsn: str) -> None:
    def work() -> None:
        with exclusive(dsn, "key", TrainingError("busy")):
            with _db.connect(dsn, autocommit=True) as conn:
                conn.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity where"
                    " datname = current_database() and pid <> pg_backend_pid()"
                )
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


class Stopped:
    """Progress that is interrupted after the second epoch of the final fit."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stopped]:
        self.fits, self.epochs = name == "fit", 0
        yield self

    def advance(self, n: int = 1, note: str = "") -> None:
        self.epochs += n
        if self.fits and self.epochs > 2:
            raise KeyboardInterrupt


def test_a_fit_is_gone_on_with_though_interactions_have_come(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.fill_shop(dsn)
    monkeypatch.setattr("recsys.training.checkpoint.EVERY_S", 0.0)
    data = world.toml(train={**TRAIN, "epochs": 4})
    items = data["model"]["shop"]["items"]
    made = "select s.*, '2020-01-01Z'::timestamptz as made"
    items["sql"] = f"{made} from ({items['sql']}) as s"
    items.setdefault("features", {})["made"] = {"type": "time"}
    config = from_mapping({**data, "versions": str(tmp_path / "recsys_versions")})
    train = partial(
        pipeline.train_version, dsn, config, "shop", revision=False, checkpoint=tmp_path
    )
    with _db.connect(dsn) as conn:
        conn.execute("insert into event values (1, 1, 'view', 'infinity')")
    with pytest.raises(KeyboardInterrupt):
        train(progress=Stopped())
    with _db.connect(dsn) as conn:
        conn.execute("insert into event values (1, 2, 'view', now())")

    done = train(resume=True)

    assert done.report["settings"]["epochs"] == 4
    curve = [row["epoch"] for row in done.report["curves"] if row["run"] == 0]
    assert curve == [1, 2, 3, 4]
    assert not list(tmp_path.glob("*.safetensors"))
