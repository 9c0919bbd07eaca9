from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from campaigns import QUICK, events, run

from gradverify import Case, casefile
from gradverify.campaign import Campaign, Store, StoreError
from gradverify.campaign import journal as journals
from gradverify.campaign.explore import features
from gradverify.campaign.guard import Guard
from gradverify.campaign.unit import Delta, Found, Record, Row, Unit, digest, key_of
from gradverify.core.declare.regime import Regime
from gradverify.core.draw import Pool
from gradverify.core.errors import CaseFileError, TargetError, UsageError

HERE = Path(__file__).parent
HOSTILE, RARE = str(HERE / "hostile.py"), str(HERE / "rare.py")
ROOT = HERE.parent

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a campaign needs POSIX")


def command(folder, *arguments, seconds="60s"):
    """A campaign in a process of its own."""
    given = ["fuzz", *arguments, "--for", seconds, "--store", str(folder), "--workers", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "gradverify.cli", *given],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition, seconds=40.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def found(**changes) -> Found:
    case = casefile.dumps(Case("dense", {"x": np.zeros(changes.get("size", 3))}))
    about = dict(layer="dense", property="gradient", kind="wrong", primal="x", diagnosis=None, asked="gradient")
    told = dict(raw=("gradient", "wrong", "x"), message="wrong", report="wrong", severity=float("inf"), size=3)
    return Found(**{**about, **told, "case": case, **changes})


# What a campaign does


def test_a_right_layer_is_tried_until_the_time_is_spent(tmp_path):
    summary = run(tmp_path, "dense", seconds=2.0)
    assert summary.reason == "time"
    assert not summary.findings
    assert summary.layers[0].verified
    assert summary.cases > 5
    assert 0 < summary.layers[0].ratio <= 1


def test_a_wrong_layer_is_found_once_small_and_can_be_replayed(tmp_path):
    summary = run(tmp_path, f"{RARE}:rare_prime", seconds=20.0, max_findings=1)
    assert summary.reason == "findings"
    (entry,) = summary.findings
    assert entry.found.raw == ("gradient", "wrong", "x")
    case = Case.load(entry.file)
    assert case.primals["x"].size == 7
    assert case.primals["x"][0] < 0
    assert np.count_nonzero(case.primals["x"]) <= 2
    replay = [sys.executable, "-m", "gradverify.cli", "replay", str(entry.file), "--property", "gradient"]
    assert subprocess.run(replay, cwd=ROOT, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        ("segfault", "crash"),
        ("leaves", "crash"),
        ("memory_hog", "memory"),
        pytest.param("hangs", "timeout", marks=pytest.mark.slow),
        pytest.param("hangs_for_good", "timeout", marks=pytest.mark.slow),
    ],
)
def test_what_a_layer_does_to_its_process_is_a_finding_and_other_layers_go_on(tmp_path, layer, kind):
    summary = run(tmp_path, f"{HOSTILE}:{layer}", f"{HOSTILE}:fine", seconds=40.0, max_findings=1)
    (entry,) = summary.findings
    assert (entry.found.layer, entry.found.property, entry.found.kind) == (layer, "complete", kind)
    size = Case.load(entry.file).primals["x"]  # steps reach as far again as the largest entry
    assert {"leaves": np.abs(size).max(initial=0) > 10, "memory_hog": size.size > 3}.get(layer, True)
    assert summary.reason == "findings"


def test_a_crash_tells_the_line_and_is_made_small(tmp_path):
    summary = run(tmp_path, f"{HOSTILE}:leaves", seconds=40.0, max_findings=1)
    (entry,) = summary.findings
    assert "os._exit(3) (line 33 of hostile.py: os._exit(3))" in entry.found.message
    (last,) = Case.load(entry.file).primals["x"]
    assert 15 < abs(last) < 25
    summary = run(tmp_path / "other", f"{HOSTILE}:segfault", seconds=40.0, max_findings=1)
    assert "hostile.py" in summary.findings[0].found.report
    assert "SIGSEGV" in summary.findings[0].found.message
    assert "(line 27 of hostile.py: ctypes.string_at(0))" in summary.findings[0].found.message


def test_interesting_rows_are_kept_and_known_again(tmp_path):
    first = run(tmp_path, "dense", seconds=60.0, units=2)
    assert first.layers[0].rows
    second = run(tmp_path, "dense", seconds=60.0, units=2)
    assert second.layers[0].cases > first.layers[0].cases
    rows = [json.loads(line) for line in (tmp_path / "rows" / "2.ndjson").read_text().splitlines()]
    seen = set(first.layers[0].features.tolist())
    assert seen
    assert not [row for row in rows if row["features"] and set(row["features"]) <= seen]


