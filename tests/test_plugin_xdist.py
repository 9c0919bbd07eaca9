"""The pytest plugin under pytest-xdist: the same results, and none lost when a worker dies."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

pytest.importorskip("xdist")
pytest_plugins = ["pytester"]

LAYERS = """
import ctypes
import os
import signal
import gradverify

@gradverify.register(name="right")
class right:
    x, W = "N D", "D H"
    def forward(x, W): return x @ W, (x, W)
    def backward(dy, saved): x, W = saved; return dy @ W.T, x.T @ dy

@gradverify.register(name="wrong")
class wrong:
    x, s = "N D", "D"
    def forward(x, s): return x * s, (x, s)
    def backward(dy, saved): x, s = saved; return dy * s, (dy * x).mean(0)
"""
KILLER = """
calls = []

@gradverify.register(name="killer")
class killer:
    x = "N D"
    def forward(x):
        if len(calls) > 60:
            ctypes.CDLL(None)["raise"](signal.SIGKILL)
        return 2.0 * x, None
    def backward(dy, saved): calls.append(0); return 3.0 * dy
"""


@pytest.fixture
def project(pytester, monkeypatch):
    for variable in ("CI", "GITHUB_ACTIONS", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(variable, raising=False)

    def write(source=LAYERS, table=""):
        pytester.makepyfile(mine=source)
        told = 'modules = "mine"\nproperties = ["gradient", "pure"]\nseed = 1\n'
        pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\n[tool.gradverify]\n{told}{table}")
        return pytester

    return write


def table(result) -> str:
    text = re.search(r"^layer +property.*?^[=-]", result.stdout.str(), re.MULTILINE | re.DOTALL).group()
    return text.rpartition("\n")[0]


def test_the_table_is_the_same_as_in_one_process(project):
    pytester = project(table="examples = 30\nshards = 2")
    pytester.makepyfile(test_own="def test_own(gradverify): gradverify('relu', properties='gradient', examples=5)")
    results = []
    for arguments in ([], ["-n2", "--dist=loadgroup", "--junitxml=out.xml", "-ojunit_family=xunit1"]):
        results.append(pytester.runpytest_subprocess(*arguments, "--gradverify-corpus", f"kept{len(results)}"))
        results[-1].assert_outcomes(passed=5, failed=2)
    alone, *spread = (re.sub(r"kept\d", "kept", table(result)) for result in results)
    assert spread == [alone]
    assert "relu " in alone
    assert "WRONG (wrong s)" in alone
    for result in results:  # both shards find it, in their own cases
        result.stdout.fnmatch_lines(["FAILED gradverify::wrong::gradient[[]0] - the gradient of s is wrong*"])
    found = {node.get("name") for node in ET.parse("out.xml").iter("property")}
    assert {"gradverify.wrong.gradient.replay", "gradverify.relu.gradient.ratio"} <= found


def test_a_layer_ends_a_process_of_its_own_and_no_worker(project):
    """And is told with its case, and with what had been found before."""
    result = project(LAYERS + KILLER, table="examples = 30").runpytest_subprocess("-n2", "-k", "gradient")
    result.assert_outcomes(passed=1, failed=2)
    assert "crashed while running" not in result.stdout.str()
    result.stdout.re_match_lines(
        [
            r"killer +gradient .*WRONG \(.*wrong x.*\)",
            r"right +gradient .*ok",
            r"wrong +gradient .*WRONG \(wrong s\)",
        ]
    )


def test_a_killed_worker_is_told_with_its_case_and_loses_no_finding(project):
    pytester = project(LAYERS + KILLER, table="examples = 30\njobs = 0")
    result = pytester.runpytest_subprocess("-n2", "--dist=worksteal", "-k", "gradient")
    result.assert_outcomes(passed=1, failed=2)
    text = result.stdout.str()
    assert re.search(r"worker 'gw\d' crashed while running 'gradverify::killer::gradient", text)
    result.stdout.re_match_lines(
        [
            "killer: the process ended while it ran the layer on this case",
            r".*replay it: gradverify replay .*killer-gradient-killed-\w+.npz",
            "before that, it had found 1:",
            "killer: the gradient of x is wrong.*",
            r"killer +gradient .*WRONG \(killed, wrong x\)",
            r"right +gradient .*ok",
            r"wrong +gradient .*WRONG \(wrong s\)",
        ]
    )
    assert "INTERNALERROR" not in text
    kept = {path.name.rpartition("-")[0] for path in (pytester.path / ".gradverify" / "corpus").glob("*.npz")}
    assert kept == {"killer-gradient-killed", "killer-gradient-wrong-x", "wrong-gradient-wrong-s"}
    assert not list(pytester.path.rglob("*.running"))


@pytest.mark.parametrize("dist", ["loadgroup", pytest.param("loadfile", marks=pytest.mark.slow)])
def test_a_killed_worker_is_replaced_by_one_that_does_the_rest(project, dist):
    """Without help, pytest-xdist 3.8 runs the killing test again and again, or waits for ever."""
    pytester = project(LAYERS + KILLER, table="examples = 5\njobs = 0")
    result = pytester.runpytest_subprocess("-n1", f"--dist={dist}", timeout=120)
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.re_match_lines([r"killer +gradient .*WRONG \(killed, wrong x\)", r"wrong +pure .*ok"])


def test_a_wrong_setting_is_one_usage_error_in_the_controller(project):
    pytester = project()
    result = pytester.runpytest_subprocess("-n2", "-o", "gradverify_modules=no_such_module")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().count("gradverify_modules: 'no_such_module' is neither") == 1
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    assert "gw0" not in result.stdout.str()
