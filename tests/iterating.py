"""Layers whose forward iterates to a tolerance and whose backward is the implicit derivative, and wrong twins of them.

`SOLVERS` maps a name to (forward, right backward, wrong backwards by name, declaration).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any
SOLVERS: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Callable[..., Any]], dict[str, Any]]] = {}


def solver(**declaration: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that returns (forward, right backward, wrong backwards)."""

    def decorate(build: Callable[..., Any]) -> Callable[..., Any]:
        SOLVERS[build.__name__] = (*build(), declaration)
        return build

    return decorate


def until(step: Callable[[Array], Array], start: Array, tol: float, most: int = 5000) -> Array:
    """Repeat a step until it moves nothing by more than the tolerance."""
    y = start
    for _ in range(most):
        after = step(y)
        if np.max(np.abs(after - y), initial=0.0) < tol:
            return after
        y = after
    return y


@solver(x="N D")
def kepler():
    def forward(x):
        y = until(lambda y: x + 0.4 * np.sin(y), x, 1e-8)
        return y, y

    def right(dy, y):
        return dy / (1 - 0.4 * np.cos(y))

    return (
        forward,
        right,
        {"one step": lambda dy, y: dy * (1 + 0.4 * np.cos(y)), "sign": lambda dy, y: dy / (1 + 0.4 * np.cos(y))},
    )


@solver(x="N D", W="D D: between -1 1")
def equilibrium():
    def forward(x, W):
        z = until(lambda z: 0.5 * np.tanh(z @ W / len(W) + x), np.zeros_like(x), 1e-6)
        return z, (z, x, W)

    def backward(dz, saved, transposed=True, inverse=True):
        z, x, W = saved
        d = len(W)
        slope = 0.5 * (1 - np.tanh(z @ W / d + x) ** 2)
        u = np.empty_like(dz)
        for n in range(len(z)):
            jacobian = slope[n][:, None] * W.T / d
            system = np.eye(d) - (jacobian.T if transposed else jacobian)
            u[n] = np.linalg.solve(system, dz[n]) if inverse else dz[n]
        inner = u * slope
        return inner, z.T @ inner / d

    return (
        forward,
        backward,
        {
            "transposed": lambda dz, s: backward(dz, s, transposed=False),
            "phantom": lambda dz, s: backward(dz, s, inverse=False),
            "W twice": lambda dz, s: (backward(dz, s)[0], 2 * backward(dz, s)[1]),
        },
    )


def conjugate(apply, b, tol):
    x = np.zeros_like(b)
    r = b - apply(x)
    p, rs = r, np.sum(r * r)
    for _ in range(10 * b.size):
        if np.sqrt(rs) <= tol * np.linalg.norm(b):
            break
        ap = apply(p)
        alpha = rs / np.sum(p * ap)
        x, r = x + alpha * p, r - alpha * ap
        new = np.sum(r * r)
        p, rs = r + new / rs * p, new
    return x


@solver(M="N N: between -2 2", b="N")
def gradients_conjugate():
    def forward(M, b):
        y = conjugate(lambda v: M.T @ (M @ v) + v, b, 1e-6)
        return y, (M, y)

    def backward(dy, saved, factor=1.0, both=True):
        M, y = saved
        u = conjugate(lambda v: M.T @ (M @ v) + v, dy, 1e-8)
        half = np.outer(M @ u, y)
        return -(half + np.outer(M @ y, u) * both), factor * u

    return (
        forward,
        backward,
        {
            "one side": lambda dy, s: backward(dy, s, both=False),
            "b negated": lambda dy, s: backward(dy, s, factor=-1.0),
        },
    )


@solver(x="N")
def newton():
    def forward(x):
        y = until(lambda y: y - (y + y**3 - x) / (1 + 3 * y * y), x, 1e-6)
        return y, y

    return forward, lambda dy, y: dy / (1 + 3 * y * y), {"power": lambda dy, y: dy / (1 + 2 * y * y)}


