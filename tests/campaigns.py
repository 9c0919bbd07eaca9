"""A campaign of a few seconds in this process, and what it wrote down: shared by the tests of campaigns."""

from __future__ import annotations

import json
from pathlib import Path

from gradverify.campaign import Campaign, Plan, Store, Summary

QUICK = Plan(case_seconds=1.0, memory=1 << 30)


def run(folder, *targets, **given) -> Summary:
    store = Store(folder)
    try:
        return Campaign(targets, store, **{"seconds": 4.0, "workers": 1, "plan": QUICK, **given}).run()
    finally:
        store.close()


def events(folder, kind):
    lines = [json.loads(line) for line in (Path(folder) / "events.ndjson").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]
