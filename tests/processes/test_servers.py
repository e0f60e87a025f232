"""recommend() in the web servers people run: prefork, threads, preload, reload."""

from __future__ import annotations

from itertools import cycle, islice

import pytest
from web import USERS, Web, expected, impressions, serving, sessions, until

GUNICORN = [
    "gunicorn", "served:application", "--bind=127.0.0.1:{port}", "--workers=2",
    "--no-control-socket", "--graceful-timeout=5",
]  # fmt: skip
UWSGI = [
    "uwsgi", "--http-socket=127.0.0.1:{port}", "--module=served:application",
    "--need-app", "--master", "--die-on-term", "--processes=2", "--listen=64",
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