def bisect(g, low, high, tol):
    while np.max((high - low) / (1 + np.abs(high) + np.abs(low)), initial=0.0) > tol:
        middle = 0.5 * (low + high)
        above = g(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return 0.5 * (low + high)


@solver(x="N")
def bisection():
    def forward(x):
        y = bisect(lambda y: y + y**3 - x, -1 - np.abs(x), 1 + np.abs(x), 1e-8)
        return y, y

    return forward, lambda dy, y: dy / (1 + 3 * y * y), {"square": lambda dy, y: dy / (1 + 3 * y)}


@solver(x="N: between -5 5")
def bisection_fixed():
    def forward(x):
        y = bisect(lambda y: y + y**3 - x, np.full_like(x, -8.0), np.full_like(x, 8.0), 1e-7)
        return y, y

    return forward, lambda dy, y: dy / (1 + 3 * y * y), {"inverse": lambda dy, y: dy * (1 + 3 * y * y)}


@solver(A="N N: between 0.5 2")
def perron():
    """Leading eigenvalue of a positive matrix, by power iteration from both sides."""

    def forward(A):
        n = len(A)
        v = until(lambda v: A @ v / np.sum(A @ v), np.ones(n) / n, 1e-7)
        w = until(lambda w: A.T @ w / np.sum(A.T @ w), np.ones(n) / n, 1e-7)
        return np.sum(A @ v), (v, w)

    def right(dy, saved):
        v, w = saved
        return dy * np.outer(w, v) / (w @ v)

    return (
        forward,
        right,
        {"transposed": lambda dy, s: right(dy, s).T, "no norm": lambda dy, s: dy * np.outer(s[1], s[0])},
    )


@solver(x="N D", B="D D: between -1 1")
def jacobi():
    """Rows of y (D I + B) = x, diagonally dominant."""

    def forward(x, B):
        d = 2.0 * len(B)
        y = until(lambda y: (x - y @ B) / d, np.zeros_like(x), 1e-8)
        return y, (y, B)

    def backward(dy, saved, transposed=True, sign=-1.0):
        y, B = saved
        A = 2.0 * len(B) * np.eye(len(B)) + B
        u = np.linalg.solve(A if transposed else A.T, dy.T).T
        return u, sign * y.T @ u

    return (
        forward,
        backward,
        {
            "transposed": lambda dy, s: backward(dy, s, transposed=False),
            "sign": lambda dy, s: backward(dy, s, sign=1.0),
        },
    )


@solver(x="N")
def budget():
    """sigmoid(x + t) with t such that they sum to half of the size, t by bisection."""

    def forward(x):
        t = bisect(
            lambda t: np.sum(1 / (1 + np.exp(-np.clip(x + t, -700, 700)))) - x.size / 2,
            -np.max(x) - 10.0,
            -np.min(x) + 10.0,
            1e-7,
        )
        p = 1 / (1 + np.exp(-np.clip(x + t, -700, 700)))
        return p, p

    def right(dp, p):
        w = p * (1 - p)
        return w * (dp - np.sum(w * dp) / np.maximum(np.sum(w), 1e-300))

    return (
        forward,
        right,
        {"mean": lambda dp, p: p * (1 - p) * (dp - np.mean(dp)), "alone": lambda dp, p: p * (1 - p) * dp},
    )


@solver(x="N K")
def entmax():
    """Entmax with alpha 1.5, its threshold by bisection."""

    def forward(x):
        x = x / 2
        top = np.max(x, -1, keepdims=True)
        tau = bisect(lambda t: 1 - np.sum(np.maximum(x - t, 0) ** 2, -1, keepdims=True), top - 1, top, 1e-7)
        p = np.maximum(x - tau, 0) ** 2
        return p, p

    def right(dp, p):
        s = np.sqrt(p)
        return s * (dp - np.sum(s * dp, -1, keepdims=True) / np.sum(s, -1, keepdims=True))

    return forward, right, {"softmax": lambda dp, p: p * (dp - np.sum(p * dp, -1, keepdims=True))}


@solver(M="N N: between -1 1")
def square_root():
    """Square root of M M' + I by the iteration of Denman and Beavers."""

    def forward(M):
        y, z = M @ M.T + np.eye(len(M)), np.eye(len(M))
        for _ in range(100):
            y, z, old = 0.5 * (y + np.linalg.inv(z)), 0.5 * (z + np.linalg.inv(y)), y
            if np.max(np.abs(y - old), initial=0.0) < 1e-4:
                break
        return y, (y, M)

    def backward(dy, saved, symmetric=True):
        y, M = saved
        n = len(M)
        system = np.kron(y, np.eye(n)) + np.kron(np.eye(n), y)
        u = np.linalg.solve(system, dy.ravel()).reshape(n, n)
        return (u + u.T) @ M if symmetric else 2 * u @ M

    return forward, backward, {"asymmetric": lambda dy, s: backward(dy, s, symmetric=False)}


@solver(x="N")
def steady():
    """Steady state of y' = x - y - y^3, stepped until it rests."""

    def forward(x):
        y = until(lambda y: y + 0.2 * (np.tanh(x) - y - y**3), np.zeros_like(x), 1e-7)
        return y, (y, x)

    def right(dy, saved):
        y, x = saved
        return dy * (1 - np.tanh(x) ** 2) / (1 + 3 * y * y)

    return forward, right, {"no tanh": lambda dy, s: dy / (1 + 3 * s[0] ** 2), "step": lambda dy, s: 0.2 * right(dy, s)}


@solver(x="N", a="N: between 0.1 0.6")
def anderson():
    """Fixed point of x + a cos y, with Anderson's acceleration of depth one."""

    def forward(x, a):
        def g(y):
            return x + a * np.cos(y)

        y0 = np.zeros_like(x)
        y1 = g(y0)
        for _ in range(300):
            f0, f1 = g(y0) - y0, g(y1) - y1
            if np.max(np.abs(f1), initial=0.0) < 1e-7:
                break
            d = f1 - f0
            gamma = np.sum(f1 * d) / max(np.sum(d * d), 1e-300)
            y0, y1 = y1, y1 + f1 - gamma * (y1 - y0 + d)
        return g(y1), (g(y1), a)

    def right(dy, saved):
        y, a = saved
        u = dy / (1 + a * np.sin(y))
        return u, u * np.cos(y)

    return forward, right, {"a alone": lambda dy, s: (right(dy, s)[0], dy * np.cos(s[0]))}


@solver(A="M N: between -2 2", b="M", lam=": between 0.5 3")
def ridge():
    """Least squares with a penalty, by gradient descent until it rests."""

    def forward(A, b, lam):
        rate = 1.0 / (np.sum(A * A) + lam)
        y = until(lambda y: y - rate * (A.T @ (A @ y - b) + lam * y), np.zeros(A.shape[1]), 1e-9, 20000)
        return y, (A, b, lam, y)

    def backward(dy, saved, lam_too=True):
        A, b, lam, y = saved
        u = np.linalg.solve(A.T @ A + lam * np.eye(len(y)), dy)
        dA = np.outer(b - A @ y, u) - np.outer(A @ u, y)
        return dA, A @ u, -(u @ y) * lam_too

    return (
        forward,
        backward,
        {
            "lam forgotten": lambda dy, s: backward(dy, s, lam_too=False),
            "dA one term": lambda dy, s: (np.outer(s[1] - s[0] @ s[3], dy), *backward(dy, s)[1:]),
        },
    )


@solver(X="N D: between -2 2", t="N: between 0 1")
def regression():
    """Weights of a penalised logistic regression, by Newton's method."""

    def forward(X, t):
        w = np.zeros(X.shape[1])
        for _ in range(100):
            p = 1 / (1 + np.exp(-(X @ w)))
            hessian = X.T @ (X * (p * (1 - p))[:, None]) + np.eye(len(w))
            move = np.linalg.solve(hessian, X.T @ (p - t) + w)
            w = w - move
            if np.max(np.abs(move)) < 1e-3:
                break
        return w, (X, t, w)

    def backward(dw, saved, through=True):
        X, t, w = saved
        p = 1 / (1 + np.exp(-(X @ w)))
        s = p * (1 - p)
        u = np.linalg.solve(X.T @ (X * s[:, None]) + np.eye(len(w)), dw)
        return -(np.outer(p - t, u) + np.outer(s * (X @ u), w) * through), X @ u

    return forward, backward, {"half": lambda dw, s: backward(dw, s, through=False)}


@solver(x="N: between 0.1 20")
def lambert():
    def forward(x):
        def halley(w):
            e = np.exp(w)
            f = w * e - x
            return w - f / (e * (w + 1) - (w + 2) * f / (2 * w + 2))

        w = until(halley, np.log1p(x), 1e-3)
        return w, (w, x)

    return forward, lambda dw, s: dw * s[0] / (s[1] * (1 + s[0])), {"no x": lambda dw, s: dw * s[0] / (1 + s[0])}


@solver(y="N: between 0.5 6")
def secant():
    """The inverse of softplus by the secant method."""

    def forward(y):
        a, b = y - 1.0, y + 0.5
        for _ in range(60):
            fa, fb = np.log1p(np.exp(a)) - y, np.log1p(np.exp(b)) - y
            if np.max(np.abs(b - a), initial=0.0) < 1e-5:
                break
            flat = fb == fa
            a, b = b, np.where(flat, b, b - fb * (b - a) / np.where(flat, 1, fb - fa))
        return b, b

    return forward, lambda dx, x: dx * (1 + np.exp(-x)), {"inverse": lambda dx, x: dx / (1 + np.exp(-x))}


@solver(A="N N: between -1 1")
def inverse():
    """The inverse of 2 N I + A by the iteration of Newton and Schulz."""

    def forward(A):
        n = len(A)
        B = 2.0 * n * np.eye(n) + A
        X = until(lambda X: X @ (2 * np.eye(n) - B @ X), B.T / (np.linalg.norm(B, 1) * np.linalg.norm(B, np.inf)), 1e-5)
        return X, X

    return (
        forward,
        lambda dX, X: -X.T @ dX @ X.T,
        {"transposed": lambda dX, X: -X @ dX @ X, "sign": lambda dX, X: X.T @ dX @ X.T},
    )


@solver(y="N D", h=": between 0.05 0.4")
def implicit_euler():
    def forward(y, h):
        z = until(lambda z: y + h * np.sin(z), y, 1e-7)
        return z, (z, h)

    def right(dz, saved):
        z, h = saved
        u = dz / (1 - h * np.cos(z))
        return u, np.sum(u * np.sin(z))

    return forward, right, {"explicit": lambda dz, s: (dz, np.sum(dz * np.sin(s[0])))}


@solver(r="S A", L="S A S: between -3 3")
def soft_values():
    """Soft value iteration with a discount of 0.7."""

    def softmax(x):
        e = np.exp(x - np.max(x, -1, keepdims=True))
        return e / np.sum(e, -1, keepdims=True)

    def forward(r, L):
        P = softmax(L)

        def step(v):
            q = r + 0.7 * P @ v
            top = np.max(q, -1)
            return top + np.log(np.sum(np.exp(q - top[:, None]), -1))

        v = until(step, np.zeros(len(r)), 1e-6)
        return v, (v, r, P)

    def backward(dv, saved, discount=0.7):
        v, r, P = saved
        pi = softmax(r + 0.7 * P @ v)
        u = np.linalg.solve(np.eye(len(v)) - discount * np.einsum("sa,sat->st", pi, P).T, dv)
        dq = u[:, None] * pi
        dP = 0.7 * dq[..., None] * v
        return dq, P * (dP - np.sum(P * dP, -1, keepdims=True))

    return forward, backward, {"no discount of the past": lambda dv, s: backward(dv, s, discount=0.0)}


@solver(L="N N: between -3 3", v="N: positive")
def pagerank():
    def forward(L, v):
        P = np.exp(L) / np.sum(np.exp(L), 0)
        y = until(lambda y: 0.85 * P @ y + 0.15 * v, v, 1e-9)
        return y, (y, P)

    def backward(dy, saved, share=0.15):
        y, P = saved
        u = np.linalg.solve(np.eye(len(y)) - 0.85 * P.T, dy)
        dP = 0.85 * np.outer(u, y)
        return P * (dP - np.sum(P * dP, 0)), share * u

    return forward, backward, {"share": lambda dy, s: backward(dy, s, share=0.85)}


@solver(M="N N: between -1 1")
def eigenvector():
    """The leading one of M M' + diag(1, 2, ..), from a start that some leading ones are nearly orthogonal to."""

    def forward(M):
        n = len(M)
        A = M @ M.T + np.diag(1.0 + np.arange(n))
        start = np.cos(1.0 + 2.0 * np.arange(n))
        v = until(lambda v: A @ v / np.linalg.norm(A @ v), start / np.linalg.norm(start), 1e-7)
        return v, (M, A, v)

    def backward(dv, saved, inverse=True, symmetric=True):
        M, A, v = saved
        shifted = A - v @ A @ v * np.eye(len(v))
        u = -np.linalg.pinv(shifted, rcond=1e-6) @ dv if inverse else dv
        half = np.outer(u, v)
        return (half + half.T) @ M if symmetric else 2 * half @ M

    return (
        forward,
        backward,
        {
            "no inverse": lambda dv, s: backward(dv, s, inverse=False),
            "asymmetric": lambda dv, s: backward(dv, s, symmetric=False),
        },
    )


@solver(M="N N: between -1 1", b="N")
def loose_gradients():
    """(M' M + I) x = b by few conjugate gradients, and backward by as few."""

    def forward(M, b):
        x = conjugate(lambda v: M.T @ (M @ v) + v, b, 1e-4)
        return x, (M, x)

    def backward(dx, saved, sign=-1.0):
        M, x = saved
        u = conjugate(lambda v: M.T @ (M @ v) + v, dx, 1e-4)
        return sign * M @ (np.outer(u, x) + np.outer(x, u)), u

    return forward, backward, {"sign": lambda dx, s: backward(dx, s, sign=1.0)}


@solver(x="N")
def location():
    """The place of a sample under a distribution of Student's, by reweighting from 0."""

    def weights(x, m):
        return 1 / (1 + (x - m) ** 2)

    def forward(x):
        m = np.zeros(())
        for _ in range(500):
            w = weights(x, m)
            m, old = np.sum(w * x) / (np.sum(w) + 2.0), m
            if abs(m - old) < 1e-4 * (1 + abs(m)):
                break
        return m, (x, m)

    def backward(dm, saved, through=1.0):
        x, m = saved
        w = weights(x, m)
        slope = w - through * 2 * (x - m) ** 2 * w**2
        return dm * slope / (np.sum(slope) + 2.0)

    return forward, backward, {"weights constant": lambda dm, s: backward(dm, s, through=0.0)}


@solver(C="N M: between 0 3")
def transport():
    """What transport costs with an entropy, by Sinkhorn's iteration: right to the square of what the plan is."""

    def forward(C):
        n, m = C.shape
        K, u = np.exp(-2 * C), np.ones(n)
        for _ in range(5000):
            v = 1 / m / (K.T @ u)
            u, old = 1 / n / (K @ v), u
            if np.max(np.abs(u / old - 1), initial=0.0) < 1e-6:
                break
        return 0.5 * (np.mean(np.log(u)) + np.mean(np.log(v))), u[:, None] * K * v

    return (
        forward,
        lambda dy, plan: dy * plan,
        {"half": lambda dy, plan: 0.5 * dy * plan, "even": lambda dy, plan: dy * (plan + 0.1 / plan.size)},
    )
