"""The PgBouncer of the tests, for measurements."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

from pooler import Pooler, pooler

__all__ = ["Pooler", "pooler"]
