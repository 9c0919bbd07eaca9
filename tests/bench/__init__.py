"""Measurements, run by hand as `python -m tests.bench.NAME` from the repository root; not part of the test run.

One thread each: this file is imported before NumPy, which reads these variables when it is loaded.
"""

import os

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
