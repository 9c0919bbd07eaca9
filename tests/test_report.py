"""Reports can be read at 80 columns, their code runs, and their JSON holds plain values only."""

from __future__ import annotations

import functools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gradverify as gv
from gradverify import Layer, verify
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.declare.registry import layers
from gradverify.core.judge import says
from gradverify.core.judge.verdicts import SCREENED
from gradverify.core.nouns import Case, Comparison, Diagnosis, Finding, Fit, Outcome, Verdict
from gradverify.core.nouns.ledger import NotVerified, Weighted
from gradverify.core.summarise.report import Report
from gradverify.core.summarise.tally import NOTHING_ADDED, Tally
from gradverify.report import code, jsonreport, table, terminal
from gradverify.report.numbers import entry, short


def comparison(shape: tuple[int, ...], wrong: Any, labels: tuple[str, ...] = ()) -> Comparison:
    numerical = np.arange(1.0, 1.0 + math.prod(shape)).reshape(shape)
    analytic, verdicts = np.array(numerical), np.zeros(shape, np.int8)
    analytic[wrong] *= 2
    verdicts[wrong] = Verdict.DISAGREES
    return Comparison("W", analytic, numerical, np.full(shape, 1e-9), verdicts, 1.0, labels)


def a_case(**changes: Any) -> Case:
    primals = {"x": np.array([[1.0, 2.0]]), "W": np.array([[0.5], [0.25]])}
    return Case("dense", primals, {"stride": 2}, (np.array([[1.5]]),), 1e-5, 7, "mine.py:dense").but(**changes)


def a_finding(compared: Comparison | None = None, **changes: Any) -> Finding:
    if compared is None:
        compared = comparison((3, 2), (1, 0), ("D", "H"))
    found = Finding(
        "gradient",
        "wrong",
        "W",
        "the gradient of W is wrong in 1 of 6 entries: at W[1, 0] analytic 6, numerical 3 ± 1e-09",
        a_case(),
        compared,
        3e9,
        {"ratio": 2.0, "wrong": np.int64(1), "remainder": float("nan")},
        (
            Diagnosis("factor", "FACTOR", "dW is twice the true gradient", Fit.LAW, {"factor": np.float64(2.0)}),
            Diagnosis("unlikely", "SIGN", "the sign is flipped", Fit.VAGUE),
        ),
    )
    return found.but(**changes)


def a_tally(name: str = "gradient", **changes: Any) -> Tally:
    verdicts = {"agrees": 90, "kink": 0, "unresolved": 0, "disagrees": 0}
    return Tally(
        name,
        **{"cases": 50, "entries": 90, "verdicts": verdicts, "worst_ratio": 0.25, "resolutions": [2e-11]} | changes,
    )


@pytest.fixture(scope="module")
def checked() -> Report:
    def back(dy: Any, saved: Any) -> Any:
        x, W = saved
        return dy @ W.T, x.T @ dy, dy.mean(0)

    layer = Layer(lambda x, W, b: (x @ W + b, (x, W)), back, name="mine", x="N D", W="D H", b="H")
    return check_layer(layer, Settings(examples=20, properties=("gradient", "pure")))


def a_report(*findings: Finding, name: str = "dense", **changes: Any) -> Report:
    tallies = {"gradient": a_tally(), "accumulates": Tally("accumulates", skipped=50, reason="it has no buffers")}
    return Report(
        name, **{"tallies": tallies, "findings": findings, "seed": 17, "seconds": 1.5, "examples": 50} | changes
    )


def test_a_finding_says_where_by_how_much_and_how_to_see_it_again() -> None:
    text = terminal.render_finding(a_finding(), replay="gradverify replay case.npz")
    lines = text.splitlines()
    assert lines[0] == "dense: the gradient of W is wrong in 1 of 6 entries"
    assert "  at W[D=1, H=0]" in lines
    assert "    analytic   6" in lines
    assert "    numerical  3 ± 1e-09" in lines
    assert lines[-1] == "  replay it: gradverify replay case.npz"


def test_diagnoses_come_in_the_order_in_which_they_were_ranked() -> None:
    text = terminal.render_finding(a_finding())
    assert 0 < text.index("dW is twice the true gradient") < text.index("the sign is flipped")


