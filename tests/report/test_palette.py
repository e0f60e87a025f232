"""Colours that can be seen on their ground, and told apart by everybody."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.report.palette import COLOURS, DARK, LIGHT
from recsys.report.style import STYLE

MODES = pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
LINES = [f"c{n}" for n in range(1, COLOURS + 1)]

# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, A Physiologically-based Model for
# Simulation of Color Vision Deficiency, 2009, severity 1, on linear RGB.
SEEN_BY = {
    "everybody": np.eye(3),
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopes": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
# B. Ottosson, OKLab, 2020: distances in it are differences to the eye.
TO_CONES = [[0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
TO_LAB = [[0.2104542553, 0.7936177850, -0.0040720468],
          [1.9779984951, -2.4285922050, 0.4505937099],
          [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip


def linear(colour: str) -> NDArray[np.float64]:
    share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2, from 1 to 21."""
    dark, light = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722])
                         for c in (one, other))  # fmt: skip
    return (light + 0.05) / (dark + 0.05)


def lab(colour: str, eyes: str) -> NDArray[np.float64]:
    seen = np.clip(np.array(SEEN_BY[eyes]) @ linear(colour), 0, 1)
    return np.array(TO_LAB) @ np.cbrt(np.array(TO_CONES) @ seen)


def test_the_ratio_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@MODES
def test_lines_and_axes_stand_out_of_their_card(colours: dict[str, str]) -> None:
    """3 to 1 is what the standard asks of graphics."""
    for name in (*LINES, "c0", "axis"):
        assert contrast(colours[name], colours["card"]) >= 3, name


@MODES
def test_text_can_be_read(colours: dict[str, str]) -> None:
    """4.5 to 1 is what the standard asks of text."""
    for ground in ("card", "paper"):
        for name in ("ink", "quiet", "good"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    assert contrast(colours["c1"], colours["paper"]) >= 4.5, "links"
    for ground in ("good-paper", "bad-paper"):
        assert contrast(colours["ink"], colours[ground]) >= 4.5, ground


@MODES
@pytest.mark.parametrize("eyes", SEEN_BY)
def test_lines_differ_to_all_eyes(colours: dict[str, str], eyes: str) -> None:
    """A distance of 0.02 can just be seen side by side; lines need far more."""
    seen = {name: lab(colours[name], eyes) for name in LINES}

    for one, other in combinations(LINES, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 0.07, (one, other)


def test_paper_is_printed_light() -> None:
    dark = f"--paper: {DARK['paper']}"

    assert STYLE.count(dark) == 1
    assert STYLE.index("@media screen and (prefers-color-scheme: dark)") < (
        STYLE.index(dark)
    )
