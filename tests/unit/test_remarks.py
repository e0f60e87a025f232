"""What a training says of its data."""

from __future__ import annotations

import pytest

from recsys.report.remarks import remarks, reranked


def test_a_full_update_says_how_much_was_new() -> None:
    data = {"interactions": 12_000, "new_interactions": 1_500}

    assert remarks({"data": data, "full": {"parent": 3}}) == [
        "1,500 of 12,000 interactions came since version 3 was trained"
    ]


def test_negatives_are_said_by_source_where_there_are_any() -> None:
    mined = {"shown": 1_234, "neighbours": 0, "disliked": 2}

    assert remarks({"mined": mined}) == [
        "negatives of single queries, in pairs: 1,234 shown and not chosen, 2 disliked"
    ]


@pytest.mark.parametrize("mined", [{}, {"shown": 0}])
def test_a_training_from_the_start_without_them_says_nothing(
    mined: dict[str, int],
) -> None:
    assert remarks({"data": {"interactions": 12_000}, "mined": mined}) == []


@pytest.mark.parametrize(("users", "who"), [(1, "1 user"), (2_345, "2,345 users")])
def test_a_training_says_how_many_users_judged(users: int, who: str) -> None:
    said = remarks({"validation": {"users": users, "model": {"recall@20": 0.5}}})

    assert said == [f"measured on {who} of the validation slice"]


@pytest.mark.parametrize(
    ("temperature", "scores", "said"),
    [
        (0.7, {"0": 0.5, "1": 0.55, "0.7": 0.6}, "ranked again by single items: score"
         " 0.6000 at rerank = 0.7, 0.5000 without"),
        (2.0, {"0": 0.5, "2": 0.4}, "Without is better: leave rerank out, or set it"),
        (0.0, {"0": 0.5, "1": 0.51, "0.7": 0.4}, ""),
        (2.0, {}, ""),
    ],
)  # fmt: skip
def test_what_ranking_again_is_worth_is_said_where_it_is_done(
    temperature: float, scores: dict[str, float], said: str
) -> None:
    found = remarks({"rerank": {"temperature": temperature, "scores": scores}})

    assert len(found) == bool(said)
    assert all(said in text for text in found)


def test_the_report_says_why_nothing_is_ranked_again() -> None:
    report = {"rerank": {"temperature": 0.0, "scores": {"0": 0.5, "1": 0.51}}}

    assert reranked(report) == (
        "the first candidates are not ranked by single items: score 0.5100 at rerank"
        " = 1, 0.5000 without; 3% more is asked for"
    )
