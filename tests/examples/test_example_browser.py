"""The example shops in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from shops import Shop

from recsys import rollout
from recsys._db import connect


def cards(page: WebDriver, rail: str) -> list[str]:
    found = page.find_elements(By.CSS_SELECTOR, f"#{rail} [data-product]")
    return [card.get_attribute("data-product") or "" for card in found]


LOADED = "return document.readyState === 'complete' ? performance.timeOrigin : null"


@contextmanager
def next_page(page: WebDriver) -> Iterator[None]:
    """Wait for the page that what is done leads to: a click alone does not.

    A document is told by the time it began. An element of the last one is no sign:
    asked for in the middle of a change, ChromeDriver may fail instead of calling it
    stale. A script may meet that moment, too, and is run again.
    """
    before = page.execute_script("return performance.timeOrigin")
    yield
    WebDriverWait(page, 30, ignored_exceptions=[WebDriverException]).until(
        lambda page: page.execute_script(LOADED) not in (None, before)
    )


def follow(page: WebDriver, element: WebElement) -> None:
    with next_page(page):
        element.click()


def sign_in(page: WebDriver, shop: Shop, name: str, password: str) -> None:
    page.get(f"{shop.url}/login/")
    page.find_element(By.NAME, "username").send_keys(name)
    page.find_element(By.NAME, "password").send_keys(password)
    follow(page, page.find_element(By.CSS_SELECTOR, ".panel button"))


def test_the_rail_changes_with_the_next_click(page: WebDriver, shop: Shop) -> None:
    page.get(shop.url)
    first = cards(page, "for-you")
    title = page.find_element(By.CSS_SELECTOR, "#for-you h2").text

    follow(page, page.find_elements(By.CSS_SELECTOR, "#for-you .card a")[2])
    similar = cards(page, "similar")
    follow(page, page.find_element(By.CSS_SELECTOR, "#similar .card a"))
    follow(page, page.find_element(By.CSS_SELECTOR, ".brand"))
    after = cards(page, "for-you")

    assert len(similar) == 6
    assert cards(page, "seen") == [similar[0], first[2]]
    assert after != first
    assert not {similar[0], first[2]} & set(after)
    assert title != page.find_element(By.CSS_SELECTOR, "#for-you h2").text
    assert [
        entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"
    ] == []


def test_search_and_filters_work_by_hand(page: WebDriver, shop: Shop) -> None:
    page.get(shop.url)

    page.find_element(By.NAME, "q").send_keys("kettle")
    with next_page(page):
        page.find_element(By.NAME, "q").send_keys(Keys.ENTER)
    assert "q=kettle" in page.current_url
    page.find_element(By.CSS_SELECTOR, "[name=below] option[value='100']").click()
    follow(page, page.find_element(By.CSS_SELECTOR, ".filter button"))

    prices = page.find_elements(By.CSS_SELECTOR, "#list .price")
    assert prices
    assert all(float(one.text.split()[1]) < 100 for one in prices)
    assert page.find_element(By.NAME, "q").get_attribute("value") == "kettle"


@pytest.mark.parametrize("path", ["/", "/product/5/", "/department/coffee/", "/login/"])
def test_pages_fit_a_phone(page: WebDriver, shop: Shop, path: str) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )

    page.get(shop.url + path)

    wide = page.execute_script("return document.documentElement.scrollWidth")
    assert wide <= 390
    departments = page.find_elements(By.CSS_SELECTOR, ".nav a")
    assert len(departments) == 6
    assert max(one.rect["x"] + one.rect["width"] for one in departments) <= 390


def test_pages_are_dark_where_the_system_is(page: WebDriver, shop: Shop) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    page.get(shop.url)
    light = page.execute_script(paper)

    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )

    assert light == "rgb(250, 247, 242)"
    assert page.execute_script(paper) == "rgb(23, 22, 20)"


def test_staff_promote_a_version(page: WebDriver, shop: Shop) -> None:
    with connect(shop.dsn) as conn:
        rollout.promote(conn, "shop", None, reason="a test")
    try:
        sign_in(page, shop, "admin", "admin")
        if shop.name == "django":
            page.get(f"{shop.url}/admin/recsys/version/")
            page.find_element(By.NAME, "_selected_action").click()
            action = "select[name=action] option[value=promote]"
            page.find_element(By.CSS_SELECTOR, action).click()
            follow(page, page.find_element(By.NAME, "index"))
            page.find_element(By.NAME, "reason").send_keys("it is good")
            follow(page, page.find_element(By.CSS_SELECTOR, ".submit-row input"))
        else:
            page.get(f"{shop.url}/admin/")
            page.find_element(By.NAME, "reason").send_keys("it is good")
            follow(page, page.find_element(By.CSS_SELECTOR, "#versions button"))

        assert "serves" in page.find_element(By.TAG_NAME, "body").text
        ((state, reason),) = shop.rows(
            "select v.state, a.reason from recsys.version_status as v,"
            " recsys.audit_log as a order by a.at desc limit 1"
        )
        assert state == "serving"
        assert reason.startswith("it is good")
        page.get(shop.url)
        assert len(cards(page, "for-you")) == 12
    finally:
        with connect(shop.dsn) as conn:
            state = conn.execute("select state from recsys.version_status").fetchone()
            if state == ("ready",):
                rollout.promote(conn, "shop", 1, reason="after a test")
