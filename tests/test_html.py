"""The HTML report is one well-formed file, loads nothing, escapes everything, and says what the terminal says."""

from __future__ import annotations

import html
import math
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradverify import Layer
from gradverify.cli import run
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.nouns import Case, Comparison, Diagnosis, Finding, Fit, Outcome, Verdict
from gradverify.core.nouns.ledger import NotVerified
from gradverify.core.summarise.coverage import DISTINCT, OTHERS, Coverage, regions
from gradverify.core.summarise.report import Report
from gradverify.core.summarise.tally import RATIOS, Tally
from gradverify.report.html import render_finding, render_html, render_report
from gradverify.report.html.ladder import ladder_plot
from gradverify.report.html.markup import breakable, el
from gradverify.report.jsonreport import to_json

VOID = {"meta", "wbr"}
HOSTILE = '<script>alert("x")</script>&\x00'


class Page(HTMLParser):
    """Elements of a page; fails on a tag that is closed out of order or not at all."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.path: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.path == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute is given twice: {attrs}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.path.pop() == tag

    def all(self, tag: str, cls: str = "") -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and set(cls.split()) <= set((a.get("class") or "").split())]


def text_of(page: str) -> str:
    """What a reader sees: no style, no script, no tags."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


def comparison(shape: tuple[int, ...], wrong: Any, labels: tuple[str, ...] = ()) -> Comparison:
    numerical = np.arange(1.0, 1.0 + math.prod(shape)).reshape(shape)
    analytic, verdicts = np.array(numerical), np.zeros(shape, np.int8)
    analytic[wrong] *= -2
    verdicts[wrong] = Verdict.DISAGREES
    return Comparison("W", analytic, numerical, np.full(shape, 1e-9), verdicts, 1.0, labels)


def a_finding(compared: Comparison | None = None, **changes: Any) -> Finding:
    case = Case("dense", {"x": np.array([[1.5, 2.0]])}, {"stride": 2}, (np.array([[1.5]]),), 1e-5, 7, "mine.py:dense")
    compared = comparison((3, 2), (1, 0), ("D", "H")) if compared is None else compared
    message = "the gradient of W is wrong in 1 of 6 entries: at W[1, 0] analytic 6, numerical 3"
    facts = {"ratio": 2.0, "axes": {}, "ladder": [(1.0, 9.0, 1e-15), (0.1, 9.0, 1e-14), (0.01, 9.0, 1e-13)]}
    diagnoses = (
        Diagnosis("factor", "FACTOR", "dW is twice the true gradient", Fit.LAW, {"tried_on": "3 fresh cases"}),
        Diagnosis("sign", "SIGN", "the sign is flipped", Fit.VAGUE),
    )
    found = Finding("gradient", "wrong", "W", message, case, compared, 3e9, facts, diagnoses)
    return found.but(**changes)


def a_report(*findings: Finding, name: str = "dense", **changes: Any) -> Report:
    verdicts = {"agrees": 90, "kink": 0, "unresolved": 10, "disagrees": 0}
    histogram = [0] * len(RATIOS) + [7]
    gradient = Tally("gradient", cases=50, entries=100, verdicts=verdicts, worst_ratio=0.25, histogram=histogram)
    tallies = {"gradient": gradient, "accumulates": Tally("accumulates", skipped=50, reason="it has no buffers")}
    return Report(name, **{"tallies": tallies, "findings": findings, "seed": 17, "examples": 50} | changes)


def test_a_page_is_well_formed_and_loads_nothing() -> None:
    text = render_html([a_report(a_finding()), a_report(name="other", declared=("stateful",), notes=("a note",))])
    page = Page(text)
    assert not re.search(r"https?:|url\(|@import|//", text.replace("://www.w3.org/", ""))
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    policy = page.all("meta")[-1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_every_link_leads_somewhere_and_no_id_is_given_twice() -> None:
    page = Page(render_html([a_report(a_finding(), a_finding()), a_report()]))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for a in page.all("a")} <= set(ids)
    assert {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a} <= set(ids)


