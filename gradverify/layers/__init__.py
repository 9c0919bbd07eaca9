"""The catalogue: one file for each family of layers, forward directly above backward."""

from __future__ import annotations

from gradverify.core.declare.registry import import_submodules

import_submodules(__name__, __path__)
