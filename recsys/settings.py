"""Where the database and recsys.toml are: the only reader of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """What every entry point needs to know.

    Attributes:
        dsn: libpq connection string or URI; empty means the ``PG*`` variables.
        config: Path of recsys.toml.
    """

    dsn: str = ""
    config: Path = Path("recsys.toml")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read ``RECSYS_DSN`` and ``RECSYS_CONFIG``."""
        return cls(
            dsn=environ.get("RECSYS_DSN", ""),
            config=Path(environ.get("RECSYS_CONFIG", "recsys.toml")),
        )


def encoder_folders(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return where text encoders are looked for, in this order.

    ``RECSYS_ENCODERS``, the folder of ``RECSYS_CONFIG``, the working directory.
    """
    named = environ.get("RECSYS_ENCODERS", "")
    config = Path(environ.get("RECSYS_CONFIG", "recsys.toml"))
    return (*([Path(named)] if named else []), config.resolve().parent, Path.cwd())


def names_a_server(environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether the environment points to a server of the user's own."""
    return any(
        environ.get(name)
        for name in ("RECSYS_DSN", "PGHOST", "PGSERVICE", "PGDATABASE", "PGHOSTADDR")
    )
