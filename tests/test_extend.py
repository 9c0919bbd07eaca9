"""What extensions are written with: each kind registered, found by its name, and used."""

from __future__ import annotations

import numpy as np
import pytest

import gradverify as gv
from gradverify import extend


@pytest.fixture
def registered():
    """Registers, and forgets at the end of the test."""
    known = {kind: dict(getattr(extend, kind)._items) for kind in ("adapters", "properties", "signatures", "rules")}
    yield
    for kind, items in known.items():
        registry = getattr(extend, kind)
        registry._items.clear()
        registry._items.update(items)


def halves(factor):
    return gv.Layer(lambda x: (x / 2, None), lambda dy, _: dy * factor, name="halves", x="N")


def positive(layer, case):
    """A property of our own: gradients of this layer are positive for a positive cotangent."""
    raw = layer.backward(np.ones_like(case.primals["x"]), None)
    if (raw > 0).all():
        return extend.Outcome("positive", entries=raw.size)
    return extend.Outcome("positive", (gv.Finding("positive", "negative", "x", "it is negative", case),))


def test_a_property_of_another_package_is_checked(registered):
    extend.add_property(extend.Property("positive", "gradients are positive", positive))
    assert gv.check(halves(0.5), properties="positive", examples=5).ok
    assert not gv.check(halves(-0.5), properties="positive", examples=5, raises=False).ok


def test_a_signature_of_another_package_names_its_mistake(registered):
    @extend.add_signature("negated_half", "SIGN")
    def negated_half(evidence: extend.Evidence) -> extend.Diagnosis | None:
        return extend.Diagnosis("negated_half", "SIGN", "a half with the wrong sign", extend.Fit.EXACT)

    finding = gv.check(halves(-0.5), properties="gradient", examples=5, raises=False).findings[0]
    assert "negated_half" in {d.name for d in extend.diagnose(halves(-0.5), finding)}


def test_a_calling_convention_of_another_package_is_recognised(registered):
    class Pair:
        def __init__(self, factor):
            self.factor = factor

    def adapt(target, **declaration):
        return halves(target.factor)

    extend.add_adapter(extend.Adapter("of_halves", lambda t: isinstance(t, Pair), adapt, "check(Pair(0.5))", 1000))
    assert gv.check(Pair(0.5), examples=5).ok
    assert not gv.check(Pair(0.4), examples=5, raises=False).ok


def test_a_rule_of_another_package_leaves_entries_open(registered):
    layer, case = halves(0.4), gv.Case("halves", {"x": np.array([1.0, 2.0])})
    assert gv.verify(layer, case, "gradient").findings

    @extend.add_rule("intended", "it is meant so", cost=0)
    def intended(dispute):
        return extend.answer(np.ones(dispute.size, bool))

    assert not gv.verify(layer, case, "gradient").findings


@pytest.mark.parametrize("name", extend.__all__)
def test_every_name_can_be_had(name):
    assert getattr(extend, name) is not None
