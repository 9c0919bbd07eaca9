"""The JAX adapter: right rules are silent, planted errors are found, and 64 bits are used where they are given."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import gradverify as gv
from gradverify import Case
from gradverify.adapters import as_layer
from gradverify.core import evaluate
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.judge import backward_noise
from gradverify.core.properties import precision

jax = pytest.importorskip("jax")

from gradverify.adapters import jax_ as adapter  # noqa: E402

pytestmark = pytest.mark.usefixtures("as_drawn")

jnp = jax.numpy
DENSE = {"x": "N D", "W": "D H"}


def check(target, *properties, examples=4, **declaration):
    settings = Settings(examples=examples, properties=properties or None, shrink=False)
    return check_layer(as_layer(target, **declaration), settings)


def kinds(report):
    return {(f.property, f.kind) for f in report.findings}


def dense(backward):
    """tanh(x W) with a backward of its own."""

    @jax.custom_vjp
    def tanh_dense(x, W):
        return jnp.tanh(x @ W)

    def forward(x, W):
        y = tanh_dense(x, W)
        return y, (x, W, y)

    tanh_dense.defvjp(forward, backward)
    return tanh_dense


def right(saved, g):
    x, W, y = saved
    g = g * (1 - y * y)
    return g @ W.T, x.T @ g


def wrong_sign(saved, g):
    dx, dW = right(saved, g)
    return dx, -dW


def derivative_dropped(saved, g):
    x, W, _ = saved
    return g @ W.T, x.T @ g


def cut(saved, g):
    return *right(saved, g)[:1], *right(saved, jax.lax.stop_gradient(g))[1:]


def detached(saved, g):
    return right(tuple(jax.lax.stop_gradient(a) for a in saved), g)


def test_a_right_custom_vjp_is_silent_in_every_property():
    report = check(dense(right), examples=4, **DENSE)
    assert report.ok, str(report)
    assert report.tallies["second_order"].cases
    assert report.tallies["wants"].reason == "backward is not told which gradients are wanted"


@pytest.mark.parametrize(
    ("backward", "prop"),
    [(wrong_sign, "gradient"), (derivative_dropped, "gradient"), (detached, "second_order"), (cut, "second_order")],
)
def test_a_planted_error_is_found(backward, prop):
    assert (prop, "wrong") in kinds(check(dense(backward), prop, **DENSE))


def told_what_is_wanted(factor):
    """A product whose rule is told which inputs are perturbed, and scales one gradient where the other is not."""

    @jax.custom_vjp
    def product(x, y):
        return x * y

    def forward(x, y):
        return x.value * y.value, (x.value, y.value, y.perturbed)

    def backward(saved, g):
        x, y, both = saved
        return g * y * (1.0 if both else factor), g * x

    product.defvjp(forward, backward, symbolic_zeros=True)
    return product


@pytest.mark.parametrize(("factor", "wrong"), [(1.0, set()), (2.0, {("wants", "differs")})])
def test_a_rule_that_takes_symbolic_zeros_is_asked_for_each_subset(factor, wrong):
    report = check(told_what_is_wanted(factor), "wants", x="N", y="N")
    assert report.tallies["wants"].cases and set(kinds(report)) == wrong


def test_the_gradient_of_a_detached_copy_is_only_wrong_in_second_order():
    assert not check(dense(detached), "complete", "gradient", **DENSE).findings


def test_a_custom_jvp_is_checked_in_forward_mode():
    def softplus(rule):
        @jax.custom_jvp
        def f(x):
            return jnp.logaddexp(x, 0.0)

        f.defjvp(lambda p, t: (f(*p), rule(*p) * t[0]))
        return f

    assert check(softplus(jax.nn.sigmoid), "gradient", "forward_mode", x="N").ok
    found = kinds(check(softplus(lambda x: 1.01 * jax.nn.sigmoid(x)), "gradient", "forward_mode", x="N"))
    assert {("gradient", "wrong"), ("forward_mode", "wrong")} <= found


def test_a_custom_vjp_inside_a_function_has_no_forward_mode():
    inner = dense(right)
    report = check(lambda x, W: 2 * inner(x, W) + jnp.sin(0.0), "forward_mode", "gradient", **DENSE)
    assert report.ok
    assert "no forward mode" in report.tallies["forward_mode"].reason


def test_pytrees_of_inputs_and_outputs_are_flattened_by_path():
    @jax.jit
    def model(params, x):
        y = jnp.tanh(x @ params["W"] + params["b"])
        return {"y": y, "pair": (y.sum(), params["scales"][0] * y)}

    declaration = {"params": {"W": "D H", "b": "H", "scales": ["H", "H: positive"]}, "x": "N D"}
    layer = as_layer(model, **declaration)
    assert layer.primal_names == ("params_W", "params_b", "params_scales_0", "params_scales_1", "x")
    assert layer.primal("params_scales_1").domain.name == "positive"
    report = check(model, "complete", "gradient", examples=3, **declaration)
    assert report.ok, str(report)
    with pytest.raises(gv.DeclarationError, match="two primals would be called 'a_b'"):
        as_layer(model, params={"a": "N"}, a={"b": "N"}, a_b="N")


def test_options_and_labels_are_not_differentiated():
    def loss(logits, labels, *, smooth):
        target = jax.nn.one_hot(labels, logits.shape[-1]) * (1 - smooth) + smooth / logits.shape[-1]
        return -(target * jax.nn.log_softmax(logits)).sum(-1).mean()

    declaration = {"logits": "N K", "labels": "N: labels K", "options": {"smooth": [0.0, 0.5]}}
    assert check(loss, "complete", "gradient", **declaration).ok


def test_control_flow_on_values_is_run_without_compilation():
    def halved(x):
        return x * x if x[0] > 0 else jnp.sin(x)

    assert check(halved, "complete", "gradient", x="N: nonzero", examples=3).ok


def test_64_bits_are_used_where_they_are_given_and_the_setting_stays():
    layer = as_layer(dense(right), **DENSE)
    x, W = np.ones((2, 3)), np.ones((3, 4))
    assert not jax.config.jax_enable_x64
    for dtype in (np.float64, np.float32):
        y, tape = layer.forward(x.astype(dtype), W.astype(dtype))
        assert y.dtype == dtype and layer.backward(np.ones_like(y), tape)["W"].dtype == dtype
    assert not jax.config.jax_enable_x64 and jnp.ones(1).dtype == jnp.float32


def test_bfloat16_comes_back_as_float32():
    layer = as_layer(lambda x: x.astype(jnp.bfloat16), x="N")
    y, _ = layer.forward(np.array([1.0, 3.0]))
    assert y.dtype == np.float32


@pytest.mark.parametrize("count", [5, 700])
def test_many_copies_give_what_one_at_a_time_gives(count):
    layer = as_layer(dense(right), **DENSE)
    rng = np.random.default_rng(0)
    x, W = rng.normal(size=(count, 2, 3)), rng.normal(size=(3, 4))
    (many,) = layer.hooks.batched({"x": x, "W": W[None]}, {})
    assert many.shape == (count, 2, 4)
    for k in (0, count - 1):
        assert np.allclose(many[k], evaluate.run(layer, {"x": x[k], "W": W}, {}).outputs[0], rtol=1e-13)


def test_complex_gradients_follow_the_convention_of_jax():
    layer = as_layer(lambda z: jnp.sin(z) * z, z="N: complex")
    assert not layer.declared.conjugate
    assert check(lambda z: jnp.sin(z) * z, "gradient", z="N: complex").ok
    assert as_layer(dense(right), **DENSE).declared.lines() == ()


def test_functions_are_recognised_by_what_they_name():
    assert adapter._recognises(jax.jit(lambda x: x + 1)) and adapter._recognises(lambda x: 2 * jnp.sin(x))
    assert not adapter._recognises(lambda x: 2 * np.sin(x)) and not adapter._recognises(np.sin)


def test_a_surrogate_is_computed_in_the_precision_of_the_layer():
    @jax.custom_vjp
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))
    assert check(rounded, "gradient", x="N").findings
    assert check(rounded, "gradient", x="N", surrogate=lambda x: 1 * jnp.asarray(x)).ok
    assert check(rounded, "gradient", x="N", surrogate=lambda x, at: jnp.round(at["x"]) + (x - at["x"])).ok


def test_jax_that_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(gv.DeclarationError, match=r"pip install 'gradverify\[jax\]'"):
        adapter.jax_layer(lambda x: x, x="N")
    assert not adapter._recognises(lambda x: x)


def test_a_primal_may_be_called_target():
    def squared(pred, target):
        return jnp.sum((pred - target) ** 2)

    assert gv.check(squared, pred="N D", target="N D", examples=5, raises=False).ok


def test_what_jax_cannot_differentiate_twice_has_no_second_backward():
    report = check_layer(
        as_layer(jax.scipy.special.gammainc, a="N: positive", x="N: positive"),
        Settings(examples=4, properties=("complete", "gradient", "second_order"), shrink=False),
    )
    assert report.ok, str(report)
    assert "igamma_grad_a" in report.tallies["second_order"].reason


@pytest.mark.parametrize("low", [False, True])
def test_rounding_of_what_jax_keeps_is_no_lost_digit(low):
    """Where tanh has settled, 1 - y^2 is what the rounding of the output leaves; XLA's is off by several units."""

    @jax.custom_vjp
    def settle(x):
        return jnp.tanh(x)

    def backward(y, g):
        share = 1e-3 if low and y.dtype == jnp.float32 else 0.0
        return ((1 - y * y + share) * g,)

    settle.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), backward)
    layer = as_layer(settle, x="N")
    case = Case("settle", {"x": np.array([7.5, 7.8], np.float32)}, cotangents=(np.ones(2, np.float32),))
    assert backward_noise.rounding_saved(layer, case)["x"].max() > 1e-7
    assert {f.kind for f in precision.holds(layer, case).findings} == ({"precision"} if low else set())