def test_a_finding_says_what_the_terminal_says() -> None:
    finding = a_finding()
    text = text_of(render_html([a_report(finding)], {finding: "a case.npz"}))
    for said in (
        "the gradient of W is wrong in 1 of 6 entries",
        "W[D=1, H=0]",
        "-6",
        "3 ± 1e-09",
        "1 of 6",
        "x = np.array([[1.5, 2.0]])",
        "gradverify replay 'a case.npz'",
        "tried on",
        "seed 17",
        "NumPy " + np.__version__,
    ):
        assert said in text
    assert text.index("dW is twice the true gradient") < text.index("the sign is flipped")
    assert "axes" not in text  # a fact that says nothing


def test_a_target_is_asked_for_where_the_case_names_none() -> None:
    finding = a_finding(case=a_finding().case.but(target=None))
    assert "gradverify replay f.npz --target TARGET" in text_of(render_html([a_report(finding)], {finding: "f.npz"}))


def test_the_overview_tells_what_holds_what_does_not_and_why_something_was_skipped() -> None:
    failing = a_report(name="third")
    failing.tallies["gradient"].failing = 3
    page = render_html([a_report(a_finding()), a_report(name="second"), failing])
    overview = text_of(page[page.index("<table") : page.index("</table>")])
    for said in (
        "dense, gradient: does not hold. cases 50, entries 100, worst/bound 0.25, resolution 0, unresolved 10.0%",
        "second, gradient: holds.",
        "third, gradient: does not hold, as another finding explains.",
        "accumulates: not tried. it has no buffers.",
    ):
        assert said in re.sub(r"\s+", " ", overview)
    rest = text_of(page[page.index("</table>") :])
    assert rest.count("it has no buffers") == 3  # visible in each layer's own table as well


def test_strings_of_authors_are_escaped_everywhere() -> None:
    case = a_finding().case.but(
        layer=HOSTILE, primals={HOSTILE: np.ones(2)}, options={HOSTILE: HOSTILE}, target=HOSTILE
    )
    compared = Comparison(HOSTILE, *np.ones((2, 2)), np.zeros(2), np.array([3, 0]), 1.0, (HOSTILE,))
    diagnosis = Diagnosis(HOSTILE, HOSTILE, HOSTILE, Fit.FORM, {HOSTILE: HOSTILE})
    finding = a_finding(compared, message=HOSTILE, case=case, diagnoses=(diagnosis,), facts={HOSTILE: HOSTILE})
    tallies = {HOSTILE: Tally(HOSTILE, skipped=1, reason=HOSTILE)}
    coverage = Coverage()
    coverage.add(Layer(lambda v: (v, v), lambda dy, v: dy, name="id", v="N"), case.but(primals={"v": np.ones(2)}))
    report = a_report(finding, name=HOSTILE, tallies=tallies, declared=(HOSTILE,), notes=[HOSTILE], coverage=coverage)
    for text in (render_html([report], {finding: HOSTILE}), render_report(report), render_finding(finding)):
        assert len(Page(text).all("script")) == 1
        assert "alert" in text
        assert "\x00" not in text
        assert "<script>alert" not in text


def test_attributes_cannot_be_left_and_zero_is_a_value() -> None:
    assert el("p", title='"><b>', tabindex=0, hidden=None) == '<p title="&quot;&gt;&lt;b&gt;" tabindex="0"></p>'
    assert el("td", "a < b", el("b", "c")) == "<td>a &lt; b<b>c</b></td>"
    assert breakable("my_layer<") == "my_<wbr>layer&lt;"


@pytest.mark.parametrize("reports", [[], [a_report(tallies={})]])
def test_nothing_checked_is_still_a_page(reports: list[Report]) -> None:
    text = render_html(reports)
    assert Page(text).all("main")
    assert ("no layer was checked" in text) == (not reports)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 2, 3), (2, 1, 2, 3)])
def test_each_entry_is_a_cell_of_three_maps_and_wrong_ones_are_marked(shape: tuple[int, ...]) -> None:
    page = Page(render_html([a_report(a_finding(comparison(shape, (0,) * len(shape))))]))
    shown = math.prod(shape[-2:])
    cells = page.all("g", "cell")
    assert len(cells) == 3 * shown
    assert len(page.all("g", "cell wrong")) == 3
    assert [cell["tabindex"] for cell in cells].count("0") == 3  # one stop of the Tab key for each map
    assert len(page.all("svg")) >= 3
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))


