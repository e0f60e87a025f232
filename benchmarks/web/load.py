"""A client that keeps its connections open: one request at a time on each of them.

One thread around epoll, requests written beforehand: on a machine of few cores a
client that computes would be measured with the server.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Load:
    """What came back of a load.

    Attributes:
        seconds: How long it lasted.
        taken: Seconds of every answer.
        short: Answers of fewer than k items.
    """

    seconds: float = 0.0
    taken: list[float] = field(default_factory=list[float])
    short: int = 0


class _Talk:
    """One connection and what it waits for."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.asked = 0.0
        self.got = b""
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise

    def close(self) -> None:
        self.socket.close()

    def ask(self, target: str) -> None:
        self.socket.sendall(f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        self.asked = time.perf_counter()

    def read(self) -> tuple[dict[str, str], bytes] | None:
        """Return headers and body once they are whole."""
        came = self.socket.recv(65536)
        if not came:
            raise ConnectionError("the server closed a connection")
        self.got += came
        head, found, body = self.got.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        if len(body) < int(headers["content-length"]):
            return None
        if " 200 " not in first:
            raise RuntimeError(f"{first}: {body[:500]!r}")
        self.got = b""
        return headers, body


def run(
    path: Path, targets: Iterator[str], *, connections: int, seconds: float, k: int
) -> Load:
    """Ask for so long; count answers of fewer than k items."""
    load = Load()
    with ExitStack() as opened, selectors.DefaultSelector() as waiting:
        talks = [opened.enter_context(closing(_Talk(path))) for _ in range(connections)]
        for talk in talks:
            waiting.register(talk.socket, selectors.EVENT_READ, talk)
            talk.ask(next(targets))
        began = time.perf_counter()
        open_talks = len(talks)
        while open_talks:
            for key, _ in waiting.select(30):
                talk: _Talk = key.data
                answer = talk.read()
                if answer is None:
                    continue
                now = time.perf_counter()
                load.taken.append(now - talk.asked)
                load.short += int(answer[0]["x-items"]) < k
                if now - began < seconds:
                    talk.ask(next(targets))
                else:
                    waiting.unregister(talk.socket)
                    open_talks -= 1
        load.seconds = time.perf_counter() - began
    return load


def bodies(path: Path, targets: list[str]) -> list[bytes]:
    """Return the answers, asked one after the other."""
    found: list[bytes] = []
    with closing(_Talk(path)) as talk:
        for target in targets:
            talk.ask(target)
            while (answer := talk.read()) is None:
                pass
            found.append(answer[1])
    return found
