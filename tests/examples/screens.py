"""Take the pictures of docs/examples.md: python tests/examples/screens.py [FOLDER]."""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser import chromium
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from shops import Shop, start
from test_example_browser import follow

from recsys import embedded

IMAGES = Path(__file__).parents[2] / "docs" / "images"


def main() -> None:
    """Prepare both shops in full size and photograph them."""
    images = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with tempfile.TemporaryDirectory(prefix="recsys-shops-") as name:
        folder = Path(name)
        data = folder / ".recsys" / "pgdata"
        shops = [
            start(kind, folder, embedded.start(data, database=f"{kind}_shop"), "full")
            for kind in ("django", "flask")
        ]
        try:
            for shop in shops:
                shop.wait(400)
            with chromium(1280, 900) as page:
                photograph(page, images, *shops)
        finally:
            for shop in shops:
                shop.stop()
            embedded.stop(data)


def photograph(page: WebDriver, images: Path, django: Shop, flask: Shop) -> None:
    """Walk through the shops."""
    shape(page, 1280, 900)
    page.get(django.url)
    save(page, images / "shop-first.png", 1010)
    page.get(f"{django.url}/department/coffee/?category=kettles")
    follow(page, page.find_elements(By.CSS_SELECTOR, "#list .card a")[1])
    follow(page, page.find_element(By.CSS_SELECTOR, "#similar .card a"))
    save(page, images / "shop-product.png")
    page.get(django.url)
    save(page, images / "shop-home.png", 1010)
    shape(page, 1280, 900, dark=True)
    page.get(f"{flask.url}/login/")
    sign_in(page, "bo", "demo", ".panel button")
    page.get(f"{flask.url}/department/trail/")
    save(page, images / "shop-dark.png", 1010)
    shape(page, 1280, 900)
    page.delete_all_cookies()
    page.get(f"{flask.url}/login/")
    sign_in(page, "admin", "admin", ".panel button")
    save(page, images / "shop-flask-admin.png", 760)
    shape(page, 1640, 900)
    page.get(f"{django.url}/admin/login/?next=/admin/recsys/version/")
    sign_in(page, "admin", "admin", "[type=submit]")
    save(page, images / "shop-django-admin.png", 460)


def sign_in(page: WebDriver, name: str, password: str, button: str) -> None:
    page.find_element(By.NAME, "username").send_keys(name)
    page.find_element(By.NAME, "password").send_keys(password)
    follow(page, page.find_element(By.CSS_SELECTOR, button))


def shape(page: WebDriver, width: int, height: int, *, dark: bool = False) -> None:
    """Make the window so large, light or dark."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def save(page: WebDriver, path: Path, height: int = 0) -> None:
    """Keep the page from its top, down to a height or its end."""
    size = page.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {
        "x": 0,
        "y": 0,
        "width": size["width"],
        "height": height or size["height"],
        "scale": 1,
    }
    picture = page.execute_cdp_cmd(
        "Page.captureScreenshot",
        {"format": "png", "captureBeyondViewport": True, "clip": clip},
    )
    path.write_bytes(base64.b64decode(picture["data"]))


if __name__ == "__main__":
    main()
