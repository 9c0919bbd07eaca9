"""The court: every rule has a right layer that it alone saves, and a wrong one of the same look that it does not."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gradverify.core.declare.hooks import Hooks
from gradverify.core.declare.layer import Layer
from gradverify.core.differentiate.point import Point
from gradverify.core.judge import says, sweep, table
from gradverify.core.judge.dispute import Answer, Dispute, answer
from gradverify.core.judge.rules import cancelling, grain
from gradverify.core.judge.rules.kink import between
from gradverify.core.judge.rules.plateau import in_a_row
from gradverify.core.judge.verdicts import PLAIN
from gradverify.core.nouns import AGREES, DISAGREES, KINK, UNRESOLVED, Case, Estimate
from gradverify.core.properties import gradient, special
from gradverify.core.tuning import Tuning, using
from gradverify.report.explanation import verdicts
from gradverify.report.html.heatmap import described


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Rules are not asked inside."""
    taken = {name: table.rules._items.pop(name) for name in names}
    try:
        yield
    finally:
        table.rules._items.update(taken)


def offset(c):
    return lambda x: (((x + c) - c) ** 2, x)


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def leaky_slope(x):
    return np.where(x > 0, 1.0, 0.01)


def leaky_twice(x, w, v):
    a = leaky(x * w)
    return leaky(a * v), (x, w, v, a)


def leaky_twice_backward(dy, saved):
    x, w, v, a = saved
    da = dy * leaky_slope(a * v) * v
    dz = da * leaky_slope(x * w)
    return dz * w, dz * x, dy * leaky_slope(a * v) * a


def median(x):
    return np.sort(x)[10], x


def median_backward(dy, x):
    g = np.zeros_like(x)
    g[np.flatnonzero(x == np.sort(x)[10])[9]] = dy
    return g


WINDOWS = np.array([[1, 2, 3], [3, 0, 0], [3, 3, 0], [1, 3, 1], [1, 3, 1]])
CHOSEN = np.array([2, 0, 3, 1, 1])  # of each window, all of whose entries are tied


def windows_backward(dy, x):
    g = np.zeros_like(x)
    np.add.at(g, CHOSEN, dy)
    return g


def gelu(x):
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + t), (x, t)


def gelu_backward(dy, saved):
    x, t = saved
    inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x * x)
    return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t) * (1 + t) * inner)


def mixture(x, p):
    """No neighbour of the point is legal, as the weights must add up to 1."""
    if abs(p.sum() - 1) > 1e-12:
        raise ValueError("p must add up to 1")
    return (np.maximum(x, 0) * p).sum(), (x, p)


def mixture_backward(dy, saved):
    x, p = saved
    return dy * p * np.where(x == 0, 0.3, x > 0), dy * np.maximum(x, 0)


def gain(x):
    """A Kalman gain of one state: S has the condition 7e6, and backward is off by a thousandth."""
    S = 100 * np.outer(x, x) + np.exp(-10.0) * np.eye(x.size)
    return 100 * x @ np.linalg.inv(S), (x, S)


def gain_backward(dk, saved):
    x, S = saved
    inverse = np.linalg.inv(S)
    g = inverse @ dk
    dS = -np.outer(100 * x @ inverse, g)
    return 100 * g + 100 * (dS + dS.T) @ x


TIED = np.concatenate([np.zeros(23), np.linspace(-2, -1, 6), [1.0, 2.0]])
# rule: forward, its right backward, primals, cotangent, verdict
ALONE = {
    "grain": (offset(1e5), lambda dy, x: 2 * x * dy, {"x": [0.516, 0.5607]}, [1.0, -0.5], UNRESOLVED),
    "plateau": (offset(1e6), lambda dy, x: 2 * x * dy, {"x": [0.0183, 0.019]}, [1.0, -0.5], UNRESOLVED),
    "kink": (mixture, mixture_backward, {"x": [0.0] * 20, "p": [0.05] * 20}, 1.0, KINK),
    "outputs apart": (
        lambda x: (x[WINDOWS].max(-1), x),
        windows_backward,
        {"x": [-1.0] * 4},
        [0.0, 0.5, -0.7, -0.2, -0.5],
        KINK,
    ),
    "neighbours": (median, median_backward, {"x": TIED}, 1.0, KINK),
    "lost digits": (gain, gain_backward, {"x": [1.0] * 3}, [-1.0, -1.0, 2.0], UNRESOLVED),
    "integral": (gelu, gelu_backward, {"x": [-7.0]}, [1.0], UNRESOLVED),
    "cancelling": (leaky_twice, leaky_twice_backward, {"x": [0.0], "w": [1.0], "v": [-1.0]}, [1.0], UNRESOLVED),
}


