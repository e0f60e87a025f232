"""The example shops as a visitor meets them: started with one command, over HTTP."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from html import unescape
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode, urljoin

import psutil
import psycopg

EXAMPLES = Path(__file__).parents[2] / "examples"
PREFIX = {"django": "shop_", "flask": ""}
"""What the tables of each shop begin with."""


@dataclass
class Shop:
    """A shop that runs."""

    name: str
    url: str
    dsn: str
    process: subprocess.Popen[bytes]
    log: Path

    def rows(self, query: str, *parameters: object) -> list[tuple]:
        """Return the rows of a query; "{}" stands before the name of a table."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            text = query.replace("{}", PREFIX[self.name])
            found = conn.execute(text.encode(), parameters)
            return found.fetchall() if found.description else []

    def departments(self, ids: list[int]) -> list[str]:
        """Return the department of each product."""
        found = dict(
            self.rows(
                "select p.id, c.department from {}product as p"
                " join {}category as c on c.id = p.category_id where p.id = any(%s)",
                ids,
            )
        )
        return [found[pk] for pk in ids]

    def stop(self) -> None:
        """Stop it as a service manager does; what it started ends with it."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        self.process.wait(30)
        _, left = psutil.wait_procs(started, 10)
        for one in left:
            one.kill()
        assert not left, f"{self.name} left behind: {left}"

    def wait(self, seconds: float) -> None:
        """Wait until the home page answers."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(self.url, timeout=10).close()
                return
            except OSError as exc:
                gone = self.process.poll() is not None
                if gone or time.monotonic() > deadline:
                    said = self.log.read_text(errors="replace")[-4000:]
                    raise AssertionError(f"{self.name} does not run:\n{said}") from exc
            time.sleep(0.2)


def start(
    name: str, folder: Path, dsn: str, size: str = "small", port: int = 0
) -> Shop:
    """Start a shop with its one command, on a database of its own."""
    port = port or _free_port()
    log = folder / f"{name}.log"
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PG", "RECSYS", "SHOP", "DJANGO"))
    }
    # Two trainings at once: a thread each.
    environment |= {"SHOP_SIZE": size, "SHOP_DSN": dsn, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, EXAMPLES / f"{name}_shop" / "run.py", f"--port={port}"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out, stderr=out
        )
    return Shop(name, f"http://127.0.0.1:{port}", dsn, process, log)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Refused(AssertionError):
    """A page that did not come."""


class Visitor:
    """Somebody with a browser's cookies and none of its windows."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.headers: dict[str, str] = {}
        self._open = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(CookieJar())
        )

    def get(self, path: str, **query: object) -> str:
        """Return a page."""
        address = urljoin(self.shop.url, path)
        return self._read(address + (f"?{urlencode(query)}" if query else ""))

    def post(self, path: str, page: str, **data: object) -> str:
        """Send the form of a page; return the page it leads to."""
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        if token:
            data["csrfmiddlewaretoken"] = token[1]
        return self._read(urljoin(self.shop.url, path), urlencode(data).encode())

    def sign_in(self, name: str, password: str = "demo") -> str:
        """Sign in."""
        page = self.get("/login/")
        return self.post("/login/", page, username=name, password=password)

    def _read(self, address: str, data: bytes | None = None) -> str:
        try:
            asked = urllib.request.Request(address, data, self.headers)
            with self._open.open(asked, timeout=30) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as exc:
            told = exc.read().decode(errors="replace")
            title = re.search(r"<title>(.*?)</title>", told, re.S)
            said = title[1] if title else told[:300]
            raise Refused(f"{address}: {exc.code} {said}") from exc


def rail(page: str, name: str) -> list[int]:
    """Return the products of one part of a page, in order."""
    part = re.search(rf'id="{name}".*?(</section>|</main>)', page, re.S)
    return (
        [int(pk) for pk in re.findall(r'data-product="(\d+)"', part[0])] if part else []
    )


def names(page: str, name: str) -> list[str]:
    """Return their names."""
    part = re.search(rf'id="{name}".*?(</section>|</main>)', page, re.S)
    found = re.findall(r"<h3><a[^>]*>(.*?)</a>", part[0]) if part else []
    return [unescape(one) for one in found]
