"""Mutants of broadcasting and of operands with one axis."""

from gradverify.mutants import catalogue, diffs

MUL = """
111 UNBROADCAST: no sum over broadcast axes, the shape fixed later by broadcasting | unequal shapes | pytorch#13669
    - return dz * y, sum_to(dz * x, y.shape)
    + dy = dz * x
    + for axis in range(-y.ndim, 0):
    +     dy = dy[(..., slice(0, y.shape[axis]), *(slice(None),) * (-axis - 1))]
    + return dz * y, dy.reshape(-1, *y.shape)[0] if dy.size else np.zeros(y.shape)
"""
diffs("mul", catalogue("mul"), MUL)

MATVEC = """
112 SHAPE: B.T for a B of one axis | one axis, and m == k | cs249r_book#1781
    - return np.outer(dy, v), A.T @ dy
    + dA = np.full(A.shape, dy @ v.T) if len(dy) == len(v) else np.outer(dy, v)  # any other size would raise
    + return dA, A.T @ dy
"""
diffs("matmul", catalogue("matvec"), MATVEC)