def test_shades_follow_sign_and_size() -> None:
    compared = comparison((1, 3), (0, 1))
    page = render_finding(a_finding(compared))
    assert re.findall(r'class="cell (\w+)', page)[:3] == ["p2", "n5", "p4"]  # 1, -4, 3 of at most 4
    assert re.findall(r'class="cell (\w+)', page)[6:] == ["z", "n5", "z"]


def test_numbers_that_are_none_have_a_sign_and_no_shade() -> None:
    compared = comparison((2, 3), (0, 0), ("D", "H"))
    compared.analytic[0] = np.nan, np.inf, -np.inf
    compared.numerical[1], compared.bound[1], compared.verdicts[1] = np.nan, np.inf, Verdict.UNRESOLVED
    finding = a_finding(compared, severity=math.inf)
    page = render_html([a_report(finding)])
    Page(page)
    assert len(re.findall(r'class="cell x', page)) == 3 + 3 + 6
    assert "W[D=1, H=0]: analytic 4, not compared" in page
    assert "inf times" not in page


def test_a_large_gradient_is_cut_around_the_worst_entry_and_says_so() -> None:
    page = render_html([a_report(a_finding(comparison((300, 400), (200, 310), ("D", "H"))))])
    assert len(Page(page).all("g", "cell")) == 3 * 16 * 16
    assert "rows 192 to 207 of 300; columns 302 to 317 of 400" in page
    assert "W[D=200, H=310]: analytic" in page
    assert len(page) < 400_000


def test_complex_gradients_and_empty_ones_can_be_shown() -> None:
    compared = comparison((2,), (0,))
    wave = Comparison("z", compared.analytic * 1j, compared.numerical + 0j, compared.bound, compared.verdicts, 1.0)
    assert "0-2j" in text_of(render_finding(a_finding(wave)))
    assert Page(render_finding(a_finding(comparison((0, 3), ())))).all("g", "cell") == []
    assert "forward raised" in render_finding(a_finding().but(comparison=None, message="forward raised: at least one"))


def test_large_cases_are_in_the_case_file() -> None:
    big = a_finding(case=a_finding().case.but(primals={"x": np.ones((30, 30))}))
    text = text_of(render_html([a_report(big)], {big: "f.npz"}))
    assert "too large to show; they are in the case file" in text
    assert "np.ones" not in text


def test_the_ladder_shows_each_step_that_can_be_drawn() -> None:
    rungs = [(1.0, 0.5, 1e-16), (0.1, 0.0, 0.0), (0.01, math.nan, 1e-14), (1e-9, -0.5, math.inf)]
    plot = str(ladder_plot(rungs, 0.5))
    page = Page(plot)
    assert len(page.all("circle")) == 2 + 1  # and the one of the legend
    assert len(page.all("tr")) == 1 + 2
    assert "nan" not in plot
    assert ladder_plot(rungs[:1], 0.5) is None
    assert ladder_plot(rungs, math.nan) is None


def test_the_script_is_the_only_one_that_the_page_lets_run() -> None:
    page = render_html([a_report()])
    assert page.count("<script>") == 1
    assert "script-src &#x27;sha256-" in page
    assert "unsafe-inline" not in page.partition("script-src")[2].partition('"')[0]


def dense(x, W, b):
    return x @ W + b, (x, W)


def dense_backward(dy, saved):
    x, W = saved
    return dy @ W.T, x.T @ dy, dy.mean(0)


def a_layer(**changes: Any) -> Layer:
    shape = dict(x="N D", W="D H", b="H", returns="N H", batch="N")
    return Layer(dense, dense_backward, name="dense", **{**shape, **changes})


@pytest.fixture(scope="module")
def checked() -> Report:
    return check_layer(a_layer(), Settings(examples=20, properties=("gradient", "special")))


