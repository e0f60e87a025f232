"""recommend() in the web servers people run: prefork, threads, preload, reload."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPException
from itertools import cycle, islice

import pytest
from web import (
    BIN,
    HERE,
    USERS,
    Web,
    expected,
    impressions,
    serving,
    sessions,
    until,
)

GUNICORN = [
    "gunicorn", "served:application", "--bind=127.0.0.1:{port}", "--workers=2",
    "--no-control-socket", "--graceful-timeout=5",
]  # fmt: skip
UWSGI = [
    "uwsgi", "--http-socket=127.0.0.1:{port}", "--module=served:application",
    "--need-app", "--master", "--die-on-term", "--processes=2", "--listen=64",
    # On a loaded machine a worker may be slow to end; by default it gets a minute.
    "--worker-reload-mercy=5", "--reload-mercy=5",
]  # fmt: skip
THREADS = {
    "gunicorn-sync": [*GUNICORN],
    "gunicorn-gthread": [*GUNICORN, "--worker-class=gthread", "--threads=4"],
    "gunicorn-preload": [*GUNICORN, "--preload"],
    "gunicorn-gthread-preload": [*GUNICORN, "--preload", "--threads=4"],
    "uwsgi": [*UWSGI, "--enable-threads"],
    "uwsgi-threads": [*UWSGI, "--threads=4"],
    "uwsgi-lazy-apps": [*UWSGI, "--lazy-apps", "--enable-threads"],
}


def _ask(web: Web, kind: str, count: int, clients: int = 8) -> list[dict]:
    users = list(islice(cycle(USERS), count))
    found = web.get_all((f"/{kind}?user={user}" for user in users), clients)
    return [{**each, "user": user} for user, each in zip(users, found, strict=True)]


@pytest.mark.parametrize("name", THREADS)
def test_each_worker_answers_from_connections_of_its_own(name, shop, tmp_path):
    wanted = expected(shop)
    with serving(THREADS[name], tmp_path, shop) as web:
        born = web.get("/")["born"]
        assert sessions(shop) == 0, "connected before the first request"
        assert not born["onnxruntime"]

        quiet: list[dict] = []
        until(
            lambda: (
                len({x["pid"] for x in quiet}) == 2
                or quiet.extend(_ask(web, "quiet", 24))
            ),
        )
        assert all(x["items"] == wanted[x["user"]] for x in quiet)
        assert not any("recsys" in t for x in quiet for t in x["threads"])
        held = sessions(shop)
        assert 2 <= held <= 8

        logged = _ask(web, "logged", 24)
        assert all(x["items"] == wanted[x["user"]] for x in logged)
        until(lambda: impressions(shop) >= len(logged))
        more = _ask(web, "logged", 12)
        web.stop()

    assert impressions(shop) == len(logged) + len(more)
    until(lambda: sessions(shop) == 0)
    if "preload" in name or name in ("uwsgi", "uwsgi-threads"):
        assert born["pid"] not in {x["pid"] for x in quiet}
    else:
        assert all(x["born"]["pid"] == x["pid"] for x in quiet)


@pytest.mark.parametrize("name", ["gunicorn-gthread-preload", "uwsgi-threads"])
def test_workers_forked_after_the_first_answer_begin_anew(name, shop, tmp_path):
    wanted = expected(shop)
    with serving(THREADS[name], tmp_path, shop, {"WARM": "1"}) as web:
        parents = sessions(shop)  # of the answer, and of the writer
        found: list[dict] = []
        until(
            lambda: (
                len({x["pid"] for x in found}) == 2
                or found.extend([*_ask(web, "quiet", 12), *_ask(web, "logged", 12)])
            ),
        )

        assert parents == 2
        assert all(x["items"] == wanted[x["user"]] for x in found)
        assert sessions(shop) >= parents + 2
        web.stop()

    # What the parent logged while it imported the application, and each answer, once.
    assert impressions(shop) == 1 + len(found) // 2
    until(lambda: sessions(shop) == 0)


def test_a_killed_worker_is_replaced_by_one_that_answers(shop, tmp_path):
    wanted = expected(shop)
    command = THREADS["gunicorn-gthread-preload"]
    with serving(command, tmp_path, shop) as web:
        first = {x["pid"] for x in _ask(web, "quiet", 12)}
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        found: list[dict] = []

        def replaced() -> bool:
            with suppress(OSError, HTTPException):
                found.append({**web.get("/quiet?user=3"), "user": 3})
            return bool(found) and found[-1]["pid"] not in first

        until(replaced)
        assert all(x["items"] == wanted[3] for x in found)


def test_django_runserver_starts_anew_after_an_edit(shop, tmp_path):
    wanted = expected(shop)
    site = tmp_path / "site_django.py"
    text = (HERE / "site_django.py").read_text()
    site.write_text(text)
    command = ["python", str(site), "runserver", "127.0.0.1:{port}"]
    env = {"PYTHONPATH": str(HERE)}
    with serving(command, tmp_path, shop, env, cwd=tmp_path) as web:
        before = _ask(web, "quiet", 24, clients=3)
        assert all(x["items"] == wanted[x["user"]] for x in before)
        # It makes a thread for every request.
        assert sessions(shop) <= 3
        assert not any("recsys" in t for x in before for t in x["threads"])
        _ask(web, "logged", 6, clients=1)

        time.sleep(1.1)  # whole seconds: file systems may keep no more
        site.write_text(text.replace("or 1", "or 2"))

        def anew() -> bool:
            with suppress(OSError, HTTPException):
                return web.get("/")["edition"] == 2
            return False

        until(anew, 15, web.said)
        after = _ask(web, "logged", 6, clients=1)
        assert all(x["items"] == wanted[x["user"]] for x in after)
        assert {x["pid"] for x in before}.isdisjoint({x["pid"] for x in after})
        until(lambda: sessions(shop) <= 2, what=lambda: "the old process' are held")
        until(lambda: impressions(shop) == 12)
        web.stop(signal.SIGINT)


@pytest.mark.parametrize("where", ["", "/any"], ids=["one thread", "any thread"])
def test_asgi_answers_through_sync_to_async(where, shop, tmp_path):
    wanted = expected(shop)
    command = [
        "uvicorn", "served:asgi", "--host=127.0.0.1", "--port={port}",
        "--log-level=warning", "--lifespan=off",
    ]  # fmt: skip
    with serving(command, tmp_path, shop) as web:
        assert sessions(shop) == 0
        quiet = _ask(web, f"{where.strip('/')}/quiet".lstrip("/"), 36)
        assert all(x["items"] == wanted[x["user"]] for x in quiet)
        assert not any("recsys" in t for x in quiet for t in x["threads"])
        assert sessions(shop) <= (8 if where else 1)

        _ask(web, f"{where.strip('/')}/logged".lstrip("/"), 12)
        web.stop(signal.SIGINT)
    assert impressions(shop) == 12


def test_celery_prefork_answers_in_every_child(shop, tmp_path):
    wanted = expected(shop)
    for each in ("queue", "results", "control"):
        (tmp_path / each).mkdir()
    env = {**os.environ, "RECSYS_DSN": shop, "JOBS": str(tmp_path)}
    log = (tmp_path / "celery.log").open("wb")
    worker = subprocess.Popen(
        [
            BIN / "celery", "-A", "jobs", "worker", "--pool=prefork", "--concurrency=2",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
        ],
        cwd=HERE, env=env, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        asked = subprocess.run(
            [sys.executable, "jobs.py", *map(str, [*USERS, *USERS])],
            cwd=HERE, env=env, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        found = [json.loads(line) for line in asked.stdout.splitlines()]
        worker.send_signal(signal.SIGTERM)
        worker.wait(20)
    finally:
        log.close()
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)

    assert len(found) == 48, asked.stderr + (tmp_path / "celery.log").read_text()
    assert all(x["items"] == wanted[x["user"]] for x in found)
    assert all(x["born"]["pid"] == worker.pid for x in found)
    assert len({x["pid"] for x in found} | {worker.pid}) == 3
    until(lambda: sessions(shop) == 0)
    assert impressions(shop) == 24
