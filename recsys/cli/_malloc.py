"""Start training under the allocator settings it is fast with."""

from __future__ import annotations

import os
import platform
import sys

SETTINGS = {
    # glibc maps and unmaps every large temporary, and training makes many: a step of
    # the trainer took 325 ms instead of 68 (docs/adr/0006-training.md).
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "200000000",
    # OpenMP threads that spin while they wait slow each other down whenever the cores
    # have other work.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def use_arena_settings() -> None:
    """Replace this process by itself under the settings; nothing when they are set.

    glibc reads them only when a process starts.
    """
    if platform.libc_ver()[0] != "glibc" or "MALLOC_MMAP_MAX_" in os.environ:
        return
    sys.stdout.flush()
    os.execve(sys.executable, sys.orig_argv, {**os.environ, **SETTINGS})