def test_wrong_entries_are_starred_beside_their_numerical_values() -> None:
    lines = terminal.render_finding(a_finding()).splitlines()
    titles = next(k for k, line in enumerate(lines) if line.split() == ["analytic", "numerical", "bound"])
    assert [line.split() for line in lines[titles + 1 : titles + 4]] == [
        ["1", "2", "1", "2", "1e-09", "1e-09"],
        ["6*", "4", "3", "4", "1e-09", "1e-09"],
        ["5", "6", "5", "6", "1e-09", "1e-09"],
    ]


@pytest.mark.parametrize(
    ("shape", "wrong"),
    [
        ((), ()),
        ((1,), (0,)),
        ((9,), (7,)),
        ((30, 40), (20, 30)),
        ((2, 3, 50), (1, 2, 49)),
        ((2, 2, 2, 2), (0, 1, 0, 1)),
    ],
)
def test_matrices_of_any_shape_are_cut_around_the_worst_entry_to_80_columns(
    shape: tuple[int, ...], wrong: tuple[int, ...]
) -> None:
    text = terminal.render_finding(a_finding(comparison(shape, wrong)))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.count("*") == (2 if math.prod(shape) > 1 else 0)  # the wrong entry, and the legend
    assert ("…" in text) == (max(shape, default=1) > 6)


def test_a_finding_without_a_comparison_prints_its_whole_message() -> None:
    crash = a_finding().but(comparison=None, kind="crash", message="forward raised ValueError: at least one")
    text = terminal.render_finding(crash)
    assert text.startswith("dense: forward raised ValueError: at least one\n  property gradient, crash")


def test_an_empty_gradient_can_be_rendered() -> None:
    assert "property gradient" in terminal.render_finding(a_finding(comparison((0, 3), ())))


def test_entries_that_nobody_looked_at_show_a_dash_and_not_nan() -> None:
    compared = comparison((1, 3), (0, 0))
    compared.numerical[0, 2], compared.bound[0, 2], compared.verdicts[0, 2] = np.nan, np.inf, Verdict.UNRESOLVED
    text = terminal.render_finding(a_finding(compared))
    assert "nan" not in text
    assert "inf" not in text


def test_the_worst_case_seen_is_mentioned_when_it_is_another() -> None:
    bigger = a_case(primals={"x": np.ones((5, 3))})
    assert "worst seen on x 5x3" in terminal.render_finding(a_finding(worst=bigger))
    told = a_finding(worst=bigger, facts={"worst seen": 4e5})
    assert "worst seen on x 5x3, 4e+05 times its bound" in terminal.render_finding(told)
    assert "worst seen" not in terminal.render_finding(a_finding(worst=a_case()))


def test_large_cases_are_described_and_not_pasted() -> None:
    text = terminal.render_finding(
        a_finding(case=a_case(primals={"x": np.ones((30, 30))})), replay="gradverify replay f"
    )
    assert "on x 30x30; the arrays are in the case file" in text
    assert "np.array" not in text


def test_full_matrices_show_every_entry() -> None:
    compared = comparison((3, 2), (1, 0))
    lines = terminal.side_by_side(compared).splitlines()
    assert lines[1].split() == ["analytic", "numerical", "difference", "bound"]
    assert [len(line.split()) for line in lines[2:]] == [8, 8, 8]
    wide = terminal.side_by_side(comparison((4, 30), (1, 20))).splitlines()
    assert len(wide) == 2 + 120
    assert next(line for line in wide if "[1, 20]" in line).split() == ["[1,", "20]", "102*", "51", "51", "1e-09"]
    assert all(len(line) <= 80 for line in wide)


def test_colour_adds_escapes_and_nothing_else() -> None:
    plain, colored = (terminal.render(a_report(a_finding()), color=color) for color in (False, True))
    assert "\x1b[" not in plain
    assert re.sub(r"\x1b\[\d+m", "", colored) == plain != colored


def test_a_report_prints_what_was_tried_skipped_and_declared() -> None:
    text = str(a_report(declared=("kinks: the left slope",), notes=("one core",)))
    assert text.splitlines()[0] == "dense: ok (50 cases, 90 entries compared, seed 17, 1.5 s)"
    for said in ("skipped accumulates: it has no buffers", "declared: kinks: the left slope", "note: one core"):
        assert said in text
    assert "2e-11" in text


