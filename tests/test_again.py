"""The properties about calls again: `repeatable`, `reuse`, `accumulates` and `modes`, each on layers of one line."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gradverify import Case, Finding, Layer
from gradverify.core.nouns import Outcome
from gradverify.core.properties import accumulates, modes, repeatable, reuse

X, Y, V = np.array([1.0, 2.0, -3.0]), np.array([0.5, -1.0, 2.0]), np.array([0.5, -0.25, 1.0])
CASE = Case("given", {"x": X, "y": Y}, cotangents=(V,))


def forward(x, y):
    return x * y, (x, y)


def backward(dz, saved):
    x, y = saved
    return dz * y, dz * x


def given(forward=forward, backward=backward, hooks=None, **declaration):
    layer = Layer(forward, backward, name="given", x="N", y="N", **declaration)
    return layer if hooks is None else layer.derive(hooks=replace(layer.hooks, **hooks))


def told(prop, layer, case=CASE):
    outcome = prop.holds(layer, case)
    return outcome.skipped or [(f.primal, f.kind, f.facts.get("what")) for f in outcome.findings]


# -- repeatable -------------------------------------------------------------------------------


def test_the_same_again_is_silent_and_three_calls_and_one_more_backward_count():
    for stateful, calls in ((False, 4), (True, 3)):
        outcome = repeatable.holds(given(stateful=stateful), CASE)
        assert not outcome.findings and outcome.entries == calls * 6


@pytest.mark.parametrize("nth", [2, 3])
def test_a_forward_that_gives_something_else_at_a_later_call_is_random(nth):
    calls = []

    def drifts(x, y):
        calls.append(0)
        return x * y + (len(calls) % nth == 0), (x, y)

    assert told(repeatable, given(drifts)) == [(None, "random", None)]


def test_a_backward_that_gives_something_else_is_told_by_when_it_does():
    dice = np.random.default_rng(0)
    random = given(backward=lambda dz, saved: (dz * saved[1] * dice.random(), dz * saved[0]))
    assert [found[:2] for found in told(repeatable, random)] == [("x", "random")]

    def uses_up(dz, saved):
        gradients = backward(dz, saved)
        saved[0][:] = 0
        return gradients

    copies = lambda x, y: (x * y, (x.copy(), y.copy()))  # noqa: E731
    assert told(repeatable, given(copies, uses_up)) == [("y", "differs", "when backward is called twice")]
    assert told(repeatable, given(copies, uses_up, stateful=True)) == []


def test_an_output_that_is_written_into_later_is_compared_as_it_was():
    held = np.zeros(3)

    def keeps(x, y):
        np.multiply(x, y, out=held)
        return held, (x, y)

    assert told(repeatable, given(keeps)) == []


def test_a_forward_that_is_not_finite_is_not_asked_for_gradients():
    layer = given(lambda x, y: (x / 0.0 * 0.0, (x, y)))
    with np.errstate(all="ignore"):
        assert told(repeatable, layer) == "forward is not finite at the point"


@pytest.mark.parametrize(("passes", "forwards", "backwards"), [(0.0, 40, 40), (1.0, 2, 3)])
def test_calls_are_asked_again_for_as_long_as_there_is_time(monkeypatch, passes, forwards, backwards):
    """One for the case, one to compare with; then 40 of each within a millisecond, and two and three in any case."""
    now, calls, pulls = [0.0], [], []

    def clock():
        now[0] += passes
        return now[0]

    monkeypatch.setattr(repeatable.time, "perf_counter", clock)
    layer = given(
        lambda x, y: (calls.append(0), (x * y, (x, y)))[1], lambda dz, saved: (pulls.append(0), backward(dz, saved))[1]
    )
    assert told(repeatable, layer) == []
    assert len(calls) == 2 + forwards + backwards and len(pulls) == 2 + backwards


def test_what_changes_from_call_to_call_makes_any_other_disagreement_moot():
    dice = np.random.default_rng(0)
    outcome = Outcome("linear", (Finding("linear", "nonlinear", "x", "told", CASE),))
    random = given(backward=lambda dz, saved: (dz * dice.random(), dz * saved[0]))
    assert repeatable.moot(given(), CASE, outcome) is None
    left = repeatable.moot(random, CASE, outcome)
    assert left.property == "repeatable" and [(f.property, f.kind, f.primal) for f in left.findings] == [
        ("repeatable", "random", "x")
    ]
    runs = Outcome("reference", (Finding("reference", "wrong", "x", "told", CASE, facts={"runs": 4}),))
    assert repeatable.moot(random, CASE, runs) is None
    both = replace(runs, findings=(*runs.findings, *outcome.findings))
    assert repeatable.moot(random, CASE, both) is not None


def test_randomness_explains_all_but_crashes():
    random = ("repeatable", "random", None)
    assert repeatable.explains(random, ("gradient", "wrong", "x"))
    assert not repeatable.explains(random, random)
    assert not repeatable.explains(random, ("complete", "crash", None))
    assert not repeatable.explains(("repeatable", "differs", "x"), ("gradient", "wrong", "x"))
    kept = ("repeatable", "kept", "x")
    assert repeatable.explains(kept, ("gradient", "wrong", "x"))
    assert not repeatable.explains(kept, ("gradient", "wrong", "y"))


def test_what_one_call_of_many_gives_is_chance():
    calls = []

    def once(dz, saved):
        calls.append(0)
        return dz * saved[1] * (2 if len(calls) == 3 else 1), dz * saved[0]

    assert [found[:2] for found in told(repeatable, given(backward=once))] == [("x", "random")]


def test_a_kernel_that_adds_to_what_other_calls_left_is_told_so_and_another_layer_by_when_it_shows():
    held = np.zeros(3)

    def adds(dz, saved):
        held[:] += dz * saved[1]
        return held.copy(), dz * saved[0]

    kernel = dict(reference=SimpleNamespace(eps=0.0))
    assert [found[:2] for found in told(repeatable, given(backward=adds, hooks=kernel))] == [("x", "kept")]
    assert told(repeatable, given(hooks=kernel)) == []
    assert told(repeatable, given(backward=adds)) == [("x", "differs", "when backward is called twice")]


# -- reuse --------------------------------------------------------------------------------------


def test_two_uses_of_one_array_get_the_sum():
    layer = given()
    assert told(reuse, layer) == [] and reuse.holds(layer, CASE).entries == 12


def test_a_tape_of_the_last_call_alone_shows_where_two_are_open():
    last = []

    def counts(x, y):
        last.append(0)
        return x * y, (x, y, len(last))

    def needs_the_last(dz, saved):
        x, y, k = saved
        return dz * y * (k == len(last)), dz * x

    assert told(reuse, given(counts, needs_the_last)) == [("x", "differs", "when it is used twice in one graph")]
    assert told(reuse, given(counts, needs_the_last, stateful=True)) == []


def test_arrays_that_are_told_apart_by_identity_show_where_one_is_passed_for_both():
    def by_identity(dz, saved):
        x, y = saved
        gradients = {id(x): dz * y, id(y): dz * x * 2}
        return gradients[id(x)], gradients[id(y)] / 2

    assert told(reuse, given(backward=by_identity)) == [("x", "differs", "when one array is passed for both x and y")]


def test_a_layer_that_adds_two_uses_up_itself_is_asked_for_their_sum():
    def twice(primals, cotangents, options):
        return {"x": 2 * cotangents[0] * primals["y"], "y": factor * cotangents[0] * primals["x"]}

    for factor, found in ((2, []), (1, [("y", "differs", "when it is used twice in one graph")])):
        assert told(reuse, given(hooks=dict(twice=twice))) == found
    assert told(reuse, given(hooks=dict(twice=lambda *_: None))) == []


# -- accumulates --------------------------------------------------------------------------------


def adds(scale=1.0, kept=1.0):
    def accumulate(dys, saved, buffers):
        dx, dy = backward(dys[0], saved)
        buffers["x"] *= kept
        buffers["x"] += scale * dx
        buffers["y"] += dy

    return dict(accumulate=accumulate)


def test_what_buffers_held_stays_in_them():
    assert told(accumulates, given(hooks=adds())) == []
    what = "added twice into a buffer that held 1.5"
    assert told(accumulates, given(hooks=adds(kept=0.0))) == [("x", "differs", what)]
    assert told(accumulates, given(hooks=adds(scale=0.5))) == [("x", "differs", what)]


def keeps(**rules):
    """An object that holds gradients after several rounds: by primal, from those of each round."""

    def again(rounds, options):
        parts = [dict(zip("xy", backward(dys[0], (p["x"], p["y"])))) for p, dys in rounds]
        return {n: rule([part[n] for part in parts]) for n, rule in rules.items()}

    return again


def test_an_object_adds_up_all_of_its_gradients_or_replaces_all():
    last, last_but_two = lambda parts: parts[-1], lambda parts: sum(parts[-2:])
    two = lambda parts: parts[-1] if len(parts) == 2 else sum(parts)  # noqa: E731
    pairs = ((sum, sum), (last, last), (sum, last), (last, sum), (last_but_two, sum), (two, sum))
    for (x, y), wrong in zip(pairs, (0, 0, 1, 1, 1, 1)):
        layer = given(hooks=dict(again=keeps(x=x, y=y)), stateful=True)
        assert len(told(accumulates, layer)) == wrong
    alone = given(hooks=dict(again=keeps(x=sum)), stateful=True)
    assert "fewer than two gradients are kept" in told(accumulates, alone)


def test_micro_batches_leave_their_sum_in_every_order_where_that_is_declared():
    for rule, wrong in ((sum, []), (lambda parts: parts[-1], ["x"]), (lambda parts: sum(parts[:2]), ["x"])):
        again = keeps(x=rule, y=sum)
        layer = given(hooks=dict(again=again, added=again), stateful=True)
        assert [primal for primal, *_ in told(accumulates, layer)] == wrong


def test_the_other_micro_batch_is_the_inputs_in_the_opposite_order():
    seen = []

    def again(rounds, options):
        seen.append([p for p, _ in rounds])
        return {"y": sum(dys[0] * p["x"] for p, dys in rounds)}

    assert told(accumulates, given(hooks=dict(again=again, added=again), stateful=True)) == []
    one, other = seen[2]  # the second order that is asked is "ab"
    assert (one["x"] == X).all() and (other["x"] == X[::-1]).all()
    assert (one["y"] == other["y"]).all()


def test_it_is_asked_where_there_are_buffers():
    assert "accumulates into no buffers" in accumulates.applies(given())
    assert accumulates.applies(given(hooks=adds())) is None
    assert accumulates.applies(given(hooks=dict(again=keeps(x=sum)))) is None


# -- modes ----------------------------------------------------------------------------------------


def moded(right=True, late=False, **options):
    current = []

    def forward(x, y, train):
        current[:] = [train]
        return (x * y if train else x + y), (x, y, train)

    def backward(dz, saved, train):
        x, y, then = saved
        mode = current[0] if late else then
        return (dz * y, dz * x) if mode else (dz, dz if right else 2 * dz)

    return given(forward, backward, options=options or {"train": [True, False]})


def test_each_mode_has_its_gradient_and_reads_it_in_time():
    assert told(modes, moded()) == []
    assert [(primal, kind) for primal, kind, _ in told(modes, moded(right=False))] == [("y", "wrong")]
    assert modes.holds(moded(right=False), CASE).findings[0].message.startswith("with train=False, the gradient of y")
    assert {what for *_, what in told(modes, moded(late=True))} == {"after a forward in another mode"}
    assert modes.holds(moded(), CASE).entries == 12


def test_a_mode_with_no_list_of_choices_is_on_or_off_and_an_object_with_a_state_is_not_interrupted():
    assert [(primal, kind) for primal, kind, _ in told(modes, moded(right=False, train=True))] == [("y", "wrong")]
    late = moded(late=True)
    assert told(modes, late) and not told(modes, late.derive(declared=replace(late.declared, stateful=True)))


def test_a_mode_is_an_option_of_that_name():
    assert modes.applies(moded()) is None
    assert modes.applies(given()).endswith("is_training or eval")
    assert "no option named mode, train" in modes.applies(given())
