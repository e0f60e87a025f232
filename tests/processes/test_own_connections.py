"""A process' own connections: as many as answers at one time, whatever the threads."""

from __future__ import annotations

import _thread
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from web import USERS, expected, sessions, until

from recsys import Recommender, _own
from recsys._own import ConnectionLost, OwnConnections

_PER_REQUEST = """
import sys, threading
from recsys import Recommender
from web import sessions, expected, until, USERS
dsn = sys.argv[1]
wanted = expected(dsn)
shop = Recommender("shop", dsn=dsn)
wrong = []
def request(user):
    if [r.item_id for r in shop.recommend(user, k=5)] != wanted[user]:
        wrong.append(user)
for user in list(USERS) * 3:
    thread = threading.Thread(target=request, args=(user,))
    thread.start()
    thread.join()
print(sessions(dsn), len(wrong))
shop.close()
until(lambda: sessions(dsn) == 0)
"""


def test_a_thread_per_request_does_not_connect_per_request(shop):
    # -W error: a connection that ended with its thread would warn.
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PER_REQUEST, shop],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.stdout.split(), done.stderr) == (["1", "0"], "")


def test_threads_that_python_did_not_start_get_their_own_users_answers(shop):
    """As under mod_wsgi: its threads are made in C and come with a request."""
    wanted = expected(shop)
    wrong: list[object] = []
    barrier = threading.Barrier(16)
    ended = threading.Semaphore(0)

    def requests(model: Recommender, first: int) -> None:
        try:
            barrier.wait(10)
            for n in range(12):
                user = USERS[(first + n) % len(USERS)]
                if [r.item_id for r in model.recommend(user, k=5)] != wanted[user]:
                    wrong.append(user)
        except BaseException as exc:
            wrong.append(exc)
        finally:
            ended.release()

    with Recommender("shop", dsn=shop) as model:
        for first in range(15):
            _thread.start_new_thread(requests, (model, first))
        barrier.wait(10)
        assert all(ended.acquire(timeout=30) for _ in range(15))

        assert wrong == []
        assert sessions(shop) <= 15


def test_a_connection_left_in_the_middle_of_a_statement_is_not_used_again(shop):
    own = OwnConnections(shop)
    with own.use() as first:
        first.execute("begin")

    with own.use() as second:
        assert second is not first
        assert first.closed
    own.close()


def test_a_lost_connection_takes_the_idle_ones_along(shop):
    own = OwnConnections(shop)
    with own.use() as one, own.use() as two, own.use() as three:
        pass
    with psycopg.connect(shop, autocommit=True) as conn:
        for each in (one, two, three):
            pid = each.info.backend_pid
            conn.execute("select pg_terminate_backend(%s, 5000)", (pid,))

    with pytest.raises(ConnectionLost), own.use() as lost:
        lost.execute("select 1")
    with own.use() as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    own.close()


def test_connections_of_a_rush_are_closed_when_it_is_over(shop, monkeypatch):
    monkeypatch.setattr(_own, "IDLE_S", 0.2)
    own = OwnConnections(shop)
    with ExitStack() as rush:
        for _ in range(7):
            rush.enter_context(own.use())
    with own.use():
        pass
    assert sessions(shop) == 7  # they may be needed again in a moment

    time.sleep(0.25)
    for _ in range(10):
        with own.use() as conn:
            conn.execute("select 1")
    until(lambda: sessions(shop) == _own.KEPT)
    own.close()


def test_a_child_leaves_the_connections_of_its_parent_alone(shop):
    own = OwnConnections(shop)
    with own.use() as before:
        pid = before.info.backend_pid

    child = os.fork()
    if child == 0:
        code = 1
        try:
            with own.use() as conn:
                code = 0 if conn.info.backend_pid != pid else 3
            own.close()
        finally:
            os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with own.use() as conn:
        assert conn.execute("select pg_backend_pid()").fetchone() == (pid,)
    own.close()
