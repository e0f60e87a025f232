"""The application that each server of these tests runs; like one that a user writes.

RECSYS_DSN says where the database is. With WARM=1 it answers while it is imported, so
that a server which imports it before it forks hands used connections to its workers.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from recsys import Recommender

QUIET = Recommender("shop")
LOGGED = Recommender("shop", impressions="background")

BORN = {
    "pid": os.getpid(),
    "threads": len(threading.enumerate()),
    "onnxruntime": "onnxruntime" in sys.modules,
}
if os.environ.get("WARM"):
    QUIET.recommend(1)
    LOGGED.recommend(1)
FACES: dict[str, str] = {}


def answer(path: str, query: str) -> dict[str, Any]:
    """What a view does: /quiet and /logged answer ?user=N, /record stores a view."""
    asked = {name: int(values[0]) for name, values in parse_qs(query).items()}
    out: dict[str, Any] = {}
    if path in ("/quiet", "/logged"):
        page = (QUIET if path == "/quiet" else LOGGED).recommend(asked["user"], k=5)
        out["items"] = [each.item_id for each in page]
        out["degraded"] = getattr(page, "degraded", None)
    elif path == "/similar":
        out["items"] = [each.item_id for each in QUIET.similar_items(asked["item"])]
    elif path == "/record":
        QUIET.record(asked["user"], asked["item"], "view")
    names = sorted(thread.name for thread in threading.enumerate())
    return {**out, "pid": os.getpid(), "born": BORN, "threads": names}


def application(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    """WSGI."""
    body = json.dumps(answer(environ["PATH_INFO"], environ["QUERY_STRING"])).encode()
    start_response(
        "200 OK",
        [("Content-Type", "application/json"), ("Content-Length", str(len(body)))],
    )
    return [body]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI: the views in a thread; below /any in whichever thread is free."""
    from asgiref.sync import sync_to_async

    if scope["type"] != "http":
        return
    path, query = scope["path"], scope["query_string"].decode()
    anywhere = path.startswith("/any")
    view = sync_to_async(answer, thread_sensitive=not anywhere)
    body = json.dumps(await view(path.removeprefix("/any"), query)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
