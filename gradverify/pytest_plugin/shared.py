"""What travels from a test to the end of the run: records in plain Python values, on the item and its report.

A record is what one check of one property of one layer came to. Imports the standard library and
pytest only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gradverify.core.summarise.lines_ran import Ran

ROOT = "gradverify"  # of node ids, and the name of fixture and marker

Record = dict[str, Any]

RECORDS = pytest.StashKey[list[Record]]()
ATTRIBUTE = "gradverify"  # of a TestReport; pytest-xdist sends such attributes along
_ORDER = (
    "killed",
    "WRONG",
    "explained",
    "not verified",
    "nothing verified",
    "ok",
    "skipped",
)  # verdicts, from bad to good


def merged(records: Iterable[Record]) -> list[Record]:
    """One record for each layer and property, sorted; shards and repeated checks are summed up.

    Layers of one name that are written in different places, or checked by different files, stay apart. What a dead
    process left does not know where its layer is written, and stands with the others of that name.
    """
    records = list(records)
    known = {(record["layer"], record["test"]): record for record in records if record["file"] is not None}
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        written = known.get((record["layer"], record["test"]), record) if record["file"] is None else record
        place = (record["test"], str(written["file"]), str(written["line"]))
        groups.setdefault((record["layer"], *place, record["property"]), []).append(record)
    named = labels({key[:-1] for key in groups})
    return [total(groups[key]) | {"label": named[key[:-1]]} for key in sorted(groups)]


def labels(places: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """A name for each (layer, test file, file, line): the layer's own where there is one of that name.

    Else the file that checks it stands before it, or, where that is the same, the place where it is written.
    """
    found: dict[str, list[tuple[str, ...]]] = {}
    for place in places:
        found.setdefault(place[0], []).append(place)
    said = {}
    for name, alike in found.items():
        tests = [test for _, test, _, _ in alike]
        for place in alike:
            _, test, file, line = place
            own = f"{test}:{name}" if tests.count(test) == 1 else f"{file}:{line}:{name}"
            said[place] = name if len(alike) == 1 else own
    return said


def total(parts: Sequence[Record]) -> Record:
    """Several records as one; the order of `parts` does not matter."""
    parts = sorted(parts, key=lambda r: (r["shard"], r["seed"], r["cases"]))
    found = {(f["property"], f["kind"], f["primal"] or ""): f for r in parts for f in r["findings"]}
    sums = {key: sum(r[key] for r in parts) for key in ("cases", "entries", "compared", "unresolved", "seconds")}
    most = {key: max(r[key] for r in parts) for key in ("worst_ratio", "resolution")}
    verdict = min((r["verdict"] for r in parts), key=_ORDER.index)
    replayed = [r["corpus"] for r in parts if "corpus" in r]
    corpus = {"corpus": _corpora(replayed)} if replayed else {}
    left = {
        "verified": _shares(parts),
        "not_verified": list(dict.fromkeys(x for r in parts for x in r["not_verified"])),
    }
    findings = [found[key] for key in sorted(found)]
    lines = _lines(parts)
    return {**parts[0], **sums, **most, **left, **corpus, **lines, "verdict": verdict, "findings": findings}


def _shares(parts: Sequence[Record]) -> list[Record]:
    """What several records verified of each primal and output; the resolution is the coarsest."""
    found: dict[str, Record] = {}
    for share in (share for r in parts for share in r["verified"]):
        known = found.setdefault(share["name"], {**share, "entries": 0, "decided": None, "unresolved": {}})
        known["entries"] += share["entries"]
        for key, combined in (("decided", sum), ("resolution", max)):
            numbers = [value for value in (known[key], share[key]) if value is not None]
            known[key] = combined(numbers) if numbers else None
        for why, count in share["unresolved"].items():
            known["unresolved"][why] = known["unresolved"].get(why, 0) + count
    return list(found.values())


def _corpora(parts: Sequence[Record]) -> Record:
    sums = {key: sum(p[key] for p in parts) for key in ("replayed", "failing", "unkept")}
    return sums | {key: [odd for p in parts for odd in p[key]] for key in ("fixed", "stale", "damaged")}


def _lines(parts: Sequence[Record]) -> Record:
    if len(parts) == 1 or not any(part.get("lines") for part in parts):
        return {}
    return {"lines": next((ran.plain() for ran in united(parts).values()), None)}


def united(records: Iterable[Record]) -> dict[str, Ran]:
    """What ran of each layer, in any of its checks."""
    from gradverify.core.summarise.lines_ran import restored

    found: dict[str, Ran] = {}
    for record in records:
        if record.get("lines") is not None:
            ran = restored(record["lines"])
            name = str(record.get("label") or record["layer"])
            known = found.get(name)
            found[name] = ran if known is None else known.merged(ran)
    return dict(sorted(found.items()))


def attach(item: pytest.Item, records: Sequence[Record], junit: str) -> None:
    """Put records onto an item, and into its properties; a test that checks in a loop has one of each kind."""
    known = item.stash[RECORDS] = merged([*item.stash.get(RECORDS, []), *records])
    if junit == "properties":
        own = [pair for record in known for pair in junit_values(record)]
        item.user_properties[:] = [p for p in item.user_properties if not p[0].startswith("gradverify.")] + own


def junit_values(record: Record) -> list[tuple[str, object]]:
    """A record as names and values, for JUnit XML."""
    label = f"gradverify.{record['layer']}.{record['property']}"
    said = [(label, record["verdict"])]
    if record["verdict"] == "skipped":
        return said
    if record["compared"]:
        said.append((f"{label}.ratio", f"{record['worst_ratio']:.6g}"))
    said += [(f"{label}.cases", str(record["cases"])), (f"{label}.seed", str(record["seed"]))]
    return said + [(f"{label}.replay", f["replay"]) for f in record["findings"] if f["replay"]]
