"""Settings of the test run: bytecode is kept, one thread for each worker, fixed examples in CI."""

from __future__ import annotations

import os
import sys

# The suite starts hundreds of interpreters. Where no bytecode may be written, each of them compiles this package, and
# pytest rewrites Hypothesis for its assertions, anew: a second and a half for each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Set before NumPy is imported: workers that each start a thread per core slow one another down.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

import pytest
from hypothesis import HealthCheck, settings

sys.dont_write_bytecode = False

# No deadline: how long an example takes says nothing about a gradient, and differs between machines.
settings.register_profile("gradverify", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "gradverify-ci", parent=settings.get_profile("gradverify"), derandomize=True, database=None, print_blob=True
)
settings.load_profile("gradverify-ci" if os.environ.get("CI") else "gradverify")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, for `-n auto`: many tests wait for processes that they have started."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture
def as_drawn(request, monkeypatch):
    """Findings stay on the case on which they were met, neither made small nor diagnosed: where a test asks what is
    found, and nothing of how it is told, most of its time would go into that. A test marked `told` has them whole.
    """
    if request.node.get_closest_marker("told"):
        return
    from gradverify.core.check.smaller import Smaller

    monkeypatch.setattr(Smaller, "__call__", lambda smaller, finding, *_: finding)
