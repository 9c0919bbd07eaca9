"""A forward that iterates to a tolerance: its implicit derivative is never called wrong, and a wrong one is found."""

from __future__ import annotations

import numpy as np
import pytest

import gradverify as gv
from gradverify.core.declare.regime import Regime
from gradverify.core.differentiate.jumps import largest_jump
from gradverify.core.draw import cases, each
from gradverify.core.judge import says
from tests.iterating import SOLVERS, until

pytestmark = pytest.mark.usefixtures("as_drawn")

QUICK = ("jacobi", "lambert", "secant")
WRONG = [(name, slip) for name, (_, _, wrong, _) in SOLVERS.items() for slip in wrong]


def drawn(layer, count, special=False):
    found = []
    each(cases(layer, Regime(special=special)), count, 0, found.append)
    return found


def built(name, slip=None, **more):
    forward, right, wrong, declaration = SOLVERS[name]
    return gv.Layer(forward, right if slip is None else wrong[slip], name=name, **declaration, **more)


def marked(names):
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", marked(SOLVERS))
@pytest.mark.parametrize("accuracy", [0.0, 1e-5])
def test_an_implicit_derivative_is_not_called_wrong(name, accuracy):
    layer = built(name, accuracy=accuracy)
    told = [f.message for case in drawn(layer, 6) for f in gv.verify(layer, case).findings]
    assert told == []


@pytest.mark.parametrize(
    ("name", "slip"), [pytest.param(*p, marks=[] if p[0] in QUICK else pytest.mark.slow) for p in WRONG]
)
@pytest.mark.parametrize("accuracy", [0.0, 1e-5])
def test_a_wrong_one_is_found(name, slip, accuracy):
    layer = built(name, slip, accuracy=accuracy)
    assert any(gv.verify(layer, case, ["gradient"]).findings for case in drawn(layer, 20))


def fixed_point(size, factor=0.5):
    def forward(x):
        y = until(lambda y: 0.5 * np.cos(y) + x, x, 1e-8)
        return y, y

    return gv.Layer(forward, lambda dy, y: dy / (1 + factor * np.sin(y)), name="fixed_point", x=f"{size}")


@pytest.mark.parametrize("size", [3, 19, 40])
@pytest.mark.parametrize("scale", [1e-2, 1.0])
def test_of_many_entries_some_are_always_slow_and_the_number_of_iterations_is_no_help_nearby(size, scale):
    for seed in range(4):
        x = scale * np.random.default_rng(seed).normal(size=size)
        case = gv.Case("fixed_point", {"x": x}, seed=seed)
        assert not gv.verify(fixed_point(size), case, ["gradient"]).findings
    wrong = fixed_point(size, factor=0.51)
    assert gv.verify(wrong, case.but(primals={"x": np.linspace(-2, 2, size)}), ["gradient"]).findings


def rayleigh(factor=2.0):
    """The largest eigenvalue of A A' + I by power iteration: its error is the square of that of the vector."""

    def forward(A):
        S = A @ A.T + np.eye(len(A))

        def step(v):
            return S @ v / np.linalg.norm(S @ v)

        v = until(step, np.ones(len(A)) / len(A) ** 0.5, 1e-6)
        return v @ S @ v, (A, v)

    return gv.Layer(
        forward, lambda dy, s: factor * dy * np.outer(s[1], s[1]) @ s[0], name="rayleigh", A="N N: between 0.1 2"
    )


def test_a_backward_that_takes_what_forward_left_undone_is_not_called_wrong():
    A = {"A": np.array([[0.7747765607548519, 0.7870792302381305], [1.25, 1.7793804122802634]])}
    case = gv.Case("rayleigh", A, seed=6302, step=3e-5)
    assert not gv.verify(rayleigh(), case, ["gradient"]).findings
    assert gv.verify(rayleigh(2.001), case, ["gradient"]).findings


SPIKES = {  # where an iteration ends at once, and beside it as far as its tolerance goes
    "location": {"x": np.array([1.0, 0.0, -1.0])},
    "loose_gradients": {"M": np.diag([0.0, 0.0, 1e-4]), "b": np.array([1000.0, 0.0, 1.0])},
}


