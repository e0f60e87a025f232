"""What the example shops are made of."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hatchling.builders.wheel import WheelBuilder
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
    colour = catalogue.COLOURS[product.colour]
    print(art.draw(art.drawing(product), colour, f"{product.name}, {product.colour}"))
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


@pytest.mark.parametrize("folder", [DJANGO, FLASK])
def test_a_port_that_is_taken_is_said_before_anything_is_made(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, folder / "run.py", f"--port={port}"],
            env={**os.environ, "SHOP_DSN": "postgresql:///none?host=/nowhere"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr == f"Port {port} is taken: try --port {port + 1}\n"
    assert done.stdout == ""


@pytest.mark.parametrize("folder", [DJANGO, FLASK])
def test_a_shop_has_one_server_wherever_it_is_started(folder: Path) -> None:
    text = "".join(path.read_text() for path in folder.rglob("*.py"))

    assert "embedded.near(" in text
    assert not re.findall(r"embedded\.start\((?!\s*embedded\.near)", text)


def test_documentation_quotes_the_files_as_they_are() -> None:
    page = EXAMPLES.parent / "docs" / "examples.md"
    quotes = re.findall(
        r"<!-- skip: from (\S+), .*?-->\n```python\n(.*?)```", page.read_text(), re.S
    )

    assert len(quotes) >= 8
    for name, text in quotes:
        assert text in (EXAMPLES.parent / name).read_text(), f"{name}: {text}"


def test_a_wheel_takes_no_server_and_no_cache_along(tmp_path: Path) -> None:
    root = EXAMPLES.parent
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    for name in ("recsys", "sql", "migrations", "examples"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "examples").unlink()
    kept = tmp_path / "examples" / "django_shop"
    for folder in (kept, kept / ".recsys" / "pgdata", kept / "shop" / "__pycache__"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "file").touch()

    files = WheelBuilder(str(tmp_path)).recurse_included_files()

    found = {file.distribution_path for file in files}
    assert "recsys/_files/examples/django_shop/file" in found
    assert "recsys/_files/migrations/env.py" in found
    assert not [name for name in found if ".recsys/" in name or "__pycache__" in name]
