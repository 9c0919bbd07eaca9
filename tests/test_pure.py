"""The properties `pure` and `alias`: who changes or shares which array is told, and what may be is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gradverify import Case, Layer
from gradverify.core.properties import alias, layout, pure

CASE = Case("given", {"x": np.array([1.0, 2.0]), "w": np.array([3.0, 5.0])}, cotangents=(np.array([0.5, -0.5]),))


def forward(x, w):
    return x * w, (x.copy(), w.copy())


def backward(dy, saved):
    return dy * saved[1], dy * saved[0]


def told(forward=forward, backward=backward, hooks=None, case=CASE, **declaration):
    layer = Layer(forward, backward, name="given", x="N", w="N", **declaration)
    layer = layer if hooks is None else layer.derive(hooks=replace(layer.hooks, **hooks))
    outcome = pure.holds(layer, case)
    assert outcome.entries == 4
    return [(f.kind, f.primal, f.facts.get("stage"), f.facts["what"]) for f in outcome.findings]


def after(change, of=backward):
    """A backward that changes something first."""

    def changed(dy, saved):
        gradients = of(dy, saved)
        change(dy, saved)
        return gradients

    return changed


def test_a_layer_that_changes_nothing_is_silent():
    assert told() == []
    assert told(lambda x, w: (x * w, (x, w))) == []


@pytest.mark.parametrize("number", [0.0, np.nan])
def test_each_array_is_named_with_who_changes_it(number):
    def writes(x, w):
        y = x * w
        w[0] = number
        return y, (x, w)

    def put(array):
        array[0] = number

    assert told(writes, lambda dy, s: (dy, dy)) == [("mutates", "w", "forward", "its argument w")]
    kept = lambda x, w: (x * w, (x, w))  # noqa: E731
    assert told(kept, after(lambda dy, s: put(s[0]))) == [("mutates", "x", "backward", "the primal x")]
    assert told(backward=after(lambda dy, s: put(dy))) == [
        ("mutates", None, "backward", "the cotangent (upstream gradient)")
    ]
    assert told(backward=after(lambda dy, s: put(s[1]))) == [
        ("mutates", None, "backward", "saved[1], which forward saved")
    ]


def test_what_forward_saved_is_not_told_beside_what_else_is_changed_nor_of_an_object_with_a_state():
    def both(dy, saved):
        dy *= 2
        saved[0][:] = 0

    assert [what for *_, what in told(backward=after(both))] == ["the cotangent (upstream gradient)"]
    assert told(backward=after(lambda dy, s: s[0].fill(0)), stateful=True) == []


def test_a_cotangent_of_several_is_named_by_its_output_and_an_output_by_its_place():
    def two(x, w):
        y, z = x * w, x + w
        return (y, z), (x.copy(), w.copy(), y, z)

    def right(dys, saved):
        return dys[0] * saved[1] + dys[1], dys[0] * saved[0] + dys[1]

    case = CASE.but(cotangents=(np.ones(2), np.ones(2)))
    for change, what in (
        (lambda dys, saved: dys[1].fill(9), "the cotangent of output 1"),
        (lambda dys, saved: saved[2].fill(9), "the output 0"),
    ):
        assert told(two, after(change, right), case=case) == [("mutates", None, "backward", what)]


def test_parameters_of_an_object_are_named():
    weights = {"gain": np.ones(2), "gone": np.ones(1)}

    def held(saved):
        return {name: array.copy() for name, array in weights.items()}

    def writes(dy, saved):
        weights["gain"][0] += 1
        weights.pop("gone", None)

    assert told(backward=after(writes), hooks=dict(stored_parameters=held)) == [
        ("mutates", "gain", "backward", "the parameter gain of the object")
    ]
    assert told(hooks=dict(stored_parameters=held)) == []


def test_a_gradient_that_is_a_primal_itself_is_an_alias_unless_nobody_can_write_into_it():
    keeps = lambda x, w: (x + w, (x, w))  # noqa: E731

    def frozen(dy, saved):
        view = saved[1][:]
        view.flags.writeable = False
        return view, dy

    def views(dy, saved):
        return saved[1], saved[0][:]

    assert sorted(told(keeps, views)) == [
        ("aliases", "w", None, "the primal x"),
        ("aliases", "x", None, "the primal w"),
    ]
    assert told(keeps, frozen) == [] and told(keeps, lambda dy, s: (dy, dy)) == []
    assert told(keeps, lambda dy, s: (s[1].tolist(), dy)) == []


def test_a_cotangent_is_given_in_the_type_of_its_output():
    seen = []
    told(
        lambda x, w: ((x * w).astype(np.float32), None), lambda dy, s: (seen.append(dy.dtype), dy.astype(float))[1:] * 2
    )
    assert set(seen) == {np.dtype(np.float32)}


def test_what_fails_on_an_array_that_cannot_be_written_is_the_same_mistake():
    def writes(dy, saved):
        dy *= 1.0
        return backward(dy, saved)

    for own, moot in ((after(lambda dy, s: dy.fill(0)), True), (backward, False)):
        layer = Layer(forward, own, name="given", x="N", w="N")
        found = layout.holds(layer, CASE)
        assert (pure._moot(layer, CASE, found) is not None) == moot
        assert pure._moot(layer, CASE, replace(found, property="other")) is None
    assert not pure._moot(Layer(forward, after(lambda dy, s: dy.fill(0)), name="g", x="N", w="N"), CASE, found).findings


@pytest.mark.parametrize(
    ("gradients", "shared"),
    [
        (lambda dy, s: (dy * s[1], dy * s[0]), []),
        (lambda dy, s: (dy, dy * s[0]), [("x", "the cotangent")]),
        (lambda dy, s: (dy * s[1], s[1][::-1]), [("w", "the primal w")]),
        (lambda dy, s: (s[2], s[2]), [("w", "the gradient of x")]),
        (lambda dy, s: (dy[:0], dy * 1), []),
        (lambda dy, s: (dy.tolist(), dy), [("w", "the cotangent")]),
        (lambda dy, s: (np.broadcast_to(dy, (2, 2))[0], dy * 1), []),  # nobody can add to it in place
    ],
)
def test_a_gradient_that_shares_its_memory_is_told_with_whom(gradients, shared):
    layer = Layer(lambda x, w: (x * w, (x, w, np.ones(2))), gradients, name="given", x="N", w="N")
    outcome = alias.holds(layer, CASE)
    assert [(f.primal, f.facts["what"]) for f in outcome.findings] == shared
    assert outcome.entries == 2 and all(f.kind == "aliases" for f in outcome.findings)
