"""Text normalisation: golden values, and nothing that breaks it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.encoder.text import MAX_CHARS, normalise, words

GOLDEN = {
    "plain": ("Red  Shoe, size-42!", "red shoe size 42"),
    "underscore separates": ("a_b", "a b"),
    "only punctuation": ("?!... -- ***", ""),
    "empty": ("", ""),
    "blank": (" \t\n", ""),
    "case folding beyond lower": ("STRASSE Straße", "strasse strasse"),
    "compatibility forms": ("\ufb01t ５Ｇ ½", "fit 5g 1 2"),
    "composed equals decomposed": ("Cafe\u0301 Caf\u00e9", "café café"),
    "marks stay in words": ("हिन्दी किताब", "हिन्दी किताब"),
    "emoji are no words": ("❤️ shoes 👟🏽 👨‍👩‍👧", "shoes"),
    "keycap emoji keeps its digit": ("7\ufe0f\u20e3 up", "7 up"),
    "lonely mark is no word": ("a \u0301 b", "a b"),
    "right to left": ("\u200fשָׁלוֹם, עולם!", "שָׁלוֹם עולם"),
    "arabic with joiner": ("می\u200cخواهم کتاب", "میخواهم کتاب"),
    "zero width space separates": ("a\u200bb", "a b"),
    "unspaced scripts": ("東京タワーA5", "東 京 タ ワ ー a5"),
    "control characters": ("a\x00b\x1fc", "a b c"),
    "lone surrogate": ("a\ud800b é", "a b é"),
}


@pytest.mark.parametrize(("text", "expected"), GOLDEN.values(), ids=GOLDEN.keys())
def test_golden_words(text, expected):
    assert " ".join(words(text)) == expected


def test_ngrams_follow_the_words():
    assert normalise("Red running shoe", 1, 9) == "red running shoe"
    assert normalise("Red running shoe", 2, 9) == (
        "red running shoe red_running running_shoe"
    )
    assert normalise("Red running shoe", 3, 9).endswith(" red_running_shoe")
    assert normalise("Red", 3, 9) == "red"


def test_max_words_counts_words_and_not_ngrams():
    assert normalise("a b c d", 2, 3) == "a b c a_b b_c"


def test_ascii_and_unicode_path_agree():
    text = "Some-Text with_Under 42% of it."

    assert words(text) == words(text + " é")[:-1]


@pytest.mark.alone
def test_ten_megabytes_cost_what_a_page_costs():
    started = time.perf_counter()
    long = normalise("é-a" * 3_500_000, 2, 32)

    assert time.perf_counter() - started < 0.5
    assert long == normalise(("é-a" * MAX_CHARS)[:MAX_CHARS], 2, 32)


@given(st.text(st.characters()), st.integers(1, 3), st.integers(1, 5))
def test_tokens_are_never_empty_and_always_utf8(text, ngrams, most):
    result = normalise(text, ngrams, most)

    result.encode("utf-8")
    assert result.split(" ") == result.split() or result == ""
    assert len(result.split()) <= most * ngrams
