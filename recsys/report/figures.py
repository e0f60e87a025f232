"""Figures: a title, how to read it, and an SVG that is told in words, too."""

from __future__ import annotations

from html import escape

WIDTH = 440
"""Of every picture, in units of its own; the page scales it to its card."""


def picture(title: str, said: str, body: str, height: float) -> str:
    """Return an SVG for everybody.

    Args:
        title: What is drawn.
        said: What it shows, for those who do not see it.
        body: Its elements.
        height: In the units of ``WIDTH``.
    """
    return (
        f'<svg role="img" class="chart" viewBox="0 0 {WIDTH} {height:.0f}"'
        f' aria-label="{escape(title)}"><desc>{escape(said)}</desc>{body}</svg>'
    )


def figure(title: str, note: str, body: str) -> str:
    """Return a picture with its title, and a sentence on how to read it."""
    how = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{how}{body}</figure>"
