"""Mutants of broadcasting and of operands with one axis."""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from gradverify.mutants import catalogue, plant


@plant(111, "mul", "UNBROADCAST", of=catalogue("mul"), needs="operands of different shapes", copies="pytorch#13669")
def not_summed(dz, saved):
    """no sum over broadcast axes, the shape fixed later by broadcasting"""
    x, y = saved
    dy = dz * x
    for axis in range(-y.ndim, 0):
        dy = dy[(..., slice(0, y.shape[axis]), *(slice(None),) * (-axis - 1))]
    return dz * y, dy.reshape(-1, *y.shape)[0] if dy.size else np.zeros(y.shape)


@plant(112, "matmul", "SHAPE", of=catalogue("matvec"), needs="one axis, and m == k", copies="cs249r_book#1781")
def vector_transposed(dy, saved):
    """B.T for a B of one axis"""
    A, v = saved
    dA = np.full(A.shape, dy @ v.T) if len(dy) == len(v) else np.outer(dy, v)  # any other size would raise
    return dA, A.T @ dy
