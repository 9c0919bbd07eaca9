"""A campaign on a Dask cluster: the same units, sent to a running scheduler (extra ``gradverify[dask]``)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from gradverify.campaign.flight import ExecutorLost
from gradverify.core.errors import UsageError

_SECONDS = 15


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """An executor over the workers of the scheduler at an address such as "tcp://host:8786".

    Raises UsageError if Dask is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client
        from distributed.comm import get_address_host_port
    except ImportError:
        raise UsageError("--scheduler needs Dask: pip install 'gradverify[dask]'") from None
    try:
        get_address_host_port(address)
    except ValueError as error:
        raise UsageError(f"{address!r} is no address of a Dask scheduler, such as tcp://host:8786: {error}") from None
    try:
        client = Client(address, timeout=_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(f"no Dask scheduler answers at {address!r} ({type(error).__name__}: {error})") from None
    try:
        yield executor_of(client)
    finally:
        client.close()


def executor_of(client: Any) -> Executor:
    """The executor of a `distributed.Client`; it knows how many units run at once.

    Equal units are not the same unit (`pure=False`). A unit whose worker dies is tried once more by Dask,
    then by the campaign.
    """
    executor: Executor = client.get_executor(pure=False, retries=1)

    def workers() -> int:
        """Threads of workers at this moment: a cluster grows and shrinks."""
        if client.status in ("closing", "closed"):
            raise ExecutorLost("the Dask scheduler does not answer any more")
        try:
            return sum(client.nthreads().values())
        except Exception:  # noqa: BLE001  the scheduler does not answer, and the client is half closed
            return 0

    executor.workers = workers  # type: ignore[attr-defined]
    return executor
