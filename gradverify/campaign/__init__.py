"""Campaigns: checks that run for hours, on all cores or a cluster, and lose nothing.

In the order of the data: `engine` sends units (`unit`) of the layer that is most urgent (`schedule`) to an
executor (`pool`, `dask`); a `guard` beside each worker keeps a `child` process at work, which draws
and examines cases (`explore`, `interest`) and notes each in a `journal` first; what ended a child is tried
again (`trial`); what comes home goes through the `books` into the `store`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradverify.campaign.engine import Campaign as Campaign
    from gradverify.campaign.engine import Snapshot as Snapshot
    from gradverify.campaign.engine import Summary as Summary
    from gradverify.campaign.pool import WorkerPool as WorkerPool
    from gradverify.campaign.store import Store as Store
    from gradverify.campaign.store import StoreError as StoreError
    from gradverify.campaign.unit import Plan as Plan

_HOMES = {  # imported on first use: a guard starts its process before the rest of this process is there
    "Campaign": "engine",
    "Plan": "unit",
    "Snapshot": "engine",
    "Store": "store",
    "StoreError": "store",
    "Summary": "engine",
    "WorkerPool": "pool",
}
__all__ = [*_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
