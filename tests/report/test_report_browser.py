"""The report in a browser: from a file, on a desk and a phone, light and dark."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium
from selenium.webdriver.chrome.webdriver import WebDriver
from tasteful import Reported

from recsys import _db
from recsys.report import facts, page

# Of every chart: how much of it is drawn, whether text leaves its card, which texts
# lie on each other, and how large the smallest one is.
_CHARTS = """
return [...document.querySelectorAll('svg[role=img]')].map(svg => {
  const box = svg.getBoundingClientRect();
  const card = svg.closest('figure').getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')];
  const boxes = texts.map(text => text.getBoundingClientRect());
  const inside = boxes.every(t => t.left >= card.left && t.right <= card.right
        && t.top >= box.top - 1 && t.bottom <= box.bottom + 1);
  const over = [];
  boxes.forEach((a, i) => boxes.forEach((b, j) => {
    if (i < j && a.left < b.right - 1 && b.left < a.right - 1
        && a.top < b.bottom - 3 && b.top < a.bottom - 3)
      over.push(texts[i].textContent + ' / ' + texts[j].textContent);
  }));
  const scale = box.width / svg.viewBox.baseVal.width;
  const size = Math.min(...texts.map(
    text => parseFloat(getComputedStyle(text).fontSize)));
  const marks = svg.querySelectorAll('path, rect, circle').length;
  return [svg.getAttribute('aria-label'), box.width, box.height, marks, inside, over,
          size * scale];
});
"""
# What stands out of its card, or out of the window.
_OUTSIDE = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll('main *')].filter(one => {
  if (one.closest('.scroll') && !one.matches('.scroll')) return false;
  const box = one.getBoundingClientRect();
  return box.width && (box.right > wide + 1 || box.left < -1);
}).map(one => one.tagName + ' ' + one.textContent.slice(0, 40));
"""

# Whatever a page asks for besides itself.
_LOADED = "return performance.getEntriesByType('resource').map(one => one.name);"


@pytest.fixture(scope="module")
def window() -> Iterator[WebDriver]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def file(reported: Reported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with _db.connect(reported.dsn) as conn:
        found = facts.collect(conn, "shop", 1)
    path = tmp_path_factory.mktemp("page") / "report.html"
    page.write(path, found)
    return path


def shape(window: WebDriver, width: int, *, dark: bool) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1,
            "mobile": width < 600}  # fmt: skip
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


@pytest.mark.parametrize("width", [1280, 390])
def test_charts_are_drawn_and_nothing_stands_out(
    window: WebDriver, file: Path, width: int
) -> None:
    shape(window, width, dark=False)

    window.get(file.as_uri())

    charts = window.execute_script(_CHARTS)
    names = [name for name, *_ in charts]
    assert "Training loss by epoch" in names
    assert "Gradient norm by part" in names
    assert len(charts) >= 9
    for name, wide, high, marks, inside, over, size in charts:
        assert marks >= 2, name
        assert wide > 250, name
        assert high > 100, name
        assert inside, name
        assert over == [], name
        assert size >= 8.5, name
    assert window.execute_script(_OUTSIDE) == []
    assert window.execute_script("return document.documentElement.scrollWidth") <= width
    assert window.execute_script(_LOADED) == []
    assert [e for e in window.get_log("browser") if e["level"] == "SEVERE"] == []


def test_the_page_is_dark_where_the_system_is(window: WebDriver, file: Path) -> None:
    pixels = []
    for dark in (False, True):
        shape(window, 1280, dark=dark)
        window.get(file.as_uri())
        colours = window.execute_script(
            "const of = s => getComputedStyle(document.querySelector(s));"
            "return [of('body').backgroundColor, of('body').color,"
            " of('svg .l1').stroke]"
        )
        pixels.append((colours, base64.b64decode(window.get_screenshot_as_base64())))

    (light, one), (night, other) = pixels
    assert all(a != b for a, b in zip(light, night, strict=True))
    assert one != other


def test_the_keyboard_reaches_links_numbers_and_wide_tables(
    window: WebDriver, file: Path
) -> None:
    shape(window, 390, dark=False)
    window.get(file.as_uri())

    reached = window.execute_script(
        "const wide = [...document.querySelectorAll('.scroll')].filter("
        "  one => one.checkVisibility() && one.scrollWidth > one.clientWidth);"
        "const may = one => { one.focus(); return document.activeElement === one; };"
        "return [wide.length > 1, wide.every(may),"
        " wide.every(one => one.getAttribute('aria-label')),"
        " [...document.querySelectorAll('nav a, summary')].every(may)];"
    )

    assert reached == [True, True, True, True]


def test_numbers_of_a_chart_open_without_a_script(
    window: WebDriver, file: Path
) -> None:
    shape(window, 1280, dark=False)
    window.get(file.as_uri())
    figure = window.find_element("css selector", "figure:has(details)")
    rows = figure.find_elements("css selector", "details tbody tr")
    before = [row.is_displayed() for row in rows]

    figure.find_element("css selector", "summary").click()

    assert len(rows) > 1
    assert not any(before)
    assert all(row.is_displayed() for row in rows)


def test_paper_is_light_also_where_the_system_is_dark(
    window: WebDriver, file: Path
) -> None:
    shape(window, 1280, dark=True)
    window.get(file.as_uri())
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "media": "print",
        "features": [{"name": "prefers-color-scheme", "value": "dark"}],
    })  # fmt: skip

    colour = window.execute_script(
        "return getComputedStyle(document.querySelector('.card')).backgroundColor"
    )

    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert colour == "rgb(255, 255, 255)"
