"""Check every entry of one package, and print the rows as JSON lines: `python one.py MODULE [FIRST]`."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from importlib import import_module

from gradverify.core import verify as verification
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.diagnose import diagnose
from gradverify.report.terminal import unfounded

warnings.simplefilter("ignore")
limit = verification.time_limit
verification.time_limit = lambda seconds: limit(120.0)  # layers of others loop in Python, maybe on a busy machine


def row(entry):
    """Verdict and first finding of one entry; what cannot even be built is told as it is."""
    begun = time.perf_counter()
    base = {"name": entry.name, "judgement": entry.judgement, "note": entry.note}
    try:
        layer = entry.make()
        settings = Settings(examples=entry.examples, properties=entry.properties, shrink=False)
        report = check_layer(layer, settings)
    except Exception as error:  # noqa: BLE001  a package that cannot be run must not end the others
        return {**base, "verdict": "not run", "findings": [], "message": f"{type(error).__name__}: {error}"[:300]}
    findings = [
        {
            "property": f.property,
            "kind": f.kind,
            "primal": f.primal,
            "message": f.message,
            "diagnosis": next((d.text for d in diagnose(layer, f)), ""),
        }
        for f in report.findings
    ]
    return {
        **base,
        "verdict": "found" if findings else unfounded(report, "nothing verified"),
        "message": "" if findings else "; ".join(str(item) for item in report.blocking),
        "findings": findings,
        "declared": list(report.declared),
        "seconds": round(time.perf_counter() - begun, 1),
    }


if __name__ == "__main__":
    chosen = os.environ.get("GRADVERIFY_WILD_ONLY", "")
    for entry in import_module(sys.argv[1]).ENTRIES[int(sys.argv[2]) if len(sys.argv) > 2 else 0 :]:
        if chosen in entry.name:
            print(f"AT {entry.name}", flush=True)
            print("ROW " + json.dumps(row(entry)), flush=True)
