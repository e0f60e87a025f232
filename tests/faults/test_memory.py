"""What a process remembers for the days when the database does not answer."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from recsys import _fallback, _key
from recsys._fallback import Memory, Plea, plea
from recsys._key import key_of
from recsys._wanted import wanted
from recsys.rules import Rules
from recsys.types import ItemId, Page, Recommendation

CHEAP = ("select id from product where price < %s", [5])


def items(*ids: ItemId, top: float = 1.0) -> tuple[Recommendation, ...]:
    return tuple(Recommendation(one, top - i / 100) for i, one in enumerate(ids))


def ask(
    user: int = 7,
    k: int = 4,
    *,
    place: str | None = "db",
    exclude: tuple[int, ...] = (),
    among: object = None,
    known: tuple[int, ...] = (),
) -> Plea:
    want = wanted(k, exclude=exclude, among=among)
    return plea(
        place,
        ("recommend", user),
        want,
        (),
        lambda page, _: page,
        user_id=user,
        known=known,
    )


def page(*ids: ItemId, version: int = 1, top: float = 1.0) -> Page:
    return Page(items(*ids, top=top), uuid4(), "shop", version)


def ids_of(memory: Memory, asked: Plea) -> list[ItemId]:
    return [one.item_id for one in memory.answer(asked)[1]]


# keys --------------------------------------------------------------------------------


@dataclass
class Opaque:
    value: int


def test_two_filters_have_one_key_only_if_every_value_is_the_same() -> None:
    now = datetime.now(UTC)
    same = [1, "a", None, Decimal("1.5"), now, timedelta(1), {"x": [1]}, b"y", {3}]
    assert key_of("f", same) == key_of("f", [*same])
    others: list[object] = [1, 1.0, True, "1", Decimal(1), [1], {"a": 1}, {1}, None]
    others += [
        "[1]",
        ["1"],
        [[1]],
        [1, 1],
        "None",
        b"1",
        [now],
        now,
        str(now),
        ["1", 1],
    ]
    assert len({key_of(one) for one in others}) == len(others)
    assert key_of(UUID(int=7)) != key_of(7)
    assert key_of("a", "b") != key_of("a', 'b")
    assert key_of("a", [now], "b") != key_of("a", [now, "b"])


def test_a_value_that_cannot_be_compared_is_not_remembered() -> None:
    assert key_of("f", Opaque(1)) is None
    assert ask(among=(CHEAP[0], [Opaque(1)])).key is None


def test_keys_are_small_and_what_is_large_has_none() -> None:
    many = list(range(_key.MOST_VALUES - 3))
    key = key_of("f", many, datetime.now(UTC))
    assert key is not None
    assert len(key) == 16
    assert key_of("f", [many, many]) is None
    assert key_of("f", [[one, [datetime.now(UTC)]] for one in many]) is None
    assert key_of("f", ["x" * _key.MOST_TEXT]) is None
    assert key_of("f", [["x" * 100, datetime.now(UTC)]] * 1000) is None
    assert ask(among=(CHEAP[0], [many, many])).among is None


def test_a_filter_that_depends_on_the_session_is_not_remembered() -> None:
    tenant = "select id from product where shop = current_setting('app.shop')::int"
    assert ask(among=tenant).key is None
    assert ask(among=tenant).among is None
    assert ask(among=CHEAP).key is not None


def test_without_a_fallback_no_key_is_made() -> None:
    asked = ask(place=None, among=CHEAP)
    assert (asked.key, asked.among) == (None, None)


# memory ------------------------------------------------------------------------------


def test_the_last_good_answer_comes_without_what_is_excluded() -> None:
    memory = Memory()
    memory.remember(ask(), page(1, 2, 3, 4, version=3), 1)

    version, found = memory.answer(ask(k=4, exclude=(1, 3)))

    assert (version, [one.item_id for one in found]) == (3, [2, 4])
    assert memory.answer(ask(8)) == (None, [])
    memory.remember(ask(9, place="another"), page(1, version=3), 1)
    assert memory.answer(ask(place="another")) == (None, [])


def test_popular_items_fill_the_page_best_first_and_once() -> None:
    memory = Memory()
    memory.remember(ask(), page(1, 2, 5, 6, version=3, top=-5.0), 1)
    memory.keep_popular("db", 3, items(2, 9, 8, 7, top=40.0))

    version, found = memory.answer(ask(exclude=(8, 5, 6)))

    assert (version, [one.item_id for one in found]) == (3, [1, 2, 9, 7])
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    version, found = memory.answer(ask(99, k=2))
    assert (version, [one.item_id for one in found]) == (3, [2, 9])
    assert memory.answer(ask(99, place="another")) == (None, [])


def test_a_page_that_was_short_or_ruled_is_not_filled() -> None:
    memory = Memory()
    memory.keep_popular("db", 1, items(7, 8, 9))
    memory.remember(ask(), page(1, 2), 1)
    assert ids_of(memory, ask(exclude=(1,))) == [2]
    assert ids_of(memory, ask(exclude=(1, 2))) == [7, 8, 9]

    for ruled in ({"min_score": 0.5}, {"rules": Rules(at_most=1, per=CHEAP[0])}):
        want = wanted(4, **ruled)
        for exclude, expected in (((), [1, 2, 3, 4]), ((1,), [2, 3, 4])):
            without = replace(want, exclude=exclude)
            asked = plea("db", ("x",), without, (), lambda page, _: page)
            if not exclude:
                memory.remember(asked, page(1, 2, 3, 4), 1)
            assert ids_of(memory, asked) == expected


def test_a_page_is_of_one_version() -> None:
    memory = Memory()
    memory.remember(ask(), page(1, 2, 3, 4, version=1), 1)
    memory.remember(ask(8), page(5, version=2), 1)
    memory.keep_popular("db", 2, items(1, 9, 8, 7))

    version, found = memory.answer(ask(exclude=(2,)))
    assert (version, [one.item_id for one in found]) == (2, [1, 9, 8, 7])
    assert memory.answer(ask())[0] == 1
    version, found = memory.answer(ask(exclude=(2, 1, 9, 8, 7)))
    assert (version, [one.item_id for one in found]) == (1, [3, 4])


def test_pages_of_a_version_out_of_service_are_not_handed_out() -> None:
    memory = Memory()
    memory.remember(ask(), page(1, 2, version=2), 5)
    memory.remember(ask(8), page(3, 4, version=1), 5)
    memory.keep_popular("db", 2, items(6, 7))
    memory.remember(ask(9), page(5, version=1), 6)  # 2 was rolled back

    assert ids_of(memory, ask()) == []
    assert ids_of(memory, ask(8)) == [3, 4]
    memory.remember(ask(10), page(5, version=2), 6)  # no: it still serves some
    assert ids_of(memory, ask()) == [1, 2]
    assert ids_of(memory, ask(11)) == [6, 7]


def test_a_page_is_not_handed_out_after_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Memory()
    memory.remember(ask(), page(1, 2), 1)
    memory.keep_popular("db", 1, items(8, 9))
    assert ids_of(memory, ask()) == [1, 2]
    monkeypatch.setattr(_fallback, "PAGE_FOR_S", -1.0)
    assert ids_of(memory, ask()) == [8, 9]


def test_what_a_user_took_meanwhile_is_left_out() -> None:
    memory = Memory()
    memory.remember(ask(), page(1, 2, 3, 4), 1)
    memory.remember(ask(8), page(1, 2, 3, 4), 1)
    memory.keep_popular("db", 1, items(2, 9, 5))
    memory.took(7, 2)
    memory.took(9, 3)
    assert ids_of(memory, ask()) == [1, 3, 4, 9]
    assert ids_of(memory, ask(8)) == [1, 2, 3, 4]
    assert ids_of(memory, ask(known=(9, 4))) == [1, 3, 5]

    for one in range(1000):
        memory.took(7, one)
    assert len(memory._taken.get(7) or ()) == _fallback._TAKEN
    for one in range(2000):
        memory.took(one, one)
    assert len(memory._taken) == _fallback._TAKERS


def test_popular_items_of_another_filter_are_never_returned() -> None:
    memory = Memory()
    memory.remember(ask(99), page(1), 1)
    memory.keep_popular("db", 1, items(1, 2, 3))
    cheap = ask(among=CHEAP)
    assert cheap.among is not None
    memory.keep_popular(cheap.among, 1, items(4))

    assert ids_of(memory, ask(among=CHEAP)) == [4]
    assert memory.answer(ask(among=(CHEAP[0], [6]))) == (None, [])
    assert memory.answer(ask(among=(CHEAP[0], [Opaque(1)]))) == (None, [])


def held(memory: Memory) -> int:
    return sum(len(one.items) for one in memory._pages.values())


def test_memory_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    memory = Memory()
    for user in range(1, _fallback._PAGES + 10):
        memory.remember(ask(user), page(user), 1)
        memory.remember(ask(0), page(0), 1)
    assert len(memory._pages) == _fallback._PAGES
    assert ids_of(memory, ask(0)) == [0]
    assert ids_of(memory, ask(1)) == []

    for user in range(200):
        memory.remember(ask(5000 + user), page(*range(1000)), 1)
        assert held(memory) <= _fallback._ITEMS
    # What one thread counts for another that overtook it is counted right in the end.
    memory._items = 10 * _fallback._ITEMS
    memory.remember(ask(0), page(0), 1)
    assert memory._items == held(memory) > 0.7 * _fallback._ITEMS
    assert ids_of(memory, ask(0)) == [0]


def test_popular_items_are_read_for_filters_that_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Memory()
    plain, cheap = ask(), ask(among=CHEAP)
    assert memory.popular_due(plain)
    memory._next = 0.0
    assert not memory.popular_due(plain)  # it failed: not again for ten minutes
    assert not memory.popular_due(cheap)
    memory._next = 9e9
    assert not memory.popular_due(cheap)  # at most one a second
    memory._next = 0.0
    assert memory.popular_due(cheap)
    memory._next = 0.0
    assert cheap.among is not None
    memory.keep_popular(cheap.among, 1, items(1))
    assert not memory.popular_due(cheap)
    monkeypatch.setattr(_fallback, "POPULAR_EVERY_S", 0.0)
    assert memory.popular_due(cheap)
    assert not Memory().popular_due(ask(place=None))


def test_threads_share_a_memory() -> None:
    memory = Memory()
    wrong: list[object] = []

    def work(seed: int) -> None:
        for n in range(1000):
            user = (seed * 7919 + n * 31) % 1500
            memory.remember(ask(user), page(user, *range(-60, 0)), 1)
            found = ids_of(memory, ask(user))
            if found and found[0] != user:
                wrong.append((user, found))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert len(memory._pages) <= _fallback._PAGES + len(threads)
    assert held(memory) <= _fallback._ITEMS + 61 * len(threads)
    assert len(memory._pages) > 0.6 * _fallback._ITEMS / 61