def judged(name, change=lambda g: g):
    forward, backward, primals, cotangent, _ = ALONE[name]

    def altered(dy, saved):
        found = backward(dy, saved)
        return tuple(map(change, found)) if isinstance(found, tuple) else change(found)

    layer = Layer(forward, altered, name="layer", primals=dict.fromkeys(primals, "N"))
    case = Case("layer", {k: np.array(v) for k, v in primals.items()}, cotangents=(np.array(cotangent),), seed=5)
    return gradient.holds(layer, case).compared


# Stairs finer than any step look alike, whether rounding or a tolerance makes them.
BESIDE = dict.fromkeys(("grain", "plateau", "integral"), ("stopped",))


@pytest.mark.parametrize("name", ALONE)
def test_a_right_layer_is_saved_by_one_rule_alone_and_the_verdict_says_so(name):
    compared = judged(name)
    assert not any(c.wrong.any() for c in compared)
    verdict = "kink" if ALONE[name][4] == KINK else "unresolved"
    assert any((verdict, name) in c.because() for c in compared)
    with without(name, *BESIDE.get(name, ())):
        assert any(c.wrong.any() for c in judged(name))


@pytest.mark.parametrize("name", ALONE)
def test_a_wrong_layer_of_the_same_look_is_not_saved(name):
    assert any(c.wrong.any() for c in judged(name, lambda g: 3 * g + 0.1))


