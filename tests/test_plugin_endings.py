"""However a layer ends the process of pytest, the status is not 0, and the layer and its case are named."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="pytest is supervised where it can fork")

LAYERS = """
import ctypes
import os
import gradverify

execute = os.execv

@gradverify.register(name="right")
class right:
    x = "N"
    def forward(x): return x * x, x
    def backward(dy, x): return 2 * x * dy

@gradverify.register(name="wrong")
class wrong:
    x = "N"
    def forward(x): return x * x, x
    def backward(dy, x): return 3 * x * dy

"""
ENDS = """
@gradverify.register(name="{name}")
class {name}:
    x = "N"
    def forward(x):
        if x.size == 3:
            {how}
        return x * x, x
    def backward(dy, x): return 2 * x * dy
"""
OWN = """
import mine

def test_before(): pass

def test_own(gradverify):
    gradverify("ends")

def test_after(): assert False
"""
SCRIPT = str(Path(sys.executable).parent / "pytest")
HOWS = {
    "exit": "os._exit(0)",
    "exit of C": "ctypes.CDLL(None)._exit(0)",
    "end of C": "ctypes.CDLL(None).exit(0)",
    "another program": 'execute("/bin/true", ["/bin/true"])',
    "abort": "os.abort()",
}


@pytest.fixture
def project(pytester, monkeypatch):
    for variable in ("CI", "GITHUB_ACTIONS", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(variable, raising=False)

    def write(*hows, table='modules = "mine"\nproperties = "gradient"\nexamples = 60\nseed = 1\n', own=OWN):
        names = ("ends", *(f"ends{k}" for k in range(1, len(hows))))
        ends = (ENDS.format(name=name, how=how) for name, how in zip(names, hows, strict=True))
        pytester.makepyfile(mine=LAYERS + "".join(ends))
        if own:
            pytester.makepyfile(test_own=own)
        pytester.makepyprojecttoml("[tool.pytest.ini_options]\n" + (table and f"[tool.gradverify]\n{table}"))
        return pytester

    return write


def test_layers_that_are_tests_end_their_own_process_alone(project):
    hows = [HOWS[how] for how in ("exit", "exit of C", "another program")]
    result = project(*hows, own="").runpytest_subprocess()
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=4)
    result.stdout.re_match_lines(
        [
            *(rf"{name} +gradient .*WRONG \(crash\)" for name in ("ends", "ends1", "ends2")),
            r"right +gradient .*ok",
            r"wrong +gradient .*WRONG \(wrong x\)",
            r"FAILED gradverify::ends::gradient - .*",
        ]
    )


@pytest.mark.parametrize("how", HOWS)
def test_a_test_of_ones_own_cannot_end_the_run_with_status_0(project, how):
    result = project(HOWS[how]).runpytest_subprocess("test_own.py")
    assert result.ret not in (0, -9)
    said = result.stdout.str() + result.stderr.str()
    assert "test_own.py::test_own" in said
    assert "gradverify replay .gradverify/corpus/ends-" in said
    if how in ("exit", "abort"):  # of Python's os: a finding like any other
        result.assert_outcomes(passed=1, failed=2)
    else:
        assert "pytest was ended with status 0 in the middle of its run, inside test_own.py::test_own" in said


@pytest.mark.parametrize(
    "command",
    [[sys.executable, "-m", "pytest"], [SCRIPT]],
    ids=["module", "script"],
)
def test_it_does_not_matter_how_pytest_is_started_nor_whether_the_project_is_configured(project, command):
    pytester = project(HOWS["exit of C"], table="")
    result = pytester.run(*command, "-q")
    assert result.ret == 70
    result.stderr.fnmatch_lines(["*inside test_own.py::test_own*", "*the process ended while it ran the layer*"])


def test_a_layer_that_is_checked_without_the_fixture_is_named_as_well(project):
    own = "import gradverify as gv, mine\ndef test_own(): gv.check('ends', properties='gradient')\n"
    result = project(HOWS["exit of C"], table="", own=own).runpytest_subprocess()
    assert result.ret == 70
    result.stderr.fnmatch_lines(["*inside test_own.py::test_own*", "ends: the process ended while it ran the layer*"])


def test_the_status_of_a_run_that_ends_by_itself_is_its_own(project):
    pytester = project("pass")
    assert pytester.runpytest_subprocess("-k", "right or before").ret == 0
    assert pytester.runpytest_subprocess("-k", "after").ret == 1
    assert pytester.runpytest_subprocess("--nosuch").ret == pytest.ExitCode.USAGE_ERROR


def test_what_a_layer_raises_for_somebody_else_is_a_finding(project):
    own = "import sys, pytest\n            class Own(BaseException): pass\n            "
    hows = [own + raised for raised in ("pytest.skip()", "pytest.exit('leave', 0)", "sys.exit(0)", "raise Own")]
    result = project(*hows).runpytest_subprocess("-k", "ends or test_own or before")
    result.assert_outcomes(passed=1, failed=6)
    names = ("gradverify:ends", "ends1", "ends2", "ends3")
    result.stdout.re_match_lines([rf"{name} +gradient .*WRONG \(crash\)" for name in names])


def test_layers_run_in_the_process_of_pytest_where_that_is_wanted(project):
    how = "open('pids', 'a').write(f'{os.getpid()} ')"
    own = "import os\ndef test_own(): open('pid', 'w').write(str(os.getpid()))\n"
    pytester = project(how, own=own)
    for jobs, same in (("0", True), ("1", False)):
        (pytester.path / "pids").unlink(missing_ok=True)
        assert pytester.runpytest_subprocess("-k", "own or ends", f"--gradverify-jobs={jobs}").ret == 0
        pids = set((pytester.path / "pids").read_text().split())
        assert (pids == {(pytester.path / "pid").read_text()}) is same


def test_a_layer_that_no_other_process_can_load_runs_in_that_of_pytest(project):
    """One that a conftest has registered."""
    pytester = project("pass", table='layers = "of_conftest"\nproperties = "gradient"\nexamples = 5\n', own="")
    pytester.makeconftest(
        "import gradverify\ngradverify.register(gradverify.Layer("
        "lambda x: (x * x, x), lambda dy, x: 3 * x * dy, name='of_conftest', x='N'))"
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"of_conftest +gradient .*WRONG \(wrong x\)"])


FOREVER = {
    "compiled code": "sum(range(10**13))",
    "no alarm": "import signal; signal.signal(signal.SIGALRM, signal.SIG_IGN)\n            while True: pass",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", FOREVER)
def test_a_layer_that_no_time_limit_can_end_is_ended_by_the_parent(project, how):
    result = project(FOREVER[how]).runpytest_subprocess("test_own.py", timeout=90)
    assert result.ret == 70
    result.stderr.fnmatch_lines(["*as a layer did not return, inside test_own.py::test_own*", "*could not be stopped*"])


@pytest.mark.slow
def test_threads_that_a_layer_leaves_behind_do_not_keep_the_run_from_its_end(project):
    how = "import threading, time; threading.Thread(target=time.sleep, args=(300,)).start()"
    result = project(how).runpytest_subprocess("test_own.py", timeout=90)
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=1)


def test_a_page_tells_the_parent_what_the_child_is_at(monkeypatch):
    import mmap

    from gradverify.pytest_plugin import supervisor

    page, times = mmap.mmap(-1, 64), {"silent": True}
    monkeypatch.setattr(supervisor, "_page", [page])
    monkeypatch.setattr(sys, "gettrace", lambda: None)
    patience = supervisor._Patience(os.getpid(), page)
    monkeypatch.setattr(patience.silence, "longer_than", lambda seconds, waits=True: times["silent"])
    for at, over in ((supervisor.free, False), (lambda: supervisor.busy(10.0), True), (supervisor.leaving, True)):
        at()
        patience.over()  # what is new has just begun
        assert patience.over() is over
    supervisor.busy(10.0)
    times["silent"] = False
    assert not patience.over() and not patience.over()
