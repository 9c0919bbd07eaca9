"""What an author's predicate gets, what it leaves to be drawn, and what a report says of that."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import gradverify as gv
from gradverify import Layer
from gradverify.core.check.search import check_layer
from gradverify.core.check.settings import Settings
from gradverify.core.draw import cases, each
from gradverify.core.errors import DeclarationError


def square(x, *rest):
    return x * x, x


def square_backward(dy, x):
    return {"x": 2 * x * dy}


def groups(x):
    """Sums heads in groups; G divides H."""
    return x * 1.0, None


def layer(assume, **primals):
    return gv.Layer(square, square_backward, name="square", assume=assume, **(primals or {"x": "N D"}))


def test_a_predicate_gets_what_it_names_of_primals_options_and_sizes():
    seen = []

    def assume(x, N, D):
        seen.append((x.shape, N, D))
        return True

    made = layer(assume)
    assert made.allows({"x": np.zeros((2, 3))}, {}) and seen == [((2, 3), 2, 3)]
    assert layer(lambda N: N > 2).allows({"x": np.zeros((2, 3))}, {}) is False


def test_a_predicate_never_gets_what_was_not_declared():
    seen = set()

    def assume(**values):
        seen.update(values)
        return True

    assert layer(assume).allows({"x": np.zeros((2, 3)), "hidden": np.ones(3)}, {})
    assert seen == {"x"}


def test_a_predicate_that_raises_is_a_mistake_that_is_told():
    made = layer(lambda x: x.shape[7] > 2)
    with pytest.raises(DeclarationError, match="assume raised IndexError"):
        made.allows({"x": np.zeros((2, 3))}, {})
    with pytest.raises(DeclarationError, match="assume raised IndexError"):
        gv.check(made)


def test_a_predicate_that_asks_for_an_unknown_name_is_refused():
    with pytest.raises(DeclarationError, match="neither a primal, an option nor a size"):
        layer(lambda Q: True)


def sizes_of(made, count=400):
    found = []
    each(cases(made), count, 0, lambda case: found.append(case.primals["x"].shape))
    return Counter(found)


def test_sizes_are_spread_over_what_the_predicate_allows():
    made = gv.Layer(
        lambda x, g: (x * 1.0, None),
        lambda dy, _: {"x": dy, "g": np.zeros(1)},
        name="heads",
        x="H D",
        g=("G", "real"),
        assume=lambda H, G: H % G == 0,
        zero="g",
    )
    pairs: Counter[tuple[int, int]] = Counter()
    each(cases(made), 400, 0, lambda c: pairs.update([(c.primals["x"].shape[0], c.primals["g"].shape[0])]))
    assert all(h % g == 0 for h, g in pairs)
    assert pairs[4, 2] >= 5 and pairs[6, 3] >= 5 and pairs[8, 4] >= 5
    assert sum(n for (h, g), n in pairs.items() if h >= 4 and g > 1) >= 120


def test_the_report_says_what_was_refused():
    narrow = gv.check(layer(lambda x: x.shape[0] == x.shape[1] == 7), examples=20, properties="gradient")
    (note,) = [n for n in narrow.notes if "assume refused" in n]
    assert "product of names" in note
    wide = gv.check(layer(lambda x: x.shape[0] < 100), examples=20, properties="gradient")
    assert not wide.notes


def test_a_wrong_head_map_is_found_where_groups_divide_heads():
    def forward(q, k):
        H, G = q.shape[0], k.shape[0]
        return q * np.repeat(k, H // G, axis=0), (q, k)

    def right(dy, saved):
        q, k = saved
        H, G = q.shape[0], k.shape[0]
        return dy * np.repeat(k, H // G, axis=0), (dy * q).reshape(G, H // G, -1).sum(1)

    def wrong(dy, saved):  # head h belongs to group h mod G
        q, k = saved
        H, G = q.shape[0], k.shape[0]
        return dy * np.tile(k, (H // G, 1)), (dy * q).reshape(H // G, G, -1).sum(0)

    shape = {"q": "H D", "k": "G D", "assume": lambda H, G: H % G == 0}
    few = dict(examples=40, properties=("complete", "gradient"), raises=False)
    assert gv.check(forward, right, **shape, **few).ok
    assert gv.check(forward, wrong, **shape, **few).findings


def test_a_condition_may_be_written_as_a_string():
    def forward(x, G):
        assert x.shape[1] % G == 0
        return x * G, G

    declaration = {"x": "N C", "options": {"G": [1, 2, 3]}}
    layer = Layer(forward, lambda dy, saved: dy * saved, assume="C % G == 0 and np.all(x < 1e9)", **declaration)
    assert check_layer(layer, Settings(examples=8, properties=("gradient",))).ok
    with pytest.raises(DeclarationError, match="is no condition"):
        Layer(forward, lambda dy, saved: dy * saved, assume="C % = 0", **declaration)
    with pytest.raises(DeclarationError, match="takes 'Q'"):
        Layer(forward, lambda dy, saved: dy * saved, assume="Q == 0", **declaration)


def test_a_name_that_is_a_primal_and_an_axis_is_told():
    layer = gv.Layer(lambda x, W: (x, None), lambda dy, _: {"x": dy}, x="N W", W="K W", zero="W", assume="W >= 2")
    with pytest.raises(gv.DeclarationError, match="W is the primal there, and not the axis: rename one"):
        gv.check(layer)