@pytest.mark.parametrize("size", [3, 5, 9])
@pytest.mark.parametrize(("share", "wrong"), [(1.0, False), (1.5, True), (-0.2, True)])
def test_a_median_of_equal_numbers_is_straight_along_any_line_and_has_a_corner_all_the_same(size, share, wrong):
    """It is odd: -x has the median -m."""

    def middle(x):
        return np.sort(x)[size // 2], x

    def backward(dy, x):
        g = np.zeros_like(x)
        g[size // 2] = share * dy
        return g

    layer = Layer(middle, backward, name="layer", x="N")
    cases = (Case("layer", {"x": np.full(size, -4.0)}, cotangents=(np.array(1.2),), seed=seed) for seed in range(10))
    found = [gradient.holds(layer, case).compared[0] for case in cases]
    assert any(compared.wrong.any() for compared in found) == wrong
    assert not any(compared.verdicts[size // 2] == AGREES for compared in found)


def at(forward, backward, x, dy, **more):
    layer = Layer(forward, backward, name="layer", x="N", **more)
    case = Case("layer", {"x": np.array(x)}, cotangents=(np.array(dy),))
    return gradient.holds(layer, case).compared[0]


def relu(x):
    return np.maximum(x, 0), x


def test_a_kink_is_told_by_the_slopes_on_its_two_sides():
    compared = at(relu, lambda dy, x: dy * (x > 0), [0.0, 1.0], [1.0, 2.0])
    assert [compared.reason((0,)), compared.reason((1,))] == ["kink", ""]
    assert compared.because() == {("kink", "kink"): 1}
    assert at(relu, lambda dy, x: dy * np.where(x == 0, 1.5, x > 0), [0.0, 1.0], [1.0, 2.0]).wrong.tolist() == [
        True,
        False,
    ]


def faint(slope=0.0):
    """A sum in which one unit is 1e-8 short of its kink and weighs 1e-8 beside what the other entry does."""

    def forward(x, w):
        return np.sum(np.exp(x)) + 1e-8 * np.sum(np.sin(w) + np.maximum(w - 3.00000001, 0)), (x, w)

    def backward(dy, saved):
        x, w = saved
        return dy * np.exp(x), dy * 1e-8 * (np.cos(w) + np.where(w > 3.00000001, 1.0, slope))

    layer = Layer(forward, backward, name="faint", x="N", w="M")
    case = Case("faint", {"x": np.array([0.3, 0.7]), "w": np.array([3.0])}, cotangents=(np.array(1.0),), seed=5)
    return gradient.holds(layer, case).compared[1]


def test_a_faint_kink_beside_the_point_is_one():
    assert ("kink", "kink") in faint().because()
    assert faint(slope=-2.0).wrong.all()


def test_a_jump_of_the_forward_is_named():
    def forward(x):
        return np.where(x > 0, x, 1.8 * np.exp(x) - 1), x

    compared = at(forward, lambda dy, x: dy * np.where(x > 0, 1, 1.8 * np.exp(x)), [0.0, 1.0, -1.0], [1.0, 0.5, -2.0])
    assert compared.reason((0,)) == "undeclared" and compared.verdicts.tolist() == [UNRESOLVED, AGREES, AGREES]


def test_every_reason_has_a_sentence():
    for rule in table.ordered():
        assert says(rule.name) == rule.says and len(rule.says) > 20
    for name, sentence in PLAIN.items():
        assert says(name) == sentence
    assert says("of somebody else") == "of somebody else"


def test_rules_are_asked_in_the_order_of_what_they_cost():
    costs = [rule.cost for rule in table.ordered()]
    assert costs == sorted(costs)


@contextlib.contextmanager
def another(asks) -> Iterator[None]:
    """A rule of another package, asked first."""
    table.rules._items["other"] = table.Rule("other", "another package says so", asks, 1)
    try:
        yield
    finally:
        del table.rules._items["other"]


def test_a_rule_of_another_package_that_raises_is_named_and_excuses_nothing():
    def asks(dispute: Dispute) -> Answer:
        raise ValueError("no such thing")

    with another(asks), pytest.warns(RuntimeWarning, match="the rule 'other' failed, and excuses nothing: ValueError"):
        assert at(relu, lambda dy, x: 3 * dy * (x > 0), [1.0], [1.0]).wrong.all()


def test_no_rule_can_turn_an_entry_into_one_that_agrees():
    with (
        another(lambda dispute: answer(np.ones(dispute.size, bool), AGREES)),
        pytest.warns(RuntimeWarning, match="kink"),
    ):
        assert at(relu, lambda dy, x: 3 * dy * (x > 0), [1.0], [1.0]).wrong.all()


def test_a_rule_of_another_package_can_leave_an_entry_open():
    with another(lambda dispute: answer(np.ones(dispute.size, bool))):
        compared = at(relu, lambda dy, x: 3 * dy * (x > 0), [1.0], [1.0])
    assert compared.because() == {("unresolved", "other"): 1}


def test_few_entries_stand_for_a_primal_that_is_wrong_and_the_others_say_so():
    def forward(x, b):
        return x * x + b, x

    layer = Layer(forward, lambda dy, x: (2.1 * x * dy, dy), name="layer", x="N", b="N")
    rng = np.random.default_rng(0)
    case = Case("layer", {"x": rng.standard_normal(50), "b": rng.standard_normal(50)})
    with using(Tuning(few=True)):
        few = {c.primal: c for c in gradient.holds(layer, case).compared}
    assert int(few["x"].wrong.sum()) == sweep.FEW and few["x"].because() == {("unresolved", "enough"): 46}
    assert (few["b"].verdicts == AGREES).all()
    every = {c.primal: c for c in gradient.holds(layer, case).compared}
    assert (every["x"].verdicts == DISAGREES).all()


def test_where_the_clearest_entries_are_excused_the_others_are_tried():
    """The clearest disagreements are kinks; the error hides behind them."""
    x = np.concatenate([np.zeros(12), [1.0, 2.0, -1.0]])

    def backward(dy, x):
        return dy * np.where(x == 0, 0.5, np.where(x == 2, 1 + 1e-2, x > 0))

    layer = Layer(relu, backward, name="layer", x="N")
    case = Case("layer", {"x": x}, cotangents=(np.linspace(1.0, 2.0, 15),))
    with using(Tuning(few=True)):
        compared = gradient.holds(layer, case).compared[0]
    assert np.flatnonzero(compared.wrong).tolist() == [13]


def test_primals_that_are_known_to_be_wrong_are_not_compared_again():
    layer = Layer(lambda x, b: (x * x + b, x), lambda dy, x: (3 * x * dy, dy), name="layer", x="N", b="N")
    with using(Tuning(known=frozenset({"x"}))), warnings.catch_warnings():
        compared = gradient.holds(layer, Case("layer", {"x": np.ones(3), "b": np.ones(3)})).compared
    assert [c.primal for c in compared] == ["b"]


def test_the_bound_that_is_shown_is_the_one_that_decided():
    rng = np.random.default_rng(1)
    for scale in (1e-8, 1.0, 1e8):
        compared = at(
            lambda x: (np.tanh(x) * x, x),
            lambda dy, x: dy * (np.tanh(x) + x * (1 - np.tanh(x) ** 2)),
            scale * rng.standard_normal(40),
            rng.standard_normal(40),
        )
        agrees = compared.verdicts == AGREES
        assert agrees.any() and compared.ratio[agrees].max() <= 1.0


def test_an_entry_far_smaller_than_its_primal_is_differenced_at_its_own_size():
    """1/x^2 is even: a step across its pole differences to 0, and looks converged."""
    x = [1.0, 2.4013276901781456e-09, 6.0, 4.54771834489886e-11]
    dy = [0.0, -0.4, 0.0, 2.0]
    right = at(lambda x: (1 / x**2, x), lambda dy, x: -2 * dy / x**3, x, dy)
    assert not right.wrong.any()
    wrong = at(lambda x: (1 / x**2, x), lambda dy, x: -2.1 * dy / x**3, x, dy)
    assert wrong.wrong.tolist() == [False, True, False, True]


def test_the_page_tells_in_every_tooltip_what_a_verdict_rests_on():
    compared = at(relu, lambda dy, x: dy * (x > 0), [0.0, 1.0], [1.0, 2.0])
    assert described(compared, (0,)).endswith(
        "kink: the slopes on the two sides differ, and backward gives one between them"
    )
    assert described(compared, (1,)).endswith("agrees")


def test_explain_tells_why_entry_by_entry():
    compared = at(relu, lambda dy, x: dy * (x > 0), [0.0, 1.0, 0.0], [1.0, 2.0, 3.0])
    text = " ".join(verdicts([compared]).split())
    assert "x: 1 agree, 2 at kinks kink: x[N=0], x[N=2]: the slopes on the two sides differ" in text


# -- what the rules measure ------------------------------------------------------------------------


def side(value, bound):
    return Estimate(np.array([value]), np.array([bound]), np.zeros(1))


@pytest.mark.parametrize(
    ("convention", "accepted"),
    [
        ("between", {-0.6: False, -0.4: True, 0.5: True, 2.4: True, 2.6: False}),
        ("left", {-0.4: True, 0.6: False, 2.0: False}),
        ("right", {2.4: True, 1.4: False, 0.0: False}),
        ("middle", {1.4: True, 0.6: True, 1.6: False, 0.0: False}),
    ],
)
def test_a_value_is_that_of_a_kink_between_its_sides_or_near_the_one_that_is_declared(convention, accepted):
    for analytic, wanted in accepted.items():
        for left, right in ((0.0, 2.0), (2.0, 0.0)) if convention in ("between", "middle") else ((0.0, 2.0),):
            told, jump = between(np.array([analytic]), side(left, 0.3), side(right, 0.2), convention)
            assert told.tolist() == [wanted] and jump.tolist() == [True], (analytic, left)


def test_sides_that_differ_by_no_more_than_their_bounds_are_no_kink():
    for apart, jump in ((0.49, False), (0.51, True)):
        told, found = between(np.array([1.0]), side(1.0, 0.3), side(1.0 - apart, 0.2), "between")
        assert told.tolist() == found.tolist() == [jump]
    assert not between(np.array([0.0]), side(np.nan, 0.3), side(1.0, 0.2), "between")[1].any()


def test_steps_in_a_row_count_from_four_on_and_from_three_where_small_ones_move_nothing():
    near, far = 0.019, 0.021  # of the disagreement
    for row, still, found in (
        ([far, near, near, near, near, far], False, True),
        ([near, near, near, far, near, near], False, False),
        ([near, near, near, far, near, near], True, True),
        ([near, near, far, near, near, far], True, False),
        ([far, np.nan, -near, -near, -near, -near], False, True),
    ):
        told = in_a_row(2.0 * np.array([row]), np.array([2.0]), np.array([still]))
        assert told.tolist() == [found], row


def point(forward, x):
    layer = Layer(lambda x: (forward(x), x), lambda dy, x: dy, name="layer", x="N")
    x = np.array(x, float)
    return Point(layer, Case("layer", {"x": x}, cotangents=(np.ones(x.shape),)))


def test_the_grain_is_as_wide_as_the_steps_that_move_nothing():
    where = point(lambda x: (x + 2.0**20) - 2.0**20, [0.75, 0.5])
    width = grain.width_of(where, np.arange(2))
    assert (width >= 2.0**-33).all() and (width <= 8 * 2.0**-33).all()  # half of what 2^20 is rounded to
    assert grain.width_of(point(np.sin, [0.75, 0.5]), np.arange(2)).tolist() == [0.0, 0.0]
    still = point(lambda x: 0 * x + 1.0, [0.75])  # nothing ever moves: that is no grain
    assert grain.width_of(still, np.arange(1)).tolist() == [0.0]


@pytest.mark.parametrize("width", [0.0, 2.0**-12])
def test_a_curvature_is_that_of_the_entry_alone(width):
    where = point(lambda x: 3 * x * x + np.array([1.0, 2.0]), [0.75, 0.5])
    assert grain._curvature(where, np.arange(2), np.full(2, width)) == pytest.approx([6.0, 6.0], rel=1e-6)


def asked(rule, where, analytic, numerical):
    """What one rule says of a single entry in dispute."""
    dispute = Dispute(where, np.array([0]), np.array([analytic]), np.array([numerical]), np.array([1e-9]))
    return int(table.rules.get(rule).asks(dispute).verdicts[0])


@pytest.mark.parametrize(("off", "verdict"), [(3.9, UNRESOLVED), (4.1, DISAGREES)])
def test_a_gradient_that_is_read_from_an_update_may_be_off_by_its_rounding_and_no_more(off, verdict):
    """(w - (w - rate g)) / rate loses what w rounds away, which no difference of outputs shows."""
    where = point(lambda x: x, [1.0])
    rule = table.rules.get("updated")
    dispute = Dispute(where, np.array([0]), np.array([1.0 + off * 1e-4]), np.array([1.0]), np.array([0.0]))
    assert not rule.applies(dispute)
    where.layer = where.layer.derive(hooks=Hooks(gradient_rounding=lambda primals: {"x": 1e-4}))
    assert rule.applies(dispute) and rule.asks(dispute).verdicts[0] == verdict


@pytest.mark.parametrize(("slope", "verdict"), [(1e9, UNRESOLVED), (1.1e9, DISAGREES), (-1e9, DISAGREES)])
def test_a_slope_far_steeper_than_any_step_is_told_at_steps_of_its_own_length(slope, verdict):
    assert asked("steep", point(lambda x: np.tanh(1e9 * x), [0.0]), slope, 0.0) == verdict
    assert asked("steep", point(lambda x: np.tanh(1e2 * x), [0.0]), 1e2 * slope / 1e9, 0.0) == DISAGREES  # no need


@pytest.mark.parametrize(
    ("forward", "value", "slope", "verdict"),
    [
        (np.floor, 1e6 + 0.5, 0.0, UNRESOLVED),
        (np.floor, 1e6 + 0.5, 0.5, DISAGREES),  # a gradient of 0 alone is one of a stair
        (np.floor, 1e6, 0.0, UNRESOLVED),  # on a step, one side of which it stays on
        (np.sin, 1e6, 0.0, DISAGREES),
        (np.floor, 1e17, 0.0, UNRESOLVED),  # every number is whole, and no short step can be taken
        (np.floor, 1e6 + 0.9, 0.0, UNRESOLVED),  # nor does a step upward stay
        (np.floor, 2e3 + 0.5, 0.0, UNRESOLVED),
        (np.floor, 1e2 + 0.5, 0.0, DISAGREES),
    ],
)
def test_a_stair_of_whole_numbers_is_flat_where_a_short_step_leaves_it(forward, value, slope, verdict):
    assert asked("whole", point(forward, [value]), slope, 1.0) == verdict


def test_what_is_read_from_an_update_is_so_for_its_own_primal_alone():
    layer = Layer(lambda x, y: (x + y, None), lambda dy, _: (dy, dy), name="layer", x="N", y="N")
    pair = Case("layer", {"x": np.ones(2), "y": np.ones(2)}, cotangents=(np.ones(2),))
    for name, excused in (("x", [0, 1]), ("y", [2, 3])):
        grains = {name: 1e-4}
        where = Point(layer.derive(hooks=Hooks(gradient_rounding=lambda primals, grains=grains: grains)), pair)
        dispute = Dispute(where, np.arange(4), np.full(4, 1 + 1e-4), np.ones(4), np.zeros(4))
        answered = table.rules.get("updated").asks(dispute).verdicts
        assert np.flatnonzero(answered == UNRESOLVED).tolist() == excused


def test_a_difference_is_no_more_than_the_slope_changes_over_the_grain_or_it_is_one():
    where = point(lambda x: ((x + 2.0**20) - 2.0**20) ** 2, [0.75, 0.5, 0.25])
    change = 2.0 * grain.width_of(where, np.arange(3))  # the second derivative is 2
    for share, verdict in ((0.9, UNRESOLVED), (1.1, DISAGREES)):
        assert asked("grain", where, 1.5 + share * change[0], 1.5) == verdict
    dispute = Dispute(where, np.arange(3), 2 * where.values + change * [0.5, 0.9, 3.0], 2 * where.values, change)
    assert table.rules.get("grain").asks(dispute).verdicts.tolist() == [UNRESOLVED, UNRESOLVED, DISAGREES]
    dispute = Dispute(where, np.arange(3), 2 * where.values + change * [0.5, 3.0, 0.9], 2 * where.values, change)
    assert table.rules.get("grain").asks(dispute).verdicts.tolist() == [UNRESOLVED, DISAGREES, UNRESOLVED]


@pytest.mark.parametrize(
    ("value", "analytic", "numerical", "verdict"),
    [
        (1e-20, 1.0, 0.0, UNRESOLVED),  # small steps move nothing, and those of the size of 1 agree
        (1e-20, 2.0, 0.0, DISAGREES),
        (1e-20, 1.0, 0.5, DISAGREES),  # they moved something
    ],
)
def test_steps_of_the_size_of_1_are_larger_ones_for_an_entry_that_moves_nothing(value, analytic, numerical, verdict):
    assert asked("plateau", point(lambda x: (1 + x) - 1, [value]), analytic, numerical) == verdict


def test_the_page_on_numerics_has_a_row_for_every_rule():
    page = (Path(__file__).parents[1] / "docs" / "numerics.md").read_text(encoding="utf-8")
    for rule in table.ordered():
        assert f"| `{rule.name}` |" in page


@pytest.mark.parametrize(("turned", "wrong"), [(1.0, False), (-1.0, True)])
def test_tied_entries_that_agree_one_by_one_are_no_mistake_together(turned, wrong):
    """Equal singular values are odd along each direction, and not linear: no gradient tells them all."""

    def forward(x):
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        return s, (u, vt)

    def backward(dy, saved):
        u, vt = saved
        return turned * (u * dy) @ vt

    layer = Layer(forward, backward, name="singular", x="3 4")
    case = Case("singular", {"x": np.eye(3, 4)}, cotangents=(np.array([1.4, -0.3, 1.4]),))
    assert bool(special.holds(layer, case).findings) == wrong


@pytest.mark.parametrize(("floor", "slope", "wrong"), [(0, 0.0, False), (0, 1.0, False), (-9, 1.5, True)])
def test_zeros_that_move_together_across_kinks_that_cancel_are_no_mistake(floor, slope, wrong):
    """relu(s) - relu(-s) is s, and any slope of a relu at 0 is legal; where it has no kink, one is."""

    def forward(x, w, v):
        z = x @ w
        return np.maximum(z, floor) @ v, (x, w, v, z)

    def backward(dy, saved):
        x, w, v, z = saved
        dz = dy @ v.T * np.where(z == 0, slope, z > floor)
        return dz @ w.T, x.T @ dz, np.maximum(z, floor).T @ dy

    layer = Layer(forward, backward, name="net", x="N D", w="D H", v="H M")
    primals = {"x": np.zeros((2, 2)), "w": np.array([[1.0, -1.0]] * 2), "v": np.array([[1.0], [-1.0]])}
    assert bool(special.holds(layer, Case("net", primals, seed=0)).findings) == wrong


@pytest.mark.parametrize(("gap", "verdict"), [(2e-4, UNRESOLVED), (1e-2, DISAGREES), (0.5, DISAGREES)])
@pytest.mark.parametrize("x", [1.0, 3])
def test_digits_are_lost_as_far_as_they_move_where_values_round_otherwise(x, gap, verdict):
    """A gradient that a few hundred units in the last place turn by half a radian, times a thousandth."""

    def backward(dy, x):
        return dy * (1 + 1e-3 * np.sin(1e13 / 3 * x))

    layer = Layer(lambda x: (1.0 * x, x), backward, name="layer", x="N")
    where = Point(layer, Case("layer", {"x": np.array([x], float)}, cotangents=(np.ones(1),)))
    assert asked("lost digits", where, 1.0 + gap, 1.0) == verdict


def test_kinks_cancel_by_accident_where_numbers_are_round():
    for values, told in (
        ([0.3, 0.7, 0.0], True),
        ([0.3, 0.7], False),
        ([0.3, 0.7, 1e301], False),
        ([0.3, -1.25], True),
    ):
        assert cancelling._round(np.array(values)) == told


def singular(x):
    """x times the inverse of [[x, 1], [1, x]], which at 1 is what rounding makes of it."""
    return np.linalg.inv(np.array([[x[0], 1.0], [1.0, x[0] + 3e-16]]))[0], x


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_what_stands_at_a_point_alone_is_no_limit_and_tells_of_no_slope(factor):
    """1 / (x^2 - 1) in the first row: beside 1 it is right to the last digits, and a wrong factor is found."""

    def backward(dy, x):
        inverse = np.linalg.inv(np.array([[x[0], 1.0], [1.0, x[0] + 3e-16]]))
        return np.array([-factor * dy @ (inverse @ inverse)[0]])

    layer = Layer(singular, backward, name="layer", x="1")
    compared = [
        gradient.holds(layer, Case("layer", {"x": np.array([x])}, cotangents=(np.array([0.7, -1.2]),))).compared[0]
        for x in (1.0, 2.0)
    ]
    assert not compared[0].wrong.any()
    assert compared[1].wrong.any() == (factor != 1)


@pytest.mark.parametrize("analytic", [0.0, 1e20])
def test_a_value_that_stands_alone_takes_an_entry_out_of_the_dispute_and_a_kink_does_not(analytic):
    alone = point(lambda x: np.where(x == 0, 1e16, np.cos(x)), [0.0])
    assert asked("isolated", alone, analytic, 1.0) == UNRESOLVED
    assert asked("isolated", point(np.abs, [0.0]), analytic, 1.0) == DISAGREES
    assert asked("isolated", point(lambda x: 1e6 * x**2, [0.0]), analytic, 1.0) == DISAGREES
    assert asked("isolated", point(lambda x: 1e5 * x**2 / (x**2 + 1e-12), [0.0]), analytic, 1.0) == DISAGREES
    assert asked("isolated", point(lambda x: np.tanh(1e15 * x), [0.0]), analytic, 1.0) == DISAGREES
    assert asked("isolated", point(lambda x: 1 / x**2, [1e-9, 1.0]), analytic, 1.0) == DISAGREES  # a pole beside it
