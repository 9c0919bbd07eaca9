"""What a module keeps from an earlier call is lost in a new process; `replay` makes such a call."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import gradverify as gv

FIRST = """
import gradverify as gv
kept = {}
def forward(x):
    {keep}
    return x * x, None
def backward(dy, _):
    return 2 * kept["x", dy.shape] * dy
square = gv.Layer(forward, backward, name="square", x="N D")
"""
KEEP = {
    "first": 'kept.setdefault(("x", x.shape), x.copy())',
    "last": 'kept["x", x.shape] = kept.get("new", x).copy(); kept["new"] = x.copy()',
    "right": 'kept["x", x.shape] = x.copy()',
}


def replayed(tmp_path, keep):
    file = tmp_path / "squares.py"
    file.write_text(FIRST.replace("{keep}", keep))
    case = gv.Case("square", {"x": np.array([[1.0, 2.0]])}, {}, (np.array([[1.0, -1.0]]),), seed=1)
    case.save(tmp_path / "case.npz")
    command = [sys.executable, "-m", "gradverify.cli", "replay", "case.npz", "--target", "squares.py:square"]
    command += ["--property", "gradient"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("keep", "status"), [("first", 1), ("last", 1), ("right", 0)])
def test_a_cache_of_the_module_is_seen_in_a_new_process(tmp_path, keep, status):
    done = replayed(tmp_path, KEEP[keep])
    assert done.returncode == status, done.stdout + done.stderr
    assert ("after a call with other values" in done.stdout) == bool(status)
