"""Lines that never ran, as reports, the command line and pytest tell them."""

from __future__ import annotations

import json
import textwrap

import pytest

import gradverify as gv
from gradverify.cli import run
from gradverify.report import html, jsonreport

pytest_plugins = ["pytester"]

LAYERS = textwrap.dedent(
    """
    import gradverify as gv

    def forward(x, mode="mean"):
        return x * x, (x, mode)

    def backward(dy, saved):
        x, mode = saved
        if mode == "sum":
            dy = dy + 0
        return 2 * x * dy

    partly = gv.Layer(forward, backward, name="partly", x="N")
    wholly = gv.Layer(lambda x: (x * x, x), lambda dy, x: 2 * x * dy, name="wholly", x="N")
    """
).lstrip()


@pytest.fixture
def layers(tmp_path):
    (tmp_path / "some_layers.py").write_text(LAYERS)
    return tmp_path / "some_layers.py"


def check(path, name):
    from gradverify.targets import load

    (layer,) = load(f"{path}:{name}")
    return gv.check(layer, examples=10, properties="gradient")


def test_a_pass_with_lines_that_never_ran_says_so_in_its_headline(layers):
    text = str(check(layers, "partly"))
    assert "ok, but 1 line of backward never ran (10 cases" in text
    assert "never: 9 (`if mode == 'sum'`)" in text
    assert "partly: ok" in text and "wholly: ok (10 cases" in str(check(layers, "wholly"))


def test_json_and_html_have_every_line(layers):
    report = check(layers, "partly")
    (layer,) = jsonreport.to_json([report])["layers"]
    json.dumps(layer, allow_nan=False)
    backward = next(f for f in layer["lines"]["functions"] if f["role"] == "backward")
    assert [line for line, _, _ in backward["lines"] if line not in backward["ran"]] == [9]
    page = html.render_html([report])
    assert "✗    9          dy = dy + 0" in page.replace("&#x27;", "'") and "✓    7      x, mode = saved" in page


@pytest.mark.parametrize(("name", "least", "status"), [("partly", 90, 3), ("partly", 10, 0), ("wholly", 100, 0)])
def test_a_share_can_be_asked_for(layers, name, least, status, capsys):
    arguments = ["check", f"{layers}:{name}", "--examples", "10", "--fail-under-coverage", str(least)]
    assert run([*arguments, "--property", "gradient"]) == status
    assert ("less than the 90 % asked for" in capsys.readouterr().err) == (status == 3)


def test_a_share_beyond_a_hundred_is_refused(layers, capsys):
    assert run(["check", f"{layers}:partly", "--fail-under-coverage", "101"]) == 2
    assert "percentage from 0 to 100" in capsys.readouterr().err


@pytest.mark.parametrize(("least", "jobs"), [(None, 0), ("10", 0), ("95", 1)])
def test_pytest_sums_up_over_the_checks_of_a_layer(pytester, least, jobs):
    pytester.makepyfile(some_layers=LAYERS + "gv.register(partly), gv.register(wholly)\n")
    pytester.makeini(
        "[pytest]\npythonpath = .\ngradverify_modules = some_layers\n"
        "gradverify_properties = gradient linear\ngradverify_examples = 5\n"
        + (f"gradverify_fail_under_coverage = {least}\n" if least else "")
    )
    result = pytester.runpytest_subprocess("--gradverify-json=out.json", f"--gradverify-jobs={jobs}")
    result.stdout.fnmatch_lines(["partly: backward: 3 of 4 lines ran; never: 9 (`if mode == 'sum'`)*"])
    assert "wholly: backward" not in result.stdout.str()
    assert result.ret == (1 if least == "95" else 0)
    told = json.loads((pytester.path / "out.json").read_text())
    assert told["lines"]["wholly"]["percent"] == 100.0


def test_pytest_refuses_a_share_that_is_none(pytester):
    pytester.makeini("[pytest]\ngradverify_fail_under_coverage = most\n")
    result = pytester.runpytest_subprocess()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*'most' is not a number from 0 to 100*"])
