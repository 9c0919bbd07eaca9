"""Domains: examples, and the laws that hold of all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradverify.core.declare import domains
from gradverify.core.errors import DeclarationError

ARGUMENTS = {
    "between": " -1 2",
    "above": " 1",
    "below": " -1",
    "integers": " -1 2",
    "labels": " 3",
    "indices": " 3",
    "lengths": " 3",
    "offsets": " 7",
}
WORDS = sorted(domains.words())


@pytest.mark.parametrize("word", WORDS)
def test_a_domain_contains_what_it_projects(word):
    domain = domains.parse(word + ARGUMENTS.get(word, ""))
    raw = np.random.default_rng(0).random((4, 5)) if domain.discrete else np.random.default_rng(0).normal(0, 9, (4, 5))
    assert domain.contains(domain.project(raw, {}), {})


@pytest.mark.parametrize(
    ("word", "match"), [("posit", "unknown domain"), ("labels", "takes 1 argument"), ("between 1", "takes 2")]
)
def test_a_domain_that_cannot_be_read_says_what_is_known(word, match):
    with pytest.raises(DeclarationError, match=match):
        domains.parse(word)


REALS = st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=3)
UNIFORMS = st.lists(st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3), min_size=1, max_size=3)


def projected(word, data):
    domain = domains.parse(word + ARGUMENTS.get(word, ""))
    raw = np.array(data.draw(UNIFORMS if domain.discrete else REALS))
    return domain, domain.project(raw, {})


@pytest.mark.parametrize("word", WORDS)
@given(data=st.data())
def test_whatever_is_drawn_is_projected_into_the_domain(word, data):
    domain, array = projected(word, data)
    assert domain.contains(array, {})
    assert domain.contains(array[:0], {})  # an empty array has no element that is not legal


@pytest.mark.parametrize(
    "word", [w for w in WORDS if w != "distinct" and not domains.parse(w + ARGUMENTS.get(w, "")).discrete]
)
@given(data=st.data())
def test_what_is_in_a_continuous_domain_stays_as_it_is(word, data):
    domain, array = projected(word, data)
    np.testing.assert_allclose(domain.project(array, {}), array, rtol=1e-12 if word == "probabilities" else 0)


@given(data=st.data())
def test_distinct_numbers_keep_their_order(data):
    raw = np.array(data.draw(REALS))
    array = domains.parse("distinct").project(raw, {})
    assert np.array_equal(np.argsort(array, axis=None, kind="stable"), np.argsort(raw, axis=None, kind="stable"))


@pytest.mark.parametrize("word", ["above 1", "below 1", "above -1e16", "below 3"])
def test_a_number_right_beside_an_open_border_is_inside(word):
    domain = domains.parse(word)
    low = float(word.split()[1])
    for raw in (low, np.nextafter(low, -np.inf), np.nextafter(low, np.inf)):
        assert domain.contains(domain.project(np.array([raw]), {}), {}), raw
