"""Values as TOML writes them are read back as they were."""

from __future__ import annotations

import tomllib
from datetime import UTC, date, datetime, time

import pytest

from recsys._toml import literal

ODD = [
    "a.b",
    "on sale",
    "",
    'say "so"',
    "it's",
    "back\\slash",
    "ä",
    "\x7f",
    "a\nb",
    "#",
]
PLAIN = ["lr", "half_life_days", "a-b", "1e3"]


@pytest.mark.parametrize("name", [*ODD, *PLAIN])
def test_a_key_is_read_back_as_it_was(name: str) -> None:
    table = {name: 1, "inside": {name: [name]}}

    assert tomllib.loads(f"value = {literal(table)}")["value"] == table


def test_plain_keys_stay_without_quotes() -> None:
    table = dict.fromkeys(PLAIN, 1)

    assert literal(table) == "{ lr = 1, half_life_days = 1, a-b = 1, 1e3 = 1 }"


def test_every_character_of_a_text_is_read_back() -> None:
    text = "".join(map(chr, [*range(0x250), 0x2028, 0xFFFF, 0x1F600]))

    assert tomllib.loads(f"value = {literal(text)}")["value"] == text


@pytest.mark.parametrize(
    "value",
    [
        True, 0, -3, 1.0, 1e300, 5e-324, 1e16, float("inf"), [], ["a", 1, [True]], {},
        date(2026, 3, 1), time(1, 2, 3), datetime(2026, 3, 1, 1, 2, 3, 4, tzinfo=UTC),
    ],
)  # fmt: skip
def test_a_value_is_read_back_as_it_was(value: object) -> None:
    assert tomllib.loads(f"value = {literal(value)}")["value"] == value
