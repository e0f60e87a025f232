"""Celery tasks on a broker made of files."""

from __future__ import annotations

import os

import served
from celery import Celery

_FOLDER = os.environ["JOBS"]

app = Celery("jobs", broker="filesystem://", backend=f"file://{_FOLDER}/results")
app.conf.update(
    broker_transport_options={
        "data_folder_in": f"{_FOLDER}/queue",
        "data_folder_out": f"{_FOLDER}/queue",
        "control_folder": f"{_FOLDER}/control",
        "polling_interval": 0.05,
    },
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
)


@app.task
def ask(path: str, query: str) -> dict:
    """The same answers as over HTTP."""
    return served.answer(path, query)


def main() -> None:
    """Ask for every user of the command line; print the answers."""
    import json
    import sys

    asked = [
        (path, int(user), ask.delay(path, f"user={user}"))
        for path in ("/quiet", "/logged")
        for user in sys.argv[1:]
    ]
    for path, user, result in asked:
        found = result.get(timeout=30, interval=0.02)
        print(json.dumps({**found, "path": path, "user": user}))


if __name__ == "__main__":
    main()
