"""The end of a run: records of all processes as one table, as JSON, and as annotations."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from gradverify import __version__
from gradverify.core.summarise.lines_ran import below
from gradverify.core.texts import many
from gradverify.corpus import replay_command
from gradverify.pytest_plugin.left import Left
from gradverify.pytest_plugin.replays import shown
from gradverify.pytest_plugin.run import Run, told_of
from gradverify.pytest_plugin.settings import Settings
from gradverify.pytest_plugin.shared import Record, merged, total, united
from gradverify.report.jsonreport import plain
from gradverify.report.numbers import columns, short
from gradverify.report.terminal import render_finding, why_open

_HEADER = ("layer", "property", "cases", "worst/bound", "resolution", "unresolved", "verdict")
_ROWS = 40  # rows up to which checks that passed have one each, also without -v


def lines(records: Sequence[Record], verbose: bool) -> list[str]:
    """The table, the corpus, and what was skipped."""
    rows = merged(records)
    tried = [row for row in rows if row["verdict"] != "skipped"]
    if verbose or len(tried) <= _ROWS:
        told = [_row(row) for row in (rows if verbose else tried)]
    else:
        told = [_row(row) for layer in dict.fromkeys(r["label"] for r in tried) for row in _folded(layer, tried)]
    said = columns([_HEADER, *told]) if told else []
    skipped = [row for row in rows if row["verdict"] == "skipped"]
    if skipped:
        said.append(f"{len(skipped)} of {len(rows)} checks were skipped; -rs shows why")
    left_out = [f"{row['label']}: {line}" for row in rows for line in row["not_verified"]]
    shares = ((row["label"], s["kind"], s["entries"], s["unresolved"]) for row in rows for s in row["verified"])
    return [*said, *why_open(shares), *_coverage(rows), *dict.fromkeys(left_out), *_corpus(records)]


def _coverage(records: Sequence[Record]) -> list[str]:
    """A line for each layer of whose code something never ran; how much of all ran, where all of it did."""
    ran = united(records)
    known = [each for each in ran.values() if each.percent is not None]
    lines = [f"{name}: {line}" for name, each in ran.items() if not each.complete for line in each.said()]
    if known and not lines:
        lines.append(f"coverage: every line and branch of {many(len(known), 'layer')} ran")
    return lines


def too_low(records: Sequence[Record], least: float) -> list[str]:
    """A line for each layer of which less ran than a share that is asked for, in percent."""
    return below(united(merged(records)), least)


def _folded(layer: str, rows: Sequence[Record]) -> list[Record]:
    """One row for all checks of a layer that passed; the others keep theirs."""
    passed = [row for row in rows if row["label"] == layer and row["verdict"] == "ok"]
    others = [row for row in rows if row["label"] == layer and row["verdict"] != "ok"]
    if not passed:
        return others
    return [total(passed) | {"property": f"({len(passed)} properties)"}, *others]


def _row(row: Record) -> tuple[str, ...]:
    compared = row["compared"]
    return (
        row["label"],
        row["property"],
        str(row["cases"] or "-"),
        short(row["worst_ratio"], 3) if compared else "-",
        short(row["resolution"], 2) if compared else "-",
        f"{row['unresolved'] / compared:.1%}" if row["unresolved"] else "-",
        _verdict(row),
    )


def _verdict(row: Record) -> str:
    if row["verdict"] == "explained":
        return str(row["reason"])
    if not row["findings"]:
        return f"skipped: {row['reason']}" if row["verdict"] == "skipped" else str(row["verdict"])
    wrong = [f"{f['kind']}{' ' + f['primal'] if f['primal'] else ''}" for f in row["findings"]]
    return f"{row['verdict'] if row['verdict'] != 'killed' else 'WRONG'} ({', '.join(wrong)})"


def _corpus(records: Sequence[Record]) -> list[str]:
    told = [record["corpus"] for record in records if "corpus" in record]
    replayed, failing, unkept = (sum(t[key] for t in told) for key in ("replayed", "failing", "unkept"))
    said = [f"corpus: {replayed} replayed, {failing} still failing"] if replayed else []
    gone = {path: removed for t in told for path, removed in t["fixed"]}
    said += [f"corpus: {path} fails no more{', removed' if removed else ''}" for path, removed in sorted(gone.items())]
    for kind in ("stale", "damaged"):
        odd = {path: reason for t in told for path, reason in t[kind]}
        said += [f"corpus: {path} is {'of no use' if kind == 'stale' else kind}: {odd[path]}" for path in sorted(odd)]
    if unkept:
        said.append(f"corpus: {unkept} failing cases could not be written")
    return said


def orphans(run: Run, layers: Collection[str] | None) -> list[str]:
    """Cases whose test is gone, so that nothing replays them: its layer or its file has another name now.

    Parameters
    ----------
    layers : all that are tests; None in a run of part of them
    """
    said = []
    for entry in run.kept[0]:
        home, _, rest = (entry.owner or "").partition("::")
        if home == "gradverify":
            gone = layers is not None and rest.partition("::")[0] not in layers
        else:
            gone = not (run.config.rootpath / home).exists()
        if gone:
            said.append(f"corpus: {shown(entry.path)} is replayed by no test: there is no {entry.owner} any more")
    return said


def of_the_dead(run: Run, left: Left) -> tuple[Record, str]:
    """The record and the text for what a dead process left; its cases go into the corpus."""
    *found, killed = left.findings
    paths = {f: run.keep(f, left.owner, left.asked) for f in left.findings}
    replays = {f: replay_command(path, f.case) for f, path in paths.items() if path is not None}
    texts = [render_finding(f, replay=replays.get(f)) for f in (killed, *found)]
    if found:
        texts.insert(1, f"before that, it had found {len(found)}:")
    findings = [told_of(f, replays.get(f)) for f in left.findings]
    counts = dict.fromkeys(("shard", "seed", "cases", "entries", "compared", "unresolved"), 0)
    sums = dict.fromkeys(("worst_ratio", "resolution", "seconds"), 0.0)
    record = {
        "layer": killed.case.layer,
        "test": left.owner.partition("::")[0],
        "property": left.owner.split("::")[2] if left.owner.startswith("gradverify::") else left.asked,
        "shards": 1,
        "examples": run.settings.examples,
        **counts,
        **sums,
        "verdict": "killed",
        "reason": killed.message,
        "verified": [],
        "not_verified": [],
        "file": None,
        "line": None,
        "findings": findings,
    }
    return record, "\n\n".join(texts)


def as_json(told: Settings, records: Sequence[Record]) -> dict[str, Any]:
    """Plain values for `--gradverify-json`."""
    rows = merged(records)
    return {
        "schema": "gradverify-pytest",
        "version": 1,
        "gradverify": __version__,
        "profile": told.profile,
        "seed": told.seed,
        "examples": told.examples,
        "ok": bool(rows) and all(row["verdict"] in ("ok", "skipped") for row in rows),
        "checks": [plain({k: v for k, v in row.items() if k not in ("shard", "corpus", "lines")}) for row in rows],
        "lines": {name: each.plain() for name, each in united(rows).items()},
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write the results, whole or not at all."""
    from gradverify import files

    files.write(path, files.dumps(content))


