"""Every planted bug is found, and the same interleaving is harmless without it."""

from __future__ import annotations

from collections.abc import Callable

import bugs
import pytest
from between import before, last_chunk
from scene import MODEL, Scene, differences

from recsys import capture
from recsys.backfill import backfill

CLAIM = "_claim_changes"
WRITE = "insert into recsys.item_vector_shop_1"
RENAME = "update product set title = 'entirely other words' where id = 5"
PRODUCT = capture.function_name(MODEL, "public.product")


def changed_before_the_claim(scene: Scene) -> None:
    scene.run("update product set title = 'some words' where id = 5")
    with before(CLAIM, lambda: scene.run(RENAME)):
        scene.drain()


def changed_before_the_write(scene: Scene) -> None:
    scene.run("update product set title = 'some words' where id = 5")
    with before(WRITE, lambda: scene.run(RENAME)):
        scene.drain()


def overtaken(scene: Scene) -> None:
    """A second worker comes between the read and the write of the first."""

    def second() -> None:
        scene.run(RENAME)
        scene.drain()

    scene.run("update product set title = 'some words' where id = 5")
    with before(WRITE, second):
        scene.drain()


def deleted_after_the_read(scene: Scene) -> None:
    """A worker deletes an item that a backfill has read and not yet written."""

    def delete() -> None:
        scene.run("delete from product where id = 900")
        scene.drain()

    number = scene.add_version(7, ready=False)
    with last_chunk(scene, delete):
        backfill(scene.dsn, MODEL, number)


def loaded_before_the_claim(scene: Scene) -> None:
    """A version is loaded, and then an item changes, just before a claim."""
    number = scene.add_version(7, ready=False)

    def load() -> None:
        backfill(scene.dsn, MODEL, number)
        scene.run(RENAME)

    with before(CLAIM, load):
        scene.drain()


def repriced(scene: Scene) -> None:
    scene.run("update product set price = 9000 where id = 5")


def in_sql(function: str, change: Callable[[str], str]) -> Callable[[Scene], None]:
    def plant(scene: Scene) -> None:
        query = f"select pg_get_functiondef('recsys.{function}'::regproc)"
        scene.run(change(str(scene.value(query))))

    return plant


def in_python(name: str) -> Callable[[Scene], None]:
    return lambda _: bugs.plant(name)


CASES = {
    "stale write": (changed_before_the_claim, in_python("stale write"), "stale 5"),
    "no buckets": (
        overtaken,
        in_sql("_claim_changes", bugs.without_buckets),
        "stale 5",
    ),
    "resurrected delete": (
        deleted_after_the_read,
        in_python("resurrected delete"),
        "resurrected 900",
    ),
    "lost event": (changed_before_the_write, in_python("lost event"), "stale 5"),
    "versions first": (
        loaded_before_the_claim,
        in_python("versions first"),
        "stale 5",
    ),
    "price not compared": (
        repriced,
        in_sql(PRODUCT, bugs.without_price),
        "stale 5",
    ),
}


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what a planted bug replaces."""
    for owner, name in bugs.REPLACED:
        monkeypatch.setattr(owner, name, getattr(owner, name))


@pytest.mark.parametrize("name", CASES)
def test_interleaving_is_harmless(scene: Scene, name: str) -> None:
    interleave, _, _ = CASES[name]

    interleave(scene)
    scene.settle()

    assert differences(scene.dsn) == []


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("name", CASES)
def test_planted_bug_is_found(scene: Scene, name: str) -> None:
    interleave, plant, expected = CASES[name]

    plant(scene)
    interleave(scene)
    scene.settle()

    assert any(expected in line for line in differences(scene.dsn))
