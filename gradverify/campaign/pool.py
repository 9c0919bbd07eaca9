"""The default executor: worker processes that heal, each behind a thread that watches over it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gradverify.campaign.guard import Guard, adopt


class WorkerPool(ThreadPoolExecutor):
    """N processes behind N threads.

    A process that dies is replaced by its own guard, and the unit that it was working on goes on in the new
    one; no other unit is touched. That is why this is not a `ProcessPoolExecutor`, which one dead process
    breaks together with everything that is in flight. Guards that are at work already may be handed over as `ready`.
    """

    def __init__(self, workers: int, ready: Sequence[Guard] = ()) -> None:
        self.workers = workers
        self.guards: list[Guard] = [*ready]
        self._ready = [*ready]
        self._lock = threading.Lock()
        super().__init__(workers, thread_name_prefix="gradverify", initializer=self._begin)

    def _begin(self) -> None:
        with self._lock:
            guard = self._ready.pop(0) if self._ready else Guard()
            if guard not in self.guards:
                self.guards.append(guard)
        adopt(guard)

    def stop(self) -> None:
        """Ask every process to end its unit after the case at hand."""
        for guard in self.guards:
            guard.stop()

    def kill(self) -> None:
        """End every process at once."""
        for guard in self.guards:
            guard.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End threads and processes."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        for guard in self.guards:
            guard.close()


def cores() -> int:
    """Cores that this process may use, which under a job scheduler are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_of(executor: Any, least: int = 1) -> int:
    """How many units an executor works on at once, as far as it says."""
    for name in ("workers", "_max_workers"):
        count = getattr(executor, name, None)
        if callable(count):
            count = count()
        if isinstance(count, int) and count > 0:
            return count
    return least
