"""The command line: thin commands over library functions.

Data goes to stdout, talk to stderr. A ``RecsysError`` ends with exit status 1 and a
hint, bad usage with 2; a traceback means a bug.
"""

from __future__ import annotations

import logging
import sys


def main() -> None:
    """Run the command line."""
    try:
        import click
        import rich
    except ImportError as exc:
        sys.exit(f"Error: the command line needs {exc.name}: pip install 'recsys[cli]'")
    del click, rich
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    from recsys.cli.app import run

    run()
