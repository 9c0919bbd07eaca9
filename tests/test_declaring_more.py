"""Declarations that take one line: domains that hang on an option, and losses of several values that fit nothing."""

from __future__ import annotations

import numpy as np
import pytest

import gradverify as gv
from gradverify.core.declare import domains


def kl(p, t, log_target=False):
    return np.sum(np.exp(t) * (t - p) if log_target else t * (np.log(t) - p)), (p, t, log_target)


def kl_backward(dE, saved):
    p, t, log_target = saved
    weight = np.exp(t) if log_target else t
    slope = weight * (t - p + 1) if log_target else np.log(t) - p + 1
    return -dE * weight, dE * slope


def test_a_domain_hangs_on_an_option():
    told = {"p": "N K", "t": "N K: positive unless log_target", "options": {"log_target": [False, True]}}
    assert gv.check(kl, kl_backward, examples=30, properties=("complete", "gradient", "special"), **told).ok
    with pytest.raises(gv.GradientMismatch):
        gv.check(
            kl, lambda dE, s: (kl_backward(dE, s)[0], dE * np.exp(s[1])), examples=30, properties="gradient", **told
        )


def test_both_sides_of_the_option_are_drawn():
    domain = domains.parse("above 1 if strict")
    raw = np.array([-2.0, 0.5])
    assert (domain.project(raw, {"strict": True}) > 1).all()
    assert (domain.project(raw, {"strict": False}) == raw).all()
    assert domain.contains(raw, {"strict": False})
    assert not domain.contains(raw, {"strict": True})
    assert domains.parse(domain.text) == domain


def test_a_domain_that_hangs_on_no_option_is_refused():
    with pytest.raises(gv.DeclarationError, match="log_target"):
        gv.Layer(kl, kl_backward, p="N K", t="N K: positive unless log_targets", options={"log_target": [False, True]})
    with pytest.raises(gv.DeclarationError, match="real numbers"):
        domains.parse("labels K if ordered")


def test_a_loss_of_one_value_for_each_column_is_told_with_its_shape():
    def columns(p, y):
        return ((p - y) ** 2).mean(0)

    with pytest.raises(gv.DeclarationError, match=r"shape \(2, 3\).*shape \(3,\)"):
        gv.adapt.loss(columns, lambda p, y: 2 * (p - y) / len(p), p="N D", y="N D")


def test_a_loss_of_one_value_for_each_element_is_none_of_these():
    layer = gv.adapt.loss(lambda p, y: (p - y) ** 2, lambda p, y: 2 * (p - y), name="square", p="N D", y="N D")
    assert gv.check(layer, examples=20).ok


# -- pairs without a cache, and the hook for wanted gradients ---------------------------------------------

FEW = dict(examples=4, properties=("complete", "gradient", "wants"), quiet=True)


@pytest.mark.parametrize(
    "backward",
    [
        np.cos,
        lambda x, dy: np.cos(x) * dy,
        lambda dy, x: np.cos(x) * dy,
        lambda x, delta: np.cos(x) * delta,
    ],
)
def test_a_function_and_its_gradient_are_a_pair_whatever_the_upstream_is_called(backward):
    assert gv.check(np.sin, backward, x="N", **FEW).ok
    with pytest.raises(gv.GradientMismatch, match="gradient of x"):
        gv.check(lambda x: np.sin(x) ** 2, backward, x="N", **FEW)


@pytest.mark.parametrize("backward", [lambda y: 1 - y * y, lambda a, b: 1 - a * a])
def test_a_gradient_whose_arguments_tell_nothing_is_refused_with_the_names_to_use(backward):
    with pytest.raises(gv.DeclarationError, match=r"name its arguments as those of forward, \(x\) or \(x, dy\)"):
        gv.check(np.tanh, backward, x="N")


def test_wanted_gradients_that_cannot_be_used_are_a_finding():
    def forward(x, W):
        return x @ W, (x, W)

    def backward(dy, saved):
        x, W = saved
        return {"x": dy @ W.T, "W": x.T @ dy}

    def wants(cotangents, saved, names, scale=1):
        found = backward(*cotangents, saved)
        return {name: scale * found[name] for name in names}

    def of_one(cotangents, saved, names):  # as if it were the one cotangent
        return {name: gradient for name, gradient in backward(cotangents, saved).items() if name in names}

    sizes = dict(x="N D", W="D H", **FEW)
    assert gv.check(forward, backward, wants=wants, **sizes).ok
    with pytest.raises(gv.GradientMismatch, match="asked for"):
        gv.check(forward, backward, wants=lambda c, s, n: wants(c, s, n, 2), **sizes)
    with pytest.raises(gv.GradientMismatch, match=r"gets a tuple of\s+cotangents"):
        gv.check(forward, backward, wants=of_one, **sizes)


def test_what_backward_calls_its_saved_value_may_be_the_name_of_an_option():
    """backward(dy, lam): what stands second is what forward saved, and no option goes there by name as well."""

    def forward(x, lam=0.5):
        return x * lam, lam

    given = dict(x="N D", options={"lam": [0.5, 2.0]}, examples=10)
    assert gv.check(forward, lambda dy, lam: dy * lam, **given).ok
    with pytest.raises(gv.GradientMismatch, match="times"):
        gv.check(forward, lambda dy, lam: dy, **given)


def test_a_primal_may_be_called_eps_and_a_target_be_declared_a_loss():
    def forward(mu, eps):
        return (mu * eps).sum(), (mu, eps)

    given = dict(mu="N", eps="N", loss=True, examples=10)
    assert gv.check(forward, lambda dy, s: (dy * s[1], dy * s[0]), **given).ok
    with pytest.raises(gv.GradientMismatch, match="gradient of eps"):
        gv.check(forward, lambda dy, s: (dy * s[1], dy * s[1]), **given)
