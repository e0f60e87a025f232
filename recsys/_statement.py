"""Where a statement of SQL ends: sources are put into larger statements."""

from __future__ import annotations

import re

from recsys.errors import ConfigError

_TOKEN = re.compile(
    r"""
    (?P<blank> \s+ | --[^\n]* | (?P<open>/\*) )
    | (?P<semicolon> ; )
    | (?P<escape> (?<![a-zA-Z0-9_$])[eE]'(?:[^'\\]|\\.|'')*' )
    | '(?:[^']|'')*' | "(?:[^"]|"")*"
    | (?<![a-zA-Z0-9_$])(?P<dollar>\$(?:[a-zA-Z_]\w*)?\$).*?(?P=dollar)
    | .
    """,
    re.VERBOSE | re.DOTALL,
)
_NESTED = re.compile(r"/\*|\*/")


def cut(text: str) -> str:
    """Cut the semicolon, and what follows it, off a statement; comments inside stay.

    Raises:
        ConfigError: Another statement follows.
    """
    place, semicolon = 0, -1
    while place < len(text):
        token = _TOKEN.match(text, place)
        assert token  # the last alternative takes any character
        if token["semicolon"]:
            semicolon = place if semicolon < 0 else semicolon
        elif not token["blank"] and semicolon >= 0:
            raise ConfigError(
                "a source must be one statement, but something follows its ';'",
                hint="Remove the semicolon and what follows it.",
            )
        place = _comment_end(text, place) if token["open"] else token.end()
    return (text if semicolon < 0 else text[:semicolon]).strip()


def _comment_end(text: str, place: int) -> int:
    """Return where the comment that begins at a place ends; comments nest."""
    depth = 0
    for mark in _NESTED.finditer(text, place):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(text)
