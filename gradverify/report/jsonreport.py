"""Reports as JSON for other programs; the schema is documented in docs/json.md and versioned here."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

import gradverify
from gradverify.core.nouns import Case, Comparison, Finding
from gradverify.core.summarise.coverage import Coverage, regions
from gradverify.core.summarise.report import Report
from gradverify.core.summarise.tally import RATIOS, Tally
from gradverify.report.table import labels
from gradverify.report.terminal import PASTED

SCHEMA = "gradverify-report"
VERSION = 1  # raised when a field is removed or changes its meaning; new fields do not raise it


def to_json(reports: Sequence[Report], files: Mapping[Finding, str] | None = None) -> dict[str, Any]:
    """Plain Python values only, ready for `json.dumps(..., allow_nan=False)`.

    Parameters
    ----------
    files : for a finding, the path of its Case file, where one was written
    """
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "gradverify": gradverify.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "ok": bool(reports) and all(report.ok for report in reports),
        "layers": [_layer(report, label, files or {}) for label, report in zip(labels(reports), reports)],
    }


def plain(value: Any) -> Any:
    """A value as JSON holds it: non-finite floats as "nan", "inf", "-inf"; complex numbers as a pair."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.astype(float) if value.dtype.kind == "V" or value.dtype == np.longdouble else value
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, range, set, frozenset)):
        return [plain(part) for part in value]
    if isinstance(value, complex):
        return [plain(value.real), plain(value.imag)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if value is None or isinstance(value, (bool, int)):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()  # half a surrogate pair is no text to other readers


def _layer(report: Report, label: str, files: Mapping[Finding, str]) -> dict[str, Any]:
    return {
        "layer": report.layer,
        "label": label,
        "origin": report.origin,
        "ok": report.ok,
        "verified": report.verified,
        "seed": report.seed,
        "examples": report.examples,
        "cases": report.cases,
        "seconds": plain(report.seconds),
        "declared": list(report.declared),
        "notes": list(report.remarks),
        "verified_by": {
            "verified": [plain(asdict(share)) for share in report.verified_by.verified],
            "missing": [plain(asdict(item) | {"declare": item.declare}) for item in report.verified_by.missing],
        },
        "properties": {name: _tally(tally) for name, tally in report.tallies.items()},
        "coverage": None if report.coverage is None else _coverage(report.coverage),
        "lines": None if report.lines is None else report.lines.plain(),
        "findings": [_finding(finding, files.get(finding)) for finding in report.findings],
    }


def _tally(tally: Tally) -> dict[str, Any]:
    return {
        "cases": tally.cases,
        "failing": tally.failing,
        "stopped": tally.stopped,
        "entries": tally.entries,
        "verdicts": dict(tally.verdicts),
        "primals": dict(tally.primals),
        "worst_ratio": plain(tally.worst_ratio),
        "histogram": {"borders": list(RATIOS), "counts": list(tally.histogram)},
        "resolution": plain(tally.resolution),
        "skipped": tally.skipped,
        "reason": tally.reason,
        "seconds": plain(tally.seconds),
    }


def _coverage(coverage: Coverage) -> dict[str, Any]:
    return {
        "cases": coverage.cases,
        "sizes": plain(coverage.sizes),
        "options": plain(coverage.options),
        "dtypes": plain(coverage.dtypes),
        "regions": list(regions()),
        "values": plain(coverage.values),
    }


def _finding(finding: Finding, file: str | None) -> dict[str, Any]:
    return {
        "property": finding.property,
        "kind": finding.kind,
        "primal": finding.primal,
        "message": finding.message,
        "severity": plain(finding.severity),
        "entry": None if finding.comparison is None else _entry(finding.comparison),
        "facts": plain(finding.facts),
        "diagnoses": [
            {
                "name": diagnosis.name,
                "bug_class": diagnosis.bug_class,
                "text": diagnosis.text,
                "fit": diagnosis.fit.name.lower(),
                "evidence": plain(diagnosis.evidence),
            }
            for diagnosis in finding.diagnoses
        ],
        "case": _case(finding.case, file),
        "comparison": None if finding.comparison is None else _comparison(finding.comparison),
    }


def _entry(comparison: Comparison) -> dict[str, Any] | None:
    """The entry that disagrees most."""
    if comparison.wrong.size == 0:
        return None
    where = comparison.worst
    return {
        "index": list(where),
        "labels": list(comparison.labels),
        "sides": list(comparison.sides),
        "analytic": plain(comparison.analytic[where]),
        "numerical": plain(comparison.numerical[where]),
        "bound": plain(comparison.bound[where]),
        "ratio": plain(comparison.ratio[where]),
        "wrong": int(comparison.wrong.sum()),
        "total": int(comparison.wrong.size),
    }


def _comparison(comparison: Comparison) -> dict[str, Any] | None:
    """The full matrices, where they are small."""
    if comparison.wrong.size > PASTED:
        return None
    names = ("analytic", "numerical", "bound", "verdicts")
    return {name: plain(getattr(comparison, name)) for name in names}


def _case(case: Case, file: str | None) -> dict[str, Any]:
    small = case.size <= PASTED
    cotangents = case.cotangents
    return {
        "file": file,
        "layer": case.layer,
        "target": case.target,
        "options": plain(case.options),
        "step": plain(case.step),
        "seed": int(case.seed),
        "primals": {name: _array(array, small) for name, array in case.primals.items()},
        "cotangents": None if cotangents is None else [_array(array, small) for array in cotangents],
    }


def _array(array: Any, inline: bool) -> dict[str, Any]:
    array = np.asarray(array)
    described = {"dtype": array.dtype.name, "shape": list(array.shape)}
    return described | ({"values": plain(array)} if inline else {})
