"""What the example shops are made of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from shops import EXAMPLES

DJANGO, FLASK = EXAMPLES / "django_shop", EXAMPLES / "flask_shop"

DRAWN = """
import sys
sys.path.insert(0, sys.argv[1])
from shop import art, catalogue
made = catalogue.make(catalogue.SIZES["full"])
again = catalogue.make(catalogue.SIZES["small"])
assert [p.name for p in again.products] == [p.name for p in made.products[:480]]
for product in made.products:
    print(art.picture(product))
"""


@pytest.mark.parametrize("name", ["shop/art.py", "shop/catalogue.py"])
def test_each_folder_is_complete_and_the_same(name: str) -> None:
    assert (DJANGO / name).read_bytes() == (FLASK / name).read_bytes()


def test_both_look_the_same() -> None:
    one = DJANGO / "shop" / "static" / "shop" / "shop.css"

    assert one.read_bytes() == (FLASK / "shop" / "static" / "shop.css").read_bytes()


def test_every_picture_is_sound_and_styled() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRAWN, DJANGO],
        capture_output=True,
        text=True,
        check=True,
    )
    style = (FLASK / "shop" / "static" / "shop.css").read_text()
    styled = set(re.findall(r"\.art \.([\w-]+)", style))
    pictures = set(done.stdout.splitlines())

    assert len(pictures) > 24 * 3 * 5
    used = set()
    for picture in pictures:
        used |= {e.get("class") for e in ElementTree.fromstring(picture).iter()}
    assert used - {None, "art"} <= styled


def test_django_finds_nothing_to_complain_of() -> None:
    environment = {**os.environ, "SHOP_DSN": "postgresql:///none?host=/nowhere"}
    for arguments in (["check"], ["makemigrations", "--check", "--dry-run"]):
        done = subprocess.run(
            [sys.executable, DJANGO / "manage.py", *arguments],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