def workflow_commands(records: Sequence[Record]) -> list[str]:
    """Workflow commands that put each finding beside the backward pass in a pull request."""
    said = []
    for row in merged(records):
        place = f"file={_escaped(row['file'], True)},line={row['line']}," if row["file"] else ""
        for finding in row["findings"]:
            title = _escaped(f"gradverify {row['layer']} {row['property']}", True)
            replay = f"\nreplay it: {finding['replay']}" if finding["replay"] else ""
            said.append(f"::error {place}title={title}::{_escaped(finding['message'] + replay)}")
    return said


def _escaped(text: str, inside: bool = False) -> str:
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), *([(":", "%3A"), (",", "%2C")] if inside else [])]
    for sign, code in pairs:
        text = text.replace(sign, code)
    return text


def show(
    reporter: pytest.TerminalReporter, records: Sequence[Record], lost: Sequence[str], orphaned: Sequence[str]
) -> None:
    """The section at the end of the run; `lost` is what earlier runs left behind that were killed."""
    if records or lost:
        reporter.section("gradverify", sep="=")
    for text in lost:
        reporter.line(f"{text}\n")
    for line in [*lines(records, reporter.verbosity > 0), *orphaned]:
        reporter.line(line)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in workflow_commands(records):
            reporter.line(line)
