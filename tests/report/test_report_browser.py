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

# Of every chart: how much of it is drawn, and whether text leaves the picture.
_CHARTS = """
return [...document.querySelectorAll('svg')].map(svg => {
  const box = svg.getBoundingClientRect();
  const inside = [...svg.querySelectorAll('text')].every(text => {
    const t = text.getBoundingClientRect();
    return t.left >= box.left - 1 && t.right <= box.right + 1
        && t.top >= box.top - 1 && t.bottom <= box.bottom + 1;
  });
  const marks = svg.querySelectorAll('path, rect, circle').length;
  return [svg.getAttribute('aria-label'), box.width, box.height, marks, inside];
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
    assert "Training loss" in names
    assert "Gradient norm" in names
    assert len(charts) >= 9
    for name, wide, high, marks, inside in charts:
        assert marks >= 2, name
        assert wide > 250, name
        assert high > 100, name
        assert inside, name
    assert window.execute_script(_OUTSIDE) == []
    assert window.execute_script("return document.documentElement.scrollWidth") <= width
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
