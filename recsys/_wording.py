"""Advice in the terms of whoever reads it: "recsys upgrade" is not what they type.

A hint is written once, for the command line. Under ``manage.py`` or ``flask`` the same
command has another name, and the database is named elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from recsys.errors import RecsysError

COMMANDS = (
    "artifacts|backfill|compare|demo|doctor|downgrade|drop|evaluate|experiment|"
    "guardrail|import|init|keep|metrics|promote|recommend|report|retire|retry|"
    "rollback|similar|slow|status|train|tune|undo-update|unwatch|updates|upgrade|"
    "versions|watch|worker"
)
_COMMAND = re.compile(
    rf"(?<![\w./-])(?<!manage\.py )(?<!flask )recsys (?=(?:{COMMANDS})\b)"
)


@dataclass(frozen=True, slots=True)
class Wording:
    """What a program calls things.

    Attributes:
        program: How its user runs a command, such as "flask recsys".
        terms: Sentences with an equivalent of their own -> that.
    """

    program: str = "recsys"
    terms: Mapping[str, str] = field(default_factory=dict[str, str])

    def of(self, text: str) -> str:
        """Return a text in these terms; one that is in them already stays."""
        for ours, theirs in self.terms.items():
            text = text.replace(ours, theirs)
        if self.program == "recsys":
            return text
        return _COMMAND.sub(f"{self.program} ", text)


_PLAIN = Wording()
_current: ContextVar[Wording] = ContextVar("recsys_wording", default=_PLAIN)


def counted(n: int, one: str, many: str = "") -> str:
    """Return how many there are of something, such as "1 item" or "2,000 items".

    Args:
        n: How many.
        one: What one is called, also with its verb, such as "item was".
        many: What others than one are called; by default that with an s.
    """
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def said(text: str) -> str:
    """Return a text in the terms of the program that runs."""
    return _current.get().of(text)


@contextmanager
def speaking(wording: Wording) -> Generator[None]:
    """Let ``said`` use a program's terms, as long as its command runs."""
    token = _current.set(wording)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def raising(wording: Wording) -> Generator[None]:
    """Raise this package's errors with their hints in a program's terms."""
    try:
        yield
    except RecsysError as exc:
        exc.reword(wording.of(exc.hint))
        raise
