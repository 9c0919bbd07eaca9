"""A target: ten known wrong backward passes, spread evenly over the shelf."""

from __future__ import annotations

from gradverify import register
from gradverify.mutants import shelf

COUNT = 10

_every = shelf()
_step = len(_every) // COUNT
MUTANTS = _every[_step // 2 :: _step][:COUNT]
for _mutant in MUTANTS:
    register(_mutant.build())
