"""A campaign on real Dask workers: processes of their own on the loopback interface."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gradverify.campaign import Campaign, Plan, Store
from gradverify.campaign.dask import cluster
from gradverify.core.errors import UsageError

distributed = pytest.importorskip("distributed")

HERE = Path(__file__).parent
ROOT = HERE.parent
QUICK = Plan(case_seconds=1.0, memory=1 << 30)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="a campaign needs POSIX"),
    pytest.mark.filterwarnings("ignore"),  # of Dask and its servers
]


@pytest.fixture(scope="module")
def scheduler():
    """The address of a scheduler with two worker processes of one thread each."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as made:
        yield made.scheduler_address


def run(address, folder, *targets, **given):
    store = Store(folder)
    try:
        with cluster(address) as executor:
            return Campaign(targets, store, executor=executor, plan=QUICK, **{"longest": 1.0, **given}).run()
    finally:
        store.close()


def test_the_units_of_a_campaign_run_on_the_workers(scheduler, tmp_path):
    summary = run(scheduler, tmp_path, f"{HERE / 'rare.py'}:rare_prime", "dense", seconds=30.0, max_findings=1)
    (entry,) = summary.findings
    assert (entry.found.layer, entry.found.primal) == ("rare_prime", "x")
    assert all(layer.cases for layer in summary.layers)


def test_what_a_layer_does_to_its_process_does_not_reach_the_worker(scheduler, tmp_path):
    with distributed.Client(scheduler, set_as_default=False) as client:
        before = set(client.run(os.getpid).values())
        target = str(HERE / "hostile.py")
        targets = [f"{target}:{name}" for name in ("segfault", "hangs", "fine")]
        summary = run(scheduler, tmp_path, *targets, seconds=40.0, max_findings=2)
        assert set(client.run(os.getpid).values()) == before
    assert {(entry.found.layer, entry.found.kind) for entry in summary.findings} >= {
        ("segfault", "crash"),
        ("hangs", "timeout"),
    }
    assert not summary.lost


def test_a_worker_that_is_killed_costs_no_unit(scheduler, tmp_path):
    killed: list[int] = []
    with distributed.Client(scheduler, set_as_default=False) as client:

        def kill(snapshot):
            if snapshot.seconds > 3.0 and not killed:
                killed.append(min(client.run(os.getpid).values()))
                os.kill(killed[0], signal.SIGKILL)

        summary = run(scheduler, tmp_path, "dense", "relu", seconds=12.0, listen=kill)
    assert killed
    assert summary.reason == "time"
    assert not summary.findings
    assert all(layer.error is None and layer.cases for layer in summary.layers)


def test_the_command_line_takes_the_address(scheduler, tmp_path):
    arguments = ["fuzz", "dense", "--for", "4s", "--scheduler", scheduler, "--store", str(tmp_path / "store")]
    done = subprocess.run(
        [sys.executable, "-m", "gradverify.cli", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 threads of workers" in done.stderr


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setattr("gradverify.campaign.dask._SECONDS", 1)
    with pytest.raises(UsageError, match="no Dask scheduler answers"), cluster("tcp://127.0.0.1:9"):
        pass
