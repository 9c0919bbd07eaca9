"""Chains of single steps: how long one goes on, what it settles, and what it leaves to the ladder."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from gradverify.core.differentiate.chain import abreast, chain
from gradverify.core.differentiate.flat import Differences

UP, DOWN = 1e-5 * 4.0 ** np.arange(8), 1e-5 * 4.0 ** -np.arange(1, 5)


def point(phi, noise=1e-16, entries=1, **facts):
    """Functions of one number each, at 0; what was asked for is kept."""
    asked = []

    def slopes(at, ahead, behind):
        asked.append(at.size)
        change = np.array([phi(k, a) - phi(k, b) for k, a, b in zip(at, ahead, behind)])
        return Differences(change, ahead - behind, np.full(change.shape, noise), change != 0)

    known = dict(scale=np.ones(entries), slopes=slopes, one_by_one=True, size=entries, base=np.zeros(1), native=None)
    return SimpleNamespace(asked=asked, **(known | facts))


def walked(phi, analytic, steps=UP, fine=1e-12, **facts):
    analytic = np.array(analytic, float)
    there = point(phi, entries=analytic.size, **facts)
    return chain(there, np.arange(analytic.size), analytic, steps, np.full(analytic.size, fine)), there.asked


def linear(k, x):
    return 2 * x


def test_a_chain_ends_where_its_noise_is_as_small_as_was_asked_for():
    """Noise at the first step, of 2e-16 / h, tells which is the one before that is small enough."""
    made, asked = walked(linear, [2.0])
    assert made.error == 0 and 0.2e-12 < made.noise <= 1e-12 and not made.through and not made.still
    assert len(asked) == 3 and made.doubt == 0


def test_a_chain_whose_steps_all_agree_tells_so_where_they_are_too_few():
    made, asked = walked(linear, [2.0], fine=1e-20)
    assert made.through and len(asked) == 3 and np.isclose(made.noise[0], 2e-16 / UP[-1], atol=0)


def test_a_wrong_gradient_is_left_with_how_clear_it_is_at_the_first_step():
    made, asked = walked(linear, [2.5])
    assert made.noise == np.inf and not made.through and len(asked) == 2  # the next step may do without truncation
    assert np.isclose(made.doubt[0], 0.5 / (2e-16 / UP[0]), rtol=1e-6, atol=0)


def test_what_moves_no_output_is_still():
    made, asked = walked(lambda k, x: 0.0, [1.0])
    assert made.still and made.noise == np.inf and len(asked) == 1


def test_entries_go_their_own_ways():
    made, _ = walked(lambda k, x: (2 * x, 2 * x, 0.0)[k], [2.0, 2.5, 0.0])
    assert np.isfinite(made.noise).tolist() == [True, False, False]
    assert made.still.tolist() == [False, False, True] and (made.doubt > 1).tolist() == [False, True, False]


def bent(k, x):
    return 2 * x + 1e3 * x**3


def test_truncation_is_extrapolated_away_from_step_to_step_upward_and_downward():
    for steps in (UP[2:], 4e-3 * 4.0 ** -np.arange(6)):
        made, _ = walked(bent, [2.0], steps, fine=1e-11, noise=1e-14)
        assert np.isfinite(made.noise) and abs(made.error) <= made.noise
        wrong, _ = walked(bent, [2.0 + 2e-3], steps, fine=1e-11, noise=1e-14)
        assert not np.isfinite(wrong.noise)


def test_what_agreed_once_and_then_no_more_keeps_the_last_that_did():
    made, _ = walked(lambda k, x: 2 * x + (abs(x) > 5e-4) * x, [2.0], fine=2.1e-16 / UP[3])
    assert np.isclose(made.noise[0], 2e-16 / UP[2], rtol=1e-3, atol=0) and not made.through


def test_how_many_steps_go_through_one_forward():
    """As many as 256 KiB of moved copies hold, a quarter of it for the first, where most end; a device says its own."""
    here = point(linear, entries=100, one_by_one=False, base=np.zeros(28))
    width = 16 * 128
    assert abreast(here, 4, 0) == (64 << 10) // (4 * width) == 8
    assert abreast(here, 4, 1) == (256 << 10) // (4 * width) == 32
    assert abreast(here, 0, 1) == (256 << 10) // width and abreast(here, 10_000, 1) == 1
    here.native = SimpleNamespace(ahead=1 << 20)
    assert abreast(here, 4, 1) == (1 << 20) // (4 * width) and abreast(here, 4, 0) == 8
    here.native = SimpleNamespace(ahead=0)
    assert abreast(here, 4, 1) == 32
    here.one_by_one = True
    assert abreast(here, 4, 1) == 1


def test_steps_abreast_give_what_one_after_the_other_gives():
    for phi, analytic in ((linear, 2.0), (bent, 2.0), (bent, 2.1)):
        one, _ = walked(phi, [analytic, analytic])
        many, asked = walked(phi, [analytic, analytic], one_by_one=False)
        assert len(asked) == 1
        for field in ("error", "noise", "through", "still", "doubt"):
            assert (getattr(one, field) == getattr(many, field)).all()


def test_entries_end_together_where_each_ends_alone():
    """One by itself, one that is asked for less noise, one that bends, one that is wrong and one that is still."""

    def phi(k, x):
        return (2 * x, 2 * x, 2 * x + 1e3 * x**3, 2.1 * x, 0.0, 2 * x + (abs(x) > 5e-4) * x)[k]

    fine, analytic = np.array([1e-12, 1e-20, 1e-11, 1e-12, 1e-12, 2.1e-16 / UP[3]]), np.full(6, 2.0)
    for steps in (UP, DOWN):
        together = chain(point(phi, entries=6), np.arange(6), analytic, steps, fine)
        for k in range(6):
            alone = chain(point(phi, entries=6), np.array([k]), analytic, steps, fine[[k]])
            for field in ("error", "noise", "through", "still", "doubt"):
                assert getattr(together, field)[k] == getattr(alone, field)[0], (field, k)