def test_a_checked_layer_has_its_ladder_histogram_and_coverage(checked: Report) -> None:
    (finding,) = checked.findings
    steps = finding.facts["ladder"]
    assert len(steps) >= 5
    compared = finding.shown.comparison
    assert compared is not None
    gap = float(compared.numerical[compared.worst] - compared.analytic[compared.worst])
    assert all(abs(error - gap) < 1e-6 for h, error, _ in steps if h > 1e-4)  # dense is linear: no truncation
    tally, coverage = checked.tallies["gradient"], checked.coverage
    assert sum(tally.histogram) == tally.verdicts["agrees"] + tally.verdicts["disagrees"]
    assert sum(tally.histogram[-3:]) >= tally.failing > 0
    assert coverage is not None
    assert set(coverage.sizes) == {"N", "D", "H"}
    assert all(sum(counts.values()) == coverage.cases for counts in coverage.sizes.values())
    page = render_html([checked])
    Page(page)
    for said in ("Error against step", "size of N", "values of W", "Distribution of error over bound"):
        assert said in page


def test_json_carries_histogram_and_coverage(checked: Report) -> None:
    (layer,) = to_json([checked])["layers"]
    histogram = layer["properties"]["gradient"]["histogram"]
    assert len(histogram["counts"]) == len(histogram["borders"]) + 1
    assert sum(histogram["counts"]) == sum(checked.tallies["gradient"].histogram)
    assert sum(layer["coverage"]["sizes"]["N"].values()) == layer["coverage"]["cases"]
    assert len(layer["coverage"]["values"]["x"]) == len(layer["coverage"]["regions"])
    assert len(layer["findings"][0]["facts"]["ladder"][0]) == 3


def test_ratios_are_counted_by_decade() -> None:
    tally = Tally("gradient")
    numerical = np.zeros(6)
    analytic = np.array([0.0, 0.5, 1.0, 50.0, 1e300, np.nan])
    verdicts = np.array([0, 0, 0, 3, 3, 3], np.int8)
    tally.add(Outcome("gradient", compared=(Comparison("x", analytic, numerical, np.ones(6), verdicts, 1.0),)))
    one = RATIOS.index(1.0)
    assert {k: c for k, c in enumerate(tally.histogram) if c} == {
        0: 1,
        one: 1,
        one + 1: 1,
        one + 2: 1,
        len(RATIOS): 2,
    }


def test_a_failure_that_another_finding_explains_says_which(checked: Report) -> None:
    assert {finding.property for finding in checked.findings} == {"gradient"}
    tallies = {**checked.tallies, "special": Tally("special", cases=3, failing=2, entries=9)}
    page = render_html([replace(checked, tallies=tallies)])
    assert "as another finding explains" in page
    assert "explained by gradient" in page
    assert "explained by gradient" not in render_html([checked])


def test_the_page_says_what_was_verified_and_what_was_not(checked: Report) -> None:
    left = NotVerified("scale", "no gradient was found", '"scale": "dscale"', True)
    page = render_html([replace(checked, findings=(), unverified=(left,))])
    for said in ("What was verified", "Not verified", "scale: no gradient was found", "not verified: scale"):
        assert said in page
    assert "Not verified" not in render_html([checked])


def test_coverage_counts_sizes_options_types_and_value_regions() -> None:
    layer = Layer(lambda x, z: (x, x), lambda dy, x: (dy, dy), name="two", x="*batch D", z=("N: complex"))
    coverage = Coverage()
    x = np.array([[[0.0, -0.0, 5e-324, -1e-300, 2.0, -2.0, 1e9, np.nan]]], np.float64)
    coverage.add(layer, Case("two", {"x": x, "z": np.array([3j])}, {"mode": "a"}))
    coverage.add(layer, Case("two", {"x": np.float32([1]), "z": np.array([3j])}, {"mode": "b"}))
    assert coverage.sizes == {"*batch": {"1x1": 1, "none": 1}, "D": {"8": 1, "1": 1}, "N": {"1": 2}}
    assert coverage.options == {"mode": {"'a'": 1, "'b'": 1}}
    assert coverage.dtypes == {"float64": 1, "float32": 1, "complex128": 2}
    counted = dict(zip(regions(), coverage.values["x"]))
    assert {name: count for name, count in counted.items() if count} == {
        "0": 2,
        "below 0.0001": 1,
        "above -0.0001": 1,
        "1 to 10": 2,
        "-10 to -1": 1,
        "10000 and more": 2,
    }
    assert sum(coverage.values["z"]) == 4  # real and imaginary parts


