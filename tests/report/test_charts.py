"""Charts: every line is named beside a piece of itself, and can be told from others."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from recsys.report import axes, charts, palette
from recsys.report.bars import bars
from recsys.report.charts import Line
from recsys.report.figures import WIDTH

HEIGHT = charts.HEIGHT
NAMES = ("served", "history", "default_query", "history_weight", "item", "user",
         "context")  # fmt: skip


def ramps(names: tuple[str, ...] = NAMES) -> list[Line]:
    """Lines that all end at the same place, where their names would overlap."""
    return [Line(name, [(1, n + 1.0), (5, 3.0)], n + 1) for n, name in enumerate(names)]


def drawn(text: str) -> ET.Element:
    return ET.fromstring(text)


def strokes(figure: ET.Element) -> list[tuple[str, str, str]]:
    """Class, dashes and outline of every line, the samples in the legend too."""
    return [
        (path.get("class", ""), path.get("stroke-dasharray", ""), path.get("d", ""))
        for path in figure.iter("path")
        if path.get("class", "").startswith("l")
    ]


def test_every_line_is_named_once_beside_a_sample_of_it() -> None:
    figure = drawn(charts.lines("t", ramps(), y="norm"))

    names = [text.text for text in figure.iter("text") if text.get("class") == "name"]
    assert sorted(map(str, names)) == sorted(NAMES)
    every = strokes(figure)
    lines = [(kind, dash) for kind, dash, d in every if " L" in d]
    samples = [(kind, dash) for kind, dash, d in every if " L" not in d]
    assert len(set(lines)) == len(NAMES)
    assert sorted(lines) == sorted(samples)


@pytest.mark.parametrize(
    "values",
    [(7.0, 1.0, 3.0, 3.2, 3.1, 2.9, 2.95), (1.0, 7.0, 7.1, 7.2, 7.3, 7.4, 7.5),
     (9.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5)],
    ids=["middle", "top", "bottom"],
)  # fmt: skip
def test_names_stand_as_the_lines_end_and_never_overlap(
    values: tuple[float, ...],
) -> None:
    ends = dict(zip(NAMES, values, strict=True))
    given = [Line(n, [(1, 2.0), (5, end)], 1 + i)
             for i, (n, end) in enumerate(ends.items())]  # fmt: skip

    figure = drawn(charts.lines("t", given, y="norm"))

    at = {str(t.text): float(t.get("y", "0")) for t in figure.iter("text")
          if t.get("class") == "name"}  # fmt: skip
    down = sorted(at, key=at.__getitem__)
    assert [ends[name] for name in down] == sorted(ends.values(), reverse=True)
    places = [at[name] for name in down]
    assert all(b - a >= 12 for a, b in pairwise(places))
    assert 0 < places[0] < places[-1] < HEIGHT


@pytest.mark.parametrize("names", [NAMES, ("a fit with quite a long name", "b")])
def test_names_of_any_length_are_in_the_legend(names: tuple[str, ...]) -> None:
    text = charts.lines("t", ramps(names), y="norm")

    for name in names:
        assert re.search(rf'(class="name"[^>]*|</svg>)>?{name}<', text), name


def test_a_line_to_compare_with_is_named_and_dotted() -> None:
    floor = Line("recall floor", [(1, 0.1), (5, 0.1)], 1, reference=True)

    figure = drawn(
        charts.lines("t", [Line("recall@20", [(1, 0.2), (5, 0.3)]), floor], y="score")
    )

    dotted = [dash for _, dash, _ in strokes(figure)]
    assert sorted(set(dotted)) == ["", "1 3"]
    names = [text.text for text in figure.iter("text") if text.get("class") == "name"]
    assert names == ["recall@20", "recall floor"]


def test_looks_are_told_apart_by_more_than_colour() -> None:
    looks = range(1, palette.LOOKS + 1)

    shapes = [(palette.colour(n), palette.marker(n, 0, 0)) for n in looks]
    first = [palette.dash(n) + palette.marker(n, 0, 0) for n in range(1, 6)]

    assert len(set(shapes)) == palette.LOOKS
    assert len(set(first)) == 5
    assert len({palette.dash(n) for n in range(1, 6)}) == 5


def test_axes_are_named_with_their_unit() -> None:
    text = charts.lines("t", ramps(), y="L2 norm of a row", x="epoch")

    units = [t.text for t in drawn(text).iter("text") if t.get("class") == "unit"]
    assert units == ["L2 norm of a row", "epoch"]


def test_one_look_is_written_and_not_drawn() -> None:
    floor = Line("floor", [(6, 0.1), (6, 0.1)], reference=True)
    given = [Line("recall@20", [(6, 0.5)]), Line("ndcg@20", [(8, 0.25)], 2), floor]

    text = charts.lines("Validation score", given, y="score")

    assert "<svg" not in text
    assert "Measured once: there is no curve." in text
    assert '<th scope="row">ndcg@20, epoch 8</th><td>0.2500</td>' in text
    assert '<th scope="row">floor</th><td>0.1000</td></tr></tbody>' in text


def test_a_chart_is_told_in_words_and_in_numbers() -> None:
    given = [Line("loss", [(1, 4.0), (2, 5.0), (3, 2.0)])]

    text = charts.lines("Training loss", given, y="mean loss")

    figure = drawn(text)
    picture = next(figure.iter("svg"))
    assert (picture.get("role"), picture.get("aria-label")) == ("img", "Training loss")
    assert "loss from 4 at epoch 1 to 2 at 3, greatest 5 at 2" in text
    assert "<summary>Numbers</summary>" in text
    assert '<th scope="row">2</th><td>5.000</td>' in text


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 0.0), (1e-9, 1e-8), (-3, 5), (1e5, 1e7), (0.1, 0.1001), (0.77, 0.78)],
)
@pytest.mark.parametrize("log", [False, True])
def test_charts_stay_inside_whatever_the_numbers(
    low: float, high: float, log: bool
) -> None:
    points = [(1, low), (2, high), (3, float("nan"))]

    text = charts.lines("t", [Line("a", points)], y="value", log=log)

    places = re.findall(r'class="m [^"]*" d="M([-\d.]+),([-\d.]+)', text)
    for x, y in places:
        assert 0 <= float(x) <= WIDTH
        assert 0 <= float(y) <= HEIGHT
    assert "nan" not in text
    if "<svg" in text:
        assert places
        assert 2 <= text.count('class="grid"') <= 9


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("spread", [1.01, 1.2, 2, 3, 9, 40, 1e3, 1e6])
@pytest.mark.parametrize("low", [0.013, 1.0, 77.0])
def test_an_axis_has_a_few_round_ticks(low: float, spread: float, log: bool) -> None:
    ticks = axes.Axis(low, low * spread, 0, 100, log).ticks()

    assert 2 <= len(ticks) <= 8
    assert len({text for _, text in ticks}) == len(ticks)
    for value, text in ticks:
        assert low * 0.999 <= value <= low * spread * 1.001
        assert len(text) <= 8


def test_ticks_are_round() -> None:
    assert [axes.nice(x) for x in (0.013, 3, 7, 20, 0.5)] == pytest.approx(
        [0.02, 5, 10, 20, 0.5]
    )


def test_bars_are_named_and_have_their_numbers() -> None:
    rows: list[tuple[str, list[float | None]]] = [
        ("new users", [0.5, 0.0]), ("tail items", [0.125, None])
    ]  # fmt: skip

    text = bars("Recall", rows, ["model", "most popular"])

    figure = drawn(text)
    keys = next(e for e in figure.iter("div") if e.get("class") == "legend")
    legend = ["".join(span.itertext()) for span in keys]
    assert legend == ["model", "most popular"]
    values = [t.text for t in figure.iter("text") if t.get("class") == "v"]
    assert values == ["0.500", "0.000", "0.125"]
    assert "new users: model 0.500, most popular 0.000" in text
