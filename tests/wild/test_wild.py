"""The field test as a test: what was judged a bug is found, what was judged right gives no alarm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.wild
@pytest.mark.parametrize(
    "package",
    [
        "scikit-learn",
        "npdl",
        "numpy-ml",
        "smallpebble",
        "mpneuralnetwork",
        "autograd",
        "neuralnetlib==4.4.0",
        "neuralnetlib==5.0.0",
        "torch==2.13.0",
    ],
)
def test_bugs_are_found_and_right_layers_give_no_alarm(package, tmp_path):
    rows = tmp_path / "rows.json"
    subprocess.run([sys.executable, str(HERE / "run.py"), "--only", package, "--json", str(rows)], check=True)
    (found,) = json.loads(rows.read_text()).values()
    verdicts = {row["name"]: (row["judgement"], row["verdict"]) for row in found}
    assert "not run" not in {v for _, v in verdicts.values()}
    assert {n: v for n, (j, v) in verdicts.items() if j == "bug" and v != "found"} == {}
    assert {n: v for n, (j, v) in verdicts.items() if j == "right" and v == "found"} == {}