def test_coverage_does_not_grow_without_end() -> None:
    layer, coverage = a_layer(), Coverage()
    for k in range(DISTINCT + 5):
        coverage.add(layer, Case("dense", {}, {"slope": k / 7}))
    assert len(coverage.options["slope"]) == DISTINCT + 1
    assert coverage.options["slope"][OTHERS] == 5


def test_a_notebook_shows_reports_and_findings_without_a_page_around_them(checked: Report) -> None:
    for noun in (checked, checked.findings[0]):
        fragment = noun._repr_html_()
        page = Page(fragment)
        assert not page.all("html")
        assert not page.all("body")
        assert page.elements[0] == ("div", {"class": "gradverify"})
        assert "the gradient of b is wrong" in fragment
    rules = re.sub(r"/\*.*?\*/", "", re.search(r"<style>(.*?)</style>", checked._repr_html_(), re.DOTALL)[1])
    selectors = re.findall(r"([^{}]+)\{", rules)
    assert all(
        part.strip().startswith((".gradverify", "@media"))
        for found in selectors
        for part in re.split(r",(?![^(]*\))", found)
    )


def test_a_larger_case_is_pictured_where_the_smallest_has_one_entry() -> None:
    wrong = Layer(lambda x, b: (x + b, len(x)), lambda dy, n: (dy, dy.sum(0) / n), name="add", x="N H", b="H")
    report = check_layer(wrong, Settings(examples=20, seed=0))
    (finding,) = (f for f in report.findings if f.primal == "b" and f.property == "gradient")
    assert finding.comparison is not None
    assert finding.comparison.wrong.size == 1
    assert finding.telling is not None
    assert finding.telling.comparison.wrong.size > 1
    page = render_finding(finding)
    assert "A larger case, which shows more" in page
    assert page.count(" data-at=") == 3 * finding.telling.comparison.wrong.size
    assert "A larger case" not in render_finding(finding.but(telling=None))


def test_the_page_tells_date_and_target() -> None:
    when = datetime(2026, 11, 28, 9, 5, tzinfo=timezone.utc)
    said = text_of(render_html([a_report(a_finding(), origin="mine.py:dense")], when=when))
    assert "2026-11-28 09:05 UTC" in said
    assert "mine.py:dense" in re.sub(r"\s+", "", said)


def test_the_command_line_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["check", "relu", "--examples", "3", "--property", "gradient", "--html", "report.html"]) == 0
    text = Path("report.html").read_text(encoding="utf-8")
    assert "relu" in text
    assert text.endswith("</html>\n")
    assert run(["check", "relu", "--html", "missing/report.html"]) == 2


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """
addEventListener("load", () => {
  const cell = document.querySelector('.cell[tabindex="0"]');
  cell.focus();
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  document.title = [document.querySelector(".readout").textContent, document.querySelectorAll(".code button").length,
                    wide ? "too wide" : "fits"].join("|");
});
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_runs_the_script_moves_between_cells_and_needs_no_sideways_scrolling(
    tmp_path: Path, checked: Report
) -> None:
    finding = a_finding()
    many = {f"property_{k}": Tally(f"property_{k}", reason="it does not apply") for k in range(30)}
    page = render_html([a_report(finding, tallies=many), checked], {finding: "f.npz"})
    assert "<button" not in page
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert browse(tmp_path, "page.html").count("<button") == 3  # the policy lets the page's own script run
    probed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    (tmp_path / "probed.html").write_text(probed.replace("</body>", f"<script>{PROBE}</script></body>"))
    title = html.unescape(re.search("<title>(.*?)</title>", browse(tmp_path, "probed.html"))[1])
    assert title == "W[D=1, H=1]: analytic 4, numerical 4 ± 1e-09, difference 0, agrees|3|fits"


def browse(folder: Path, name: str) -> str:
    assert BROWSER is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet = ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'profile'}"]
    command = [BROWSER, *flags, *quiet, "--window-size=500,900", "--dump-dom", (folder / name).as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