def test_a_finding_that_is_fixed_is_forgotten(tmp_path):
    (tmp_path / "mine.py").write_text(LAYER.replace("RIGHT", "3 * x * dy"))
    target = str(tmp_path / "mine.py")
    assert len(run(tmp_path / "store", target, seconds=20.0, max_findings=1).findings) == 1
    assert run(tmp_path / "store", target, seconds=60.0, units=1).findings[0].count > 1
    (tmp_path / "mine.py").write_text(LAYER.replace("RIGHT", "2 * x * dy"))
    summary = run(tmp_path / "store", target, seconds=60.0, units=1)
    assert not summary.findings
    assert len(summary.fixed) == 1
    assert not list((tmp_path / "store" / "findings").iterdir())


LAYER = """
from gradverify import Layer, register
register(Layer(lambda x: (x * x, x), lambda dy, x: RIGHT, name="mine", x="N"))
"""


# What may go wrong


def test_a_target_that_cannot_be_imported_says_so(tmp_path):
    (tmp_path / "broken.py").write_text("import os\nos._exit(7)\n")
    with pytest.raises(TargetError, match=r"cannot import .*broken\.py.*line 2: os\._exit\(7\)"):
        run(tmp_path / "store", str(tmp_path / "broken.py"))
    (tmp_path / "broken.py").write_text("import ctypes\nctypes.CDLL(None)._exit(7)\n")
    with pytest.raises(TargetError, match=r"left with status 7 while it imported .*broken\.py"):
        run(tmp_path / "store", str(tmp_path / "broken.py"))
    with pytest.raises(TargetError, match="no file"):
        run(tmp_path / "store", str(tmp_path / "absent.py"))


def test_two_layers_of_one_name_are_refused(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(LAYER.replace("RIGHT", "dy"))
    with pytest.raises((UsageError, TargetError), match="mine"):
        run(tmp_path / "store", str(tmp_path / "one.py"), str(tmp_path / "two.py"))


def test_a_worker_that_cannot_import_the_layer_says_so(tmp_path):
    (tmp_path / "mine.py").write_text(LAYER.replace("RIGHT", "2 * x * dy"))
    once = "import os, pathlib\nif pathlib.Path('SEEN').exists(): raise ImportError('not on this machine')\n"
    seen = tmp_path / "seen"
    (tmp_path / "mine.py").write_text(once.replace("SEEN", str(seen)) + LAYER.replace("RIGHT", "2 * x * dy"))
    store = Store(tmp_path / "store")
    listen = threading.Timer(0, seen.touch)
    campaign = Campaign([str(tmp_path / "mine.py")], store, seconds=5.0, workers=1, plan=QUICK)
    campaign.executor = lambda: (listen.run(), __import__("gradverify.campaign").campaign.WorkerPool(1))[1]
    summary = campaign.run()
    store.close()
    assert summary.reason == "nothing to try"
    assert "not on this machine" in summary.layers[0].error
    assert "on the worker" in summary.layers[0].error


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(tmp_path):
    store = Store(tmp_path)
    campaign = Campaign(["dense", "relu"], store, seconds=600.0, workers=2, plan=QUICK)
    killed, done = [], [0, 0]

    def kill(snapshot):
        cases = [layer.cases for layer in snapshot.layers]
        if snapshot.lost >= 2 and all(cases):
            campaign.stop()
        workers = [path for path in store.journals.glob("*.case") if journals.read(path) is not None]
        # One that is killed between two units takes nothing with it, and is no loss; one that imports its layer, or
        # confirms what ended the one before it, is no worker at a case: that both layers get on tells it from those.
        if workers and snapshot.lost < 2 and all(now > before for now, before in zip(cases, done)):
            done[:] = cases
            line = subprocess.run(["pgrep", "-f", str(workers[0])], capture_output=True, text=True, check=False)
            for pid in line.stdout.split()[:1]:
                os.kill(int(pid), signal.SIGKILL)
                killed.append(pid)

    campaign.listen = kill
    summary = campaign.run()
    store.close()
    assert len(killed) >= summary.lost >= 2
    assert not summary.findings
    assert summary.reason == "interrupted"
    assert [(layer.error, layer.cases > 0) for layer in summary.layers] == [(None, True)] * 2
    assert len(events(tmp_path, "lost")) == 2


def test_ctrl_c_ends_in_an_orderly_way_with_everything_kept(tmp_path):
    process = command(tmp_path, f"{RARE}:rare_prime")
    until(lambda: list((tmp_path / "findings").glob("*.json")) if (tmp_path / "findings").exists() else False)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "the gradient of x is wrong" in out
    assert "ended by Ctrl-C" in out
    assert events(tmp_path, "end")[0]["reason"] == "interrupted"
    assert not list((tmp_path / "journal").rglob("*.case"))


def test_nothing_found_is_lost_when_the_main_process_is_killed(tmp_path):
    process = command(tmp_path, RARE)
    until(lambda: (tmp_path / "events.ndjson").exists() and len(events(tmp_path, "finding")) >= 2)
    process.kill()
    process.communicate(timeout=30)
    before = {event["id"] for event in events(tmp_path, "finding")}
    assert len(before) >= 2
    pids = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout.split()
    until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()], 10)
    store = Store(tmp_path)
    kept = {entry.found.key for entry in store.findings()}
    store.close()
    assert before <= kept
    summary = run(tmp_path, RARE, seconds=3.0)
    assert before <= {key for layer in summary.layers for key, _ in layer.known.values()} | set(summary.fixed)
    assert not summary.fixed
    assert not summary.trouble


