"""Programs that pip cannot install; 'make tools' does (tests/tools.sh)."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str) -> str:
    """Path of a program; without it the test is left out, in CI it fails."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is not None:
        return found
    why = f"{name} is not installed: run 'make tools' as root on Debian"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{why}; with CI=true no test may be left out")
    pytest.skip(why)