@pytest.mark.parametrize("name", SPIKES)
@pytest.mark.parametrize("asked", ["gradient", "special", "linear"])
def test_a_point_at_which_an_iteration_ends_at_once_is_a_spike_and_no_mistake(name, asked):
    case = gv.Case(name, SPIKES[name], seed=18358)
    assert not gv.verify(built(name), case, [asked]).findings


def newton(factor=3.0):
    """y^3 + a y = b, all entries until the slowest is there: a direction of all of them leads beyond a pole."""

    def forward(a, b):
        y = until(lambda y: y - (a * y + y**3 - b) / (a + 3 * y * y), b / a, 1e-5)
        return y, (a, y)

    def backward(dy, saved):
        a, y = saved
        u = dy / (a + factor * y * y)
        return -u * y, u

    return gv.Layer(forward, backward, name="newton", a="N: between 0.2 5", b="N")


@pytest.mark.slow
def test_one_entry_of_many_is_told_along_itself():
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        primals = {"a": np.round(rng.uniform(0.2, 3, 200), 1), "b": np.round(rng.uniform(-2, 2, 200))}
        case = gv.Case("newton", primals, seed=seed)
        assert not gv.verify(newton(), case, ["gradient"]).findings
    few = case.but(primals={n: a[:20] for n, a in primals.items()})
    assert gv.verify(newton(3.001), few, ["gradient"]).findings


def test_stairs_of_a_backward_that_stops_short_are_no_mistake():
    case = gv.Case("transport", {"C": np.array([[0, 0.5, 2.658], [0.5078125, 1, 1]])}, seed=27005)
    assert not gv.verify(built("transport"), case.but(cotangents=(np.array(-1.3),)), ["gradient"]).findings


@pytest.mark.parametrize("digits", [5, 7])
def test_stairs_of_rounding_excuse_no_wrong_formula(digits):
    def forward(x):
        return np.round(np.sin(x), digits), x

    layer = gv.Layer(forward, lambda dy, x: 1.5 * dy * np.cos(x), name="rounded", x="N")
    assert any(gv.verify(layer, case, ["gradient"]).findings for case in drawn(layer, 20))


def test_what_is_left_open_says_why():
    layer = built("jacobi")
    reasons = {
        reason
        for case in drawn(layer, 8)
        for share in gv.verify(layer, case, ["gradient"]).verified_by.verified
        for reason in share.unresolved
    }
    assert says("stopped") in reasons


def test_a_layer_that_jumps_once_and_is_wrong_everywhere_is_found():
    def forward(x):
        return x + 1e-5 * (x > 0.5), x

    layer = gv.Layer(forward, lambda dy, x: 1.01 * dy, x="N")
    case = gv.Case(layer.name, {"x": np.array([0.49, 3.0])}, {}, seed=1)
    assert gv.verify(layer, case, ["gradient"]).findings


@pytest.mark.parametrize(
    ("function", "jumps"),
    [
        (lambda t: np.array([np.sin(3 * t) + 1e-9 * (t > 0.1234)]), 0.1234),
        (lambda t: np.array([np.sin(3 * t)]), None),
        (lambda t: np.array([np.abs(t - 0.1234)]), None),
        (lambda t: np.array([np.exp(t), np.cos(t) - 1e-8 * (t > -0.3)]), -0.3),
    ],
)
def test_a_jump_is_found_beside_a_curve_and_no_kink_is_one(function, jumps):
    found = largest_jump(lambda steps: np.array([function(t) for t in steps]), 0.5, np.full(function(0.0).size, 1e-16))
    assert (found is None) == (jumps is None)
    if found is not None:
        assert found.at == pytest.approx(jumps, abs=1e-9)
        assert 1e-10 < np.abs(found.change).max() < 1e-7


def test_a_surrogate_of_more_steps_stands_in_for_a_loose_forward():
    def loose(x):
        y = until(lambda y: x + 0.4 * np.sin(y), x, 1e-4)
        return y, y

    def backward(dy, y):
        return dy / (1 - 0.4 * np.cos(y))

    def tight(x):
        return until(lambda y: x + 0.4 * np.sin(y), x, 1e-14)

    def check(slope):
        layer = gv.Layer(loose, slope, x="N", surrogate=tight, accuracy=1e-4)
        return [f for case in drawn(layer, 8) for f in gv.verify(layer, case, ["gradient"]).findings]

    assert not check(backward)
    assert check(lambda dy, y: dy * (1 + 0.4 * np.cos(y)))


