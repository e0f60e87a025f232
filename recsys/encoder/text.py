"""Text normalisation: any string to lower-case words and word n-grams.

This runs in Python and not in the graph because onnxruntime's ``StringNormalizer``
needs a system locale. It is a pure function of its arguments, so training, backfill
and serving agree as long as all of them call it; ``values.prepare`` is the only caller.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import chain

MAX_CHARS = 4096
_ASCII_WORD = re.compile(r"[a-z0-9]+")
# Scripts written without spaces: one word per character, and n-grams join them.
_UNSPACED = ((0x3041, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
_ZERO_WIDTH_SPACE = 0x200B
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)


class _Characters(dict[int, "int | str | None"]):
    """What ``str.translate`` does to each code point, filled as characters are met."""

    def __missing__(self, code: int) -> int | str | None:
        result = self[code] = _translate(code)
        return result


def _translate(code: int) -> int | str | None:
    category = unicodedata.category(chr(code))
    if any(first <= code <= last for first, last in _UNSPACED) and category[0] == "L":
        return f" {chr(code)} "
    if code in _VARIATION_SELECTORS:
        return None
    if category[0] in "LN" or category in ("Mn", "Mc"):
        return code
    if category == "Cf" and code != _ZERO_WIDTH_SPACE:
        # Joiners and direction marks stand inside words; they are not word breaks.
        return None
    return " "


_CHARACTERS = _Characters()


def words(text: str) -> list[str]:
    """Split text into normalised words.

    NFKC, case folding, then every character that is no letter, digit or combining
    mark ends a word. Only the first ``MAX_CHARS`` characters are looked at, so that a
    10 MB string costs no more than a page.
    """
    text = text[:MAX_CHARS]
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    folded = unicodedata.normalize("NFKC", text).casefold()
    found = folded.translate(_CHARACTERS).split()
    # A mark without its letter (left over from an emoji, say) is no word.
    return [word for word in found if any(char.isalnum() for char in word)]


def normalise(text: str, ngrams: int, max_words: int) -> str:
    """Return the tokens of a text, joined by single spaces.

    Args:
        text: Any string.
        ngrams: Longest word n-gram, 1 to 3; "a b" gives "a b a_b" at 2.
        max_words: Words after this many are ignored.

    Returns:
        Words in order, then bigrams, then trigrams; "" when there is no word.
    """
    found = words(text)[:max_words]
    if ngrams == 1 or len(found) < 2:
        return " ".join(found)
    grams = (
        map("_".join, zip(*(found[i:] for i in range(n)), strict=False))
        for n in range(2, ngrams + 1)
    )
    return " ".join(chain(found, *grams))
