"""What a campaign does where a layer, a worker, an executor or its user gets in the way."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from campaigns import QUICK, events, run

from gradverify.campaign import Campaign, Plan, Snapshot, Store
from gradverify.campaign import journal as journals
from gradverify.campaign.guard import Guard
from gradverify.campaign.schedule import Standing
from gradverify.campaign.unit import Record, Row, Unit
from gradverify.cli import fuzz
from gradverify.cli import run as command
from gradverify.cli._campaign import _table, headline, status
from gradverify.core.declare.regime import Regime
from gradverify.core.draw import decoding
from gradverify.core.verify import SECONDS
from gradverify.targets import load

HERE = Path(__file__).parent
HOSTILE = str(HERE / "hostile.py")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a campaign needs POSIX")


def module(folder, text):
    path = folder / "mine.py"
    path.write_text(f"import os\nimport numpy as np\nfrom gradverify import Layer, register\n{text}\n")
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)  # of the same size and second
    return str(path)


SQUARE = 'register(Layer(lambda x: (x * x, x), lambda dy, x: {}, name="mine", x="{}"))'


def test_a_case_that_ends_its_process_again_does_not_starve_the_other_layers(tmp_path):
    """Also where it is a row, as the journal of a killed run leaves it."""
    (layer,) = load(f"{HOSTILE}:leaves")
    lengths, decode = decoding(layer, Regime(special=True))
    rng = random.Random(1)
    row = b""
    while not row or (case := decode(row)) is None or not (np.abs(case.primals["x"]) > 20).any():
        row = rng.randbytes(sum(lengths))
    dead = Store(tmp_path)
    journal = journals.Journal(dead.journals / "somewhere.case")
    journal.write(Record("leaves", layer.origin, "special", Regime(special=True), row, True).dumps())
    os.close(dead._lock)  # the process is gone
    summary = run(tmp_path, f"{HOSTILE}:leaves", f"{HOSTILE}:fine", units=2, seconds=60.0)
    leaves, fine = summary.layers
    assert (leaves.units, fine.units) == (1, 1)
    assert not leaves.pending
    assert [entry.found.kind for entry in summary.findings] == ["crash"]
    assert not list((tmp_path / "pending").iterdir())


@pytest.mark.slow
def test_a_finding_whose_smaller_cases_end_the_process_is_kept_as_it_is(tmp_path):
    target = module(
        tmp_path,
        "def forward(x):\n    if x.size == 1 and x.ndim == 1:\n        os._exit(4)\n    return x * x, x\n"
        'register(Layer(forward, lambda dy, x: 3 * x * dy, name="mine", x="N"))',
    )
    summary = run(tmp_path / "store", target, units=8, seconds=150.0)
    assert {entry.found.kind for entry in summary.findings} == {"crash", "wrong"}
    assert not summary.unsettled
    assert not summary.layers[0].pending


def test_a_layer_to_which_no_property_applies_is_not_tried_again_and_again(tmp_path):
    summary = run(tmp_path, "relu", seconds=30.0, plan=Plan(properties=("modes",)))
    assert summary.reason == "nothing to try"
    assert "no property that is asked for applies" in summary.layers[0].idle
    assert summary.layers[0].units == 1
    assert status(summary) == 3


def test_a_finding_is_kept_where_its_case_does_not_fit_the_layer_any_more(tmp_path):
    first = run(tmp_path / "store", module(tmp_path, SQUARE.format("3 * x * dy", "N")), seconds=30.0, max_findings=1)
    (entry,) = first.findings
    target = module(tmp_path, SQUARE.format("2 * x * dy", "N M"))
    summary = run(tmp_path / "store", target, units=1, seconds=30.0)
    assert [kept.found.key for kept in summary.findings] == [entry.found.key]
    assert not summary.fixed
    assert f"the finding {entry.found.key} of mine could not be tried again" in summary.trouble[0]
    assert not summary.lost


def test_an_error_in_gradverify_itself_is_told_and_does_not_pass_for_success(tmp_path):
    broken = (
        "from gradverify.core.properties import Property, add\n"
        'def holds(layer, case):\n    raise ZeroDivisionError("ours")\n'
        'add(Property("broken", "never", holds))\n'
    )
    target = module(tmp_path, broken + SQUARE.format("2 * x * dy", "N"))
    summary = run(tmp_path / "store", target, seconds=60.0)
    assert summary.reason == "nothing to try"
    assert "ZeroDivisionError: ours" in summary.trouble[0]
    assert "gradverify itself failed" in summary.layers[0].error
    assert status(summary) == 2
    assert "ZeroDivisionError" in events(tmp_path / "store", "internal")[0]["why"]
    assert not summary.lost


def test_a_unit_whose_process_was_killed_is_worked_on_by_the_next_one(tmp_path):
    """However short its slice: the start of a process is not its work."""
    guard, deltas = Guard(), []

    def heard(delta):
        deltas.append(delta)
        if not any(delta.lost for delta in deltas):
            guard._process.kill()

    guard.run(Unit(1, "relu", "relu", 3, 600.0, plan=QUICK, cases=400), heard)
    guard.close()
    assert [why for delta in deltas for why in delta.lost] == ["was ended by signal 9"]
    assert sum(delta.cases for delta in deltas) == 400


def test_an_interrupt_that_a_layer_raises_is_a_finding(tmp_path):
    target = module(
        tmp_path,
        'def forward(x):\n    raise KeyboardInterrupt\nregister(Layer(forward, lambda dy, x: dy, name="mine", x="N"))',
    )
    (entry,) = run(tmp_path / "store", target, seconds=30.0, max_findings=1).findings
    assert entry.found.kind == "crash"
    assert "KeyboardInterrupt" in entry.found.message


def test_workers_run_blas_with_one_thread_whatever_the_shell_says(tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "4")
    target = module(tmp_path, 'assert os.environ["OPENBLAS_NUM_THREADS"] == "1"\n' + SQUARE.format("2 * x * dy", "N"))
    assert run(tmp_path / "store", target, seconds=30.0, units=1).cases


def test_a_campaign_that_is_asked_to_stop_ends_in_an_orderly_way(tmp_path):
    store = Store(tmp_path)
    campaign = Campaign(["relu"], store, workers=1, plan=QUICK)
    campaign.listen = lambda snapshot: campaign.stop() if snapshot.layers[0].cases else None
    summary = campaign.run()
    store.close()
    assert summary.reason == "interrupted"
    assert summary.cases
    assert sum(event["cases"] for event in events(tmp_path, "end")) == summary.cases
    assert not list((tmp_path / "journal").iterdir())


def test_memory_is_told_of_the_main_process_and_of_living_workers(tmp_path):
    run(tmp_path, "relu", units=1, seconds=60.0)
    (last,) = events(tmp_path, "progress")[-1:]
    assert len(last["memory"]) == 2
    assert all(size > 1e7 for size in last["memory"].values())
    assert "main" in last["memory"]


def test_any_executor_can_be_passed(tmp_path):
    with ThreadPoolExecutor(1) as executor:
        summary = run(tmp_path, "relu", executor=executor, workers=None, longest=1.0)
        assert executor.submit(int).result() == 0  # it is not ours to end
    assert summary.cases
    assert summary.layers[0].verified


def test_an_executor_that_takes_no_work_ends_the_campaign_in_an_orderly_way(tmp_path, monkeypatch):
    monkeypatch.setattr("gradverify.campaign.engine._PATIENCE", 1.0)
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    summary = run(tmp_path, "relu", executor=executor, seconds=30.0)
    assert summary.reason == "executor"
    assert "executor broke" in summary.trouble[0]
    assert status(summary) == 2
    assert events(tmp_path, "end")


def test_rows_from_which_mutants_are_made_stay_a_bounded_number():
    layer = Standing("dense", "dense")
    for k in range(5000):
        layer.learn(Row(Regime(), k.to_bytes(4, "big"), (k,), 0.5 if k == 7 else 0.0))
    assert 64 <= len(layer.rows) < 128
    assert any(row.ratio for row in layer.rows)
    assert len(layer.features) == 5000
    assert len(layer.chosen(3)) == 64
    assert layer.chosen(3) != layer.chosen(4)


def test_the_table_and_the_line_say_how_it_stands():
    from rich.console import Console

    layers = [Standing("dense", "dense", cases=7, ratio=0.5), Standing("bad", "bad", cases=3, findings=2)]
    layers += [Standing(f"other{k}", "") for k in range(9)]
    snapshot = Snapshot(tuple(layers), seconds=61.0, left=3600.0, workers=2, lost=1)
    console = Console(width=60, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(_table(snapshot, 4))
    text = console.export_text()
    assert "1m01s spent, 1h00m left, 2 workers, 1 replaced" in text
    assert text.index("bad") < text.index("dense")  # what has findings stands first
    assert "and 7 more layers" in text
    assert headline(snapshot) == "10 cases of 2/11 layers, worst 0.5 (dense), 2 findings, 1 worker replaced, 1h00m left"
    assert "Ctrl-C again stops at once" in headline(dataclasses.replace(snapshot, stopping=True))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--for", "0"], "no duration"),
        (["--for", "soon"], "no duration"),
        (["--for", "-5"], "no duration"),
        (["--workers", "0"], "not in the range"),
        (["--max-findings", "0"], "not in the range"),
        (["--seed", "x"], "not a valid integer"),
        (["--case-seconds", "nan"], "no duration"),
        (["--case-seconds", "0"], "no duration"),
        (["--case-memory", "much"], "no number of bytes"),
        (["--case-memory", "1K"], "too little"),
        (["--dtype", "int32"], "dtype must be one of"),
        (["--eps", "nan"], "eps must be"),
        (["--property", "nosuch"], "no property"),
        (["--store", ""], "needs the name of a folder"),
        (["--store", "/dev/null/store"], "cannot be written"),
        (["nosuch"], "neither a registered layer"),
    ],
)
def test_wrong_options_are_told_in_a_line_with_status_2(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert command(["fuzz", "--for", "1s", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.glob(".gradverify/fuzz/*"))


def test_a_case_has_the_same_limit_under_all_faces():
    (option,) = (o for o in fuzz.command.params if o.name == "case_seconds")
    assert option.type.convert(option.default, option, None) == Plan().case_seconds == SECONDS


def test_a_layer_that_is_still_in_a_case_at_the_end_is_no_pass(tmp_path, monkeypatch):
    """Its limit of 20 s outlasts the campaign, which would end with the status of the other layer."""
    monkeypatch.setattr("gradverify.campaign.engine._PATIENCE", 1.0)
    stuck = """
import signal
calls = []
def forward(x):
    calls.append(1)
    while len(calls) > 100:  # once it has been verified
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    return 2.0 * x, None
register(Layer(forward, lambda dy, saved: 2.0 * dy, name="stuck", x="N"))
"""
    plan = Plan(case_seconds=20.0, memory=1 << 30)
    summary = run(tmp_path, f"{module(tmp_path, stuck)}:stuck", "relu", seconds=4.0, workers=2, plan=plan)
    mine, relu = summary.layers
    assert mine.error is not None
    assert "did not come back from a case" in mine.error
    assert relu.error is None
    assert status(summary) == 2
