"""The author's code must not end the command: one that `os._exit(0)` ends would read as passed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def kept_alive() -> Iterator[None]:
    """Inside, `os._exit` in this process raises SystemExit, which is told as a crash of the code that called it.

    Processes that are forked meanwhile end as they like.
    """
    ends, owner = os._exit, os.getpid()

    def refused(status: int) -> NoReturn:
        if os.getpid() != owner:
            ends(status)
        raise SystemExit(f"os._exit({status})")

    os._exit = refused
    try:
        yield
    finally:
        os._exit = ends