def test_a_case_that_was_being_tried_when_the_main_process_died_is_tried_again(tmp_path):
    case = Case("leaves", {"x": np.array([0.0, 99.0])}, target=f"{HOSTILE}:leaves")
    dead = Store(tmp_path)
    journal = journals.Journal(dead.journals / "somewhere.case")
    content = casefile.dumps(case)
    journal.write(Record("leaves", f"{HOSTILE}:leaves", "gradient", Regime(), content, False).dumps())
    os.close(dead._lock)  # the process is gone
    summary = run(tmp_path, f"{HOSTILE}:leaves", units=1, seconds=30.0)
    (entry,) = summary.findings
    assert entry.found.kind == "crash"
    (last,) = Case.load(entry.file).primals["x"]
    assert 15 < abs(last) < 25


@pytest.mark.slow
def test_two_campaigns_on_one_store_find_everything_once(tmp_path):
    both = [command(tmp_path, f"{RARE}:rare_option", f"{RARE}:rare_prime", seconds="9s") for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [1, 1], outputs
    store = Store(tmp_path)
    entries = store.findings()
    assert not store.damaged
    assert store.run == 3
    store.close()
    assert len({entry.found.key for entry in entries}) == len(entries)
    assert {entry.found.layer for entry in entries} == {"rare_option", "rare_prime"}
    counts = [json.loads((tmp_path / "runs" / f"{k}.json").read_text())["counts"] for k in (1, 2)]
    assert {key for count in counts for key in count} >= {entry.found.key for entry in entries}


@pytest.mark.slow
def test_a_process_pool_that_breaks_is_made_anew_and_its_units_are_sent_again(tmp_path):
    made, killed, before = [], [], {}

    def make():
        made.append(ProcessPoolExecutor(2, mp_context=get_context("spawn")))
        return made[-1]

    store = Store(tmp_path)
    campaign = Campaign(["dense", "relu"], store, seconds=120.0, workers=2, plan=QUICK, executor=make, longest=1.0)

    def kill(snapshot):
        cases = {layer.name: layer.cases for layer in snapshot.layers}
        if not killed and all(cases.values()):
            before.update(cases)
            killed.append(next(iter(made[0]._processes)))
            os.kill(killed[0], signal.SIGKILL)
        if killed and all(cases[name] > before[name] for name in cases):
            campaign.stop()

    campaign.listen = kill
    summary = campaign.run()
    store.close()
    assert len(made) == 2
    assert summary.reason == "interrupted"
    assert 1 <= summary.lost <= 4  # a broken pool loses all that is in flight
    assert not summary.findings
    assert all(layer.error is None for layer in summary.layers)


# The store


def test_a_store_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file" / "store")


def test_a_read_only_store_is_refused_at_the_start(tmp_path):
    store = Store(tmp_path)
    store.close()
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "runs").chmod(0o500)
    try:
        with pytest.raises(StoreError, match="Permission denied"):
            Store(tmp_path)
    finally:
        (tmp_path / "runs").chmod(0o700)


def test_another_folder_is_not_taken_for_a_store(tmp_path):
    (tmp_path / "campaign.json").write_text('{"format": "something else"}')
    with pytest.raises(StoreError, match="no store"):
        Store(tmp_path)


