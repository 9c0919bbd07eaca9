"""Supervised workers: what a layer does to its process is a finding of that layer, and costs no other one anything."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from campaigns import QUICK, run

from gradverify import ending
from gradverify.campaign import parcel
from gradverify.campaign.checks import in_turn
from gradverify.campaign.guard import Guard
from gradverify.campaign.state import State
from gradverify.campaign.unit import Plan, Unit
from gradverify.campaign.watch import Job, checked
from gradverify.core.check.settings import Settings
from gradverify.core.nouns import Case

HERE = Path(__file__).parent
HOSTILE = str(HERE / "hostile.py")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need POSIX")


def processes(text: str) -> list[str]:
    """Command lines that hold a text."""
    listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if text in line and "ps -ewwo" not in line]


def until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def check(folder: Path, *names: str) -> tuple[int, str, float]:
    """Status, table and seconds of a check of hostile layers."""
    begun = time.monotonic()
    targets = [f"{HOSTILE}:{name}" for name in names]
    given = ["--examples", "20", "--property", "gradient", "-j", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "gradverify.cli", "check", *targets, *given],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "internal error" not in done.stderr
    return done.returncode, done.stdout, time.monotonic() - begun


ENDS = {
    "segfault": r"ended by SIGSEGV while it ran 'segfault' on this case \(line 27 of hostile.py",
    "exits_in_c": "left with status 0",
    "becomes_another": "left with status 0",
    "terminates": "ended by SIGTERM",
    "presses_ctrl_c": r"os\.kill\(SIGINT\)",
    "dies_with_a_child": "ended by SIGSEGV",
    "leaves": r"os\._exit\(3\)",
    "memory_hog": "Unable to allocate",
}


@pytest.mark.parametrize(
    "told", [ENDS, pytest.param({"hangs_for_good": "did not return in time"}, marks=pytest.mark.slow)]
)
def test_what_ends_a_process_is_a_finding_and_a_bug_beside_it_is_found(tmp_path, told):
    status, out, seconds = check(tmp_path, *told, "planted", "fine")
    said = " ".join(out.split())
    assert status == 1
    for name, how in told.items():
        assert re.search(rf"\b{name}: ((?!replay it).)*{how}", said)  # of this finding, and no later one
        assert re.search(rf"{name} .* WRONG complete", out)
        assert re.search(rf"replay it: gradverify replay \S*{name}-complete", out)
    assert re.search(r"planted .* WRONG gradient of x", out)
    assert re.search(r"fine .* ok", out)
    assert seconds < 90


def test_what_is_no_fault_of_the_gradient_is_no_finding_and_harms_no_other_layer(tmp_path):
    names = ("runs_on_twice", "leaves_things_behind", "closes_files")
    status, out, _ = check(tmp_path, *names, "planted", "fine", *names)
    assert status == 1
    for name in (*names, "fine"):
        assert re.search(rf"{name} .* ok", out)
    assert re.search(r"planted .* WRONG gradient of x", out)
    assert not processes(str(tmp_path))


def test_a_termination_that_the_layer_sends_itself_is_found_by_a_campaign(tmp_path):
    plan = replace(QUICK, properties=("gradient",))  # which property meets a fault first depends on the time
    summary = run(tmp_path, f"{HOSTILE}:terminates", f"{HOSTILE}:planted", seconds=60.0, max_findings=2, plan=plan)
    found = {entry.found.layer: entry.found for entry in summary.findings}
    assert found["terminates"].kind == "crash"
    assert "SIGTERM" in found["terminates"].message
    assert found["planted"].kind == "wrong"
    assert not summary.lost


def test_a_worker_that_somebody_terminates_is_replaced(tmp_path):
    guard, deltas = Guard(), []

    def heard(delta):
        deltas.append(delta)
        if not any(delta.lost for delta in deltas):
            guard._process.send_signal(signal.SIGTERM)

    guard.run(Unit(1, "relu", "relu", 3, 600.0, plan=QUICK, cases=200), heard)
    guard.close()
    assert [why for delta in deltas for why in delta.lost] == ["was ended by signal 15"]
    assert sum(delta.cases for delta in deltas) == 200


def test_a_layer_that_has_forked_and_dies_is_found_and_its_child_is_ended(tmp_path):
    summary = run(tmp_path, f"{HOSTILE}:dies_with_a_child", seconds=60.0, max_findings=1)
    (entry,) = summary.findings
    assert "SIGSEGV" in entry.found.message
    assert not processes(str(tmp_path))


def test_a_campaign_that_is_killed_during_a_trial_leaves_no_process(tmp_path):
    given = ["fuzz", f"{HOSTILE}:stalls_when_tried_again", "--store", str(tmp_path), "--workers", "1"]
    main = subprocess.Popen(
        [sys.executable, "-m", "gradverify.cli", *given],
        cwd=HERE.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: len(processes(f"{tmp_path}/journal")) == 2)  # the trial has forked
    finally:
        main.kill()
        main.wait()
    until(lambda: not processes(str(tmp_path)), 5.0)


def test_a_second_interrupt_ends_a_campaign_within_two_seconds(tmp_path):
    given = ["fuzz", f"{HOSTILE}:hangs_for_good", "--store", str(tmp_path), "--workers", "1"]
    main = subprocess.Popen(
        [sys.executable, "-m", "gradverify.cli", *given],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: list(tmp_path.glob("journal/*/*.case")))
    time.sleep(3.0)  # it hangs by now
    main.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert main.poll() is None
    main.send_signal(signal.SIGINT)
    begun = time.monotonic()
    main.communicate(timeout=30)
    assert main.returncode == 130
    assert time.monotonic() - begun < 2.0
    assert not processes(str(tmp_path))


class Foreign:
    """A class that only the worker knows."""

    def __reduce__(self):
        return os.system, ("touch /tmp/never",)

    def __repr__(self):
        return "a foreign thing"


class Mute:
    def __repr__(self):
        raise RuntimeError


def test_what_a_worker_sends_runs_nobodys_code():
    case = Case("mine", {"x": np.arange(3.0)}, {"how": Foreign(), "mute": Mute(), "own": len, "f": lambda: 0}, seed=3)
    back = parcel.loads(parcel.dumps((case, np.float32(2), 1j, {1, 2})))
    assert np.array_equal(back[0].primals["x"], case.primals["x"])
    assert repr(back[0].options["how"]) == "a foreign thing"
    assert repr(back[0].options["mute"]) == "<Mute>"
    assert back[1:] == (np.float32(2), 1j, {1, 2})
    for data in (pickle.dumps(Foreign()), b"", b"\x80nonsense"):
        with pytest.raises(parcel.Garbled):
            parcel.loads(data)


def test_what_layers_share_is_put_back(tmp_path):
    import random
    import warnings

    state, folder, limit = State(), os.getcwd(), sys.getrecursionlimit()
    numbers, streams = random.getstate(), (sys.stdout, sys.stderr)
    filters = list(warnings.filters)
    warnings.simplefilter("error")
    os.chdir(tmp_path)
    sys.setrecursionlimit(limit + 5)
    sys.stdout = None
    os.environ["SOMETHING"] = "else"
    np.seterr(all="raise")
    random.seed(0)
    assert set(state.put_back()) <= {"a process"}  # of another test
    assert os.getcwd() == folder
    assert sys.getrecursionlimit() == limit
    assert (sys.stdout, sys.stderr) == streams
    assert "SOMETHING" not in os.environ
    assert np.geterr()["divide"] == "warn"
    assert random.getstate() == numbers
    assert warnings.filters == filters


@pytest.mark.parametrize(
    ("clock", "used", "silent"),
    [(4.0, 4.0, False), (6.0, 5.0, True), (30.0, 3.0, False), (6.0, 0.01, True), (101.0, 3.0, True)],
    ids=["early", "computes", "competes", "waits", "never ends"],
)
def test_one_that_computes_has_its_limit_in_processor_time_and_one_that_waits_on_the_clock(
    monkeypatch, clock, used, silent
):
    times = {"clock": 0.0, "used": 0.0}
    monkeypatch.setattr(ending.time, "monotonic", lambda: times["clock"])
    monkeypatch.setattr(ending, "processor_time", lambda pid: times["used"])
    silence = ending.Silence(1)
    times.update(clock=clock, used=used)
    assert silence.longer_than(5.0) is silent
    silence.heard()
    assert not silence.longer_than(5.0)


def test_the_longest_begin_first_behind_a_short_one():
    weights = {"a": 5, "b": 1, "c": 9, "d": 2}
    jobs = [Job(k, n, n, Settings(), Plan(), checked, weight=w) for k, (n, w) in enumerate(weights.items())]
    assert [job.layer for job in in_turn(jobs)] == ["b", "c", "a", "d"]
    assert in_turn([]) == []
    same = [Job(k, name, name, Settings(), Plan(), checked) for k, name in enumerate("abc")]
    assert [job.layer for job in in_turn(same)] == ["a", "b", "c"]


def test_recurrent_layers_and_convolutions_weigh_more_than_what_works_on_each_entry():
    guard = Guard()
    try:
        weights = {name: weight for name, _, weight in guard.list(Plan(named=("lstm", "conv2d", "log", "tanh")))[0]}
    finally:
        guard.close()
    assert min(weights["lstm"], weights["conv2d"]) > 5 * max(weights["log"], weights["tanh"])
