"""How much memory a process may use, so that an allocation fails before the machine suffers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def data_size() -> int | None:
    """Bytes that RLIMIT_DATA counts of this process; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def limit_memory(size: int) -> None:
    """Let allocations fail that would make the data of this process larger."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (size if hard < 0 else min(size, hard), hard))
    except (ImportError, OSError, ValueError):
        return  # a system that has no such limit


@contextmanager
def limited_memory(size: int | None) -> Iterator[None]:
    """As `limit_memory` inside; None for no other limit than there is."""
    if size is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    if before[0] == resource.RLIM_INFINITY or size < before[0]:
        limit_memory(size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before[0], resource.getrlimit(resource.RLIMIT_DATA)[1]))
