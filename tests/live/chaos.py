"""Random interleavings of everything that changes items or versions, from one seed.

One thread plays the application and the operator; workers and backfills are processes
that pause at random between statements, are stopped, killed and started again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from scene import MODEL, Scene, differences

from recsys import _db, embedded, rollout, versions
from recsys.errors import RecsysError
from recsys.sync import sync_items

PROCESS = Path(__file__).with_name("process.py")
_MOST_WORKERS = 3
_MOST_VERSIONS = 3
_MOST_OPEN = 3


@dataclass
class Options:
    """What a run does.

    Attributes:
        seed: Of every random choice of this run.
        seconds: How long the interleaving goes on.
        data: Data folder of the server, to restart it; None: it stays up.
        restarts: Immediate stops of the server at most.
        bug: Planted in workers and backfills.
        pause: Share of the statements that pause.
    """

    seed: int
    seconds: float
    data: Path | None = None
    restarts: int = 1
    bug: str = ""
    pause: float = 0.25


@dataclass
class Child:
    """A worker or a backfill."""

    process: subprocess.Popen[bytes]
    output: Path
    expected: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def young(self) -> bool:
        """Whether it may not have connected yet."""
        return time.monotonic() - self.started < 8

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def end(self, how: signal.Signals) -> None:
        """Signal it; its end is then no surprise."""
        self.expected = True
        with suppress(ProcessLookupError):
            self.process.send_signal(how)


@dataclass
class Chaos:
    """One run.

    Attributes:
        scene: The shop.
        options: What to do.
        folder: For the output of the processes.
        done: Counts per action, for the curious.
    """

    scene: Scene
    options: Options
    folder: Path
    done: dict[str, int] = field(default_factory=dict)
    workers: list[Child] = field(default_factory=list)
    backfills: dict[int, Child] = field(default_factory=dict)
    ended: list[Child] = field(default_factory=list)
    open: list[_db.Connection] = field(default_factory=list)
    alone: _db.Connection | None = None
    surprises: list[str] = field(default_factory=list)
    next_item: int = 1_000
    children: int = 0
    restarted: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.options.seed)

    def run(self) -> list[str]:
        """Interleave, stop everything, settle; return what differs."""
        until = time.monotonic() + self.options.seconds
        names, weights = zip(*_WEIGHTS, strict=True)
        self.start_worker()
        try:
            while time.monotonic() < until:
                name = self.random.choices(names, weights)[0]
                try:
                    getattr(self, name)()
                    self.done[name] = self.done.get(name, 0) + 1
                except (RecsysError, psycopg.Error):
                    # Locks held by the application's own open transactions, mostly.
                    self.done[f"{name} refused"] = (
                        self.done.get(f"{name} refused", 0) + 1
                    )
                time.sleep(self.random.random() * 0.02)
        finally:
            self.stop()
        self.refill(40)
        self.scene.settle()
        return self.surprises + differences(self.scene.dsn)

    # the application ---------------------------------------------------------------

    def change(self) -> None:
        """One statement, alone or in a transaction that stays open."""
        if self.open and self.random.random() < 0.35:
            self.inside(self.random.choice(self.open), self.statement())
            return
        self.own().execute(self.statement().encode())

    def begin(self) -> None:
        """Open a transaction with some statements and leave it open."""
        if len(self.open) >= _MOST_OPEN:
            return self.finish()
        conn = self.connect()
        if self.random.random() < 0.2:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self.open.append(conn)
        for _ in range(self.random.randint(1, 3)):
            self.inside(conn, self.statement())
        return None

    def finish(self) -> None:
        """End one of the open transactions."""
        if not self.open:
            return
        conn = self.open.pop(self.random.randrange(len(self.open)))
        with conn, suppress(psycopg.Error):
            if self.random.random() < 0.3:
                conn.rollback()
            else:
                conn.commit()

    def sync(self) -> None:
        """Change some items and bring them up to date in the same transaction."""
        items = [self.item() for _ in range(self.random.randint(1, 3))]
        conn = self.connect()
        self.open.append(conn)
        for item in items:
            self.inside(conn, self.of_item(item))
        if conn in self.open:
            sync_items(conn, items, model=MODEL)
        if self.random.random() < 0.6 and conn in self.open:
            self.open.remove(conn)
            with conn:
                conn.commit()

    def truncate(self) -> None:
        """Empty the catalogue, then put something in."""
        with self.connect(autocommit=True) as conn:
            conn.execute("truncate product")
        self.refill(150)

    def refill(self, n: int) -> None:
        """Insert n items in one statement."""
        first, self.next_item = self.next_item, self.next_item + n
        self.scene.run(
            "insert into product (id, title, price, created_at, shelf, brand_id)"
            f" select n, 'w' || n || ' {self.word()}', 10, now(), 1,"
            " (select id from brand order by (id * n) % 41 limit 1)"
            f" from generate_series({first}, {first + n - 1}) as n"
        )

    def inside(self, conn: _db.Connection, statement: str) -> None:
        try:
            conn.execute(statement.encode())
        except psycopg.Error:
            if conn in self.open:
                self.open.remove(conn)
            conn.close()
            raise

    def connect(self, *, autocommit: bool = False) -> _db.Connection:
        conn = _db.connect(self.scene.dsn, autocommit=autocommit)
        # One thread plays everybody: what waits for itself gives up.
        conn.execute("select set_config('lock_timeout', '150ms', false)")
        if not autocommit:
            conn.commit()
        return conn

    def own(self) -> _db.Connection:
        """The connection of what is committed at once."""
        if self.alone is None or self.alone.closed:
            self.alone = self.connect(autocommit=True)
        return self.alone

    def item(self) -> int:
        """An item: often one of a few, so that processes meet."""
        if self.random.random() < 0.5:
            return self.random.randint(1, 25)
        old = self.random.randint(1, 400)
        return self.random.choice((old, self.random.randint(1_000, self.next_item)))

    def word(self) -> str:
        return f"w{self.random.randrange(10**6)}"

    def of_item(self, item: int) -> str:
        """A statement that changes one item."""
        brand = self.random.randint(1, 40)
        return self.random.choice(
            (
                f"update product set title = '{self.word()} {self.word()}'"
                f" where id = {item}",
                f"update product set price = {self.random.choice((1, 30, 900))}"
                f" where id = {item}",
                f"update product set brand_id = {brand} where id = {item}"
                f" and exists (select from brand where id = {brand})",
                f"update product set hidden = not hidden where id = {item}",
                f"update product set shelf = shelf + 1 where id = {item}",
                f"delete from product where id = {item}",
                "insert into product (id, title, price, created_at, shelf) values"
                f" ({item}, '{self.word()}', 5, now(), 2)"
                " on conflict (id) do update set title = excluded.title",
                f"insert into product (id, title, price, created_at, shelf) values"
                f" ({item}, '{self.word()}', 5, now(), 2) on conflict do nothing",
            )
        )

    def statement(self) -> str:
        """A statement of any kind."""
        if self.random.random() < 0.6:
            return self.of_item(self.item())
        brand, part = self.random.randint(1, 40), self.random.randrange(19)
        self.next_item += 20
        return self.random.choice(
            (
                f"update brand set name = '{self.word()}' where id = {brand}",
                f"update brand set name = '{self.word()}' where id = {brand}",
                f"update brand set country = '{self.word()}' where id = {brand}",
                f"delete from brand where id = {brand}",
                f"insert into brand values ({brand}, '{self.word()}', 'fr')"
                " on conflict (id) do update set name = excluded.name",
                f"update product set title = title || ' {self.word()}'"
                f" where id % 19 = {part}",
                f"update product set shelf = shelf + 1 where id % 3 = {part % 3}",
                f"update product set brand_id = {brand} where id % 19 = {part}"
                f" and exists (select from brand where id = {brand})",
                f"delete from product where id % 31 = {part}",
                f"update product set id = id + 100000 where id = {self.item()}",
                f"update product set id = {self.item()} where id ="
                " (select max(id) from product)",
                "insert into product (id, title, price, created_at, shelf, brand_id)"
                f" select n, 'w' || n || ' {self.word()}', 10, now(), 1,"
                " (select max(id) from brand) from"
                f" generate_series({self.next_item - 20}, {self.next_item - 1}) as n",
            )
        )

    # the operator ------------------------------------------------------------------

    def new_version(self) -> None:
        """Make a version; its backfill comes later."""
        if len(self.live()) < _MOST_VERSIONS:
            self.scene.add_version(self.random.randrange(99), ready=False)

    def start_backfill(self) -> None:
        """Begin or resume a backfill, of any version that may have one."""
        numbers = [n for n, state in self.live() if state == "building"]
        if self.random.random() < 0.2:
            numbers = [n for n, _ in self.live()]
        if self.random.random() < 0.15:
            numbers = self.numbers("retired") or numbers
        busy = [n for n, child in self.backfills.items() if child.running]
        numbers = [n for n in numbers if n not in busy]
        if not numbers:
            return
        number = self.random.choice(numbers)
        self.retire_child(self.backfills.pop(number, None))
        many = self.random.choice((1, 1, 3))
        self.backfills[number] = self.start(
            "backfill", MODEL, str(number), "--workers", str(many)
        )

    def kill_backfill(self) -> None:
        """Kill a running backfill at whatever it does."""
        running = [child for child in self.backfills.values() if child.running]
        if running:
            self.random.choice(running).end(signal.SIGKILL)

    def start_worker(self) -> None:
        """Start one more worker."""
        for child in [child for child in self.workers if not child.running]:
            self.workers.remove(child)
            self.retire_child(child)
        if len(self.workers) < _MOST_WORKERS:
            self.workers.append(self.start("worker", "--batch", "20", "--poll", "0.02"))

    def stop_worker(self) -> None:
        """SIGTERM for a worker."""
        if self.workers:
            self.random.choice(self.workers).end(signal.SIGTERM)

    def kill_worker(self) -> None:
        """SIGKILL for a worker."""
        if self.workers:
            self.random.choice(self.workers).end(signal.SIGKILL)

    def promote(self) -> None:
        """Give a share of the users, or all, to a version."""
        usable = [n for n, state in self.live() if state != "building"]
        if not usable:
            return
        number = self.random.choice(usable)
        percent = self.random.choice((1, 10, 50, 100, 100))
        self.operate(
            lambda conn: rollout.promote(
                conn, MODEL, number, percent=percent, reason="chaos", force=True
            )
        )

    def rollback(self) -> None:
        """Go back."""
        self.operate(lambda conn: rollout.rollback(conn, MODEL))

    def retire(self) -> None:
        """Retire a version."""
        number = self.random.choice(self.live())[0]
        self.operate(lambda conn: rollout.retire(conn, MODEL, number))

    def drop(self) -> None:
        """Drop a version that is retired, or any that does not serve."""
        numbers = [n for n, state in self.live() if state in ("ready", "building")]
        numbers = self.numbers("retired") or numbers
        if numbers and len(self.live()) > 1:
            number = self.random.choice(numbers)
            if number in self.backfills:
                self.backfills[number].expected = True
            self.operate(lambda conn: rollout.drop(conn, MODEL, number))

    def restart(self) -> None:
        """Crash the server and start it again."""
        if self.options.data is None or self.restarted >= self.options.restarts:
            return
        self.restarted += 1
        for child in (*self.backfills.values(), *self.workers):
            # A worker reconnects; only one that begins now may fail.
            child.expected |= child not in self.workers or child.young
        crash(self.options.data)
        for conn in self.open:
            conn.close()
        self.open.clear()

    def operate(self, act: Callable[[_db.Connection], object]) -> None:
        with self.connect() as conn:
            act(conn)

    def live(self) -> list[tuple[int, str]]:
        """Numbers and states of the versions that are followed."""
        return [
            (version.number, version.state)
            for version in versions.list_versions(self.own(), MODEL)
            if version.state in ("building", "ready", "serving")
        ]

    def numbers(self, state: str) -> list[int]:
        return [
            version.number
            for version in versions.list_versions(self.own(), MODEL)
            if version.state == state
        ]

    # processes ---------------------------------------------------------------------

    def start(self, *command: str) -> Child:
        self.children += 1
        output = self.folder / f"{self.children}-{command[0]}.log"
        arguments = [
            sys.executable, str(PROCESS), "--seed", str(self.random.randrange(10**6)),
            "--pause", str(self.options.pause), "--chunk", "25",
        ]  # fmt: skip
        if self.options.bug:
            arguments += ["--bug", self.options.bug]
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*arguments, "--", *command],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "RECSYS_DSN": self.scene.dsn},
            )
        return Child(process, output)

    def stop(self) -> None:
        """End every process and transaction; note processes that failed."""
        for conn in (*self.open, self.own()):
            conn.close()
        self.open.clear()
        for child in self.workers:
            if child.running:
                child.expected |= child.young  # it has no handler yet
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        children = [*self.workers, *self.backfills.values()]
        for child in children:
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, deadline - time.monotonic()))
            if child.running:
                child.end(signal.SIGKILL)
                child.process.wait()
            self.retire_child(child)

    def retire_child(self, child: Child | None) -> None:
        """Look at how a process ended."""
        if child is None:
            return
        text = child.output.read_text(errors="replace")
        code = child.process.returncode
        # One that began while the server was down gives up at its first connection.
        down = self.restarted and "cannot connect" in text
        # A TRUNCATE came before the backfill looked: it refuses, and is run again.
        refused = down or "the item source returns no items" in text
        if "Traceback" in text or (code and not child.expected and not refused):
            last = "\n".join(text.strip().splitlines()[-15:])
            self.surprises.append(f"{child.output.name} ended with {code}:\n{last}")


_WEIGHTS: Sequence[tuple[str, float]] = (
    ("change", 120),
    ("begin", 24),
    ("finish", 26),
    ("sync", 10),
    ("truncate", 0.15),
    ("new_version", 3),
    ("start_backfill", 6),
    ("kill_backfill", 1.5),
    ("start_worker", 4),
    ("stop_worker", 0.7),
    ("kill_worker", 1.5),
    ("promote", 2),
    ("rollback", 0.5),
    ("retire", 0.7),
    ("drop", 0.5),
    ("restart", 0.3),
)


def crash(data: Path) -> None:
    """Stop a server as a power cut would, and start it again."""
    halt(data)
    embedded.start(data)


def halt(data: Path) -> None:
    """Stop a server as a power cut would."""
    pid = int((data / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)
    while Path(f"/proc/{pid}").exists() and embedded._process(pid) == "postgres":
        time.sleep(0.02)
