"""Colours, dashes and markers: lines stay apart in grey and for colour-blind readers.

Source: M. Okabe and K. Ito, Color Universal Design, 2008. On white and on near black
only some of their eight colours have the contrast that a line needs, so five are used.
"""

from __future__ import annotations

COLOURS = 5
LIGHT = {
    "paper": "#fbfbfa", "card": "#ffffff", "ink": "#1c2024", "quiet": "#5a6169",
    "rule": "#e2e5e9", "grid": "#e6e9ed", "axis": "#8a929b",
    "shade": "#1c202426",
    "good": "#146c3f", "bad": "#b3261e", "good-paper": "#e9f6ee",
    "bad-paper": "#fdeeec",
    "c0": "#7a828b", "c1": "#0072b2", "c2": "#d55e00", "c3": "#009e73",
    "c4": "#cc79a7", "c5": "#000000",
}  # fmt: skip
DARK = {
    "paper": "#101214", "card": "#181b1f", "ink": "#e8eaed", "quiet": "#a3acb6",
    "rule": "#2b3036", "grid": "#2a3036", "axis": "#7c8590",
    "shade": "#ffffff26",
    "good": "#5ecb8f", "bad": "#ff8a80", "good-paper": "#13261b",
    "bad-paper": "#2c1614",
    "c0": "#7f8893", "c1": "#56b4e9", "c2": "#e69f00", "c3": "#009e73",
    "c4": "#cc79a7", "c5": "#f3f4f5",
}  # fmt: skip

DASHES = ("", "7 3", "2.5 2.5", "9 3 2 3", "4 5")
"""Of a line, beginning with none."""
_REFERENCE = "1 3"
# Drawn from the middle: circle, square, triangle, diamond, triangle down, plus.
_MARKERS = (
    "m-3,0a3,3 0 1 0 6,0a3,3 0 1 0-6,0z",
    "m-2.8,-2.8h5.6v5.6h-5.6z",
    "m0,-3.6l3.6,6.2h-7.2z",
    "m0,-4l4,4l-4,4l-4,-4z",
    "m0,3.6l3.6,-6.2h-7.2z",
    "m-1.2,-3.6h2.4v2.4h2.4v2.4h-2.4v2.4h-2.4v-2.4h-2.4v-2.4h2.4z",
)
LOOKS = COLOURS * len(_MARKERS)
"""How many lines are told apart; later ones look like earlier ones."""


def colour(look: int) -> int:
    """Return the number of the colour of a look, which is counted from 1; 0 is grey."""
    return (look - 1) % COLOURS + 1 if look else 0


def dash(look: int, *, reference: bool = False) -> str:
    """Return the dashes of a look as an SVG attribute, nothing for a whole line."""
    turn = max(0, look - 1)
    of = _REFERENCE if reference else DASHES[(turn + turn // COLOURS) % len(DASHES)]
    return f' stroke-dasharray="{of}"' if of else ""


def marker(look: int, x: float, y: float) -> str:
    """Return the outline of a look's marker around a place, as SVG path data."""
    return f"M{x:.1f},{y:.1f}{_MARKERS[max(0, look - 1) % len(_MARKERS)]}"


def variables(colours: dict[str, str]) -> str:
    """Return colours as custom properties of CSS."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
