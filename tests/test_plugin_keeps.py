"""What a layer does to the process of pytest, inside a test of the project's own, is undone: the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradverify.core.evaluate import failures
from gradverify.ending import born, end_all, kept_alive, since_boot
from gradverify.pytest_plugin.kept import Kept, OpenStream

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors, signals and limits are those of POSIX")

MINE = """
import ctypes, os, signal, subprocess, sys, threading, time
import gradverify

def says():
    for _ in range(20000):
        print("said")

def forward(x):
    {how}
    return x * x, x

odd = gradverify.Layer(forward, lambda dy, x: 2 * x * dy, name="odd", x="N")
wrong = gradverify.Layer(lambda x: (x * x, x), lambda dy, x: 3 * x * dy, name="wrong", x="N")
"""
OWN = """
import gradverify as gv, mine

def test_odd(): gv.check(mine.odd, examples=10)

def test_wrong(): gv.check(mine.wrong, examples=10)
"""
HARMLESS = {  # what a layer may do, since it is undone
    "closes streams": "sys.stdout.close(); sys.stderr.close()",
    "closes the bytes": "sys.stdout.buffer.close()",
    "closes descriptors": "os.closerange(3, 200)",
    "closes 1 and 2": "[os.close(k) for k in (1, 2) if os.path.exists(f'/dev/fd/{k}')]",
    "closes in C": "ctypes.CDLL(None).close(1)",
    "no streams": "sys.stdout = sys.stderr = None",
    "prints in threads": "threading.active_count() < 9 and threading.Thread(target=says, daemon=True).start()",
    "replaces builtins": "__import__('builtins').print = None; time.time = lambda: 0.0",
    "prints much": "print('z' * 1000000)",
}
FOUND = {  # what is a finding of the layer
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT)", "SystemExit: os.kill(SIGINT)"),
    "SIGTERM": ("signal.raise_signal(signal.SIGTERM)", "SystemExit: signal.raise_signal(SIGTERM)"),
    "SIGKILL": ("os.kill(os.getpid(), 9)", "SystemExit: os.kill(SIGKILL)"),
    "the parent": ("os.kill(os.getppid(), 9)", "SystemExit: os.kill(SIGKILL)"),
    "its group": ("os.killpg(0, 15)", "SystemExit: os.killpg(SIGTERM)"),
    "memory": ("len(b'x' * (6 << 30)) if x.size == 3 else 0", "MemoryError"),
}


@pytest.fixture
def ran(pytester, monkeypatch):
    for variable in ("CI", "GITHUB_ACTIONS", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(variable, raising=False)

    def run(how):
        pytester.makepyfile(mine=MINE.replace("{how}", how), test_own=OWN)
        pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
        return pytester.runpytest_subprocess("-q", timeout=120)

    return run


def _some(hows):
    """Each run of pytest costs seconds: the first of a kind by default."""
    return [how if how == next(iter(hows)) else pytest.param(how, marks=pytest.mark.slow) for how in hows]


@pytest.mark.parametrize("how", _some(HARMLESS))
def test_what_is_undone_keeps_no_other_test_from_its_verdict(ran, how):
    result = ran(HARMLESS[how])
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == 1 and len(result.stdout.str()) < 3 << 20


@pytest.mark.parametrize("how", _some(FOUND))
def test_what_would_end_the_run_is_a_finding(ran, how):
    if how == "memory" and sys.platform != "linux":
        pytest.skip("limits on memory need Linux")
    code, told = FOUND[how]
    result = ran(code)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([f"*{told.replace('[', '[[]')}*"])


@pytest.mark.skipif(sys.platform != "linux", reason="children are listed in /proc")
@pytest.mark.parametrize(
    "end", ["", pytest.param("; ctypes.string_at(0)", marks=pytest.mark.slow)], ids=["goes on", "dies"]
)
def test_what_a_layer_has_forked_ends_with_the_run(ran, tmp_path, end):
    note = tmp_path / "pid"
    fork = f"open({str(note)!r}, 'a').write(f'{{subprocess.Popen([\"sleep\", \"77\"]).pid}}\\n')"
    result = ran(f"(x.size == 3 and {fork}){'; x.size == 3 and ctypes.string_at(0)' if end == 'dies' else ''}")
    assert result.ret not in (0, 70)
    for pid in map(int, note.read_text().split()):
        assert _gone(pid)


def _gone(pid: int) -> bool:
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def _ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)


def test_a_signal_that_a_project_handles_or_sends_outside_of_a_layer_is_its_own_affair():
    came = []
    before = signal.signal(signal.SIGUSR1, lambda *_: came.append(1))
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a run in the background ignores
    try:
        with kept_alive():
            failures.guarded("forward", os.kill, os.getpid(), signal.SIGUSR1)
            failures.guarded("forward", os.kill, os.getpid(), 0)
            with pytest.raises(failures.LayerFailure, match=r"os.kill\(SIGUSR2\)"):
                failures.guarded("forward", os.kill, os.getpid(), signal.SIGUSR2)
            with pytest.raises(KeyboardInterrupt):
                _ctrl_c()
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signal.SIGINT, interrupt)
    assert came == [1]


def test_a_stream_takes_a_megabyte_and_does_not_close(tmp_path, monkeypatch):
    with open(tmp_path / "said", "w", encoding="utf-8") as file:
        stream = OpenStream(file)
        monkeypatch.setattr(OpenStream, "_left", [1 << 20])
        print("é" * (1 << 20), file=stream)
        stream.writelines(["more", "and more"])
        stream.close()
        assert not file.closed
    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert len(said) < (1 << 20) + 200 and "the rest is left out" in said and "more" not in said[-20:]


def test_streams_and_memory_are_as_they_were_after_a_case():
    import resource

    kept, before = Kept(), (sys.stdout, sys.stderr, resource.getrlimit(resource.RLIMIT_DATA), sys.getswitchinterval())
    kept.begin()
    assert isinstance(sys.stdout, OpenStream)
    kept.begin()
    kept.end()
    kept.end()
    assert (sys.stdout, sys.stderr, resource.getrlimit(resource.RLIMIT_DATA), sys.getswitchinterval()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="children are listed in /proc")
def test_a_run_leaves_no_descriptor_open(tmp_path):
    before = len(os.listdir("/dev/fd"))
    with (tmp_path / "file").open("wb") as file:
        kept, number = Kept(), file.fileno()
        kept.begin()
        os.close(number)
        kept.end()
        file.write(b"it is open again")
        kept.begin()
        kept.end()
    kept.mend()
    with pytest.raises(OSError, match="Bad file descriptor"):  # closed by its owner, outside of a layer
        os.fstat(number)
    kept.close()
    assert len(os.listdir("/dev/fd")) == before


def test_only_children_that_were_born_since_are_ended():
    old = subprocess.Popen(["sleep", "60"])
    time.sleep(0.05)
    since = since_boot()
    time.sleep(0.05)
    new = subprocess.Popen(["sleep", "60"])
    try:
        found = born(os.getpid(), since)
        assert set(found) == {new.pid}
        end_all({new.pid: found[new.pid], old.pid: 1})  # 1: another process had this number
        assert new.wait(5) == -signal.SIGKILL and old.poll() is None
    finally:
        old.kill()
        old.wait()
