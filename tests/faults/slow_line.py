"""A line to a server over which little goes at a time."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_PIECE = 16 * 1024


@contextmanager
def slow_line(dsn: str, bytes_per_s: float) -> Iterator[str]:
    """Yield a connection string by which the server's answers come slowly."""
    server = str(Path(str(conninfo_to_dict(dsn)["host"])) / ".s.PGSQL.5432")
    with (
        tempfile.TemporaryDirectory(prefix="recsys-l") as folder,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(f"{folder}/.s.PGSQL.5432")
        listener.listen()
        threads = [
            threading.Thread(target=_serve, args=(listener, server, bytes_per_s))
        ]
        threads[0].start()
        try:
            yield make_conninfo(dsn, host=folder, port=5432)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            threads[0].join(10)


def _serve(listener: socket.socket, server: str, bytes_per_s: float) -> None:
    threads: list[threading.Thread] = []
    ends: list[socket.socket] = []
    with suppress(OSError):  # it was shut down
        while True:
            client = listener.accept()[0]
            there = socket.socket(socket.AF_UNIX)
            there.connect(server)
            ends += [client, there]
            for way in ((client, there, 0.0), (there, client, bytes_per_s)):
                threads.append(threading.Thread(target=_carry, args=way))
                threads[-1].start()
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)
    for end in ends:
        end.close()


def _carry(source: socket.socket, to: socket.socket, bytes_per_s: float) -> None:
    with suppress(OSError):
        while piece := source.recv(_PIECE):
            if bytes_per_s:
                time.sleep(len(piece) / bytes_per_s)
            to.sendall(piece)
    with suppress(OSError):
        to.shutdown(socket.SHUT_WR)