@pytest.mark.parametrize("accuracy", [-1e-8, 0.5, "small", float("nan")])
def test_an_accuracy_that_is_none_is_refused(accuracy):
    with pytest.raises(gv.DeclarationError, match="accuracy"):
        built("jacobi", accuracy=accuracy)


def test_the_report_tells_the_accuracy():
    assert any("1e-08" in line for line in built("jacobi", accuracy=1e-8).declared.lines())


def test_torch_solver():
    torch = pytest.importorskip("torch")

    def solver(factor):
        class Solve(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                y = x.clone()
                for _ in range(200):
                    after = x + 0.4 * torch.sin(y)
                    done = bool((after - y).abs().max() < 1e-7) if y.numel() else True
                    y = after
                    if done:
                        break
                ctx.save_for_backward(y)
                return y

            @staticmethod
            def backward(ctx, dy):
                (y,) = ctx.saved_tensors
                return dy / (1 - factor * torch.cos(y))

        return Solve

    assert gv.check(solver(0.4), x="N", accuracy=1e-6, examples=6).ok
    with pytest.raises(AssertionError):
        gv.check(solver(0.3), x="N", accuracy=1e-6, examples=6, properties="gradient")


def test_jax_solver():
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    def solver(factor):
        def limit(x):
            def going(state):
                return jnp.max(jnp.abs(state[1] - state[0]), initial=0.0) > 1e-7

            def step(state):
                return state[1], x + 0.4 * jnp.sin(state[1])

            return jax.lax.while_loop(going, step, (x, x + 0.4 * jnp.sin(x)))[1]

        solve = jax.custom_vjp(limit)
        solve.defvjp(lambda x: (limit(x), limit(x)), lambda y, dy: (dy / (1 - factor * jnp.cos(y)),))
        return solve

    assert gv.check(solver(0.4), x="N", accuracy=1e-6, examples=5).ok
    with pytest.raises(AssertionError):
        gv.check(solver(0.3), x="N", accuracy=1e-6, examples=5, properties="gradient")


def conjugate_gradients(A, b, tolerance):
    """A x = b, until the residual is below an absolute tolerance."""
    x, r = np.zeros_like(b), b
    p = r
    for _ in range(400):
        if np.linalg.norm(r) <= tolerance:
            break
        step = r @ r / (p @ A @ p)
        x, new = x + step * p, r - step * (A @ p)
        p, r = new + (new @ new) / (r @ r) * p, new
    return x


@pytest.mark.parametrize(("slip", "ok"), [(0.0, True), (1e-4, False)])
def test_a_backward_that_stops_at_an_absolute_tolerance_is_linear(slip, ok):
    def forward(M, b):
        A = M @ M.T + 2 * np.eye(len(M))
        x = np.linalg.solve(A, b)
        return x, (A, M, x)

    def backward(dx, saved):
        A, M, x = saved
        u = conjugate_gradients(A, dx + slip * dx**2, 1e-9)
        dA = -np.outer(u, x)
        return (dA + dA.T) @ M, u

    layer = gv.Layer(forward, backward, name="solve", M="N N: between 3 5", b="N")
    assert gv.check(layer, properties="linear", examples=40, raises=False).ok is ok


@pytest.mark.parametrize("kept", [np.float16, np.float32])
def test_stairs_of_what_is_kept_in_a_low_type_are_a_mistake(kept):
    def forward(x, W):
        h = np.tanh(x @ W)
        return h, (x, W, h.astype(kept))

    def backward(dy, saved):
        x, W, h = saved
        d = dy * (1 - h.astype(float) ** 2)
        return d @ W.T, x.T @ d

    layer = gv.Layer(forward, backward, name="kept", x="N D", W="D H")
    for seed in range(6):
        rng = np.random.default_rng(seed)
        case = gv.Case("kept", {"x": rng.normal(size=(2, 3)), "W": rng.normal(size=(3, 2))}, seed=seed)
        assert {f.primal for f in gv.verify(layer, case, ["gradient"]).findings} == {"x", "W"}
