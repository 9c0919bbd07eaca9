"""A target: ten known wrong backward passes, spread evenly over the shelf."""

from __future__ import annotations

from gradverify import register
from gradverify.mutants import shelf

COUNT = 10

_every = shelf()
MUTANTS = _every[:: len(_every) // COUNT][:COUNT]
for _mutant in MUTANTS:
    register(_mutant.build())