def test_a_report_of_a_failure_says_what_else_was_checked_and_held() -> None:
    tallies = {
        "gradient": a_tally(failing=3, primals={"x": 0, "W": 4}),
        "special": a_tally("special", failing=2),
        "pure": Tally("pure", cases=9, entries=9),
        "fresh": Tally("fresh", cases=9, stopped=9),
        "reuse": Tally("reuse", skipped=4, reason="the point is not finite"),
        "linear": a_tally("linear", verdicts=dict.fromkeys(("agrees", "kink", "disagrees"), 0) | {"unresolved": 5}),
        "batch": Tally("batch", reason="no batch axis is declared"),
    }
    assert terminal.held(a_report(a_finding(), tallies=tallies)) == [
        "held: gradient of x; pure",
        "explained by gradient: special; fresh",
        "skipped on every case (the point is not finite): reuse",
        "nothing could be decided: linear",
        "not tried: batch",
    ]
    assert str(a_report(a_finding(), tallies=tallies)).endswith("not tried: batch")
    assert "held:" not in str(a_report(tallies=tallies))


def test_the_code_in_a_report_runs_as_it_is_printed(checked: Report) -> None:
    (finding,) = checked.findings
    lines = str(checked).splitlines()
    begin = lines.index("  on this case:") + 1
    made = run("\n".join(lines[begin : lines.index("", begin)]))
    case = finding.shown.case
    for name, array in case.primals.items():
        assert np.array_equal(made[name], array)
    assert case.cotangents is not None
    assert all(map(np.array_equal, made["cotangents"], case.cotangents))


def test_a_report_shows_the_error_against_the_step(checked: Report) -> None:
    lines = str(checked).splitlines()
    place = lines.index("  error against step:")
    rows = [line.split() for line in lines[place + 1 : place + 4]]
    assert [row[0] for row in rows] == ["step", "error", "noise"]
    assert {len(row) for row in rows} == {8}
    assert "neither truncation nor noise" in " ".join(lines[place + 4 :])
    assert max(map(len, lines)) <= 80


