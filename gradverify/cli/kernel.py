"""`gradverify kernel`: score one kernel against a reference, in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from gradverify.cli import _show
from gradverify.cli._output import data_stream, writable, write, write_json
from gradverify.core.errors import DeclarationError, UsageError

if TYPE_CHECKING:
    from gradverify.core.declare.layer import Layer
    from gradverify.core.nouns import Case, Outcome
    from gradverify.core.properties import Property
    from gradverify.core.summarise.report import Report

RIGHT, WRONG, NOTHING = 0, 1, 3
_FEW = 64  # elements of a minimal case up to which its numbers are written out


@click.command("kernel")
@click.argument("target", metavar="FILE:OBJECT")
@click.option("--reference", required=True, metavar="FILE:OBJECT", help="The same function in plain operations.")
@click.option("--primal", "primals", metavar="NAME=DIMS", multiple=True, help='For example x="N D"; once for each.')
@click.option("--option", "options", metavar="NAME=VALUES", multiple=True, help="Choices as JSON: causal=[false,true]")
@click.option("--constant", "constants", metavar="NAME", multiple=True, help="What gets no gradient: a scale, a table.")
@click.option("--size", "sizes", metavar="AXIS=N[,N]", multiple=True, help="Sizes in production: T=4096,8192")
@click.option(
    "--type",
    "kernel",
    default="bfloat16",
    show_default=True,
    help="bfloat16, float16, float32, tf32, float8_e4m3fn or float8_e5m2.",
)
@click.option("--device", default=None, help="Where the kernel's tensors live; the default is the CPU.")
@click.option("--examples", type=int, default=100, show_default=True, metavar="N", help="Cases for each property.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="The same seed draws the same cases.")
@click.option("--seconds", type=float, default=30.0, show_default=True, help="After which a call counts as hung.")
@click.option("--json", "json_file", metavar="FILE", default=None, help='Write the score as JSON; "-" is stdout.')
def command(target: str, reference: str, json_file: str | None, seconds: float, **given: Any) -> int:
    """Score a hand-written kernel, forward and backward, against a reference.

    Both are written in torch, JAX or NumPy; in NumPy a kernel is a pair (forward, backward). The kernel runs in a
    process of its own, which never sees the reference or the verdict: one that crashes or hangs costs itself. Prints
    the verdict, and for each primal the digits lost beyond what a good kernel of the type must.
    Primals may stand on the reference instead: reference.primals = {"x": "N D"}.

    Exit status: 0 right, 1 wrong (crashed, hung and tampered included), 2 wrong usage or a file that cannot be loaded,
    3 nothing could be decided.
    """
    with data_stream() as data:
        writable(json_file)
        score = scored(target, reference, seconds, **given)
        write(_text(score), sys.stderr if json_file == "-" else data)
        if json_file is not None:
            write_json(score, json_file, data)
    return int(score["exit"])


def scored(
    target: str,
    reference: str,
    seconds: float = 30.0,
    *,
    primals: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    constants: tuple[str, ...] = (),
    sizes: tuple[str, ...] = (),
    kernel: str = "bfloat16",
    device: str | None = None,
    examples: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """The score as plain values; see `docs/kernels-benchmark.md` for its fields.

    Raises TargetError, DeclarationError or UsageError if a file cannot be loaded, or the declaration cannot be used.
    """
    from gradverify.adapters._kernels.judge import judge_of, package_of
    from gradverify.adapters._kernels.remote import Remote
    from gradverify.adapters._kernels.worker import digest
    from gradverify.core.check.search import check_layer
    from gradverify.core.check.settings import Settings
    from gradverify.core.declare.hooks import Hooks
    from gradverify.core.verify import watcher
    from gradverify.targets import raw_object

    plain = raw_object(reference)
    declaration: dict[str, Any] = {"primals": _primals(reference, plain, primals)}
    declaration |= {key: v for key, v in (("options", _options(options)), ("sizes", _sizes(sizes))) if v}
    declaration |= {} if device is None else {"device": device}
    declaration |= {"constants": tuple(constants) or tuple(getattr(plain, "constants", ()))}
    package = package_of(plain)
    codes = [found for code in _codes(getattr(plain, "__code__", None)) if (found := digest(code)) is not None]
    head = {"target": target, "declaration": declaration, "type": kernel, "codes": codes, "package": package}
    remote = Remote(head, seconds)
    try:
        name = remote.load()
        own = tuple(
            n for n in declaration["constants"] if n in declaration["primals"]
        )  # others are of the kernel's file
        judge = judge_of(plain, package or remote.package, remote.package, kernel, {**declaration, "constants": own})
        remote.names = judge.primal_names
        dtype = kernel if remote.package == "numpy" else "float64"
        layer = judge.derive(
            name=name, forward=remote.forward, backward=remote.backward, hooks=Hooks(reference=judge.hooks.reference)
        )
        heard = Heard()
        token = watcher.set(heard)
        try:
            report = check_layer(layer, Settings(examples=examples, seed=seed, dtype=dtype))
        finally:
            watcher.reset(token)
    finally:
        remote.close()
    return _score(layer, report, heard, remote, reference, kernel)


class Heard:
    """What each case lost, by primal: a watcher of the check."""

    def __init__(self) -> None:
        self.worst: dict[str, dict[str, Any]] = {}

    def before(self, layer: Layer, case: Case, prop: Property) -> None: ...

    def after(self, layer: Layer, outcome: Outcome) -> None:
        """Keep the digits lost at worst, and where."""
        from gradverify.core.properties.reference import digits_lost

        if outcome.property != "reference":
            return
        for comparison in outcome.compared:
            lost = digits_lost(comparison)
            known = self.worst.setdefault(
                comparison.primal, {"digits_lost": lost, "worst_shape": [], "entries": 0, "unresolved": 0}
            )
            known["entries"] += int(comparison.verdicts.size)
            known["unresolved"] += int((comparison.verdicts == 2).sum())
            if lost >= known["digits_lost"]:
                known["digits_lost"], known["worst_shape"] = lost, list(comparison.analytic.shape)


def _score(layer: Layer, report: Report, heard: Heard, remote: Any, reference: str, kernel: str) -> dict[str, Any]:
    from gradverify.adapters._kernels.remote import KILLED

    cheats = [remote.called] if remote.called else []
    cheats += [f"replaces {', '.join(remote.replaced)}"] if remote.replaced else []
    kinds = {f.kind for f in report.findings}
    verdict, status = "right", RIGHT
    if not report.verified:
        verdict, status = "undecided", NOTHING
    if report.findings:
        verdict, status = "wrong", WRONG
        verdict = "crashed" if "crash" in kinds and kinds <= {"crash", "nondeterministic"} else verdict
    ended = set(remote.ended) - {KILLED}  # of which memory may be the cause: a finding where the case is small
    if ended:
        verdict, status = "hung" if "hangs" in ended else "crashed", WRONG
    unverified = [f"{name}: {why}" for name, why in remote.outside.items()]
    why = _reason(report)
    # who has no memory, or no device, shows no answer
    left = [*unverified, *(note for note in report.notes if "memory" in note), *filter(None, (remote.absent,))]
    if verdict == "right" and left:
        verdict, status, why = "undecided", NOTHING, left[0]
    if kinds == {"doubtful"}:  # the reference is not to be relied upon
        verdict, status = "undecided", NOTHING
    if cheats:
        verdict, status = "tampered", WRONG
    files = _show.save([report])
    return {
        "schema": 1,
        "kernel": layer.name,
        "reference": reference,
        "type": kernel,
        "verdict": verdict,
        "exit": status,
        "reason": why if verdict == "undecided" else None,
        "unverified": unverified,
        "notes": list(report.remarks),
        "cases": report.cases,
        "seed": report.seed,
        "tampering": cheats,
        "primals": {n: {**found, "digits_lost": round(found["digits_lost"], 3)} for n, found in heard.worst.items()},
        "findings": [_finding(f, files.get(f)) for f in report.findings],
    }


def _reason(report: Report) -> str | None:
    """Why nothing was decided."""
    told = [f.message for f in report.findings] + [
        t.reason for t in report.tallies.values() if t.reason and not t.cases
    ]
    return next(iter(told), None)


def _finding(finding: Any, path: str | None) -> dict[str, Any]:
    case = finding.case
    small = case.size <= _FEW
    arrays = {n: (_plain(a) if small else None) for n, a in case.primals.items()}
    return {
        "property": finding.property,
        "kind": finding.kind,
        "primal": finding.primal,
        "message": finding.message,
        "diagnoses": [d.text for d in finding.diagnoses],
        "digits_lost": finding.facts.get("digits_lost"),
        "shapes": {n: list(a.shape) for n, a in case.primals.items()},
        "options": {n: list(v) if isinstance(v, tuple) else v for n, v in case.options.items()},
        "minimal": arrays if small else None,
        "case": path,
    }


def _plain(array: Any) -> Any:
    """Lists; what JSON has no number for is a string."""
    if isinstance(array, list):
        return [_plain(part) for part in array]
    if hasattr(array, "tolist"):
        return _plain(array.tolist())
    return array if array == array and abs(array) != float("inf") else str(array)


def _text(score: Mapping[str, Any]) -> str:
    lines = [f"{score['kernel']} in {score['type']}: {score['verdict']} ({score['cases']} cases, seed {score['seed']})"]
    lines += [f"  {told}" for told in dict.fromkeys((score["reason"], *score["notes"])) if told]
    lines += [f"  the kernel {cheat}" for cheat in score["tampering"]]
    for name, found in score["primals"].items():
        shape = "x".join(map(str, found["worst_shape"]))
        lines.append(f"  d{name}: {max(found['digits_lost'], 0.0):.1f} digits lost beyond what must be, at {shape}")
    for finding in score["findings"]:
        lines += [f"  {finding['property']}: {finding['message']}", *(f"    {told}" for told in finding["diagnoses"])]
    return "\n".join(lines)


def _codes(code: Any) -> list[Any]:
    if code is None:
        return []
    return [code, *(found for part in code.co_consts if hasattr(part, "co_code") for found in _codes(part))]


def _primals(reference: str, plain: Any, given: tuple[str, ...]) -> dict[str, str]:
    found = dict(_pair(text, "--primal", 'x="N D"') for text in given) or dict(getattr(plain, "primals", None) or {})
    if not found:
        raise DeclarationError(
            f'the primals are not declared: add --primal x="N D", or {reference.rpartition(":")[2]}.primals = '
            '{"x": "N D"} in the reference\'s file'
        )
    return found


def _options(given: tuple[str, ...]) -> dict[str, list[Any]]:
    found = {}
    for name, text in (_pair(text, "--option", "causal=[false,true]") for text in given):
        try:
            values = json.loads(text)
        except ValueError:
            raise UsageError(f"--option {name}: {text!r} is no JSON, e.g. [false, true]") from None
        found[name] = values if isinstance(values, list) else [values]
    return found


def _sizes(given: tuple[str, ...]) -> dict[str, list[int]]:
    found = {}
    for name, text in (_pair(text, "--size", "T=4096,8192") for text in given):
        if not all(part.strip().isdigit() for part in text.split(",")):
            raise UsageError(f"--size {name}: {text!r} is no whole number or list of them, e.g. 4096,8192")
        found[name] = [int(part) for part in text.split(",")]
    return found


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"{option}: {text!r} is not of the form {example}")
    return name.strip(), value.strip()
