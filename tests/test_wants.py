"""The property `wants`: a gradient that depends on which others are asked for, in every size of what is asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gradverify import Case, Layer
from gradverify.core.properties import wants

NAMES = ("a", "b", "c", "d")
CASE = Case("given", {n: np.array([1.0, 2.0]) + k for k, n in enumerate(NAMES)}, cotangents=(np.array([0.5, -0.25]),))


def forward(a, b, c, d):
    return a + 2 * b + 3 * c + 4 * d, None


def given(scale):
    """Gradients of what is wanted, times what `scale` says of a primal and of what is wanted beside it."""

    def backward(dy, saved, wants=NAMES):
        return {n: (k + 1) * dy * scale(n, wants) for k, n in enumerate(NAMES) if n in wants}

    return Layer(forward, backward, name="given", **dict.fromkeys(NAMES, "N"))


def told(layer, case=CASE):
    outcome = wants.holds(layer, case)
    return [(f.primal, f.kind, f.message) for f in outcome.findings]


def test_what_is_computed_for_itself_is_silent_and_all_sizes_are_asked():
    asked = []

    def scale(name, wanted):
        asked.append(wanted)
        return 1.0

    assert told(given(scale)) == []
    assert {len(set(wanted)) for wanted in asked} == {1, 2, 3, 4}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_gradient_that_is_another_where_so_many_are_wanted_is_found(size):
    found = told(given(lambda name, wanted: 2.0 if name == "c" and len(wanted) == size else 1.0))
    assert [(primal, kind) for primal, kind, _ in found] == [("c", "differs")]
    assert found[0][2].startswith("when only ") and " want gradients, the gradient of c changes" in found[0][2]


def test_a_gradient_that_is_lacking_is_told_with_what_was_wanted():
    def backward(dy, saved, wants=NAMES):
        return {n: (k + 1) * dy for k, n in enumerate(NAMES) if n in wants and (n != "b" or len(wants) > 1)}

    layer = Layer(forward, backward, name="given", **dict.fromkeys(NAMES, "N"))
    ((primal, _, message),) = told(layer)
    assert primal == "b" and message.startswith("when only b want gradients: ") and "tuple of cotangents" not in message


def by_hook(pull):
    layer = Layer(
        forward, lambda dy, _: tuple((k + 1) * dy for k in range(4)), name="given", **dict.fromkeys(NAMES, "N")
    )
    return layer.derive(hooks=replace(layer.hooks, wants=pull))


def test_a_hook_gets_a_tuple_of_cotangents_and_is_told_so_where_it_fails():
    assert told(by_hook(lambda dys, saved, wanted: {n: (NAMES.index(n) + 1) * dys[0] for n in wanted})) == []
    ((_, _, message),) = told(by_hook(lambda dys, saved, wanted: {}))
    assert message.endswith("wants= gets a tuple of cotangents, also where there is one")


def test_several_outputs_come_as_a_tuple_to_a_backward_as_well():
    def two(a, b):
        return (a + b, a * 2), None

    def backward(dys, saved, wants=("a", "b")):
        return {n: g for n, g in {"a": dys[0] + 2 * dys[1], "b": dys[0]}.items() if n in wants}

    layer = Layer(two, backward, name="given", a="N", b="N")
    case = Case("given", {"a": np.ones(2), "b": np.ones(2)}, cotangents=(np.ones(2), np.ones(2)))
    assert told(layer, case) == []
    assert wants.applies(layer) is None


def test_it_applies_to_several_primals_of_what_can_be_asked():
    assert wants.applies(given(lambda *_: 1.0)) is None
    assert "takes no argument 'wants'" in wants.applies(
        Layer(forward, lambda dy, _: dy, name="g", **dict.fromkeys(NAMES, "N"))
    )
    alone = Layer(lambda a: (a, None), lambda dy, _, wants=("a",): dy, name="g", a="N")
    assert wants.applies(alone) == "there is only one primal"
    assert wants.applies(by_hook(lambda *_: {})) is None


def test_a_hook_that_is_not_told_what_is_wanted_is_skipped_with_the_reason():
    assert wants.holds(by_hook(lambda *_: None), CASE).skipped == "backward is not told which gradients are wanted"
