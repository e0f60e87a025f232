"""A headless Chromium with a fresh profile.

    with chromium() as page:
        page.get(url)
        page.find_element(By.CSS_SELECTOR, ".rail a").click()
        page.save_screenshot("home.png")

It reaches this machine only: a page that loads anything from elsewhere shows it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import tools
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver


@contextmanager
def chromium(
    width: int = 1280, height: int = 900, *, dark: bool = False
) -> Iterator[WebDriver]:
    """Start a browser and stop it at the end.

    Args:
        width: Of the window, in CSS pixels; the browser's own least is about 500.
        height: Of the window.
        dark: The user prefers a dark colour scheme.
    """
    options = Options()
    options.binary_location = tools.program("chromium")
    with tempfile.TemporaryDirectory(
        prefix="recsys-chromium-", ignore_cleanup_errors=True
    ) as profile:
        for flag in (
            "--headless=new",
            "--no-sandbox",  # needs privileges that a container lacks
            "--disable-gpu",
            "--disable-background-networking",
            "--no-first-run",
            "--disable-component-update",
            "--disable-dev-shm-usage",  # /dev/shm of a container has 64 MB
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1,"
            " EXCLUDE localhost",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
        ):
            options.add_argument(flag)
        # With the driver's path selenium looks for no other, on the network least.
        service = Service(tools.program("chromedriver"))
        driver = webdriver.Chrome(options=options, service=service)
        try:
            driver.set_page_load_timeout(30)
            if dark:
                driver.execute_cdp_cmd(
                    "Emulation.setEmulatedMedia",
                    {
                        "features": [
                            {"name": "prefers-color-scheme", "value": "dark"},
                        ]
                    },
                )
            yield driver
        finally:
            driver.quit()