def test_the_readme_shows_what_the_report_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own example, run; how many cases it took may differ, and the time."""
    pytest.importorskip("hypothesis.internal.conjecture.providers", reason="an older Hypothesis draws other cases")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page.partition("<!-- failure-output: begin")[0], re.DOTALL):
        exec(block, names)
    shown = re.search(r"<!-- failure-output: begin.*?```text\n(.*?)```\n<!-- failure-output: end", page, re.DOTALL)
    assert shown is not None
    varies = r"\(\d+ cases, .*\)|worst seen on .*|± .*"
    told, expected = (re.sub(varies, "-", text) for text in (f"{names['report']}\n", shown[1]))
    assert told == expected


def test_a_report_in_which_nothing_was_verified_says_so() -> None:
    assert str(a_report(tallies={})).startswith("dense: nothing was verified")


def test_the_table_has_one_row_for_each_layer_and_hides_empty_columns() -> None:
    lines = table.table([a_report(), a_report(a_finding(), name="lstm_cell")]).splitlines()
    assert lines[0].split() == ["layer", "cases", "entries", "worst/bound", "resolution", "time", "verdict"]
    assert lines[1].split() == ["dense", "50", "90", "0.25", "2e-11", "1.5s", "ok"]
    assert lines[2].endswith("WRONG gradient of W")


def test_the_table_fits_its_width_and_loses_figures_before_verdicts() -> None:
    open_ = {"agrees": 90, "kink": 4, "unresolved": 6, "disagrees": 0}
    reports = [a_report(a_finding(), name="a_recurrent_layer_of_a_long_name+softmax_cross_entropy"), a_report()]
    reports += [a_report(name="kinked", tallies={"gradient": a_tally(verdicts=open_)})]
    assert max(map(len, table.table(reports).splitlines())) > 80
    for width in (100, 80, 60):
        head, first, *_ = lines = table.table(reports, width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert first.endswith("WRONG gradient of W")
        assert head.split()[0] == "layer"
        assert head.split()[-1] == "verdict"
    assert "entries" not in table.table(reports, width=100)


def test_an_exception_begins_with_the_finding_and_ends_with_the_figures() -> None:
    first, *_, last = terminal.raised(a_report(a_finding())).splitlines()
    assert first == "dense: the gradient of W is wrong in 1 of 6 entries"
    assert last.startswith("dense: 1 finding (50 cases")


def test_two_calls_are_called_so_and_both_are_in_the_code() -> None:
    compared = replace(comparison((2,), (1,), ("D",)), sides=("second call", "first call"))
    text = terminal.render_finding(a_finding(compared))
    assert "analytic" not in text
    assert "    second call  " in text
    names: dict[str, Any] = {}
    exec(text[text.index("import numpy") :].partition("\n\n")[0], names)
    np.testing.assert_array_equal(names["second_call"], compared.analytic)
    np.testing.assert_array_equal(names["first_call"], compared.numerical)


def test_why_entries_are_open_is_told_over_all_layers_the_commonest_reason_first() -> None:
    shares = [("a", "primal", 90, {"grain": 9}), ("a", "primal", 10, {}), ("a", "output", 5, {"silent": 5})]
    shares += [(name, "primal", 10_000, {"noise": count}) for name, count in zip("bcdef", (500, 40, 3, 2, 2))]
    assert terminal.why_open(shares) == [
        "unresolved: noise: b 5.0%, c 0.4%, d <0.1%, 2 more",
        "unresolved: grain: a 9.0%",
    ]


def test_the_table_tells_kinks_and_the_unresolved_share() -> None:
    tally = a_tally(verdicts={"agrees": 90, "kink": 4, "unresolved": 6, "disagrees": 0})
    head, row = table.table([a_report(tallies={"gradient": tally})]).splitlines()
    assert head.split()[-3:] == ["unresolved", "kinks", "verdict"]
    assert row.split()[-3:] == ["6.0%", "4", "ok"]


def test_the_resolution_in_the_table_is_that_of_the_gradient_property() -> None:
    tallies = {"precision": a_tally("precision", resolutions=[1e-3]), "gradient": a_tally()}
    assert "2e-11" in table.table([a_report(tallies=tallies)])


def test_the_summary_counts_layers_and_findings() -> None:
    reports = [a_report(), a_report(a_finding(), a_finding()), a_report(tallies={})]
    assert table.summary(reports) == "1 of 3 layers ok, 2 findings in 1, 1 not verified (4.5 s, seed 17)"


def run(text: str) -> dict[str, Any]:
    scope: dict[str, Any] = {}
    exec(text, scope)
    return scope


def test_the_code_of_a_case_gives_back_the_case() -> None:
    scope = run(code.python(a_case()))
    np.testing.assert_array_equal(scope["x"], a_case().primals["x"])
    assert scope["options"] == {"stride": 2}
    assert len(scope["cotangents"]) == 1


def test_primals_whose_names_are_no_identifiers_go_into_a_dict() -> None:
    scope = run(code.python(a_case(primals={"0.weight": np.ones(2), "lambda": np.zeros(1)})))
    assert list(scope["primals"]) == ["0.weight", "lambda"]


def test_options_of_every_kind_survive_as_code() -> None:
    options = {"a": (1,), "b": [2.5, None], "c": float("inf"), "d": "two  spaces", "e": True, "f": np.float64(0.1)}
    assert run(code.python(a_case(options=options)))["options"] == options


@given(
    hnp.arrays(
        st.sampled_from(["f8", "f4", "f2", "c16", "c8", "i8", "i4", "u1", "?"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
    )
)
def test_every_array_survives_as_code_bit_by_bit(array: np.ndarray[Any, Any]) -> None:
    again = run(code.python(Case("f", {"x": array}, cotangents=(array, array))))
    for copy in (again["x"], *again["cotangents"]):
        assert (copy.dtype, copy.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(copy, array)
        parts = [(copy.real, array.real), (copy.imag, array.imag)] if array.dtype.kind == "c" else [(copy, array)]
        for new, old in parts:
            if array.dtype.kind in "fc":
                kept = ~np.isnan(old)  # the sign of a NaN has no spelling
                np.testing.assert_array_equal(np.signbit(new)[kept], np.signbit(old)[kept])


def test_long_arrays_are_wrapped_into_lines_that_fit() -> None:
    rng = np.random.default_rng(0)
    text = code.python(a_case(primals={"x": rng.standard_normal((4, 7)), "y": rng.standard_normal(20)}))
    assert all(len(line) <= 76 for line in text.splitlines())
    run(text)


def test_numbers_are_short_and_entries_carry_axis_names() -> None:
    assert [short(v) for v in (1234.5678, np.float32(0.1), 3, 1 + 2j)] == ["1235", "0.1", "3", "1+2j"]
    assert entry("W", (1, 0), ("D", "H")) == "W[D=1, H=0]"
    assert entry("W", (1,), ()) == "W[axis 0=1]"
    assert entry("b", (), ()) == "b"


def test_json_holds_plain_values_and_says_what_wrote_it() -> None:
    finding = a_finding()
    content = json.loads(json.dumps(jsonreport.to_json([a_report(finding)], {finding: "case.npz"}), allow_nan=False))
    assert (content["schema"], content["version"], content["ok"]) == ("gradverify-report", 1, False)
    assert {"gradverify", "python", "numpy"} <= set(content)
    (layer,) = content["layers"]
    assert (layer["layer"], layer["seed"], layer["verified"]) == ("dense", 17, True)
    assert layer["properties"]["accumulates"]["reason"] == "it has no buffers"
    (found,) = layer["findings"]
    assert found["case"]["file"] == "case.npz"
    assert found["facts"] == {"ratio": 2.0, "wrong": 1, "remainder": "nan"}
    assert found["entry"] == {
        "index": [1, 0],
        "labels": ["D", "H"],
        "sides": ["analytic", "numerical"],
        "analytic": 6.0,
        "numerical": 3.0,
        "bound": 1e-9,
        "ratio": 3.0 / 1e-9,
        "wrong": 1,
        "total": 6,
    }
    assert found["diagnoses"][0]["evidence"] == {"factor": 2.0}


def test_json_inlines_small_arrays_only() -> None:
    def case_of(size: int) -> dict[str, Any]:
        finding = a_finding(case=a_case(primals={"x": np.ones(size)}))
        case: dict[str, Any] = jsonreport.to_json([a_report(finding)])["layers"][0]["findings"][0]["case"]
        return case["primals"]["x"]

    assert case_of(2) == {"dtype": "float64", "shape": [2], "values": [1.0, 1.0]}
    assert case_of(2000) == {"dtype": "float64", "shape": [2000]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64("inf"), "inf"),
        (np.array([1.0, -np.inf]), [1.0, "-inf"]),
        (np.array([1 + 2j]), [[1.0, 2.0]]),
        (np.bool_(True), True),
        ({1: (np.int8(3), None)}, {"1": [3, None]}),
        (np.longdouble(0.5), 0.5),
        (Verdict, str(Verdict)),
    ],
)
def test_values_become_plain(value: Any, expected: Any) -> None:
    assert jsonreport.plain(value) == expected
    assert type(jsonreport.plain(value)) is type(expected)


def test_a_report_of_nothing_is_not_ok() -> None:
    assert jsonreport.to_json([])["ok"] is False


@pytest.mark.parametrize("name", ["dense", "tanh", "layer_norm", "softmax", "rnn_cell"])
def test_an_entry_that_agrees_is_off_by_no_more_than_its_bound(name: str) -> None:
    report = check_layer(layers.get(name), Settings(examples=8, properties=("gradient", "special")))
    assert report.ok
    assert 0 < max(tally.worst_ratio for tally in report.tallies.values()) <= 1


def test_what_an_analytic_value_is_rounded_by_belongs_to_the_bound_that_is_shown() -> None:
    """A gradient that is right to its last digits, whose numerical derivative is exact."""
    layer = Layer(lambda x: (3.0 * x, None), lambda dy, _: dy * (3.0 * (1 + 8e-15)), name="triple", x="N")
    case = Case("triple", {"x": np.zeros(2)}, cotangents=(np.array([1.0, 2.0]),))
    (tally,) = verify(layer, case, "gradient").tallies.values()
    assert tally.verdicts["agrees"] == 2
    assert 0 < tally.worst_ratio <= 1


def refused(x: np.ndarray) -> Any:
    raise ValueError("never")


def test_nothing_holds_of_a_forward_that_always_raises() -> None:
    layer = Layer(refused, lambda dy, _: dy, name="refused", x="N")
    report = check_layer(layer, Settings(examples=4, shrink=False))
    assert [f.property for f in report.findings] == ["complete"]
    said = "\n".join(terminal.held(report, 1000))
    assert "held" not in said
    assert "explained by complete: gradient;" in said
    assert not any(tally.verified for name, tally in report.tallies.items() if name != "complete")


def test_a_property_that_compared_nothing_does_not_hold() -> None:
    silent = Tally("reuse")
    silent.add(Outcome("reuse"))
    assert (silent.cases, silent.skipped, silent.reason) == (0, 1, "on no case was there anything to compare")


def test_the_ledger_says_what_was_verified_of_each_primal_and_output(checked: Report) -> None:
    x, w, b, y = checked.verified_by.verified
    assert [(s.name, s.kind) for s in (x, w, b, y)] == [
        ("x", "primal"),
        ("W", "primal"),
        ("b", "primal"),
        ("y", "output"),
    ]
    assert min(s.entries for s in (x, w, b, y)) > 0
    assert x.decided == x.entries - sum(x.unresolved.values())
    assert x.resolution is not None
    assert 0 < x.resolution < 1e-6
    assert y.decided == y.entries - sum(y.unresolved.values())
    assert y.resolution is not None
    assert y.resolution <= max(s.resolution or 0.0 for s in (x, w, b))  # the finest of the gradients shows an error
    assert checked.verified_by.missing == ()


def test_a_primal_of_which_nothing_was_decided_is_not_verified() -> None:
    tally, case = Tally("gradient"), comparison((2,), ())
    case.verdicts[:] = Verdict.UNRESOLVED
    case = replace(case, reasons=np.array([1, 0]), rules=("", SCREENED))
    tally.add(Outcome("gradient", compared=(case,), entries=2, outputs={"y": Weighted(0), "z": Weighted(3)}))
    ledger = a_report(tallies={"gradient": tally}).verified_by
    assert [(item.name, item.blocks) for item in ledger.missing] == [("W", False), ("y", False)]
    assert "not looked at one by one" in ledger.missing[0].reason
    assert ledger.verified[0].unresolved == {says(SCREENED): 1, "unresolved": 1}
    assert (ledger.verified[1].decided, sum(ledger.verified[1].unresolved.values())) == (0, 3)


def test_an_output_is_resolved_by_what_it_adds_to_gradients_and_one_that_adds_nothing_is_not() -> None:
    def forward(x, h):
        return (x + h, 1e-3 * x * h, np.argmax(x, -1) * 1.0), (x, h)

    def backward(dy, saved):
        (a, m, _), (x, h) = dy, saved
        return a + 1e-3 * m * h, a + 1e-3 * m * x

    check = functools.partial(gv.check, forward, x="N D", h="N D", examples=8, properties="gradient", raises=False)
    said = {s.name: s for s in check(backward).verified_by.verified if s.kind == "output"}
    assert said["y0"].decided == said["y0"].entries > 0
    assert said["y1"].resolution > 10 * said["y0"].resolution > 0
    assert (said["y2"].decided, said["y2"].resolution) == (0, None)
    assert list(said["y2"].unresolved) == [NOTHING_ADDED]

    def slipped(dy, saved):  # by twice what is noticed of the second output
        (a, m, _), (x, h) = dy, saved
        part = 1e-3 * m * (1 + 8 * said["y1"].resolution)
        return a + part * h, a + part * x

    assert not check(slipped).ok


def test_weights_that_were_left_out_are_no_pass_and_the_line_that_declares_them_is_printed() -> None:
    left = (
        NotVerified("w", "no gradient found", '"w": "grads[0]"', True),
        NotVerified("b", "no gradient found", '"b": "db"', True),
    )
    report = a_report(unverified=(*left, NotVerified("eps", "a setting")))
    assert not report.ok
    assert not report.verified
    assert table.verdict(report) == "not verified: w, b"
    text = terminal.render(report)
    assert text.startswith("dense: not verified: w, b (")
    assert (
        '\n    to declare them: pairs={"w": "grads[0]", "b": "db"}\n    if they need none: constants=("w", "b")' in text
    )
    assert "not verified: eps: a setting" in text
    assert terminal.undecided(report).startswith("not verified: w, b: no gradient found")
    assert a_report(
        unverified=left, tallies={"pure": Tally("pure", cases=9, entries=9)}
    ).ok  # gradients were not asked for


def test_two_layers_of_one_name_are_told_apart() -> None:
    reports = [a_report(name="f", origin="a.py:f"), a_report(name="f", origin="b.py:f"), a_report(), a_report(name="g")]
    assert table.labels(reports) == ["a.py:f", "b.py:f", "dense", "g"]
    assert table.labels([a_report(), a_report()]) == ["dense#1", "dense#2"]
    assert [row.split()[0] for row in table.table(reports).splitlines()[1:]] == ["a.py:f", "b.py:f", "dense", "g"]
    told = jsonreport.to_json(reports)["layers"]
    assert [layer["label"] for layer in told] == ["a.py:f", "b.py:f", "dense", "g"]
    assert [layer["layer"] for layer in told] == ["f", "f", "dense", "g"]


def test_a_property_that_compared_nothing_as_all_was_known_to_be_wrong_does_not_hold() -> None:
    report = gv.check(lambda x: (x**2, x), lambda dy, x: 3 * x * dy, x="N", examples=6, raises=False)
    assert terminal.state(report, "special") == "explained"
    assert "explained by gradient: special" in terminal.render(report)
    right = gv.check(lambda x: (x**2, x), lambda dy, x: 2 * x * dy, x="N", examples=6)
    assert terminal.state(right, "special") == "ok"