def test_a_store_that_fills_up_ends_the_campaign_in_an_orderly_way(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = Store(tmp_path)
    campaign = Campaign([f"{RARE}:rare_prime"], store, seconds=30.0, workers=1, plan=QUICK)

    def fill(snapshot):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    campaign.listen = fill
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        summary = campaign.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
        store.close()
    assert summary.reason == "store"
    assert "cannot be written" in summary.trouble[0]
    again = Store(tmp_path)
    again.findings()
    assert not again.damaged
    again.close()


def test_the_smallest_case_of_a_finding_is_kept(tmp_path):
    store = Store(tmp_path)
    store.keep(found(size=9))
    store.keep(found(size=3))
    store.keep(found(size=5))
    (entry,) = store.findings()
    assert entry.found.size == 3
    assert len(list((tmp_path / "findings").iterdir())) == 2
    store.keep(found(primal="W"))
    store.keep(found(diagnosis="transposed"))
    assert len(store.findings()) == 3
    store.close()


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_half_a_file_is_never_read_back_as_good(tmp_path, suffix):
    store = Store(tmp_path)
    store.keep(found())
    (path,) = (tmp_path / "findings").glob(f"*{suffix}")
    path.write_bytes(path.read_bytes()[:-20])
    assert not store.findings()
    assert store.damaged
    store.keep(found(size=9))
    assert store.findings()[0].found.size == 9
    store.close()


def test_half_a_line_is_skipped(tmp_path):
    store = Store(tmp_path)
    store.keep_row("dense", Row(Regime(), b"abc", (1, 2), float("inf")))
    with open(tmp_path / "rows" / "1.ndjson", "ab") as file:
        file.write(b'{"layer": "dense", "ro')
    store.close()
    again = Store(tmp_path)
    assert list(again.rows()) == [("dense", Row(Regime(), b"abc", (1, 2), float("inf")))]
    again.close()


def test_what_a_living_run_is_looking_at_is_left_alone(tmp_path):
    living = Store(tmp_path)
    living.hold(b"record")
    other = Store(tmp_path)
    assert other.inherit() == []
    living.close()
    assert other.inherit() == [b"record"]
    third = Store(tmp_path)
    assert third.inherit() == []
    other.release(digest(b"record"))
    other.close()
    assert third.inherit() == []
    third.close()


# The parts


def test_half_a_journal_is_none(tmp_path):
    path = tmp_path / "journal.case"
    assert journals.read(path) is None
    journal = journals.Journal(path)
    journal.write(b"a long record")
    journal.write(b"short")
    assert journals.read(path) == b"short"
    path.write_bytes(path.read_bytes().replace(b"short", b"shoot"))
    assert journals.read(path) is None
    journal.clear()
    assert journals.read(path) is None


def test_a_record_survives_the_journal():
    record = Record("dense", "pkg:dense", "gradient", Regime(special=True, dtype="float32"), b"\n\0row", True)
    assert Record.loads(record.dumps()) == record
    with pytest.raises(CaseFileError):
        Record.loads(b"nonsense")


def test_features_tell_options_shapes_and_regions_of_values_apart():
    def of(x, **options):
        return features(Case("l", {"x": np.asarray(x, float)}, options))

    assert of([1.0, 2.0]) == of([1.5, 2.5])
    assert of([1.0, 2.0]) != of([1.0, 2.0, 3.0])
    assert of([1.0, 2.0]) != of([1.0, 200.0])
    assert of([1.0, 2.0]) != of([0.0, 2.0])
    assert of([1.0, 2.0], p=1) != of([1.0, 2.0], p=2)
    assert of(np.zeros((0,)))


def test_mutants_keep_most_of_their_parents():
    import random

    rows = [bytes([k]) * 30 for k in range(4)]
    pool = Pool(rows, (5, 5, 20), random.Random(0))
    mutants = [pool.mutant() for _ in range(200)]
    assert all(len(row) == 30 for row in mutants)
    parents = set(rows)
    assert sum(row in parents for row in mutants) < 20
    assert sum(len(set(row[:10])) <= 2 for row in mutants) > 100


def test_equal_seeds_try_equal_cases():
    def worked(seed):
        deltas: list[Delta] = []
        guard = Guard()
        try:
            guard.run(Unit(1, "relu", "relu", seed, 60.0, cases=12), deltas.append)
        finally:
            guard.close()
        assert sum(delta.cases for delta in deltas) == 12
        return [row for delta in deltas for row in delta.rows]

    first = worked(5)
    assert first
    assert first == worked(5)
    assert first != worked(6)


def test_a_key_tells_its_parts_apart():
    assert key_of("a", "b", None) != key_of("a", None, "b")
    assert len(key_of("a")) == 8
