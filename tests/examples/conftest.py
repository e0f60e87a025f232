"""Both shops, prepared side by side once per session."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium
from selenium.webdriver.chrome.webdriver import WebDriver
from shops import Shop, start

from recsys import embedded


@pytest.fixture(scope="session")
def shops() -> Iterator[dict[str, Shop]]:
    """Both shops on one embedded server, each started with its command."""
    with tempfile.TemporaryDirectory(prefix="recsys-shops-") as name:
        folder = Path(name)
        data = folder / ".recsys" / "pgdata"
        running = {
            kind: start(kind, folder, embedded.start(data, database=f"{kind}_shop"))
            for kind in ("django", "flask")
        }
        with contextlib.ExitStack() as ending:
            ending.callback(embedded.stop, data)
            for one in running.values():
                ending.callback(one.stop)
            for one in running.values():
                one.wait(300)
            yield running


@pytest.fixture(params=["django", "flask"])
def shop(request: pytest.FixtureRequest, shops: dict[str, Shop]) -> Shop:
    """One shop after the other."""
    return shops[request.param]


@pytest.fixture(scope="session")
def window() -> Iterator[WebDriver]:
    """A browser of this session."""
    with chromium() as driver:
        yield driver


@pytest.fixture
def page(window: WebDriver) -> WebDriver:
    """The browser without cookies, as wide as a desk allows."""
    window.execute_cdp_cmd("Network.clearBrowserCookies", {})
    window.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    window.get_log("browser")
    return window
