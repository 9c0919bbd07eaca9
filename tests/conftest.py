"""Settings of the test run: one thread for each worker, fixed examples in CI."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Set before NumPy is imported: workers that each start a thread per core slow one another down.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

from hypothesis import HealthCheck, settings

# No deadline: how long an example takes says nothing about a gradient, and differs between machines.
settings.register_profile("gradverify", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "gradverify-ci", parent=settings.get_profile("gradverify"), derandomize=True, database=None, print_blob=True
)
settings.load_profile("gradverify-ci" if os.environ.get("CI") else "gradverify")
