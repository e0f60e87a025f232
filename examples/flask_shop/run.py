"""The whole shop with one command: python run.py.

The first time it makes the tables, the goods and a year of clicks, trains a model and
fills its index; later it finds all that and only starts the server.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import text

from recsys import embedded

HERE = Path(__file__).resolve().parent
MODEL = "shop"


def main() -> None:
    """Prepare what is missing, then serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--prepare", action="store_true", help="do not start serving")
    parser.add_argument("--stop", action="store_true", help="stop the embedded server")
    options = parser.parse_args()
    if options.stop:
        stopped = embedded.stop(embedded.near(HERE))
        sys.exit(None if stopped else "No embedded Postgres runs here.")
    if not options.prepare and taken(options.port):
        sys.exit(f"Port {options.port} is taken: try --port {options.port + 1}")
    # Stopped by a service manager it ends as with Ctrl-C, and so does the worker.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    app = step("Postgres", create)
    with app.app_context():
        from shop import stock
        from shop.models import db

        step("Tables", db.create_all)
        step("Goods and shoppers", stock.fill)
        step("Model", train)
    if not options.prepare:
        serve(app, options.port)


def serve(app: Flask, port: int) -> None:
    """Serve until Ctrl-C, with a worker that brings new products into the index."""
    print(f"\n  http://127.0.0.1:{port}/  sign in: ada, demo")
    print(f"  http://127.0.0.1:{port}/admin/  sign in: admin, admin\n", flush=True)
    worker = subprocess.Popen(command("worker", "--poll", "1"), cwd=HERE)
    try:
        app.run(port=port)
    finally:
        worker.terminate()
        worker.wait()
        if "SHOP_DSN" not in os.environ:
            print("\nPostgres goes on; 'python run.py --stop' ends it.")


def taken(port: int) -> bool:
    """Say whether something answers at a port: better now than after the training."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def create() -> Flask:
    """Return the application; it starts the embedded server, unless one is named."""
    from shop import create_app

    return create_app()


def step(name: str, do: Callable[[], Any]) -> Any:
    """Do one step; say how long it took."""
    print(f"{name} ...", flush=True)
    start = time.perf_counter()
    done = do()
    print(f"  {time.perf_counter() - start:.1f} s", flush=True)
    return done


def train() -> None:
    """Train, backfill and promote a version, as far as that is still to do."""
    recsys("upgrade")
    number, state = newest()
    if number is None:
        # Where the versions are reviewed like other migrations, leave --no-revision
        # out: 'recsys train' then writes an alembic file for each.
        recsys("train", MODEL, "--no-revision")
        # Which products change is noted from now on, for the worker.
        recsys("watch", MODEL)
        number, state = newest()
    if state == "building":
        recsys("backfill", MODEL, str(number))
        number, state = newest()
    if state == "ready":
        recsys("promote", MODEL, str(number))


def recsys(*arguments: str) -> None:
    """Run flask recsys; in a process of its own, so that torch leaves with it."""
    print("  flask recsys", *arguments, flush=True)
    subprocess.run(command(*arguments), check=True, cwd=HERE)


def command(*arguments: str) -> list[str]:
    """Return flask recsys as the system runs it."""
    return [sys.executable, "-m", "flask", "--app", "app", "recsys", *arguments]


def newest() -> tuple[int | None, str]:
    """Return number and state of the version that serves, else of the newest one."""
    from shop.models import db

    found = db.session.execute(
        text(
            "select number, state from recsys.model_version where model = :model"
            " and state in ('building', 'ready', 'serving')"
            " order by state = 'serving' desc, number desc limit 1"
        ),
        {"model": MODEL},
    ).first()
    db.session.rollback()  # no transaction stays open over a training
    return (found.number, found.state) if found else (None, "")


if __name__ == "__main__":
    main()
