"""What a training says of its data."""

from __future__ import annotations

from recsys.report.remarks import remarks


def test_a_full_update_says_how_much_was_new() -> None:
    data = {"interactions": 12_000, "new_interactions": 1_500}

    assert remarks({"data": data, "full": {"parent": 3}}) == [
        "1,500 of 12,000 interactions came since version 3 was trained"
    ]


def test_a_training_from_the_start_says_nothing() -> None:
    assert remarks({"data": {"interactions": 12_000}}) == []
