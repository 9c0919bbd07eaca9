"""Central differences at one step and at two: what they give, what bounds them, and what says nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gradverify.core.differentiate.central import NOISE_FACTOR, central, paired
from gradverify.core.differentiate.flat import Differences

ONE = np.zeros(1, int)


def point(phi, noise=1e-16):
    """A function of one number at 1, as `central` asks for it."""

    def slopes(entries, ahead, behind):
        with np.errstate(all="ignore"):
            change = phi(1 + ahead) - phi(1 + behind)
        return Differences(change, ahead - behind, np.full(change.shape, noise), change != 0)

    return SimpleNamespace(scale=np.ones(1), slopes=slopes)


def cube(x):
    return x**3


def test_the_difference_is_off_by_the_third_derivative_and_its_rounding_by_the_noise_over_the_gap():
    estimate, residual, moved = central(point(cube), ONE, 0.01, np.array([2.5]))
    assert np.allclose(estimate.value, 3 + 0.01**2, rtol=1e-12) and np.allclose(residual, 0.5 + 0.01**2, rtol=1e-10)
    assert np.allclose(estimate.rounding, NOISE_FACTOR * 1e-16 / 0.02) and moved.all() and not estimate.truncation.any()


def test_twice_the_step_bounds_the_truncation_threefold():
    estimate, residual = paired(point(cube), ONE, 0.01)
    assert np.allclose(estimate.value, 3 + 0.01**2, rtol=1e-12) and np.allclose(residual, estimate.value)
    assert np.allclose(estimate.truncation, 3 * 0.01**2, rtol=1e-8)


@pytest.mark.parametrize("beyond", [np.inf, np.nan])
@pytest.mark.parametrize("noise", [1e-16, np.inf])
def test_what_is_not_finite_has_no_bound_and_takes_the_analytic_value(beyond, noise):
    def leaves(x):
        return np.where(x > 1.005, beyond if noise < 1 else x, x)

    estimate, residual, _ = central(point(leaves, noise), ONE, 0.01, np.array([2.5]))
    assert estimate.value == 2.5 and residual == 0 and estimate.rounding == np.inf
    assert paired(point(leaves, noise), ONE, 0.004)[0].truncation == np.inf


def test_several_steps_give_a_row_each():
    estimate, residual, moved = central(point(cube), ONE, np.array([0.01, 0.1]))
    assert estimate.value.shape == residual.shape == moved.shape == (2, 1)
    assert np.allclose(estimate.value[:, 0], [3.0001, 3.01])
